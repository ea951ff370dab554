"""What a crowd said, and what is believed of the pairs before: the input of annotator.labels.crowd.

Arrays only, no database.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from annotator.errors import PreferenceError
from annotator.preference.votes import GRADES
from strategies.within_prompt import Bools, Floats, Positions

GOLD_UNKNOWN = -9
GOLD = (-1, 0, 1, GOLD_UNKNOWN)


@dataclass(frozen=True, eq=False)
class CrowdVotes:
    """Votes of many people on many pairs, one row a vote.

    - `pair` (n_votes,) in [0, n_pairs) and `annotator` (n_votes,) in [0, n_annotators).
    - `grade` (n_votes,) in the pair's frame, 2: a is much better, 1: a is better, 0: tie, -1 and
      -2 the same for b.
    - `left_is_a` (n_votes,) whether a stood on the left for that vote.

    Raises PreferenceError where the arrays do not fit each other or hold other values.
    """

    pair: Positions
    grade: Positions
    annotator: Positions
    left_is_a: Bools
    n_pairs: int
    n_annotators: int

    def __post_init__(self) -> None:
        for name in ("pair", "grade", "annotator", "left_is_a"):
            column = getattr(self, name)
            if column.shape != self.pair.shape or column.ndim != 1:
                raise PreferenceError(
                    f"a crowd's votes have {name} of shape {column.shape}",
                    expected=f"({self.pair.size},), as many as there are votes",
                )
        _check_within("pair", self.pair, self.n_pairs)
        _check_within("annotator", self.annotator, self.n_annotators)
        if not np.isin(self.grade, GRADES).all():
            raise PreferenceError(
                f"a vote has the grade {self.grade[~np.isin(self.grade, GRADES)][0]}",
                expected=f"one of {', '.join(map(str, GRADES))}",
            )

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def has_strength(self) -> bool:
        """Whether anybody said "much better"."""
        return bool((np.abs(self.grade) == 2).any())

    def take(self, rows: Positions | Bools) -> CrowdVotes:
        """The same of these votes; pairs and annotators keep their numbers."""
        return replace(
            self,
            pair=self.pair[rows],
            grade=self.grade[rows],
            annotator=self.annotator[rows],
            left_is_a=self.left_is_a[rows],
        )

    def on(self, pairs: Positions) -> CrowdVotes:
        """The votes on these pairs, ascending, which take the numbers of their places."""
        place = np.full(self.n_pairs, -1)
        place[pairs] = np.arange(len(pairs))
        kept = self.take(place[self.pair] >= 0)
        return replace(kept, pair=place[kept.pair], n_pairs=len(pairs))


@dataclass(frozen=True, eq=False)
class PairPrior:
    """What is believed of d of each pair before its own votes: `mean`, `variance` (n_pairs,).

    Raises PreferenceError unless all are finite and the variances positive.
    """

    mean: Floats
    variance: Floats

    def __post_init__(self) -> None:
        if self.mean.shape != self.variance.shape or self.mean.ndim != 1:
            raise PreferenceError(
                f"a prior of pairs has means {self.mean.shape}, variances {self.variance.shape}",
                expected="one of each for every pair",
            )
        right = np.isfinite(self.mean) & np.isfinite(self.variance) & (self.variance > 0.0)
        if not right.all():
            at = int(np.argmin(right))
            raise PreferenceError(
                f"the prior of pair {at} has the mean {self.mean[at]} and the variance "
                f"{self.variance[at]}",
                expected="finite numbers, the variance above 0",
            )


def checked_gold(gold: Positions | None, n_pairs: int) -> Positions:
    """The known truth of each pair, (n_pairs,). Raises PreferenceError where it is none."""
    if gold is None:
        return np.full(n_pairs, GOLD_UNKNOWN)
    if gold.shape != (n_pairs,) or not np.isin(gold, GOLD).all():
        raise PreferenceError(
            f"gold has the shape {gold.shape} and the values {np.unique(gold)[:9].tolist()}",
            expected=f"({n_pairs},) of 1 (a), 0 (tie), -1 (b) and {GOLD_UNKNOWN} (not known)",
        )
    return gold


def _check_within(name: str, column: Positions, limit: int) -> None:
    if len(column) and not 0 <= column.min() <= column.max() < limit:
        wrong = column.min() if column.min() < 0 else column.max()
        raise PreferenceError(
            f"a vote has the {name} {wrong}", expected=f"0 or more and less than {limit}"
        )
