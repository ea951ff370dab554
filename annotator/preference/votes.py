"""Votes as arrays, and the same votes counted by pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from annotator.errors import PreferenceError
from strategies.within_prompt import Floats, Positions

GRADES = (-2, -1, 0, 1, 2)


@dataclass(frozen=True, eq=False)
class Votes:
    """Votes on pairs of responses, one row a vote.

    - `a`, `b` (n_votes,) positions of the two responses, which answer the same prompt.
    - `grade` (n_votes,) 2: a is much better, 1: a is better, 0: tie or both bad, -1 and -2 the same
      for b. Where votes have no strength there is no 2.
    - `lapse` (n_votes,) in [0, 1), the probability that this annotator did not look and pressed
      any key; None: that of the vote model, for all.

    Raises PreferenceError where the arrays do not fit each other or hold other values.
    """

    a: Positions
    b: Positions
    grade: Positions
    lapse: Floats | None = None

    def __post_init__(self) -> None:
        columns: dict[str, npt.NDArray[Any]] = {"a": self.a, "b": self.b, "grade": self.grade}
        if self.lapse is not None:
            columns["lapse"] = self.lapse
        for name, column in columns.items():
            if column.shape != self.a.shape or column.ndim != 1:
                raise PreferenceError(
                    f"votes have {name} of shape {column.shape}",
                    expected=f"({self.a.size},), as many as there are votes",
                )
            if name != "lapse" and not np.issubdtype(column.dtype, np.integer):
                raise PreferenceError(
                    f"votes have {name} of type {column.dtype}", expected="whole numbers"
                )
        if np.any(self.a == self.b):
            raise PreferenceError(
                f"vote {np.argmax(self.a == self.b)} is on a response and itself",
                expected="two different responses",
            )
        if not np.isin(self.grade, GRADES).all():
            raise PreferenceError(
                f"a vote has the grade {self.grade[~np.isin(self.grade, GRADES)][0]}",
                expected=f"one of {', '.join(map(str, GRADES))}",
            )
        if self.lapse is not None and not np.all((self.lapse >= 0) & (self.lapse < 1)):
            raise PreferenceError("a vote has a lapse outside [0, 1)", expected="a probability")

    def __len__(self) -> int:
        return len(self.a)

    @classmethod
    def none(cls) -> Votes:
        """No vote at all."""
        empty = np.empty(0, dtype=np.int64)
        return cls(empty, empty, empty)


@dataclass(frozen=True)
class Vote:
    """One vote: `a`, `b`, `grade` and `lapse` as in Votes. Raises PreferenceError as it does."""

    a: int
    b: int
    grade: int
    lapse: float | None = None

    def __post_init__(self) -> None:
        a, b, grade = np.array([[self.a], [self.b], [self.grade]])
        Votes(a, b, grade, None if self.lapse is None else np.array([self.lapse]))


@dataclass(frozen=True, eq=False)
class Tally:
    """The votes of each pair counted by grade: what the likelihood needs of them.

    `a`, `b` (n,) positions of responses, a < b; `counts` (n, 5) votes of grade -2 to 2 in the frame
    of a and b; `lapse` (n,) or None. Votes of one pair with different lapses are different rows.
    """

    a: Positions
    b: Positions
    counts: Floats
    lapse: Floats | None

    @property
    def n_votes(self) -> Floats:
        """Votes of each row, (n,)."""
        total: Floats = self.counts.sum(axis=1)
        return total

    @property
    def has_strength(self) -> bool:
        """Whether anybody said "much better"."""
        return bool(self.counts[:, [0, 4]].any())


def tally(votes: Votes) -> Tally:
    """The votes counted by pair, turned so that a < b; rows sorted by a, then b."""
    turned = votes.a > votes.b
    a, b = np.where(turned, votes.b, votes.a), np.where(turned, votes.a, votes.b)
    grade = np.where(turned, -votes.grade, votes.grade)
    keys = (b, a) if votes.lapse is None else (votes.lapse, b, a)
    order = np.lexsort(keys)
    new = np.ones(len(votes), dtype=np.bool_)
    new[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
    first = order[new]
    cells = (np.cumsum(new) - 1) * len(GRADES) + grade[order] + 2
    counts = np.bincount(cells, minlength=len(first) * len(GRADES)).astype(np.float64)
    return Tally(
        a[first].astype(np.int64),
        b[first].astype(np.int64),
        counts.reshape(-1, len(GRADES)),
        None if votes.lapse is None else votes.lapse[first],
    )
