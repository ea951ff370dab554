"""The saving: how many votes of ours do the work of the votes of a uniform choice.

The control arm is a uniform choice that really took place. Its n pairs teach a learner of their
own; the same learner, with the same setting, is taught the first m votes of the project, whichever
arm they are of, so that all that was spent is charged. Both foretell the votes of the control arm,
each pair's own votes taken out first. Let D(m) be the project's mean log score less that of the
control arm. Where D crosses 0, after m* votes, the project knew what n uniform votes teach, and

    saving = 1 - m* / n.

Nothing is extrapolated: the project has more votes than its control arm. The interval is Fieller's
idea (Journal of the Royal Statistical Society B 16, 1954): it holds the m where D(m) is not
significantly different from 0. The error of D(m) has two parts. Other votes might have been
foretold: that is the spread of the differences between pairs. And other votes might have taught:
that is a delete-a-group jackknife over pairs (Kott, Journal of Official Statistics 17, 2001), by
the score that the learner of all votes expects of either, since the luck of the votes foretold is
in the first part.

A project lead looks often, and one look in twenty would find a saving where there is none. So a
saving is claimed at looks only, each time the control arm has doubled, and there by a test whose
level allows for all of them: with the same number of votes, do ours foretell more than those of a
uniform choice? Between looks the interval goes on, the claim stands as it was.

Pure: arrays in, arrays out; randomness is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import norm
from scipy.stats import t as student

from annotator.errors import PreferenceError
from annotator.preference.features import ResponseFeatures
from annotator.preference.posterior import Posterior, fit_posterior
from annotator.preference.tuning import default_setting, tuned
from annotator.preference.votes import Votes, tally
from strategies.within_prompt import Bools, Floats, Positions

GROUPS = 30
# Votes of the project at which it is measured, as shares of the control arm's.
AT = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4, 2.0, 3.0)
UNIFORM_AT = (0.15, 0.3, 0.5, 0.75)  # shares at which the control arm's own curve is shown
MOST_VOTES = 2_000  # of the control arm that teach; of more the first
MOST_FORETOLD = 6_000  # of the control arm
FEWEST = 30  # control votes that say anything at all
FIRST_LOOK = 60  # control votes; with fewer the scores are too far from normal for a test
# A test at each of six looks, whose information doubles from one to the next, passes somewhere with
# a probability of 0.25 % where there is no saving (Pocock, Biometrika 64, 1977, for doublings). So
# it is for normal scores; those of 60 to 120 votes have a heavier tail. At 2.5 % the test passed in
# 2.5 % of simulated projects and in about 7 % of projects of real votes.
LOOK_QUANTILE = 3.302
LEVEL = 0.95
SMALLEST = 1e-12
EVEN = 1e-9  # so near one half neither side is foretold


@dataclass(frozen=True, eq=False)
class CastVotes:
    """The votes of a project in the order in which they were cast, one row a vote, (n_votes,).

    - `votes`: on positions of responses; several on a pair count as one pair.
    - `control`: whether the pair was drawn for the control arm.
    - `number`: ascending, the votes that had been cast by then, itself among them. Votes that teach
      nothing of the pool, as those on gold and repeats, are counted here and have no row.
    """

    votes: Votes
    control: Bools
    number: Positions

    def __post_init__(self) -> None:
        if not self.control.shape == self.number.shape == self.votes.a.shape:
            raise PreferenceError(
                f"{len(self.control)} arms and {len(self.number)} numbers for "
                f"{len(self.votes)} votes",
                expected="one of either for each vote",
            )

    @property
    def n_control(self) -> int:
        """Votes of the control arm."""
        return int(self.control.sum())

    def take(self, kept: Bools | Positions) -> CastVotes:
        """These votes alone."""
        votes = self.votes
        lapse = None if votes.lapse is None else votes.lapse[kept]
        taken = Votes(votes.a[kept], votes.b[kept], votes.grade[kept], lapse)
        return CastVotes(taken, self.control[kept], self.number[kept])

    def pairs(self) -> Positions:
        """Which pair each vote is on, numbered from 0."""
        low, high = np.minimum(self.votes.a, self.votes.b), np.maximum(self.votes.a, self.votes.b)
        _, pair = np.unique(np.stack((low, high)), axis=1, return_inverse=True)
        found: Positions = pair.ravel()
        return found

    def until(self, n_control: int) -> CastVotes:
        """The votes up to that one of the control arm."""
        before: Positions = np.cumsum(self.control) - self.control
        return self.take(before < n_control)

    def needed(self) -> CastVotes:
        """The votes that `saving` looks at: where there are very many, the first."""
        return self.take(needed_votes(self.control, self.number))


def needed_votes(control: Bools, number: Positions) -> Bools:
    """Which votes `saving` looks at, (n_votes,), in the order in which they were cast."""
    n_uniform = min(int(control.sum()), MOST_VOTES)
    needed: Bools = number <= max(AT) * n_uniform
    return needed | (control & (np.cumsum(control) <= MOST_FORETOLD))


@dataclass(frozen=True, eq=False)
class Measured:
    """How well several learners foretell the control arm's votes that take a side.

    - `score` and `right` (n_learners, n_asked): the logarithm of the probability of the side, and
      whether it was foretold; `pair` (n_asked,) of each vote.
    - `expected_without` (n_groups, n_learners): the mean score that the learner of all votes
      expects, without what each group of pairs taught.
    """

    score: Floats
    right: Floats
    pair: Positions
    expected_without: Floats

    def against(self, other: int) -> Ahead:
        """How far each learner is ahead of that one."""
        ahead = self.score - self.score[other]
        without = self.expected_without - self.expected_without[:, [other]]
        asked, taught = clustered_error(ahead, self.pair), jackknife_error(without)
        n_asked, n_groups = len(np.unique(self.pair)), len(without)
        whole = np.maximum(asked**2 + taught**2, SMALLEST**2)
        lost = asked**4 / max(n_asked - 1, 1) + taught**4 / (n_groups - 1)
        freedom = whole**2 / np.maximum(lost, SMALLEST**4)
        return Ahead(ahead.mean(axis=1), np.sqrt(whole), freedom)


@dataclass(frozen=True, eq=False)
class Ahead:
    """Mean scores less that of one learner, their standard errors, and the degrees of freedom of
    these (Welch 1947, of the two parts of the error), (n_learners,) each."""

    score: Floats
    error: Floats
    freedom: Floats

    def margin(self, level: float) -> Floats:
        """Half of the interval of that level, (n_learners,)."""
        margin: Floats = student.ppf(0.5 + 0.5 * level, self.freedom) * self.error
        return margin

    def first(self, n: int) -> Ahead:
        """The first n learners."""
        return Ahead(self.score[:n], self.error[:n], self.freedom[:n])


def measured(
    features: ResponseFeatures,
    cast: CastVotes,
    lessons: list[Bools],
    rng: np.random.Generator,
    groups: int = GROUPS,
) -> Measured:
    """A learner for each lesson, (n_votes,) which votes teach it, on the votes of the control arm.

    All learners have one setting, that of most evidence by all the votes: lessons differ in votes
    and in nothing else.
    """
    counted, pair = tally(cast.votes), cast.pairs()
    setting = tuned(features, counted, default_setting(counted))
    asked = np.flatnonzero(cast.control & (cast.votes.grade != 0))
    group = _groups(pair, cast.control, groups, rng)
    first = np.unique(pair, return_index=True)[1]  # a vote of each pair
    foretold = cast.take(asked).votes
    control = cast.take(first[cast.control[first]]).votes
    best = preferred(fit_posterior(features, counted, setting.prior, setting.model), control)
    chance, without = np.empty((len(lessons), len(asked))), np.empty((groups, len(lessons)))
    for n, lesson in enumerate(lessons):
        its = tally(cast.take(lesson).votes)
        posterior = fit_posterior(features, its, setting.prior, setting.model)
        posterior.rewards()  # kept: every group asks for them
        a = preferred(posterior, foretold)
        chance[n] = np.where(foretold.grade > 0, a, 1.0 - a)
        for one in range(groups):
            gone = cast.take(first[group[first] == one]).votes
            without[one, n] = _expected_score(best, preferred(posterior, control, gone))
    right = np.where(np.abs(chance - 0.5) < EVEN, 0.5, chance > 0.5)
    return Measured(_log(chance), right, pair[asked], without)


def preferred(posterior: Posterior, pairs: Votes, gone: Votes | None = None) -> Floats:
    """P(a is preferred, given that it is no tie), the pairs' own votes taken out, (n_pairs,).

    And what the votes on the distinct pairs `gone` say.
    """
    if gone is None:
        mean, variance = posterior.before_votes(pairs.a, pairs.b)
    else:
        mean, variance = posterior.before_votes_on(gone.a, gone.b, pairs.a, pairs.b)
    return posterior.model.expected(mean, variance).preferred


def _log(probability: Floats) -> Floats:
    found: Floats = np.log(np.maximum(probability, SMALLEST))
    return found


def _expected_score(best: Floats, chance: Floats) -> float:
    return float((best * _log(chance) + (1.0 - best) * _log(1.0 - chance)).mean())


def jackknife_error(without: Floats) -> Floats:
    """The standard error of figures, (...), computed without each group, (n_groups, ...)."""
    n = len(without)
    spread = without - without.mean(axis=0)
    error: Floats = np.sqrt((n - 1) / n * np.sum(spread**2, axis=0))
    return error


def clustered_error(values: Floats, cluster: Positions) -> Floats:
    """The standard error of the mean of each row, (n_rows, n): several votes a pair are no more."""
    away = values - values.mean(axis=1, keepdims=True)
    _, of = np.unique(cluster, return_inverse=True)
    total = np.array([np.bincount(of, weights=row) for row in away])
    n = total.shape[1]
    error: Floats = np.sqrt(np.sum(total**2, axis=1) * n / max(n - 1, 1)) / values.shape[1]
    return error


def _groups(pair: Positions, control: Bools, n_groups: int, rng: np.random.Generator) -> Positions:
    """The group of each vote: pairs dealt out evenly, those of either arm by themselves."""
    n_pairs = int(pair.max()) + 1
    drawn = np.zeros(n_pairs, dtype=np.bool_)
    drawn[pair[control]] = True
    of_pair = np.empty(n_pairs, dtype=np.int64)
    for arm in (drawn, ~drawn):
        of_pair[arm] = rng.permutation(int(arm.sum())) % n_groups
    return of_pair[pair]


# The saving.


@dataclass(frozen=True, eq=False)
class Interval:
    """A figure with its 95 % interval; an end is None where the data do not close it."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class Saving:
    """What the votes say of the saving.

    - `n_uniform`: votes of the control arm whose work is compared.
    - `votes`: of the project, that do the same work; no value where even none do it, or all do not.
      An open low end: it may be none at all; an
      open high end: more than there are.
    - `right`: the share of the control arm's votes that the project foretells with as many votes,
      less the share that the control arm foretells itself. Its interval is that of the votes
      foretold alone.
    - `evidence`: D with as many votes, in its standard errors.
    - `looks`: control votes at each look, and whether the test passed there.
    - `learned`: whether anything that was learned foretells votes better than a coin.
    - `at`, `ours` and `uniform_at`, `uniform`: the curves, mean log scores over that of a coin by
      votes, with their intervals, (n_points, 3).
    """

    n_uniform: int
    votes: Interval
    right: Interval
    evidence: float
    looks: tuple[tuple[int, bool], ...]
    learned: bool
    at: Positions
    ours: Floats
    uniform_at: Positions
    uniform: Floats

    @property
    def share(self) -> Interval:
        """The saving, 1 - votes / n_uniform; below 1, and below 0 where votes are lost."""
        votes = self.votes
        value, low, high = (
            None if n is None else 1.0 - n / self.n_uniform
            for n in (votes.value, votes.high, votes.low)
        )
        return Interval(value, low, high)

    @property
    def shown(self) -> bool:
        """Whether a saving may be claimed: the last look's test passed, the interval is above 0."""
        passed, share = bool(self.looks) and self.looks[-1][1], self.share
        return passed and share.value is not None and share.low is not None and share.low > 0.0


