"""What a whole panel would say of a pair, from the votes of a part of it.

A label that a set calls gold is often the verdict of the people who were asked, with the luck of
whom that happened to be. Who wants that verdict for fewer votes asks another question than which
response is better: votes that were cast count as they are, and only those still to come are
foretold, by the model of annotators and pairs.

Pure: arrays in, arrays out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import xlogy

from annotator.preference.vote_model import VoteModel
from strategies.within_prompt import Floats, Positions

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(21)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
BLOCK_PAIRS = 1024
SMALLEST = 1e-300


@dataclass(frozen=True, eq=False)
class Verdict:
    """Of each of n pairs, (n,).

    `preferred`: the probability that most votes of the whole panel that take a side are for a, an
    even panel being decided by a coin. `gain`: nats that the next vote tells of that, 0 where
    nothing is to come.
    """

    preferred: Floats
    gain: Floats


def panel_verdict(
    mean: Floats,
    variance: Floats,
    model: VoteModel,
    lead: Positions,
    n_votes: Positions,
    size: int,
) -> Verdict:
    """What a panel of `size` people would say of each pair, (n,).

    `mean`, `variance` of its difference d after the votes so far, taken as normal; `model` of a
    vote to come, with the lapse of a typical annotator; `lead` votes for a less votes for b among
    the `n_votes` so far, ties in neither. Votes to come are independent given d.
    """
    found = Verdict(np.empty(len(mean)), np.zeros(len(mean)))
    for rows, n_left in _alike(np.maximum(size - n_votes, 0)):
        d = mean[rows, None] + np.sqrt(variance[rows])[:, None] * NODES
        sides = _sides(model.grades(d))
        found.preferred[rows] = _for_a(sides, lead[rows], n_left) @ WEIGHTS
        if n_left:
            found.gain[rows] = _told_by_next(sides, lead[rows], n_left, found.preferred[rows])
    return found


def _alike(n_left: Positions) -> Iterator[tuple[Positions, int]]:
    """Blocks of pairs for which as many votes are still to come."""
    for n in np.unique(n_left).tolist():
        of_n = np.flatnonzero(n_left == n)
        for start in range(0, len(of_n), BLOCK_PAIRS):
            yield of_n[start : start + BLOCK_PAIRS], n


def _sides(grades: Floats) -> Floats:
    """P(for b), P(tie), P(for a) from the probabilities of all grades, (..., 3)."""
    middle = grades.shape[-1] // 2
    parts = (grades[..., :middle].sum(-1), grades[..., middle], grades[..., middle + 1 :].sum(-1))
    return np.stack(parts, axis=-1)


def _for_a(sides: Floats, lead: Positions, n_left: int) -> Floats:
    """P(the panel says a, given d) when n_left votes of these sides are to come, (m, n_nodes)."""
    total = np.ones((*sides.shape[:2], 1))  # of the distribution of their sum, from the lowest
    for _ in range(n_left):
        longer = np.zeros((*sides.shape[:2], total.shape[2] + 2))
        for side in range(3):
            longer[:, :, side : side + total.shape[2]] += total * sides[:, :, side, None]
        total = longer
    verdict = np.sign(lead[:, None] + np.arange(-n_left, n_left + 1))
    found: Floats = np.einsum("mqs,ms->mq", total, 0.5 + 0.5 * verdict)
    return found


def _told_by_next(sides: Floats, lead: Positions, n_left: int, preferred: Floats) -> Floats:
    """The mutual information of the next vote and the panel's verdict, (m,)."""
    after = np.zeros(len(lead))
    for side, step in enumerate((-1, 0, 1)):
        vote = sides[:, :, side] @ WEIGHTS
        both = (sides[:, :, side] * _for_a(sides, lead + step, n_left - 1)) @ WEIGHTS
        after += vote * _entropy(both / np.maximum(vote, SMALLEST))
    return np.maximum(_entropy(preferred) - after, 0.0)


def _entropy(p: Floats) -> Floats:
    """Of an event with probability p, nats."""
    p = np.clip(p, 0.0, 1.0)
    found: Floats = -xlogy(p, p) - xlogy(1.0 - p, 1.0 - p)
    return found
