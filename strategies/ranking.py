"""The highest of many scores, without sorting them all."""

from __future__ import annotations

import numpy as np

from strategies.within_prompt import Floats, Positions


def highest(n: int, score: Floats, *then: Floats, rng: np.random.Generator) -> Positions:
    """Where the n highest of the scores (m,) stand, highest first; n from 1 to m.

    Equal scores go by each of `then` (m,) in turn, highest first; what is equal in all of them
    stands in drawn order, one draw for all m whatever n is.
    """
    draw = rng.permutation(len(score))
    edge = np.partition(score, len(score) - n)[len(score) - n]
    offered = np.flatnonzero(score >= edge)
    keys = [-key[offered] for key in (score, *then)]
    first: Positions = offered[np.lexsort((draw[offered], *reversed(keys)))[:n]]
    return first