def saving(
    features: ResponseFeatures,
    cast: CastVotes,
    rng: np.random.Generator,
    groups: int = GROUPS,
    looked: Mapping[int, bool] | None = None,
) -> Saving:
    """The saving by these votes.

    `looked`: by its control votes what came of each look that was taken before. It stands, whatever
    is known of features and annotators by now. Needs FEWEST votes of the control arm; raises
    PreferenceError below.
    """
    if cast.n_control < FEWEST:
        raise PreferenceError(
            f"{cast.n_control} votes of the control arm", expected=f"{FEWEST} or more"
        )
    n_uniform, cast = min(cast.n_control, MOST_VOTES), cast.needed()
    of_looks = rng.spawn(1)[0]  # what else is drawn changes nothing of them
    last = int(cast.number[-1])
    at = np.unique([min(round(share * n_uniform), last) for share in AT])
    uniform_at = np.array([round(share * n_uniform) for share in (1.0, *UNIFORM_AT)])
    of_control = np.where(cast.control, np.cumsum(cast.control), n_uniform + 1)
    lessons = [cast.number <= n for n in at] + [of_control <= n for n in uniform_at]
    both, n_ours = measured(features, cast, lessons, rng, groups), len(at)
    ahead, equal = both.against(n_ours).first(n_ours), int(np.searchsorted(at, n_uniform))
    gained = both.against(0)  # which was taught nothing
    margin = gained.margin(LEVEL)
    curve = np.stack((gained.score, gained.score - margin, gained.score + margin), axis=1)
    return Saving(
        n_uniform=n_uniform,
        votes=crossing(at.astype(np.float64), ahead),
        right=_right(both, equal, n_ours),
        evidence=float(ahead.score[equal] / ahead.error[equal]),
        looks=tuple(_looks(features, cast, of_looks, groups, looked or {})),
        learned=bool(np.any(curve[[n_ours - 1, n_ours], 1] > 0.0)),
        at=at,
        ours=curve[:n_ours],
        uniform_at=np.sort(uniform_at),
        uniform=curve[n_ours:][np.argsort(uniform_at)],
    )


