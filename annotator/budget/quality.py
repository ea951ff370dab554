"""How good the model is on the whole pool, from votes on pairs that were drawn by lot.

What is estimated is the share of people's votes, of those that take a side, that the model
foretells on a random pair of the pool, the pair's own votes being hidden from it. The headline
comes from the control arm, helped by what the model itself expects of all other pairs (PPI++,
Angelopoulos, Duchi and Zrnic, arXiv 2311.01453); the cross-check comes from the acquired arm alone,
each pick weighed by the chance it had (LURE, Farquhar, Gal and Rainforth, arXiv 2101.11665). The
plain mean over what a strategy chose says nothing of the pool and is nowhere computed.

Pairs of one prompt hang together, so every interval goes by prompts, not by votes.

Pure: arrays in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from annotator.labels.intervals import LEVEL, NOTHING, Estimate
from strategies.within_prompt import Bools, Floats, Positions

FEWEST_PROMPTS = 2  # with one there is nothing to tell by how much prompts differ
ENOUGH_DRAWN = 30.0  # picks, by their weights, from which on the acquired arm can check anything


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What people said of n pairs, and what the model expected of them, (n,) each.

    `right`: the share of a pair's votes that take a side and the one that the model foretells;
    `sided`: the share that take a side; `prompt` whose pairs these are; `weight`, which sum to 1.
    `expected_right` and `expected_sided` are the same as the model sees them beforehand.
    """

    prompt: Positions
    weight: Floats
    right: Floats
    sided: Floats
    expected_right: Floats
    expected_sided: Floats


@dataclass(frozen=True, eq=False)
class Pool:
    """What the model expects of a uniform sample of the pool's pairs, (n,) each, as in Outcomes."""

    prompt: Positions
    expected_right: Floats
    expected_sided: Floats


@dataclass(frozen=True)
class PoolShare:
    """A share of votes on a random pair of the pool.

    `helped` with the model's help, `plain` without; `power` how far the model was believed, 0 to 1;
    `worth` so many random pairs would make as narrow an interval without help.
    """

    helped: Estimate
    plain: Estimate
    power: float
    worth: float


def pool_share(found: Outcomes, pool: Pool) -> PoolShare:
    """The share of sided votes that are foretold on a random pair, PPI++ with power tuning.

    See tuned_ratio for the value and its variance. The interval is Wilson's, with the size of the
    sample at which a plain share has that variance (Korn and Graubard, Survey Methodology 24, 1998)
    and Student's quantile for as many prompts.
    """
    if not len(found.prompt) or not found.weight @ found.sided > 0.0:
        return PoolShare(NOTHING, NOTHING, 0.0, np.nan)
    helped, plain = tuned_ratio(found, pool), tuned_ratio(found, pool, 0.0)
    worth, n = _plain_size(helped), _plain_size(plain)
    pairs = 1.0 / float(found.weight @ found.weight)
    return PoolShare(
        _wilson(helped.value, worth, helped.n_prompts),
        _wilson(plain.value, n, plain.n_prompts),
        helped.power,
        pairs * worth / n if n > 0.0 else np.nan,
    )


@dataclass(frozen=True)
class Ratio:
    """A ratio over the pool and its variance; `n_prompts` that it goes by, Kish's effective number.

    `power`: how far the model was believed.
    """

    value: float
    variance: float
    n_prompts: float
    power: float


def tuned_ratio(found: Outcomes, pool: Pool, power: float | None = None) -> Ratio:
    """`right` by `sided` over the whole pool, from labelled pairs and what the model expects.

    With y right, s sided, y' and s' what the model expects of them, L the labelled pairs with
    weights w and U the pool, it is the ratio of

        sum_L w y - lambda (sum_L w y' - mean_U y')   and
        sum_L w s - lambda (sum_L w s' - mean_U s').

    Where every vote takes a side and U holds the labelled pairs as well, that is the PPI++ estimate
    of arXiv 2311.01453. `power` is lambda; None: what minimises the variance, kept within 0 and 1.
    The variance is that of prompts: the sum of squares of what each contributes (Liang and Zeger,
    Biometrika 73, 1986).
    """
    n_prompts = _effective_prompts(found)
    value = _ratio(found, pool, power or 0.0)
    if power is None:
        people, models, _ = _parts(found, pool, value)
        scale = float(models @ models)
        power = float(np.clip(people @ models / scale, 0.0, 1.0)) if scale > 0.0 else 0.0
        value = _ratio(found, pool, power)
    people, models, sided = _parts(found, pool, value)
    parts = (people - power * models) / (sided[0] - power * sided[1])
    return Ratio(value, _variance(parts, n_prompts), n_prompts, power)


