"""Responses with features and votes for the tests of the preference model, as uneven as life."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from annotator.preference.features import COVARIATES, ResponseFeatures, response_features
from annotator.preference.layout import Prior
from annotator.preference.vote_model import VoteModel
from annotator.preference.votes import Votes


def features_of(
    sizes: list[int], seed: int, dimension: int = 4, models: int = 3, judges: int = 0
) -> ResponseFeatures:
    """Features of prompts with these numbers of responses, which stand in any order.

    Who wrote a response is known of two in three; judges leave out one in five.
    """
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = rng.standard_normal((len(prompts), dimension)).astype(np.float32)
    topics = rng.standard_normal((len(sizes), dimension)).astype(np.float32)
    names = [f"model {i}" for i in range(models)] + [None] * -(-models // 2)
    return response_features(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        topics / np.linalg.norm(topics, axis=1, keepdims=True),
        prompts,
        rng.standard_normal((len(prompts), len(COVARIATES))).astype(np.float32),
        [names[i] for i in rng.integers(0, len(names), len(prompts))] if models else [],
        scores_of_judges(len(prompts), judges, seed),
    )


def scores_of_judges(n: int, judges: int, seed: int) -> np.ndarray:
    """Scores on scales of their own, (n, judges), one in five NaN."""
    rng = np.random.default_rng([seed, 1])
    scores = rng.normal(10.0, 3.0, (n, judges)) * np.arange(1, judges + 1)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    return scores


@dataclass(frozen=True, eq=False)
class Truth:
    """Known rewards, and people who vote by them."""

    features: ResponseFeatures
    reward: np.ndarray
    model: VoteModel
    pair_deviation: float
    seed: int

    @classmethod
    def drawn(cls, features: ResponseFeatures, prior: Prior, model: VoteModel, seed: int) -> Truth:
        """Rewards drawn from the prior."""
        rng = np.random.default_rng(seed)
        phi = prior.weigh(features.rows(np.arange(features.n_responses)))
        reward = phi @ rng.standard_normal(phi.shape[1])
        reward += np.sqrt(prior.own) * rng.standard_normal(len(reward))
        return cls(features, reward, model, float(np.sqrt(prior.pair)), seed)

    def difference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """d of each pair, the pair's own term included: the same whenever it is asked."""
        low, high = np.minimum(a, b), np.maximum(a, b)
        own = np.random.default_rng(self.seed + 1).standard_normal((len(self.reward),) * 2)
        turned = np.where(a > b, -1.0, 1.0)
        return self.reward[a] - self.reward[b] + turned * self.pair_deviation * own[low, high]

    def votes(self, a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> Votes:
        """One vote on each of these pairs."""
        probability = self.model.grades(self.difference(a, b))
        drawn = (rng.random((len(a), 1)) > probability.cumsum(axis=1)).sum(axis=1)
        return Votes(a, b, np.minimum(drawn, self.model.n_grades - 1) - self.model.n_grades // 2)


def pairs_at_random(
    features: ResponseFeatures, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """n pairs, in any order of the two; some of them more than once."""
    prompts = features.prompt_of_response
    a = rng.choice(np.flatnonzero(np.bincount(prompts)[prompts] > 1), n)
    b = np.array([rng.choice(np.setdiff1d(np.flatnonzero(prompts == prompts[i]), [i])) for i in a])
    return a, b


def votes_at_random(
    features: ResponseFeatures,
    n: int,
    seed: int,
    *,
    strengths: bool = False,
    lapses: tuple[float, ...] | None = None,
) -> Votes:
    """n votes on random pairs of two prompts in three, in both orders, some pairs often.

    `lapses`: those of the annotators.
    """
    rng = np.random.default_rng(seed)
    a, b = pairs_at_random(features, 4 * n, rng)
    kept = np.flatnonzero(features.prompt_of_response[a] % 3 != 1)[:n]
    again = rng.integers(0, len(kept), len(kept)) // 2
    kept = np.where(rng.random(len(kept)) < 0.4, kept[again], kept)
    a, b = a[kept], b[kept]
    turned = rng.random(len(a)) < 0.5
    a, b = np.where(turned, b, a), np.where(turned, a, b)
    grade = rng.integers(-2, 3, len(a)) if strengths else rng.integers(-1, 2, len(a))
    return Votes(a, b, grade, None if lapses is None else rng.choice(lapses, len(a)))
