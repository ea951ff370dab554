"""Votes that were not asked, of three kinds that are told apart and never added to the saving.

- *overlap*: pairs that were closed with fewer votes than the most of their round's range, against
  the most for every pair.
- *inference*: pairs that nobody was asked about, whose order follows from votes on other pairs of
  the same prompt: both responses hang together by votes, and the posterior is at least 95 % sure.
- *routing*: pairs that a certified source answers (annotator.budget.certificates).

A pair is in one kind at most: overlap counts pairs with votes, the others pairs without, and a pair
that is routed is not inferred. What is wrong among them is bounded by what people said, or, for
overlap, by what the rest of the panel is expected to say.

Pure: arrays in, arrays and numbers out.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from annotator.labels.intervals import Estimate, exact_share
from annotator.labels.panel import panel_verdict
from annotator.preference.vote_model import VoteModel
from strategies.within_prompt import Bools, Floats, Positions

SURE = 0.95  # of the order of a pair, from which on it is inferred


@dataclass(frozen=True, eq=False)
class ClosedPairs:
    """Pairs that nobody is asked about any more, of rounds that ask from few to many, (n,) each.

    `votes` that each has and `most` that its round allows; `lead` votes for a less votes for b;
    `preferred` P(most prefer a), as believed now; `mean` and `variance` of its difference.
    """

    votes: Positions
    most: Positions
    lead: Positions
    preferred: Floats
    mean: Floats
    variance: Floats


def votes_spared(closed: ClosedPairs) -> int:
    """Votes that the same pairs would have had with the most of their rounds each."""
    return int(np.maximum(closed.most - closed.votes, 0).sum())


def turned_by_panel(closed: ClosedPairs, model: VoteModel) -> Estimate:
    """The share of these pairs whose verdict the whole panel would have turned.

    Expected by the model of annotators and pairs (annotator.labels.panel), an even panel being
    decided by a coin. The interval is that of Clopper and Pearson for as many pairs: how many
    really turn is a sum of independent draws, which varies less. It holds as far as the model does.
    """
    turned = np.empty(len(closed.votes))
    for most in np.unique(closed.most):
        rows = np.flatnonzero(closed.most == most)
        panel = panel_verdict(
            closed.mean[rows],
            closed.variance[rows],
            model,
            closed.lead[rows],
            closed.votes[rows],
            int(most),
        ).preferred
        turned[rows] = np.where(closed.preferred[rows] > 0.5, 1.0 - panel, panel)
    return exact_share(float(turned.sum()), len(turned))


def sure_of(mean: Floats, variance: Floats) -> Bools:
    """Which pairs' order is known with SURE, from mean and variance of their differences, (n,)."""
    sure: Bools = ndtr(np.abs(mean) / np.sqrt(variance)) >= SURE
    return sure


class Comparisons:
    """Which responses hang together by votes: an edge for every pair with a vote, a and b (m,)."""

    def __init__(self, a: Positions, b: Positions) -> None:
        self._beside: dict[int, set[int]] = defaultdict(set)
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            self._beside[one].add(other)
            self._beside[other].add(one)

    def joined(self, a: int, b: int) -> bool:
        """Whether a way by votes leads from a to b, a vote on the pair itself left out."""
        seen, waiting = {a}, deque([a])
        while waiting:
            here = waiting.popleft()
            for there in self._beside.get(here, ()):
                if {here, there} == {a, b} or there in seen:
                    continue
                if there == b:
                    return True
                seen.add(there)
                waiting.append(there)
        return False

    def joined_pairs(self, a: Positions, b: Positions) -> Bools:
        """The same of many pairs, (n,)."""
        pairs = zip(a.tolist(), b.tolist(), strict=True)
        return np.array([self.joined(*pair) for pair in pairs], dtype=np.bool_)


def contradicted(lead: Positions, mean: Floats) -> Estimate:
    """The share of pairs on which most votes are against the sign of `mean`, (n,) both.

    `lead` votes for a less votes for b; pairs without a majority are left out. The interval is that
    of Clopper and Pearson. Single votes err as well, so this is more than the share of pairs whose
    order is wrong.
    """
    decided = lead != 0
    against = np.sign(lead[decided]) != np.sign(mean[decided])
    return exact_share(float(against.sum()), int(decided.sum()))
