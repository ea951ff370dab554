"""From which confidence on a machine's verdict may stand for a person's: a promise, tested.

A source (a judge, or the preference model) says of a pair which response is better and how sure it
is. The promise: of the pairs at or above a threshold, people agree with the source on at least a
share `agree`; it is false with probability `delta` at most. Fixed-sequence testing finds the lowest
such threshold: thresholds are set before any vote is looked at, and tested from the strictest down
until one fails (Trust or Escalate, arXiv 2407.18370, section 2.2).

What agreement means. A pair agrees when a person, asked about it alone, takes the side that the
source takes; a tie is no agreement. So the share promised is the probability that one vote of one
of this project's people, on a pair drawn from those covered, is for the source's side. Each
calibration pair therefore brings one vote, 0 or 1, however many people saw it.

Why exact tests are exact here. The control arm draws pairs, not prompts, uniformly and without
replacement: of any set of pairs that was fixed beforehand, those drawn are a simple random sample,
and so are those left. That holds whatever hangs together within prompts, and a prompt with many
pairs counts for many, as it does among the pairs covered. One pair a prompt would weigh small
prompts more than the promise does. How many agree among those drawn, given how many among all, is
hypergeometric; of a pool that is large beside the control arm that is the binomial, and the bound
that of Clopper and Pearson (Biometrika 26, 1934).

Thresholds are shares of the pairs to be covered, so no vote and no draw has a part in them. Pairs
of one confidence are on one side of a threshold together: what is tested is what is used.

Of the posterior the test is not exact but simulated. Its confidences, and so the thresholds and the
order of the pairs, are learned from the same control votes; of a control pair only its own vote is
taken out. In 500 simulated worlds with the real learner the promise was broken less often than it
may be (docs/routing.md, *posterior* and *posterior-misled*). A judge's confidences know no vote.

Looking often. A test that is repeated until it passes passes in the end. So looks are fixed: at
100, 200, 400, ... control pairs, the first so many that were answered, each with a share of `delta`
of its own (LOOK_SHARES). Other promises, of another source or another share, share `delta` as well
(`promise_share`). By the union bound the chance that anything false is ever certified is below
`delta`, however many promises are tried here and however often.

That holds of sources and shares named without looking at how the control votes agree with them. Who
first compares judges on those votes, as `annotator judge --check` shows them, and then certifies
the best has tried all of them, and only one is counted: nothing is promised then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from strategies.within_prompt import Bools, Floats, Positions

FIRST_LOOK = 100  # control pairs; every further look is at twice as many
LOOK_SHARES = (0.1, 0.2, 0.3, 0.2, 0.1)  # of delta; further looks get half of what is left each
FIRST_PROMISE = 0.75  # of delta; the promise i after it gets 1 / (i (i - 1)) of the rest
GRID = 20
FEWEST = 30  # calibration pairs at the strictest threshold
MISSES = 2  # that it must be able to bear
LIKELY = 0.8  # with this chance a foretold number of labels suffices
MOST_LOOKS = 12  # 204,800 control pairs: nothing is foretold beyond


def look_size(look: int) -> int:
    """The number of control pairs at which look 0, 1, 2, ... is due."""
    return FIRST_LOOK << look


def look_due(n: int) -> int | None:
    """The newest look that n answered control pairs allow; None below FIRST_LOOK."""
    return None if n < FIRST_LOOK else (n // FIRST_LOOK).bit_length() - 1


def look_share(look: int) -> float:
    """The part of delta that this look takes; over all looks they sum to 1."""
    if look < len(LOOK_SHARES):
        return LOOK_SHARES[look]
    left = 1.0 - sum(LOOK_SHARES)
    return float(left * 0.5 ** (look - len(LOOK_SHARES) + 1))


def promise_share(promise: int) -> float:
    """The part of delta that the promise 1, 2, 3, ... has; over all promises they sum to 1."""
    if promise == 1:
        return FIRST_PROMISE
    return (1.0 - FIRST_PROMISE) / (promise * (promise - 1))


def level_of(look: int, promise: int, delta: float) -> float:
    """The chance of certifying something false that this look at this promise may take."""
    return delta * look_share(look) * promise_share(promise)


def lower_bound(agreed: int, n: int, level: float, left: int | None = None) -> float:
    """The exact lower bound of a share of which `agreed` of n were seen; wrong at most at `level`.

    Of `left` pairs that are left of those that the n were drawn from: the smallest share of them
    under which so many agreements among the n have a chance above `level` (hypergeometric). The
    fewer are left, the more a lucky draw has taken from them. With None, of pairs without end,
    which is Clopper and Pearson's one-sided bound. 0 where none agreed.
    """
    from scipy.special import betaincinv

    if not agreed:
        return 0.0
    if left is None:
        return float(betaincinv(agreed, n - agreed + 1, level))
    low, high = 0, left
    while low < high:
        middle = (low + high) // 2
        if _chance(agreed, n, agreed + middle, n + left) > level:
            high = middle
        else:
            low = middle + 1
    return low / left if left else 0.0


def shows(agreed: int, n: int, share: float, level: float, left: int) -> bool:
    """Whether lower_bound is at least `share`, in one step."""
    too_few = math.ceil(share * left - 1e-9) - 1  # the most agreements that are not enough
    return n > 0 and (too_few < 0 or _chance(agreed, n, agreed + too_few, n + left) <= level)


def _chance(agreed: int, n: int, agree: int, size: int) -> float:
    """P(at least `agreed` among n drawn without replacement from `size`, of which `agree` do)."""
    from scipy.special import gammaln

    least = max(agreed, n - (size - agree))
    x = np.arange(least, min(n, agree) + 1, dtype=np.float64)
    if not len(x):
        return 0.0

    def choose(m: int, k: Floats) -> Floats:
        """The logarithm of the number of ways to take k of m."""
        ways: Floats = gammaln(m + 1.0) - gammaln(k + 1.0) - gammaln(m - k + 1.0)
        return ways

    logs = choose(agree, x) + choose(size - agree, n - x) - choose(size, np.array([float(n)]))
    largest = float(logs.max())
    return min(1.0, math.exp(largest) * float(np.exp(logs - largest).sum()))


def least_agreements(n: int, agree: float, level: float) -> int:
    """The fewest agreements among n that show a share of `agree`; n + 1 where not even all do."""
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        if lower_bound(middle, n, level) >= agree:
            high = middle
        else:
            low = middle + 1
    return low


def fewest_pairs(n: int, agree: float, level: float) -> int:
    """How many of n calibration pairs the strictest threshold is meant to have.

    max(FEWEST, n / 10), and as many as show the promise with MISSES disagreements: with fewer the
    first test, on which all others wait, would fail by bad luck alone. More than n: n are too few.
    """
    fewest = max(FEWEST, math.ceil(n / 10))
    while fewest <= n and lower_bound(fewest - MISSES, fewest, level) < agree:
        fewest += 1
    return fewest


def thresholds(confidence: Floats, n: int, agree: float, level: float) -> Floats:
    """Thresholds to test, strictest first, (at most GRID,); none where n pairs can show nothing.

    `confidence` (n_pairs,) of the pairs to be covered, NaN where the source takes no side. The
    thresholds cover as many pairs as nearest shares k / n, k from fewest_pairs to n in GRID equal
    steps, with all pairs of one confidence together.
    """
    known = np.sort(confidence[~np.isnan(confidence)])[::-1]
    fewest = fewest_pairs(n, agree, level)
    if fewest > n or not len(known):
        return np.empty(0)
    k = np.linspace(fewest, n, GRID)
    place = np.maximum(np.ceil(k / n * len(known) - 1e-9).astype(np.int64), 1) - 1
    found: Floats = np.unique(known[place])[::-1]
    return found


@dataclass(frozen=True)
class Test:
    """One threshold: `n` calibration pairs at or above it, of which `agreed`.

    `covered` pairs of the pool are; a share `required` of them has to agree, at `level`.
    """

    __test__ = False  # no test of ours

    threshold: float
    covered: int
    n: int
    agreed: int
    required: float
    level: float

    @property
    def passed(self) -> bool:
        """Whether the votes bear the promise out at this threshold."""
        return shows(self.agreed, self.n, self.required, self.level, self.covered)

    @property
    def lower(self) -> float:
        """What share they show, at least."""
        return lower_bound(self.agreed, self.n, self.level, self.covered)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Control pairs with a vote, (n,) each, in the order in which they were first answered.

    `confidence` of the source, `agreed` whether the vote was for its side, `drawn` the round that
    drew the pair.
    """

    confidence: Floats
    agreed: Bools
    drawn: Positions

    def __len__(self) -> int:
        return len(self.agreed)

    def take(self, rows: Positions | Bools | slice) -> Calibration:
        """The same of these pairs."""
        return Calibration(self.confidence[rows], self.agreed[rows], self.drawn[rows])