def _right(both: Measured, equal: int, uniform: int) -> Interval:
    """The share foretold by one learner, less that of another."""
    ahead = both.right[[equal]] - both.right[uniform]
    freedom = max(len(np.unique(both.pair)) - 1, 1)
    error = float(clustered_error(ahead, both.pair)[0])
    margin = float(student.ppf(0.5 + 0.5 * LEVEL, freedom)) * error
    value = float(ahead.mean())
    return Interval(value, value - margin, value + margin)


def _looks(
    features: ResponseFeatures,
    cast: CastVotes,
    rng: np.random.Generator,
    groups: int,
    looked: Mapping[int, bool],
) -> Iterator[tuple[int, bool]]:
    """The test at every look so far: with as many votes, do ours foretell more?"""
    sizes = look_sizes(cast.n_control)
    for n, of_look in zip(sizes, rng.spawn(len(sizes)), strict=True):
        if n in looked:
            yield n, looked[n]
            continue
        then = cast.until(n)
        # Each of the control arm's votes is foretold by the others, one fewer.
        both = measured(features, then, [then.number <= n - 1, then.control], of_look, groups)
        ahead = both.against(1)
        needed = ahead.margin(2.0 * float(norm.cdf(LOOK_QUANTILE)) - 1.0)
        yield n, bool(ahead.score[0] > needed[0])


