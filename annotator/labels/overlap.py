"""How many people are asked about a pair: the same number of all, or more where it helps.

Pure: what stands of each pair in, which pairs get one more vote out. Every policy first asks the
least of its range everywhere, and nobody above the most.

- fixed: the same number of every pair.
- until-agree: further, one at a time, until one side leads by two or the most is reached.
- expected-gain: further, one at a time, while one more vote is expected to make the pair's
  consensus more often right than the first vote on a new pair would.

What a consensus is right about is its aim. Usually that is which response is better: what careful
people in general say. With the aim `panel` it is what the most people of the range would say of
this pair, were all of them asked (annotator.labels.panel): the label that a fixed number gives.

"One at a time" means that a pair with a vote still to come is left alone: what that vote says
decides whether another is wanted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from annotator.errors import AnnotatorError
from strategies.within_prompt import Bools, Floats, Positions

FIXED, UNTIL_AGREE, EXPECTED_GAIN = "fixed", "until-agree", "expected-gain"
POLICIES = (FIXED, UNTIL_AGREE, EXPECTED_GAIN)
DEFAULT_POLICY = EXPECTED_GAIN
BETTER, PANEL = "better", "panel"
AIMS = (BETTER, PANEL)
LEAD = 2  # votes, by which one side has to be ahead before until-agree is content
LARGEST = 100  # people about one pair


class OverlapError(AnnotatorError):
    """A range of votes a pair, or a policy, makes no sense."""


@dataclass(frozen=True)
class OverlapRange:
    """At least `least` and at most `most` votes a pair. Raises OverlapError unless 1 <= least <=
    most <= LARGEST."""

    least: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= LARGEST:
            raise OverlapError(
                f"an overlap of {self.least} to {self.most} votes a pair",
                expected=f"at least 1, at most {LARGEST}, the smaller number first",
                todo="such as 3, or 2-5",
            )

    @classmethod
    def parse(cls, text: str) -> OverlapRange:
        """The range that "3" or "2-5" names. Raises OverlapError."""
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", text)
        if match is None:
            raise OverlapError(
                f"{text!r} is no overlap", expected="votes a pair, as 3, or 2-5 for 2 to 5"
            )
        least, most = match.group(1), match.group(2) or match.group(1)
        return cls(int(least), int(most))

    @property
    def is_fixed(self) -> bool:
        """Whether the range leaves nothing to decide."""
        return self.least == self.most

    def __str__(self) -> str:
        return str(self.least) if self.is_fixed else f"{self.least}-{self.most}"


@dataclass(frozen=True)
class Overlap:
    """A policy, its range, and the aim of expected-gain.

    `str` gives "until-agree:2-5" or "expected-gain:1-5@panel", which `parse` reads. Raises
    OverlapError for another policy or aim, a fixed one with a choice, or an aim without use.
    """

    policy: str
    range: OverlapRange
    aim: str = BETTER

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise OverlapError(
                f"there is no overlap policy {self.policy!r}",
                expected=f"one of {', '.join(POLICIES)}",
            )
        if self.policy == FIXED and not self.range.is_fixed:
            raise OverlapError(
                f"a fixed overlap of {self.range}",
                expected="one number, as fixed asks the same number of every pair",
                todo=f"fixed:{self.range.most}, or {UNTIL_AGREE}:{self.range}",
            )
        if self.aim not in AIMS or (self.aim == PANEL and self.policy != EXPECTED_GAIN):
            raise OverlapError(
                f"the aim {self.aim!r} of {self.policy}",
                expected=f"{' or '.join(AIMS)}, and {PANEL} for {EXPECTED_GAIN} only",
                todo=f"such as {EXPECTED_GAIN}:{self.range}@{PANEL}",
            )

    @classmethod
    def parse(cls, text: str) -> Overlap:
        """The policy and range, perhaps with an aim, that the text names. Raises OverlapError."""
        policy, colon, numbers = text.strip().partition(":")
        if not colon:
            raise OverlapError(
                f"{text!r} is no overlap policy with its range",
                expected="POLICY:RANGE",
                todo=f"such as fixed:3, {UNTIL_AGREE}:2-5 or {EXPECTED_GAIN}:1-5",
            )
        numbers, at, aim = numbers.partition("@")
        return cls(policy, OverlapRange.parse(numbers), aim.strip() if at else BETTER)

    def __str__(self) -> str:
        said = f"{self.policy}:{self.range}"
        return said if self.aim == BETTER else f"{said}@{self.aim}"


@dataclass(frozen=True, eq=False)
class Standing:
    """What stands of each of n pairs: whole numbers, (n,).

    `n_votes` that came and count, ties among them; `n_waiting` asked for and not there yet; `lead`
    votes for a less votes for b.
    """

    n_votes: Positions
    n_waiting: Positions
    lead: Positions

    @property
    def n_asked(self) -> Positions:
        """Votes that are there or will be."""
        asked: Positions = self.n_votes + self.n_waiting
        return asked


def one_more(
    overlap: Overlap, standing: Standing, gain: Floats | None = None, new_pair_gain: float = 0.0
) -> Bools:
    """Which pairs get one more vote, (n,).

    `gain` (n,): by how much one more vote lowers the expected probability that the pair's consensus
    is on the wrong side; `new_pair_gain`: the same of the best pair that nobody has been asked, 0
    where there is none. Only expected-gain looks at them: it asks where the gain is the larger.
    Of several pairs that get one, `by_gain` says which first. Raises OverlapError if gains are
    needed and not there.
    """
    more: Bools = standing.n_asked < overlap.range.least
    if overlap.policy == FIXED:
        return more
    may = (standing.n_asked < overlap.range.most) & (standing.n_waiting == 0)
    if overlap.policy == UNTIL_AGREE:
        wanted: Bools = np.abs(standing.lead) < LEAD
    elif gain is not None:
        wanted = gain > new_pair_gain
    else:
        raise OverlapError("expected-gain without gains", expected="the gain of a vote, each pair")
    more |= may & wanted
    return more


def by_gain(candidates: Bools, gain: Floats, n: int) -> Positions:
    """Of the candidates those n of the highest gain, highest first; of equal ones the earlier."""
    positions = np.flatnonzero(candidates)
    order: Positions = np.argsort(-gain[positions], kind="stable")[:n]
    chosen: Positions = positions[order]
    return chosen
