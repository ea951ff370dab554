"""Simulated worlds with a known truth, and a learner small enough to check by eye."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from annotator.preference.features import COVARIATES, ResponseFeatures, response_features
from annotator.preference.votes import Votes
from annotator.simulate.world import World, world_of
from strategies.within_prompt import all_pairs


@dataclass(frozen=True)
class Truth:
    """A world and the rewards that its votes came from."""

    world: World
    reward: np.ndarray


def synthetic_world(
    seed: int = 0,
    *,
    sizes: tuple[int, ...] = (2, 5, 3, 6, 4, 5, 7, 1, 5, 4, 6, 5),
    votes_a_pair: int = 3,
    share_voted: float = 0.9,
    noise: float = 0.5,
    ties: float = 0.1,
    dimension: int = 6,
) -> Truth:
    """Rewards linear in the vectors; votes by logistic noise of that scale, some of them ties.

    Responses of a prompt stand apart; a share of the pairs has no vote; votes name a pair in either
    order; the number of votes on a pair varies.
    """
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    features = synthetic_features(rng, prompts, dimension)
    reward = features.vectors.astype(np.float64) @ (3.0 * rng.standard_normal(dimension))
    a, b = all_pairs(prompts)
    voted = rng.random(len(a)) < share_voted
    n_votes = rng.integers(1, votes_a_pair + 1, size=int(voted.sum()))
    a, b = np.repeat(a[voted], n_votes), np.repeat(b[voted], n_votes)
    turned = rng.random(len(a)) < 0.5
    a, b = np.where(turned, b, a), np.where(turned, a, b)
    grade = np.sign(reward[a] - reward[b] + noise * rng.logistic(size=len(a))).astype(np.int64)
    grade[rng.random(len(a)) < ties] = 0
    order = rng.permutation(len(a))
    return Truth(world_of("synthetic", features, (a[order], b[order], grade[order])), reward)


def synthetic_features(
    rng: np.random.Generator, prompts: np.ndarray, dimension: int = 6, copies: float = 0.0
) -> ResponseFeatures:
    """Random unit vectors for these responses and their prompts.

    Of a share `copies` of the prompts the responses are nearly copies of one another.
    """
    vectors = rng.standard_normal((len(prompts), dimension)).astype(np.float32)
    topics = rng.standard_normal((int(prompts.max()) + 1, dimension)).astype(np.float32)
    if copies:
        copied = (rng.random(len(topics)) < copies)[prompts]
        vectors[copied] = topics[prompts[copied]] + 0.05 * vectors[copied]
    return response_features(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        topics / np.linalg.norm(topics, axis=1, keepdims=True),
        prompts,
        rng.standard_normal((len(prompts), len(COVARIATES))).astype(np.float32),
    )


@dataclass(frozen=True)
class RidgeBelief:
    """Rewards, and a logistic function of their difference as probability."""

    reward_mean: np.ndarray

    def preferred(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-2.0 * (self.reward_mean[a] - self.reward_mean[b])))


class RidgeLearner:
    """Least squares of votes on differences of vectors: no state, milliseconds."""

    def __init__(self, world: World) -> None:
        self._vectors = world.features.vectors.astype(np.float64)

    def learn(self, votes: Votes) -> RidgeBelief:
        x = self._vectors[votes.a] - self._vectors[votes.b]
        system = x.T @ x + np.eye(x.shape[1])
        return RidgeBelief(self._vectors @ np.linalg.solve(system, x.T @ votes.grade))


def ridge(world: World) -> RidgeLearner:
    """The learner of the tests, at module level so that other processes find it."""
    return RidgeLearner(world)


class SlowLearner(RidgeLearner):
    """The same, but it takes its time: there is a moment to kill it."""

    def learn(self, votes: Votes) -> RidgeBelief:
        time.sleep(0.15)
        return super().learn(votes)


def slow_ridge(world: World) -> SlowLearner:
    """A learner that can be killed in the middle of a run."""
    return SlowLearner(world)
