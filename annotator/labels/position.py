"""Who presses left whatever stands there: an exact test for every person. Pure.

Which response of a pair stands on the left was drawn by lot. To somebody who reads, it is all the
same: each of their sided votes is on the left with probability one half, whatever the responses and
whatever others say, so that how many are is binomial. That holds as long as what others say does
not decide which pairs are asked about: further votes on disputed pairs do not belong in here. Where
draws are balanced within a person the test errs on the side of no alarm. Ties and "both bad" take
no side and are left out.

What others say of the same pairs would make the test sharper, and wrong: the pair stands the same
way round for all, so that beside somebody who always presses left the others seem to shun it. It is
reported, and decides nothing. A habit net of what the pairs deserve is in the annotator model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from annotator.labels.intervals import Shares, exact_shares
from strategies.within_prompt import Bools, Floats, Positions


@dataclass(frozen=True, eq=False)
class SideHabits:
    """Per annotator, (n_annotators,).

    - `left` how many of the sided votes were on the left, with exact intervals.
    - `p` two-sided, that the lot alone puts so many on one side; `p_holm` the same, adjusted for
      how many people were tested; NaN where somebody was not tested.
    - `others_left` the share of sided votes by other people, on the same pairs, that are for the
      response which this person saw on the left; NaN where there are none.
    - `shown` on how many of all votes response a stood on the left: the balance of what was shown.
    """

    left: Shares
    p: Floats
    p_holm: Floats
    others_left: Floats
    shown: Shares


def side_habits(
    pair: Positions,
    grade: Positions,
    annotator: Positions,
    left_is_a: Bools,
    tested: Bools,
) -> SideHabits:
    """What each annotator pressed; votes are arrays (n_votes,), `tested` (n_annotators,).

    `grade` above 0 is for response a of the pair. Holm's family are the people tested.
    """
    n_annotators = len(tested)
    sided = grade != 0
    on_left = sided & ((grade > 0) == left_is_a)

    def count(which: Bools) -> Positions:
        return np.bincount(annotator[which], minlength=n_annotators)

    n_left, n_sided = count(on_left), count(sided)
    p = np.where(tested, left_or_right_p(n_left, n_sided), np.nan)
    return SideHabits(
        left=exact_shares(n_left, n_sided),
        p=p,
        p_holm=holm(p),
        others_left=_others_left(pair, grade, annotator, left_is_a, n_annotators),
        shown=exact_shares(count(left_is_a), np.bincount(annotator, minlength=n_annotators)),
    )


def left_or_right_p(n_left: Positions, n: Positions) -> Floats:
    """Two-sided exact p of `n_left` of `n` votes under a fair lot, (m,); 1 without votes."""
    from scipy.special import bdtr

    n_left, n = np.asarray(n_left), np.asarray(n)
    fewer = np.minimum(n_left, n - n_left)
    p: Floats = np.minimum(1.0, 2.0 * bdtr(fewer, n, 0.5))
    return p


def holm(p: Floats) -> Floats:
    """Adjusted p-values (m,): below .05 with a chance of at most .05 if nobody has a habit.

    Whatever ties the tests to one another (Holm, Scandinavian Journal of Statistics 6, 1979). NaN
    are not of the family.
    """
    adjusted = np.full(len(p), np.nan)
    there = np.flatnonzero(~np.isnan(p))
    order = there[np.argsort(p[there], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def _others_left(
    pair: Positions, grade: Positions, annotator: Positions, left_is_a: Bools, n_annotators: int
) -> Floats:
    """For each person, how often others prefer the response that stood on this person's left."""
    n_pairs = int(pair.max(initial=-1)) + 1
    for_a = np.bincount(pair[grade > 0], minlength=n_pairs)
    sided = np.bincount(pair[grade != 0], minlength=n_pairs)
    mine = np.flatnonzero(grade != 0)
    others = sided[pair[mine]] - 1
    others_for_a = for_a[pair[mine]] - (grade[mine] > 0)
    for_left = np.where(left_is_a[mine], others_for_a, others - others_for_a)
    n = np.bincount(annotator[mine], weights=others, minlength=n_annotators)
    left = np.bincount(annotator[mine], weights=for_left, minlength=n_annotators)
    with np.errstate(invalid="ignore"):
        share: Floats = left / np.where(n > 0, n, np.nan)
    return share
