"""How good the model is: by the published formulas, and in simulated worlds with a known truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import binom

from annotator.budget.quality import (
    Drawn,
    Outcomes,
    Pool,
    pool_share,
    share_by_chance,
    tuned_ratio,
    weights_by_chance,
    weights_in_pool,
)


def covered_too_seldom(covered: int, n: int) -> bool:
    """Whether so few of n intervals hold the truth that a coverage of 0.95 is out of question."""
    return bool(binom.cdf(covered, n, 0.95) < 1e-3)


def equal(n: int) -> np.ndarray:
    return np.full(n, 1.0 / n)


def test_without_ties_and_clusters_it_is_the_published_estimate() -> None:
    """PPI++ as arXiv 2311.01453 has it, U being the other pairs: lambda, value and variance."""
    rng = np.random.default_rng(3)
    n, others = 200, 3_000
    f = rng.uniform(0.5, 1.0, n + others)
    y = (rng.random(n) < 0.35 + 0.5 * f[:n]).astype(np.float64)
    ones = np.ones(n + others)
    prompt = rng.permutation(n + others)  # every pair has a prompt of its own
    found = tuned_ratio(
        Outcomes(prompt[:n], equal(n), y, ones[:n], f[:n], ones[:n]), Pool(prompt, f, ones)
    )
    labelled, unlabelled = f[:n], f[n:]
    covariance = float(np.cov(y, labelled)[0, 1])
    lam = covariance / ((1 + n / others) * np.var(labelled, ddof=1))
    value = lam * unlabelled.mean() + (y - lam * labelled).mean()
    variance = lam**2 * np.var(unlabelled) / others + np.var(y - lam * labelled) / n
    assert found.power * (1 - n / (n + others)) == pytest.approx(lam, rel=0.03)
    assert found.value == pytest.approx(value, abs=1e-4)
    assert found.variance == pytest.approx(variance, rel=0.05)
    plain = tuned_ratio(
        Outcomes(prompt[:n], equal(n), y, ones[:n], f[:n], ones[:n]), Pool(prompt, f, ones), 0.0
    )
    assert plain.value == pytest.approx(y.mean())
    assert plain.variance == pytest.approx(np.var(y, ddof=1) / n)


def test_the_variance_is_that_of_prompts() -> None:
    """By hand: three prompts, in two of which all are right and in one nobody, whatever K."""
    sizes = np.array([20, 12, 8])
    right = np.repeat([1.0, 0.0, 1.0], sizes)
    prompt = np.repeat([7, 2, 4], sizes)
    ones, halves = np.ones(40), np.full(40, 0.5)
    outcomes = Outcomes(prompt, equal(40), right, ones, halves, ones)
    found = tuned_ratio(outcomes, Pool(prompt, halves, ones), 0.0)
    assert found.value == pytest.approx(0.7)
    n_prompts = 1 / (0.5**2 + 0.3**2 + 0.2**2)  # Kish
    assert found.n_prompts == pytest.approx(n_prompts)
    parts = np.array([0.5 * 0.3, -0.3 * 0.7, 0.2 * 0.3])
    assert found.variance == pytest.approx((parts**2).sum() * n_prompts / (n_prompts - 1))
    share = pool_share(outcomes, Pool(prompt, halves, ones))
    assert share.plain.low < 0.15  # for pairs by themselves it would be 0.55
    # Two prompts of which one has nearly all pairs are less than two.
    few = Outcomes(np.repeat([0, 1], [39, 1]), equal(40), right, ones, halves, ones)
    assert pool_share(few, Pool(prompt, halves, ones)).plain.high == 1.0


def test_where_all_of_the_pool_is_labelled_the_model_cannot_help() -> None:
    rng = np.random.default_rng(6)
    f = rng.uniform(0.5, 1.0, 120)
    y = (rng.random(120) < f).astype(np.float64)
    prompt, ones = rng.integers(0, 40, 120), np.ones(120)
    outcomes, pool = Outcomes(prompt, equal(120), y, ones, f, ones), Pool(prompt, f, ones)
    plain = tuned_ratio(outcomes, pool, 0.0)
    for power in (None, 0.7, 1.0):
        found = tuned_ratio(outcomes, pool, power)
        assert found.value == pytest.approx(y.mean())
        assert found.variance == pytest.approx(plain.variance)


def test_ties_are_no_votes_for_a_side() -> None:
    """By hand: of 4 pairs with 2 votes each, 5 of 8 votes take a side and 3 are foretold."""
    right = np.array([1.0, 0.5, 0.0, 0.0])
    sided = np.array([1.0, 1.0, 0.5, 0.0])
    prompt, half = np.arange(4), np.full(4, 0.5)
    share = pool_share(
        Outcomes(prompt, equal(4), right, sided, half, half), Pool(prompt, half, half)
    )
    assert share.plain.value == pytest.approx(3 / 5)
    assert share.plain.low < 3 / 5 < share.plain.high


def test_where_all_are_right_the_interval_still_has_a_width() -> None:
    prompt, ones = np.arange(40), np.ones(40)
    share = pool_share(
        Outcomes(prompt, equal(40), ones, ones, ones * 0.9, ones), Pool(prompt, ones * 0.9, ones)
    )
    assert share.helped.value == 1.0
    assert 0.88 < share.helped.low < 0.95


def test_nothing_is_said_without_votes_or_of_one_prompt() -> None:
    nobody = np.empty(0)
    none = pool_share(
        Outcomes(nobody.astype(int), nobody, nobody, nobody, nobody, nobody),
        Pool(nobody.astype(int), nobody, nobody),
    )
    assert np.isnan(none.helped.value)
    zero, ones = np.zeros(5, dtype=np.int64), np.ones(5)
    tied = pool_share(
        Outcomes(zero, equal(5), 0 * ones, 0 * ones, ones, ones), Pool(zero, ones, ones)
    )
    assert np.isnan(tied.helped.value)
    one = pool_share(
        Outcomes(zero, equal(5), np.array([1.0, 0, 1, 1, 0]), ones, ones / 2, ones),
        Pool(zero, ones / 2, ones),
    )
    assert (one.helped.low, one.helped.high) == (0.0, 1.0)


@dataclass(frozen=True)
class PoolWorld:
    """Pairs of uneven prompts, what a biased model thinks of each, and how often it is right."""

    prompt: np.ndarray
    confidence: np.ndarray
    right: np.ndarray
    tie: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, n_prompts: int, by_prompt: float) -> PoolWorld:
        k = rng.integers(2, 7, n_prompts)
        prompt = np.repeat(np.arange(n_prompts), k * (k - 1) // 2)
        of_prompt = rng.normal(0.0, by_prompt, n_prompts)[prompt]
        log_odds = np.abs(rng.normal(0.3, 1.2, len(prompt)))
        confidence = 1 / (1 + np.exp(-log_odds))
        right = 1 / (1 + np.exp(-(0.7 * log_odds + of_prompt)))
        return cls(prompt, confidence, right, rng.uniform(0.05, 0.25, len(prompt)))

    @property
    def truth(self) -> float:
        return float(((1 - self.tie) * self.right).sum() / (1 - self.tie).sum())

    def pool(self) -> Pool:
        return Pool(self.prompt, self.confidence * (1 - self.tie), 1 - self.tie)

    def outcomes(
        self, rng: np.random.Generator, pairs: np.ndarray, weight: np.ndarray, votes: int = 1
    ) -> Outcomes:
        sided = rng.binomial(votes, 1 - self.tie[pairs])
        right = rng.binomial(sided, self.right[pairs])
        tie, confidence = self.tie[pairs], self.confidence[pairs]
        return Outcomes(
            self.prompt[pairs],
            weight,
            right / votes,
            sided / votes,
            confidence * (1 - tie),
            1 - tie,
        )


@pytest.mark.parametrize(
    ("n_prompts", "n", "by_prompt", "votes"),
    [(60, 30, 0.0, 1), (60, 60, 1.5, 1), (25, 60, 1.5, 2), (400, 300, 0.7, 1)],
)
def test_the_interval_covers_the_truth(
    n_prompts: int, n: int, by_prompt: float, votes: int
) -> None:
    rng = np.random.default_rng([n_prompts, n, votes])
    runs, helped, plain, worth = 250, 0, 0, []
    for _ in range(runs):
        world = PoolWorld.drawn(rng, n_prompts, by_prompt)
        pairs = rng.choice(len(world.prompt), n, replace=False)
        share = pool_share(world.outcomes(rng, pairs, equal(n), votes), world.pool())
        helped += share.helped.low <= world.truth <= share.helped.high
        plain += share.plain.low <= world.truth <= share.plain.high
        worth.append(share.worth)
    assert not covered_too_seldom(helped, runs)
    assert not covered_too_seldom(plain, runs)
    assert np.mean(worth) > n  # the model helps, however biased


def test_intervals_that_ignore_prompts_would_not_cover() -> None:
    """The worlds above are hard enough to tell: pairs taken for independent fail in them."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        world = PoolWorld.drawn(rng, 60, 1.5)
        chosen = np.flatnonzero(np.isin(world.prompt, rng.choice(60, 12, replace=False)))
        right = rng.random(len(chosen)) < world.right[chosen]
        half = 1.96 * right.std() / np.sqrt(len(chosen))
        covered += abs(right.mean() - world.right.mean()) <= half
    assert covered_too_seldom(covered, 200)