def look_sizes(n_control: int) -> list[int]:
    """Votes of the control arm at every look up to so many: 60, 120, 240, ..."""
    sizes: list[int] = []
    while (n := FIRST_LOOK << len(sizes)) <= min(n_control, MOST_VOTES):
        sizes.append(n)
    return sizes


def crossing(at: Floats, ahead: Ahead) -> Interval:
    """Where a curve measured with errors crosses 0 from below, and its interval.

    `ahead` (n_points,) at `at`, ascending. More votes foretell no less, so the curve is first made
    to rise (isotonic regression). Between points it is taken to be straight.
    """
    rising, margin = _isotonic(ahead.score, ahead.error**-2.0), ahead.margin(LEVEL)
    upper, lower = rising + margin, rising - margin
    even = np.ones(len(at))
    value, low, high = (
        first_above(at, curve) for curve in (rising, _isotonic(upper, even), _isotonic(lower, even))
    )
    inside = 0.0 < value < np.inf
    return Interval(
        value if inside else None,
        low if 0.0 < low < np.inf else (None if low == 0.0 else float(at[-1])),
        high if high < np.inf else None,
    )


def _isotonic(curve: Floats, weights: Floats) -> Floats:
    rising: Floats = isotonic_regression(curve, weights=weights).x
    return rising


def first_above(at: Floats, curve: Floats) -> float:
    """The least x at which a rising curve of straight pieces reaches 0; inf where it does not."""
    reached = int(np.searchsorted(curve >= 0.0, True))
    if reached == len(at):
        return float("inf")
    if reached == 0:
        return float(at[0])
    below, above = curve[reached - 1], curve[reached]
    part = -below / (above - below)
    return float(at[reached - 1] + part * (at[reached] - at[reached - 1]))