def _effective_prompts(found: Outcomes) -> float:
    _, prompt = np.unique(found.prompt, return_inverse=True)
    shares = np.bincount(prompt.ravel(), weights=found.weight)
    return float(shares.sum() ** 2 / (shares @ shares))


def _ratio(found: Outcomes, pool: Pool, power: float) -> float:
    w = found.weight
    right = w @ found.right - power * (w @ found.expected_right - _mean(pool.expected_right))
    sided = w @ found.sided - power * (w @ found.expected_sided - _mean(pool.expected_sided))
    return float(right / sided)


def _parts(found: Outcomes, pool: Pool, value: float) -> tuple[Floats, Floats, tuple[float, float]]:
    """Of each prompt, what people and what the model contribute to the error at this ratio.

    And what both say of how many votes take a side, of which the ratio is taken.
    """
    prompts = np.unique(np.concatenate((found.prompt, pool.prompt)))
    of_pair, of_pool = (np.searchsorted(prompts, one.prompt) for one in (found, pool))
    people = found.right - value * found.sided
    models = found.expected_right - value * found.expected_sided
    whole = pool.expected_right - value * pool.expected_sided
    own = _sums(of_pair, found.weight * (people - found.weight @ people), len(prompts))
    moved = _sums(of_pair, found.weight * (models - found.weight @ models), len(prompts))
    moved -= _sums(of_pool, (whole - _mean(whole)) / max(1, len(whole)), len(prompts))
    w = found.weight
    sided = float(w @ found.sided)
    return own, moved, (sided, float(w @ found.expected_sided) - _mean(pool.expected_sided))


def _sums(groups: Positions, values: Floats, n: int) -> Floats:
    return np.asarray(np.bincount(groups, weights=values, minlength=n), dtype=np.float64)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0


def _variance(parts: Floats, n_prompts: float) -> float:
    """Of a sum of contributions of prompts that sum to about 0."""
    if n_prompts < FEWEST_PROMPTS:
        return np.inf
    return float(parts @ parts) * n_prompts / (n_prompts - 1.0)


def _plain_size(found: Ratio) -> float:
    """How many independent pairs make a plain share as uncertain as that.

    Where all say the same there is nothing to measure it by, and prompts count.
    """
    spread = found.value * (1.0 - found.value)
    if spread <= 0.0 or found.variance <= 0.0:
        return found.n_prompts
    return spread / found.variance if np.isfinite(found.variance) else 0.0


def _wilson(value: float, size: float, n_prompts: float) -> Estimate:
    """Wilson's interval of a share in a sample of that size, with Student's quantile."""
    value = min(max(value, 0.0), 1.0)
    if n_prompts < FEWEST_PROMPTS or size <= 0.0:
        return Estimate(value, 0.0, 1.0)
    t2 = student(n_prompts) ** 2
    centre = (value + t2 / (2.0 * size)) / (1.0 + t2 / size)
    half = np.sqrt(t2 * (value * (1.0 - value) / size + t2 / (4.0 * size**2))) / (1.0 + t2 / size)
    return Estimate(value, max(0.0, centre - half), min(1.0, centre + half))


def student(n_prompts: float) -> float:
    """Student's quantile for a 95 % interval that so many prompts make."""
    from scipy.special import stdtrit

    return float(stdtrit(max(n_prompts, FEWEST_PROMPTS) - 1.0, (1.0 + LEVEL) / 2.0))