def test_in_a_small_pool_what_a_strategy_took_is_counted_for_itself() -> None:
    """A strategy takes the hard pairs; what lots draw from the rest is too easy by itself."""
    rng = np.random.default_rng(9)
    runs, covered, errors, naive, unweighted = 200, 0, [], [], []
    for _ in range(runs):
        world = PoolWorld.drawn(rng, 60, 0.5)
        n_pairs = len(world.prompt)
        free = np.ones(n_pairs, dtype=np.bool_)
        pairs, place, control, left, taken = [], [], [], [], []
        for number in range(5):
            open_pairs = np.flatnonzero(free)
            left.append(len(open_pairs))
            taken.append(n_pairs - len(open_pairs))
            by_lot = rng.choice(open_pairs, 9, replace=False)
            free[by_lot] = False
            rest = np.flatnonzero(free)
            hardest = rest[np.argsort(world.confidence[rest])[:35]]
            free[hardest] = False
            pairs += [*by_lot, *hardest]
            place += [number] * 44
            control += [True] * 9 + [False] * 35
        arms = np.array(control)
        weight = weights_in_pool(np.array(place), arms, np.array(left), np.array(taken))
        assert weight.sum() == pytest.approx(1.0)
        found = world.outcomes(rng, np.array(pairs), weight)
        share = pool_share(found, world.pool())
        covered += share.helped.low <= world.truth <= share.helped.high
        errors.append(share.helped.value - world.truth)
        naive.append(found.right[~arms].sum() / found.sided[~arms].sum() - world.truth)
        unweighted.append(found.right[arms].sum() / found.sided[arms].sum() - world.truth)
    assert not covered_too_seldom(covered, runs)
    assert abs(np.mean(errors)) < 0.006
    assert np.mean(unweighted) > 0.02  # so the weights do something
    assert np.mean(naive) < -0.02


