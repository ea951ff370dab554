"""How people do where the right answer is known, or their own earlier one; and how fast. Pure.

Every number comes with an interval, and what crosses a line is the interval's end, never the value:
somebody with three gold answers, two of them wrong, is no reason for an alarm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from annotator.labels.intervals import Estimate, Shares, exact_median, exact_shares
from strategies.within_prompt import Bools, Floats, Positions

SHOWN_FROM = 20  # votes: no skill is shown, and nobody is pointed at, before
TOO_FAST = 1 / 3  # of the other people's median seconds
LEVEL_OF_TEST = 0.05


@dataclass(frozen=True, eq=False)
class Pace:
    """Median seconds of each annotator with exact intervals, and what is usual among the others.

    `others` (n_annotators,): the median of the other people's medians, NaN where nobody else has
    SHOWN_FROM votes with a time.
    """

    median: list[Estimate]
    others: Floats


@dataclass(frozen=True)
class Alarm:
    """What is wrong with whom: the end of an interval that crossed its line.

    `kind` is gold, repeats, skill, left, right or fast; `annotator` a position.
    """

    kind: str
    annotator: int
    bound: float
    line: float


def gold_accuracy(
    grade: Positions, gold: Positions, annotator: Positions, n_annotators: int
) -> Shares:
    """How often each annotator gave the known answer; votes (n_votes,), answers (n_annotators,).

    `gold` 1 where a is right, -1 b, 0 a tie. A tie where a side is right is wrong, and so is a side
    where a tie is right; how much better does not matter.
    """
    return _hits(np.sign(grade) == gold, annotator, n_annotators)


def self_consistency(
    first: Positions, later: Positions, annotator: Positions, n_annotators: int
) -> Shares:
    """How often each annotator took the same side as before, a tie being a side of its own.

    `first` and `later` grades of the same pair by the same person, (n_repeats,).
    """
    return _hits(np.sign(first) == np.sign(later), annotator, n_annotators)


def _hits(hit: Bools, annotator: Positions, n_annotators: int) -> Shares:
    n = np.bincount(annotator, minlength=n_annotators)
    return exact_shares(np.bincount(annotator[hit], minlength=n_annotators), n)


def pace(seconds: Floats, annotator: Positions, n_annotators: int) -> Pace:
    """How long each annotator takes, from the seconds (n_votes,) of their votes, NaN unknown."""
    order = np.argsort(annotator, kind="stable")
    ends = np.cumsum(np.bincount(annotator, minlength=n_annotators))
    of_each = np.split(seconds[order], ends)[:-1]
    median = [exact_median(values) for values in of_each]
    enough = np.array([np.count_nonzero(~np.isnan(values)) >= SHOWN_FROM for values in of_each])
    usual = np.array([found.value for found in median])
    others = np.full(n_annotators, np.nan)
    for i in range(n_annotators):
        rest = usual[enough & (np.arange(n_annotators) != i)]
        if len(rest):
            others[i] = np.median(rest)
    return Pace(median, others)


def low_shares(kind: str, high: Floats, minimum: float) -> list[Alarm]:
    """Alarms where the upper end (n_annotators,) of a share lies below the minimum; NaN never."""
    return [Alarm(kind, int(i), float(high[i]), minimum) for i in np.flatnonzero(high < minimum)]


def fast(found: Pace) -> list[Alarm]:
    """Alarms where the upper end of a median lies below TOO_FAST of what is usual for others."""
    lines = TOO_FAST * found.others
    return [
        Alarm("fast", i, one.high, float(line))
        for i, (one, line) in enumerate(zip(found.median, lines, strict=True))
        if one.high < line
    ]


def one_sided(left: Shares, p_holm: Floats) -> list[Alarm]:
    """Alarms of people who press one side too often for the lot, all tests taken together.

    Of the interval the end that is nearer to one half is told.
    """
    return [
        Alarm("left", int(i), float(left.low[i]), 0.5)
        if left.share[i] > 0.5
        else Alarm("right", int(i), float(left.high[i]), 0.5)
        for i in np.flatnonzero(p_holm < LEVEL_OF_TEST)
    ]