@dataclass(frozen=True, eq=False)
class Taken:
    """Pairs that a strategy has taken out of the pool, (n,) each.

    `agreed` is 1 where the pair's first vote was for the source's side, 0 where not, and 1 where
    nobody has voted: the least favourable for the pairs that are left. `round` took it.
    """

    confidence: Floats
    agreed: Floats
    round: Positions

    @classmethod
    def nothing(cls) -> Taken:
        """Where all pairs of the pool are there still."""
        return cls(np.empty(0), np.empty(0), np.empty(0, dtype=np.int64))


def required_agreement(
    agree: float, threshold: float, left: int, drawn: Positions, taken: Taken
) -> Floats:
    """What each calibration pair has to show so that the pairs that are left agree, (n,).

    A control pair speaks for the pool that it was drawn from. Since then strategies have taken
    pairs; if those agreed more than the promise says, the others agree less than the pool did. With
    t pairs taken since at or above the threshold, agreeing on a share m, and `left` there still,

        (left * agree + t * m) / (left + t)

    of that pool must agree. It is never taken below `agree`. `drawn` (n,) as in Calibration.
    """
    above = taken.confidence >= threshold
    rounds, place = np.unique(drawn, return_inverse=True)
    since = above & (taken.round >= rounds[:, None])
    n = since.sum(axis=1)
    excess = np.maximum(since @ taken.agreed - agree * n, 0.0)
    required: Floats = (agree + excess / np.maximum(left + n, 1))[place]
    return required