def test_weights_by_hand() -> None:
    """Round 1 takes 2 of 10 pairs, one by lot; round 2 one of the other 8, by lot."""
    weight = weights_in_pool(
        np.array([0, 0, 1]), np.array([True, False, True]), np.array([10, 8]), np.array([0, 2])
    )
    # First draw: stands for all. Second: for 8 of 10, the two known ones for themselves.
    assert weight == pytest.approx([0.5 * 1.0 + 0.5 * 0.1, 0.5 * 0.1, 0.5 * 0.8])


def test_nothing_by_lot_no_weight() -> None:
    weight = weights_in_pool(
        np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.bool_), np.array([10]), np.array([0])
    )
    assert not weight.any()


def test_weights_of_lure_by_the_formula() -> None:
    """v_m written out for N = 50, M = 3; 1 where the whole pool was picked."""
    n, big_m, q = 50, 3, np.array([0.1, 0.02, 0.5])
    expected = [1 + (n - big_m) / (n - m) * (1 / ((n - m + 1) * q[m - 1]) - 1) for m in (1, 2, 3)]
    drawn = Drawn(
        prompt=np.arange(5),
        place=np.array([1, 1, 1, 0, 0]),
        draw=np.array([0, 1, 2, 0, 1]),
        chance=np.array([*q, 0.3, 0.9]),
        right=np.ones(5),
        sided=np.ones(5),
        n_pool=np.array([2, n]),
        n_picked=np.array([2, big_m]),
    )
    assert weights_by_chance(drawn) == pytest.approx([*expected, 1.0, 1.0])


