"""How far people agree: Krippendorff's alpha and the plain share of agreement. Pure.

alpha = 1 - D_o / D_e, the disagreement of votes on one pair against that of votes on any two pairs
(Krippendorff, Content Analysis, 2018, chapter 12): 1 where people always agree, 0 where they agree
no oftener than chance would have it, below 0 where less. Votes are coded by response, never by the
side of the screen. *Nominal* alpha knows three sides, a, tie and b; *ordinal* alpha the five
grades, a vote being the further from another the more votes lie between them. Pairs with fewer than
two votes say nothing.

Votes that were asked for because the first ones disagreed would bias all of it, and upwards: a
third vote sides with one of two who differ. `first_votes` says which may be counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from annotator.labels.intervals import (
    ALL_ALIKE,
    FEWEST_CLUSTERS,
    NOTHING,
    Estimate,
    bootstrap_interval,
    exact_share,
    resampled_totals,
    share_of_clusters,
    sums_by_cluster,
    widened,
)
from strategies.within_prompt import Bools, Floats, Positions

METRICS = ("nominal", "ordinal", "interval")
GRADES = 5
SIDE_OF_GRADE = np.array([0, 0, 1, 2, 2])  # of grades -2..2: b, tie, a
_TO_SIDES = (np.arange(3)[:, None] == SIDE_OF_GRADE).astype(np.float64)

NO_VOTES = "no votes"
ONE_ANNOTATOR = "one annotator"
NO_PAIR_TWICE = "no pair with two votes"
ALWAYS_THE_SAME = "everybody always says the same"


@dataclass(frozen=True, eq=False)
class GradedVotes:
    """Votes in the order in which they came: arrays (n_votes,), and each pair's prompt.

    `pair` a position in `prompt_of_pair` (n_pairs,); `grade` -2..2 in the pair's frame, above 0 for
    a; `annotator` a position below `n_annotators`. One row for each annotator and pair.
    """

    pair: Positions
    grade: Positions
    annotator: Positions
    prompt_of_pair: Positions
    n_annotators: int

    @property
    def n_pairs(self) -> int:
        return len(self.prompt_of_pair)

    def take(self, rows: Positions | Bools) -> GradedVotes:
        """The same of these votes alone."""
        part = {name: getattr(self, name)[rows] for name in ("pair", "grade", "annotator")}
        return replace(self, **part)


@dataclass(frozen=True)
class Agreement:
    """How far people agree on pairs with two or more votes.

    - `share` of matching sides among any two votes on one pair, a pair with m votes weighing m, as
      in alpha; `nominal` and `ordinal` alpha. NaN where `undefined` says why not.
    - `pairs`, `votes`, `people`, `prompts` that it rests on; `resampled` prompts, or pairs where
      there are fewer than FEWEST_CLUSTERS prompts.
    """

    share: Estimate
    nominal: Estimate
    ordinal: Estimate
    pairs: int
    votes: int
    people: int
    prompts: int
    resampled: str
    undefined: str | None


@dataclass(frozen=True)
class PersonAgreement:
    """One person's votes held against the others' on the same pairs; see agreement_of_each."""

    share: Estimate
    nominal: Estimate
    votes: int


def first_votes(pair: Positions, most: Positions) -> Bools:
    """Which votes are among the first `most` (n_pairs,) of their pair, (n_votes,).

    `pair` (n_votes,) in the order in which votes came.
    """
    order = np.argsort(pair, kind="stable")
    occurrences = np.bincount(pair, minlength=len(most))
    start = np.cumsum(occurrences) - occurrences
    place = np.empty(len(pair), dtype=np.int64)
    place[order] = np.arange(len(pair)) - start[pair[order]]
    early: Bools = place < most[pair]
    return early


def alpha(pair: Positions, value: Positions, metric: str) -> float:
    """Krippendorff's alpha of the values (n_votes,), whole numbers from 0, NaN where undefined.

    `metric` of METRICS; `pair` (n_votes,) which unit each value is of.
    """
    n_values = int(value.max(initial=0)) + 1
    _, unit = np.unique(pair, return_inverse=True)
    counts = _counts(unit, value, n_values)
    return float(_alphas(_coincidences(counts).sum(axis=0), metric))


def agreement(votes: GradedVotes, rng: np.random.Generator) -> Agreement:
    """Agreement of all these people, with intervals by bootstrap over prompts."""
    used = _paired(votes)
    n_pairs, n_people = (len(np.unique(part)) for part in (used.pair, used.annotator))
    n_prompts = len(np.unique(used.prompt_of_pair[used.pair]))
    by_prompt = n_prompts >= FEWEST_CLUSTERS
    found = Agreement(
        NOTHING,
        NOTHING,
        NOTHING,
        n_pairs,
        len(used.pair),
        n_people,
        n_prompts,
        "prompts" if by_prompt else "pairs",
        _undefined(votes, used),
    )
    if not n_pairs:
        return found
    pairs, unit = np.unique(used.pair, return_inverse=True)
    of_pairs = _coincidences(_counts(unit, used.grade + 2, GRADES)).reshape(n_pairs, -1)
    clusters = used.prompt_of_pair[pairs] if by_prompt else np.arange(n_pairs)
    parts: Floats = sums_by_cluster(of_pairs, clusters)
    totals = resampled_totals(parts, rng).reshape(-1, GRADES, GRADES)
    sides = _TO_SIDES @ totals @ _TO_SIDES.T
    share = widened(_bootstrapped(_shares(sides), len(parts)), len(parts))
    if found.undefined is not None:
        return replace(found, share=share)
    return replace(
        found,
        share=share,
        nominal=_alpha_estimate(sides, "nominal", len(parts)),
        ordinal=_alpha_estimate(totals, "ordinal", len(parts)),
    )


def agreement_of_each(votes: GradedVotes, rng: np.random.Generator) -> list[PersonAgreement]:
    """Each person against the others, (n_annotators) in their order.

    A vote is held against every other vote on its pair. A person's alpha is 1 less their mean
    disagreement over the disagreement by chance of everybody, so that alpha of all is the mean of
    theirs, weighed by votes. Their intervals take the latter for known.
    """
    used = _paired(votes)
    _, unit = np.unique(used.pair, return_inverse=True)
    side = SIDE_OF_GRADE[used.grade + 2]
    counts = _counts(unit, side, len(_TO_SIDES))
    by_chance = _chance(_coincidences(counts).sum(axis=0))
    n_votes = counts.sum(axis=1)[unit]
    matching = (counts[unit, side] - 1.0) / (n_votes - 1.0)
    order = np.argsort(used.annotator, kind="stable")
    ends = np.cumsum(np.bincount(used.annotator, minlength=votes.n_annotators))
    people = []
    for of in np.split(order, ends)[:-1]:
        clusters = used.prompt_of_pair[used.pair[of]]
        if len(np.unique(clusters)) < FEWEST_CLUSTERS:
            clusters = used.pair[of]
        sums = sums_by_cluster(np.stack((matching[of], np.ones(len(of))), axis=1), clusters)
        share = share_of_clusters(sums[:, 0], sums[:, 1], rng)
        people.append(PersonAgreement(share, _alpha_of_share(share, by_chance), len(of)))
    return people


def _alpha_of_share(share: Estimate, by_chance: float) -> Estimate:
    """Nominal alpha out of a share of agreement; `by_chance` the disagreement by chance."""
    if not by_chance > 0:
        return NOTHING
    return Estimate(*(1.0 - (1.0 - x) / by_chance for x in (share.value, share.low, share.high)))


def _wider(found: Estimate, other: Estimate) -> Estimate:
    low, high = np.fmin(found.low, other.low), np.fmax(found.high, other.high)
    return Estimate(found.value, float(low), float(high))


def _undefined(votes: GradedVotes, used: GradedVotes) -> str | None:
    if not len(votes.pair):
        return NO_VOTES
    if len(np.unique(votes.annotator)) == 1:
        return ONE_ANNOTATOR
    if not len(used.pair):
        return NO_PAIR_TWICE
    if len(np.unique(SIDE_OF_GRADE[used.grade + 2])) == 1:
        return ALWAYS_THE_SAME
    return None


def _paired(votes: GradedVotes) -> GradedVotes:
    """The votes on pairs that have two or more."""
    return votes.take(np.bincount(votes.pair, minlength=votes.n_pairs)[votes.pair] > 1)


def _counts(unit: Positions, value: Positions, n_values: int) -> Floats:
    """How often each value was given to each unit, (n_units, n_values)."""
    n_units = int(unit.max(initial=-1)) + 1
    flat = np.bincount(unit * n_values + value, minlength=n_units * n_values)
    return flat.reshape(n_units, n_values).astype(np.float64)


def _coincidences(counts: Floats) -> Floats:
    """Krippendorff's coincidence matrix of each unit, (n_units, C, C); 0 with fewer than two."""
    both: Floats = counts[:, :, None] * counts[:, None, :]
    diagonal = np.arange(counts.shape[1])
    both[:, diagonal, diagonal] -= counts
    both /= np.maximum(counts.sum(axis=1) - 1.0, 1.0)[:, None, None]
    return both


