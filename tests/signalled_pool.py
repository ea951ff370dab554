"""Pools that carry every optional signal: random arrays, each of them one that could occur."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from scipy.special import expit, ndtr

from strategies.pool import Pool

UNSCORED = 0.08
FACTORS, RESIDUAL_FACTORS = 5, 3

# What a signal of a pair becomes when its a and b change places; all others stay.
WHEN_TURNED = {
    "pair_preferred": lambda p: 1.0 - p,
    "pair_margin": np.negative,
    "policy_margin": np.negative,
    "validation_margin": np.negative,
    "policy_influence": np.negative,
}


def with_all_signals(pool: Pool, rng: np.random.Generator) -> Pool:
    """The same pool with scores (some NaN), the posterior of one model, and the margins of another.

    Probabilities are multiples of 2**-20, so that turning a pair round twice gives it back exactly.
    """
    score = rng.random(pool.n_responses)
    score[rng.random(pool.n_responses) < UNSCORED] = np.nan
    margins = rng.normal(size=(3, pool.n_pairs))
    return pool.with_signals(
        response_score=score,
        policy_margin=margins[0],
        validation_margin=margins[1],
        policy_influence=margins[2],
        **_posterior(pool, rng),
    )


def _posterior(pool: Pool, rng: np.random.Generator) -> dict[str, np.ndarray]:
    mean = rng.normal(size=pool.n_responses)
    shared = rng.normal(scale=0.5, size=(pool.n_responses, FACTORS)).astype(np.float32)
    own = rng.normal(scale=0.5, size=(pool.n_responses, RESIDUAL_FACTORS)).astype(np.float32)
    loadings = np.hstack([shared, own])  # responses of a pair always share their prompt
    margin = mean[pool.pair_a] - mean[pool.pair_b]
    variance = ((loadings[pool.pair_a] - loadings[pool.pair_b]).astype(float) ** 2).sum(axis=1)
    preferred = np.round(expit(margin / np.sqrt(1 + np.pi * variance / 8)) * 2**20) / 2**20
    fisher = preferred * (1 - preferred)
    share = np.where(rng.random(pool.n_pairs) < 0.4, 0.6, 1.0)
    own_variance = 0.3 * share
    return {
        "reward_mean": mean,
        "reward_loadings": shared,
        "residual_loadings": own,
        "pair_margin": margin,
        "pair_variance": share**2 * variance + own_variance,
        "pair_share": share,
        "pair_preferred": preferred,
        "pair_tie": np.round(0.4 * rng.random(pool.n_pairs), 3),
        "pair_error": ndtr(-np.abs(margin) / np.sqrt(variance)),
        "pair_information": 0.5 * np.log1p(fisher * variance),
        "pair_fisher": fisher,
        "pair_votes": rng.integers(0, 4, size=pool.n_pairs) * (rng.random(pool.n_pairs) < 0.4),
    }


def signals_of(pool: Pool) -> dict[str, np.ndarray]:
    """The signals that the pool has, by the names of their fields."""
    names = [spec.name for spec in fields(Pool) if spec.metadata["signal"]]
    return {name: array for name in names if (array := getattr(pool, name)) is not None}


def moved_signals(
    pool: Pool, new_response: np.ndarray, order: np.ndarray, turned: np.ndarray
) -> dict[str, np.ndarray]:
    """The pool's signals after response i became new_response[i] and pair order[j] became j.

    `turned` (n_pairs,) says which of the pairs, in their new order, have a and b exchanged.
    """
    moved = {}
    for name, array in signals_of(pool).items():
        if _axis(name) == "pairs":
            kept = array[order]
            flip = WHEN_TURNED.get(name)
            moved[name] = np.where(turned, flip(kept), kept) if flip else kept
        else:
            moved[name] = np.empty_like(array)
            moved[name][new_response] = array
    return moved


def _axis(name: str) -> str:
    return next(str(spec.metadata["axes"][0]) for spec in fields(Pool) if spec.name == name)