def gumbel_picks(
    rng: np.random.Generator, worth: np.ndarray, n: int, mix: float
) -> tuple[np.ndarray, np.ndarray]:
    """n picks one by one by worth, mixed with uniform, and the chance of each at its turn."""
    w = mix / len(worth) + (1 - mix) * worth / worth.sum()
    order = np.argsort(-(np.log(w) + rng.gumbel(size=len(w))))[:n]
    before = np.concatenate(([0.0], np.cumsum(w[order])[:-1]))
    return order, w[order] / (w.sum() - before)


def test_the_cross_check_covers_the_truth_and_the_plain_mean_does_not() -> None:
    rng = np.random.default_rng(11)
    runs, covered, errors, naive = 250, 0, [], []
    for _ in range(runs):
        world = PoolWorld.drawn(rng, 150, 0.5)
        sizes = (100, 60)
        free = np.arange(len(world.prompt))
        parts = []
        for place, n in enumerate(sizes):
            at, chance = gumbel_picks(rng, 1.02 - world.confidence[free], n, 0.3)
            parts.append((free[at], np.full(n, place), np.arange(n), chance, len(free)))
            free = np.delete(free, at)
        pairs, place, draw, chance = (np.concatenate([p[i] for p in parts]) for i in range(4))
        found = world.outcomes(rng, pairs, equal(len(pairs)))
        right, sided = found.right.copy(), found.sided.copy()
        silent = rng.random(len(pairs)) < 0.1
        right[silent] = sided[silent] = np.nan
        check = share_by_chance(
            Drawn(
                found.prompt,
                place,
                draw,
                chance,
                right,
                sided,
                np.array([p[4] for p in parts]),
                np.array(sizes),
            )
        )
        assert check.n == np.count_nonzero(~silent)
        covered += check.share.low <= world.truth <= check.share.high
        errors.append(check.share.value - world.truth)
        naive.append(np.nansum(right) / np.nansum(sided) - world.truth)
    assert not covered_too_seldom(covered, runs)
    assert abs(np.mean(errors)) < 0.012
    assert np.mean(naive) < -0.02


def test_a_strategy_that_hardly_draws_checks_nothing() -> None:
    """2 % of the picks by lot and the best taken for certain: all the weight lies on a few."""
    rng = np.random.default_rng(1)
    n, big = 400, 20_000
    lot = rng.random(n) < 0.02
    drawn = Drawn(
        prompt=np.arange(n),
        place=np.zeros(n, dtype=np.int64),
        draw=np.arange(n),
        chance=np.where(lot, 0.02 / big, 0.98),
        right=np.ones(n),
        sided=np.ones(n),
        n_pool=np.array([big]),
        n_picked=np.array([n]),
    )
    check = share_by_chance(drawn)
    assert np.isnan(check.share.value)
    assert check.effective < 20