def weights_in_pool(
    place: Positions, control: Bools, n_left: Positions, n_taken: Positions
) -> Floats:
    """How much each pair with votes stands for, (n,), summing to 1.

    `place` (n,) the round, from 0, in which each was chosen; `control` (n,) whether by lot;
    `n_left` and `n_taken` (n_rounds,) the pairs that could be chosen in a round, and those chosen
    in all rounds before. A pair drawn by lot stands for those left at that time; those chosen
    before stand for themselves. So where a strategy has taken its share of a small pool, what is
    left is not taken for the whole (Des Raj, JASA 51, 1956).
    """
    n_rounds = len(n_left)
    drawn = np.bincount(place[control], minlength=n_rounds).astype(np.float64)
    if not drawn.sum():
        return np.zeros(len(place))
    drawn /= drawn.sum()
    whole = (n_left + n_taken).astype(np.float64)
    # Of the estimate that a draw in round k is, what falls to each pair of round j before it.
    in_round = np.bincount(place, minlength=n_rounds)
    answered = np.cumsum(in_round) - in_round
    known = np.where(answered > 0, n_taken / whole, 0.0)
    before = np.where(answered > 0, drawn * known / np.maximum(answered, 1), 0.0)
    later = before.sum() - np.cumsum(before)
    weight: Floats = later[place]
    per_draw = (1.0 - known) / np.maximum(np.bincount(place[control], minlength=n_rounds), 1)
    weight[control] += (drawn * per_draw)[place[control]]
    return weight


@dataclass(frozen=True, eq=False)
class Drawn:
    """Picks of a strategy that draws, in one sequence a round, (n,) each.

    `place` the round, `draw` from 0 the pick's turn in it, `chance` the probability with which it
    was picked then; `n_pool` (n_rounds,) pairs it could choose from, `n_picked` (n_rounds,) how
    many it did. `right`, `sided` and `prompt` as in Outcomes; NaN where nobody has answered.
    """

    prompt: Positions
    place: Positions
    draw: Positions
    chance: Floats
    right: Floats
    sided: Floats
    n_pool: Positions
    n_picked: Positions


@dataclass(frozen=True)
class Checked:
    """The same share from the acquired arm; `effective` picks, by their weights."""

    share: Estimate
    effective: float
    n: int


def weights_by_chance(drawn: Drawn) -> Floats:
    """v_m of LURE, (n,): what each pick's value is multiplied by before the mean is taken.

    v_m = 1 + (N - M) / (N - m) (1 / ((N - m + 1) q_m) - 1), m = 1 to M, of every round by itself
    (R_LURE of arXiv 2101.11665).
    """
    n, picked, m = drawn.n_pool[drawn.place], drawn.n_picked[drawn.place], drawn.draw + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        left = (n - picked) / (n - m)
        weight = 1.0 + left * (1.0 / ((n - m + 1) * drawn.chance) - 1.0)
    whole: Floats = np.where(picked >= n, 1.0, weight)
    return whole


def share_by_chance(drawn: Drawn) -> Checked:
    """The share of sided votes that are foretold on a random pair, from picks of known chance.

    The ratio of two LURE estimates, the rounds weighed by their picks. The interval is Wilson's, as
    in pool_share. NaN below ENOUGH_DRAWN effective picks, (sum v)^2 / sum v^2 (Kish, 1965): then
    nearly all the weight lies on a few, and no interval can be trusted.
    """
    answered = np.isfinite(drawn.right)
    weight = weights_by_chance(drawn)[answered]
    n = int(answered.sum())
    squares = float(weight @ weight)
    effective = float(weight.sum() ** 2 / squares) if squares > 0.0 else 0.0
    prompt, right, sided = drawn.prompt[answered], drawn.right[answered], drawn.sided[answered]
    total = float(weight @ sided)
    if effective < ENOUGH_DRAWN or total <= 0.0:
        return Checked(NOTHING, effective, n)
    value = float(weight @ right) / total
    prompts, of_pick = np.unique(prompt, return_inverse=True)
    parts = _sums(of_pick.ravel(), weight * (right - value * sided) / total, len(prompts))
    n_prompts = min(float(len(prompts)), effective)
    found = Ratio(value, _variance(parts, n_prompts), n_prompts, 0.0)
    return Checked(_wilson(value, min(_plain_size(found), float(n)), n_prompts), effective, n)
