"""Simulated worlds with a known truth, judged by annotators of uneven skill and left bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from annotator.simulate.world import World, world_of
from strategies.within_prompt import all_pairs
from tests.synthetic_world import synthetic_features


@dataclass(frozen=True)
class CrowdWorld:
    """A world and what its votes came from: rewards, and annotators' skill and habits."""

    world: World
    reward: np.ndarray
    skill: np.ndarray
    habit: np.ndarray


def crowd_world(
    seed: int = 0,
    *,
    n_prompts: int = 20,
    responses: tuple[int, ...] = (4, 7, 3, 6),
    votes_a_pair: int = 5,
    n_annotators: int = 25,
    skill: tuple[float, float] = (8.0, 2.0),
    explained: float = 1.5,
    own: float = 1.0,
    pair: float = 0.5,
    tie: float = 0.6,
    dimension: int = 6,
    copies: float = 0.0,
    name: str = "synthetic crowd",
) -> CrowdWorld:
    """Every pair of every prompt with `votes_a_pair` votes by different annotators.

    A reward is linear in the vectors, deviation `explained`, plus a term of its own, deviation
    `own`; a pair's difference has a term more, deviation `pair`. A careful vote adds logistic noise
    and is a tie within `tie`. An annotator looks with a probability drawn from Beta(`skill`), and
    else presses a key from a habit that leans left or right. The truth is a tie where the
    difference is below a tenth of `tie`, else its sign. Prompts vary in size, responses lie across
    one another, and votes name their pair in either order.
    """
    rng = np.random.default_rng(seed)
    sizes = np.resize(responses, n_prompts)
    prompts = rng.permutation(np.repeat(np.arange(n_prompts), sizes))
    features = synthetic_features(rng, prompts, dimension, copies)
    vectors = features.vectors.astype(np.float64) * np.sqrt(dimension)
    reward = vectors @ rng.normal(0.0, explained / np.sqrt(dimension), dimension)
    reward += rng.normal(0.0, own, len(prompts))
    a, b = all_pairs(prompts)
    difference = reward[a] - reward[b] + rng.normal(0.0, pair, len(a))
    truth = np.where(np.abs(difference) < tie / 10, 0, np.sign(difference)).astype(np.int64)
    looks = rng.beta(*skill, n_annotators)
    habit = rng.dirichlet((1.5, 1.0, 1.5), n_annotators)

    annotator = np.concatenate([rng.permutation(n_annotators)[:votes_a_pair] for _ in a])
    of = np.repeat(np.arange(len(a)), votes_a_pair)
    a_left = rng.random(len(of)) < 0.5
    latent = difference[of] + rng.logistic(size=len(of))
    grade = np.where(np.abs(latent) < tie, 0, np.sign(latent)).astype(np.int64)
    pressed = np.array([rng.choice((1, 0, -1), p=habit[j]) for j in annotator])  # 1 is left
    looked = rng.random(len(of)) < looks[annotator]
    grade = np.where(looked, grade, np.where(a_left, pressed, -pressed))

    turned = rng.random(len(of)) < 0.5
    first, second = np.where(turned, b[of], a[of]), np.where(turned, a[of], b[of])
    world = world_of(
        name,
        features,
        (first, second, np.where(turned, -grade, grade)),
        annotators=annotator,
        first_on_left=a_left != turned,
        gold=(a, b, truth),
    )
    return CrowdWorld(world, reward, looks, habit)