def _distances(marginals: Floats, metric: str) -> Floats:
    """Squared distances (..., C, C) of values that were given `marginals` (..., C) times."""
    n_values = marginals.shape[-1]
    values = np.arange(n_values, dtype=np.float64)
    if metric == "nominal":
        return 1.0 - np.eye(n_values)
    if metric == "interval":
        return (values[:, None] - values) ** 2
    # The votes from c to k, half of those at c and k themselves.
    middle = np.cumsum(marginals, axis=-1) - marginals / 2
    squared: Floats = (middle[..., :, None] - middle[..., None, :]) ** 2
    return squared


def _alphas(coincidences: Floats, metric: str) -> Floats:
    """Alpha of coincidences (..., C, C); NaN where chance alone would never disagree."""
    marginals = coincidences.sum(axis=-1)
    distances = _distances(marginals, metric)
    observed = (coincidences * distances).sum(axis=(-2, -1))
    both = marginals[..., :, None] * marginals[..., None, :]
    expected = (both * distances).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = 1.0 - (marginals.sum(axis=-1) - 1.0) * observed / expected
    return found


def _chance(coincidences: Floats) -> float:
    """How often two votes on any pairs differ, from coincidences (C, C): nominal D_e."""
    marginals = coincidences.sum(axis=-1)
    n = marginals.sum()
    return float((n**2 - (marginals**2).sum()) / (n * (n - 1.0))) if n > 1 else 0.0


def _shares(coincidences: Floats) -> Floats:
    """The share of matching values among any two on one unit, (...)."""
    matching = np.trace(coincidences, axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Floats = matching / coincidences.sum(axis=(-2, -1))
    return found


def _alpha_estimate(totals: Floats, metric: str, n_clusters: int) -> Estimate:
    """From the observed coincidences and their replicates, (r + 1, C, C).

    Few or equal clusters say too little of what else might have been: the interval is then at least
    that of an exact share of matching values, whose disagreements are spread as by chance.
    """
    found = _bootstrapped(_alphas(totals, metric), n_clusters)
    if not _says_too_little(found, n_clusters):
        return found
    share = exact_share(float(_shares(totals[0])) * n_clusters, n_clusters)
    return _wider(found, _alpha_of_share(share, _chance(totals[0])))


def _bootstrapped(values: Floats, n_clusters: int) -> Estimate:
    """The observed value, which is the first, with the interval of its replicates."""
    return Estimate(float(values[0]), *bootstrap_interval(values[1:], n_clusters))


def _says_too_little(found: Estimate, n_clusters: int) -> bool:
    return n_clusters < FEWEST_CLUSTERS or not found.high - found.low > ALL_ALIKE
