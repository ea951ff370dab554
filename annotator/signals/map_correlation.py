"""How well the scores of a prompt's responses agree with people's annotations of them.

The misannotation score of the Alignment Data Map (arXiv 2505.23114): low = the annotation is
suspect. Its own kind is COSINE; the others stand in its public code, but for COVARIANCE.

The published cosine is not centred, and two vectors of positive numbers always point much the same
way: scores (.9, .8, .7, .6) have 0.987 with the right ranking (5, 4, 3, 2) and 0.897 with the
reversed one (2, 3, 4, 5). PEARSON and COVARIANCE tell the two apart; where K = 2 PEARSON knows only
+1 and -1, and COVARIANCE by how much as well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from strategies.within_prompt import Floats, Positions, rows_of_equal_length

COSINE, PEARSON, MINMAX_PEARSON = "cosine", "pearson", "minmax-pearson"
KENDALL, KL, COVARIANCE = "kendall", "kl", "covariance"


def map_correlation(
    kind: str, score: Floats, annotation: Floats, prompt_of_response: Positions
) -> Floats:
    """The correlation of `score` with `annotation` within each prompt, (n_prompts,).

    All arrays are (n_responses,); responses with NaN in either are left out. NaN for a prompt
    with fewer than two others, or where the kind is not defined. `kind` is a key of CORRELATIONS;
    raises ValueError for any other.
    """
    if kind not in CORRELATIONS:
        raise ValueError(f"no correlation {kind!r}; there are {', '.join(CORRELATIONS)}")
    n_prompts = int(prompt_of_response.max()) + 1 if len(prompt_of_response) else 0
    both = np.flatnonzero(~np.isnan(score) & ~np.isnan(annotation))
    found = np.full(n_prompts, np.nan)
    for rows in rows_of_equal_length(prompt_of_response[both]):
        if rows.shape[1] < 2:
            continue
        at = both[rows]
        with np.errstate(divide="ignore", invalid="ignore"):
            found[prompt_of_response[at[:, 0]]] = CORRELATIONS[kind](score[at], annotation[at])
    return found


def cosine(s: Floats, a: Floats) -> Floats:
    """The published, uncentred <s, a> / (|s| |a|); (m, K) twice -> (m,), NaN for a zero vector."""
    found: Floats = np.vecdot(s, a) / np.sqrt(np.vecdot(s, s) * np.vecdot(a, a))
    return found


def pearson(s: Floats, a: Floats) -> Floats:
    """Pearson's r, from -1 to 1; (m, K) twice -> (m,), NaN where either is constant."""
    return cosine(_centred(s), _centred(a))


def minmax_pearson(s: Floats, a: Floats) -> Floats:
    """Pearson's r after each was stretched to [0, 1]; (m, K) twice -> (m,).

    r does not change when an argument is shifted or stretched, so this is `pearson`. It is here
    because the published code has it under a name of its own.
    """
    return pearson(_stretched(s), _stretched(a))


def kendall(s: Floats, a: Floats) -> Floats:
    """Kendall's tau-a, (concordant - discordant) / all pairs, from -1 to 1; (m, K) twice -> (m,).

    A tied pair counts as neither. The published code breaks ties of the annotation by random
    noise; this is the mean over that noise.
    """
    slot_a, slot_b = np.triu_indices(s.shape[1], 1)
    agree = np.sign(s[:, slot_a] - s[:, slot_b]) * np.sign(a[:, slot_a] - a[:, slot_b])
    tau: Floats = agree.mean(axis=1)
    return tau


def kl(s: Floats, a: Floats) -> Floats:
    """exp(-KL(a || s)) of both divided by their sums, from 0 to 1; (m, K) twice -> (m,).

    NaN where a number is negative, or all are zero: those are no distributions. 0 where a score
    is zero and its annotation is not.
    """
    p, q = _distribution(a), _distribution(s)
    terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    terms[np.isnan(p) | np.isnan(q)] = np.nan
    found: Floats = np.exp(-terms.sum(axis=1))
    return found


def covariance(s: Floats, a: Floats) -> Floats:
    """The covariance, ddof 0, in the units of both; (m, K) twice -> (m,), 0 if one is constant."""
    found: Floats = np.vecdot(_centred(s), _centred(a)) / s.shape[1]
    return found


CORRELATIONS: dict[str, Callable[[Floats, Floats], Floats]] = {
    COSINE: cosine,
    PEARSON: pearson,
    MINMAX_PEARSON: minmax_pearson,
    KENDALL: kendall,
    KL: kl,
    COVARIANCE: covariance,
}


def _centred(values: Floats) -> Floats:
    # Less the first number before the mean: equal numbers become zero, not a rounding error.
    shifted = values - values[:, :1]
    centred: Floats = shifted - shifted.mean(axis=1, keepdims=True)
    return centred


def _stretched(values: Floats) -> Floats:
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    stretched: Floats = (values - low) / (high - low)
    return stretched


def _distribution(values: Floats) -> Floats:
    shares = values / values.sum(axis=1, keepdims=True)
    negative = np.any(values < 0, axis=1, keepdims=True)
    distribution: Floats = np.where(negative, np.nan, shares)
    return distribution
