"""What we believe of a pair after its votes: the plain majority.

Pure: grades in, verdict out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_SIDE = {
    "a_much_better": "a",
    "a_better": "a",
    "tie": "tie",
    "both_bad": "both_bad",
    "b_better": "b",
    "b_much_better": "b",
}


@dataclass(frozen=True)
class Consensus:
    """`verdict` is a, b, tie, both_bad or disputed; `agreement` the winner's share of votes."""

    verdict: str
    agreement: float
    n_votes: int


def majority(grades: Iterable[str]) -> Consensus:
    """The verdict that more votes support than any other; without one it is disputed.

    `grades` in the pair's frame, at least one. Strength is not weighed: two people who find `a`
    a little better outvote one who finds `b` much better.
    """
    sides = Counter(_SIDE[grade] for grade in grades)
    n_votes = sides.total()
    if not n_votes:
        raise ValueError("a pair without votes has no consensus")
    (first, most), *rest = sides.most_common()
    if rest and rest[0][1] == most:
        return Consensus("disputed", most / n_votes, n_votes)
    return Consensus(first, most / n_votes, n_votes)
