"""A pair's verdict: the plain majority of its votes, or what the crowd's beliefs come to.

Pure: grades or probabilities in, verdict out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIDENT = 0.8  # from which probability on a pair is no longer disputed

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


def verdicts(
    preferred: NDArray[np.float64], tie: NDArray[np.float64], confident: float = CONFIDENT
) -> NDArray[np.str_]:
    """What is believed of each pair: a, b, tie or disputed, (n,).

    `preferred` P(most who take a side prefer a); `tie` P(one more careful vote is a tie): a tie
    where that is likelier than not, disputed where neither side reaches `confident`.
    """
    import numpy as np

    side = np.where(preferred > 0.5, "a", "b")
    sure = np.maximum(preferred, 1.0 - preferred) >= confident
    found: NDArray[np.str_] = np.where(tie > 0.5, "tie", np.where(sure, side, "disputed"))
    return found