def certify(
    calibration: Calibration, pool: Floats, taken: Taken, agree: float, level: float
) -> list[Test]:
    """The tests in their order; the last that passed before the first that did not certifies.

    `pool` (n_pairs,): the confidence of the pairs to be covered, NaN where the source takes no
    side. Nothing is tested after a failure, and nothing at all where so few calibration pairs could
    show nothing. A threshold that by chance has fewer pairs than the strictest is meant to have is
    passed over: how many it has is no matter of their votes.
    """
    tests: list[Test] = []
    fewest = fewest_pairs(len(calibration), agree, level)
    for threshold in thresholds(pool, len(calibration), agree, level).tolist():
        if np.count_nonzero(calibration.confidence >= threshold) < fewest:
            continue
        tests.append(_test(calibration, pool, taken, agree, level, threshold))
        if not tests[-1].passed:
            break
    return tests


def certified(tests: list[Test]) -> Test | None:
    """The lowest threshold that stands; None where the first test failed or there was none."""
    passed = [test for test in tests if test.passed]
    return passed[-1] if passed else None


def _test(
    calibration: Calibration,
    pool: Floats,
    taken: Taken,
    agree: float,
    level: float,
    threshold: float,
) -> Test:
    above = calibration.take(calibration.confidence >= threshold)
    n, agreed = len(above), int(np.count_nonzero(above.agreed))
    covered = int(np.count_nonzero(pool >= threshold))
    required = agree
    if n:
        required = float(required_agreement(agree, threshold, covered, above.drawn, taken).mean())
    return Test(threshold, covered, n, agreed, required, level)


@dataclass(frozen=True)
class LabelsNeeded:
    """`n` control pairs in all, at which the source is likely to be certified; and for how much.

    `share` of the pairs would then probably be covered.
    """

    n: int
    share: float


def labels_needed(
    calibration: Calibration, pool: Floats, agree: float, delta: float, promise: int, after: int
) -> LabelsNeeded | None:
    """The first look from look `after` on that is LIKELY to certify something, as the votes look.

    The agreement of the pool's surest pairs is taken to be what the calibration pairs show,
    smoothed by half a pair each way; what a look would say is then an exact binomial. None where
    the surest pairs show less than `agree`, or where it would take more than MOST_LOOKS looks.
    """
    if not len(calibration):
        return None
    for look in range(after, MOST_LOOKS):
        n, level = look_size(look), level_of(look, promise, delta)
        share = _likely_share(calibration, pool, agree, level, n)
        if share > 0:
            return LabelsNeeded(n, share)
    return None


def _likely_share(
    calibration: Calibration, pool: Floats, agree: float, level: float, n: int
) -> float:
    """The share of the pool down to which each threshold is LIKELY to pass with n pairs."""
    from scipy.special import bdtrc

    n_known, share = int(np.count_nonzero(~np.isnan(pool))), 0.0
    for threshold in thresholds(pool, n, agree, level).tolist():
        above = calibration.confidence >= threshold
        seen = (np.count_nonzero(calibration.agreed & above) + 0.5) / (np.count_nonzero(above) + 1)
        covered = np.count_nonzero(pool >= threshold) / n_known
        k = round(n * covered)
        # P(at least so many of k) is P(more than one fewer).
        if bdtrc(least_agreements(k, agree, level) - 1, k, seen) < LIKELY:
            break
        share = covered
    return share


def bears_out(
    threshold: float,
    calibration: Calibration,
    pool: Floats,
    taken: Taken,
    agree: float,
    delta: float,
) -> bool:
    """Whether all control votes there are, tested at this threshold alone, show the promise.

    At `delta` as a whole, so what a look has certified has some way to fall. A certificate is made,
    and stays, only while this holds: it can but make the promise safer.
    """
    return _test(calibration, pool, taken, agree, delta, threshold).passed
