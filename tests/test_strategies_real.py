"""REAL against answers worked out by hand and against plain loops that share no code with it."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import STRATEGIES
from strategies.pool import Pool, Selection, check_selection
from strategies.within_prompt import cosines_of_pairs, two_means

COSINE_STRATEGIES = ["real-easy", "real-easy-ranked", "real-hard", "real-hard-ranked"]


def at_angles(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane."""
    radians = np.radians(degrees)
    return np.stack((np.cos(radians), np.sin(radians)), axis=1).astype(np.float32)


def random_pool(sizes: list[int], seed: int, picked: float = 0.3, d: int = 5) -> Pool:
    """Responses of a prompt apart, prompts and pairs in any order, some picked before."""
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = rng.standard_normal((len(prompts), d), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pool = Pool.of_responses(vectors, prompts)
    order = rng.permutation(pool.n_pairs)
    return replace(
        pool,
        pair_a=pool.pair_b[order],
        pair_b=pool.pair_a[order],
        pair_eligible=rng.random(pool.n_pairs) >= picked,
    )


def choose(name: str, pool: Pool, n: int, seed: int = 0) -> Selection:
    selection = STRATEGIES[name](pool, n, np.random.default_rng(seed))
    check_selection(pool, selection, n)
    return selection


def ends(pool: Pool, selection: Selection) -> list[tuple[int, int]]:
    return [
        (min(a, b), max(a, b))
        for a, b in zip(
            pool.pair_a[selection.positions].tolist(),
            pool.pair_b[selection.positions].tolist(),
            strict=True,
        )
    ]


class TestByHand:
    # Two prompts of three responses: at 0, 10 and 90 degrees, and at 0, 40 and 60 degrees.
    VECTORS = np.concatenate((at_angles(0, 10, 90), at_angles(0, 40, 60)))
    POOL = Pool.of_responses(VECTORS, np.array([0, 0, 0, 1, 1, 1]))

    def test_easy_takes_each_prompts_most_dissimilar_pair_first(self) -> None:
        for seed in range(5):
            assert set(ends(self.POOL, choose("real-easy", self.POOL, 2, seed))) == {(0, 2), (3, 5)}

    def test_hard_takes_each_prompts_most_similar_pair_first(self) -> None:
        for seed in range(5):
            assert set(ends(self.POOL, choose("real-hard", self.POOL, 2, seed))) == {(0, 1), (4, 5)}

    def test_ranked_variants_rank_prompts_within_each_pass(self) -> None:
        easy = choose("real-easy-ranked", self.POOL, 6)
        assert ends(self.POOL, easy) == [(0, 2), (3, 5), (1, 2), (3, 4), (4, 5), (0, 1)]
        angles = np.radians([90, 60, 80, 40, 20, 10])
        assert easy.scores == pytest.approx(1 - np.cos(angles), abs=1e-6)
        hard = choose("real-hard-ranked", self.POOL, 6)
        assert ends(self.POOL, hard) == [(0, 1), (4, 5), (3, 4), (1, 2), (3, 5), (0, 2)]
        assert hard.scores == pytest.approx(np.cos(np.radians([10, 20, 40, 80, 60, 90])), abs=1e-6)

    def test_easy_draws_the_order_of_prompts(self) -> None:
        firsts = {ends(self.POOL, choose("real-easy", self.POOL, 1, seed))[0] for seed in range(20)}
        assert firsts == {(0, 2), (3, 5)}

    def test_a_prompt_whose_best_pair_was_picked_waits_for_the_others(self) -> None:
        easiest_of_first = np.flatnonzero((self.POOL.pair_a == 0) & (self.POOL.pair_b == 2))
        later = self.POOL.without(easiest_of_first)
        for name in ("real-easy", "real-easy-ranked"):
            selection = choose(name, later, 3)
            assert ends(later, selection)[0] == (3, 5)
            assert set(ends(later, selection)[1:]) == {(1, 2), (3, 4)}

    def test_pairs_of_a_corpus_stand_in_one_ranking(self) -> None:
        vectors = at_angles(0, 30, 0, 90, 0, 10, 0, 60)
        pool = Pool.of_responses(vectors, np.arange(8) // 2)
        for seed in range(3):
            assert choose("real-easy", pool, 4, seed).positions.tolist() == [1, 3, 0, 2]
            assert choose("real-hard", pool, 4, seed).positions.tolist() == [2, 0, 3, 1]

    def test_centroid_takes_the_response_nearest_to_each_centre(self) -> None:
        # Clusters {0, 10, 26} and {180, 200}: the centre of the first lies near 12 degrees, so
        # the response at 10 stands for it. Those of the second are equally near: one is drawn.
        vectors = at_angles(0, 10, 26, 180, 200)
        pool = Pool.of_responses(vectors, np.zeros(5, dtype=np.int64))
        centres = vectors[:3].mean(axis=0), vectors[3:].mean(axis=0)
        first = {ends(pool, choose("real-centroid", pool, 1, seed))[0] for seed in range(20)}
        assert first == {(1, 3), (1, 4)}
        chosen = choose("real-centroid", pool, 10)
        assert set(ends(pool, chosen)[:2]) == {(1, 3), (1, 4)}
        distance = np.linalg.norm(vectors[1] - centres[0]) + np.linalg.norm(vectors[3] - centres[1])
        assert chosen.scores[:2] == pytest.approx([-distance, -distance], abs=1e-6)
        inside = [{0, 1}, {0, 2}, {1, 2}, {3, 4}]
        assert [set(pair) in inside for pair in ends(pool, chosen)] == [False] * 6 + [True] * 4

    def test_centroid_draws_between_responses_equally_near_to_their_centre(self) -> None:
        # Two clusters of two: all four pairs across are tied.
        rng = np.random.default_rng(0)
        poles = np.tile(np.eye(8)[[0, 0, 1, 1]], (50, 1))
        points = poles + 0.2 * rng.uniform(-1, 1, (200, 8))
        vectors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
        pool = Pool.of_responses(vectors, np.arange(200) // 4)
        offered = {
            at for seed in range(80) for at in choose("real-centroid", pool, 50, seed).positions
        }
        assert len(offered) == 4 * 50

    def test_centroid_offers_pairs_inside_a_cluster_after_all_others(self) -> None:
        # The first prompt has one pair across left, the second has none, the third all three.
        vectors = np.concatenate([at_angles(0, 5, 90)] * 3)
        pool = Pool.of_responses(vectors, np.arange(9) // 3)
        pool = pool.without(np.array([1, 4, 5]))
        for seed in range(10):
            pairs = ends(pool, choose("real-centroid", pool, 6, seed))
            assert set(pairs[0:1]) <= {(6, 8), (7, 8)}  # nothing of this prompt was picked
            assert set(pairs[:3]) == {(1, 2), (6, 8), (7, 8)}
            assert set(pairs[3:]) == {(0, 1), (3, 4), (6, 7)}

    def test_centroid_of_a_pair_is_that_pair(self) -> None:
        pool = Pool.of_responses(at_angles(0, 30, 0, 0), np.array([0, 0, 1, 1]))
        selection = choose("real-centroid", pool, 2)
        assert sorted(selection.positions.tolist()) == [0, 1]
        assert selection.scores.tolist() == [0.0, 0.0]
        assert not np.signbit(selection.scores).any()


class TestMixedPools:
    # Three prompts of three responses, nine pairs of their own; six prompts of two.
    SIZES = (3, 3, 3, 2, 2, 2, 2, 2, 2)

    @pytest.mark.parametrize("name", COSINE_STRATEGIES)
    @pytest.mark.parametrize(
        ("n", "within"),
        [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (9, 3), (10, 4), (14, 8), (15, 9)],
    )
    def test_n_is_shared_by_the_number_of_prompts(self, name: str, n: int, within: int) -> None:
        # Thirds, rounded, until the six pairs of the corpus are used up.
        pool = random_pool(list(self.SIZES), seed=3, picked=0)
        prompts = pool.prompt_of_pair[choose(name, pool, n).positions]
        assert np.count_nonzero(prompts < 3) == within

    def test_an_exact_half_goes_to_the_prompts_of_more(self) -> None:
        pool = random_pool([3, 2], seed=0, picked=0)
        assert pool.prompt_of_pair[choose("real-easy", pool, 1).positions].tolist() == [0]

    def test_prompts_with_nothing_left_do_not_count(self) -> None:
        pool = random_pool(list(self.SIZES), seed=3, picked=0)
        pool = pool.without(np.flatnonzero(np.isin(pool.prompt_of_pair, (0, 1, 3))))
        prompts = pool.prompt_of_pair[choose("real-easy", pool, 6).positions]
        assert sorted(prompts.tolist()) == [2, 4, 5, 6, 7, 8]

    def test_a_pool_without_prompts_of_two_takes_all_within_prompts(self) -> None:
        pool = random_pool(list(self.SIZES), seed=3, picked=0)
        pool = pool.without(np.flatnonzero(pool.prompt_of_pair >= 3))
        prompts = pool.prompt_of_pair[choose("real-easy", pool, 6).positions]
        assert sorted(prompts.tolist()) == [0, 0, 1, 1, 2, 2]

    def test_k_counts_responses_and_not_what_is_left_of_their_pairs(self) -> None:
        # One pair left in a prompt of three is still offered within its prompt, in drawn order.
        vectors = np.concatenate((at_angles(0, 10, 90), at_angles(0, 10, 80)))
        pool = Pool.of_responses(vectors, np.arange(6) // 3).without(np.array([0, 2, 3, 5]))
        firsts = {choose("real-easy", pool, 1, seed).positions[0] for seed in range(20)}
        assert firsts == {1, 4}


# Plain loops, written from the definitions. ----------------------------------------------------


@dataclass(frozen=True)
class Offer:
    position: int
    prompt: int
    turn: int
    score: float


def plain_cosine(pool: Pool, position: int) -> float:
    a = pool.response_vectors[pool.pair_a[position]].astype(float)
    b = pool.response_vectors[pool.pair_b[position]].astype(float)
    return math.fsum(a * b)


def plain_offers(pool: Pool, score: dict[int, float], last: set[int]) -> list[Offer]:
    """The pass of every eligible pair."""
    offers = []
    of_prompt = defaultdict(list)
    for position, prompt in enumerate(pool.prompt_of_pair.tolist()):
        of_prompt[prompt].append(position)
    for prompt, positions in of_prompt.items():
        picked = [at for at in positions if not pool.pair_eligible[at]]
        left = sorted(set(positions) - set(picked), key=lambda at: (at in last, -score[at]))
        offers += [Offer(at, prompt, len(picked) + i, score[at]) for i, at in enumerate(left)]
    return offers


def plain_two_means(vectors: np.ndarray) -> tuple[list[bool], list[float]]:
    """k-means with explicit centres, from the two responses farthest apart."""
    points = vectors.astype(float)
    k = len(points)
    seeds = max(
        itertools.combinations(range(k), 2),
        key=lambda ij: np.linalg.norm(points[ij[0]] - points[ij[1]]),
    )
    centres = points[list(seeds)]
    member: list[bool] = []
    while True:
        to = [[np.linalg.norm(point - centre) for centre in centres] for point in points]
        now = [bool(second < first) for first, second in to]
        if now == member:
            return member, [to[i][member[i]] for i in range(k)]
        member = now
        chosen = np.array(member)
        centres = np.stack((points[~chosen].mean(axis=0), points[chosen].mean(axis=0)))


def assert_earliest_passes(pool: Pool, offers: list[Offer], selection: Selection, n: int) -> None:
    """Whole passes in order, then some of the next: whichever way the order in it was drawn.

    A prompt may offer two pairs of equal score in either order, so pairs are compared by score.
    """
    of_prompt = defaultdict(list)
    for offer in sorted(offers, key=lambda offer: offer.turn):
        of_prompt[offer.prompt].append(offer)
    own = {offer.position: offer.score for offer in offers}
    next_of_prompt = {prompt: iter(of_prompt[prompt]) for prompt in of_prompt}
    turns, expected = [], []
    for position in selection.positions.tolist():
        offer = next(next_of_prompt[int(pool.prompt_of_pair[position])])
        assert own[position] == pytest.approx(offer.score, abs=1e-6)
        turns.append(offer.turn)
        expected.append(offer.score)
    assert turns == sorted(offer.turn for offer in offers)[:n]
    assert selection.scores == pytest.approx(expected, abs=2e-6)


ANY_POOL = given(
    sizes=st.lists(st.integers(2, 8), min_size=1, max_size=10),
    seed=st.integers(0, 2**32 - 1),
    picked=st.floats(0, 0.8),
    share=st.floats(0.01, 1),
)


@pytest.mark.parametrize("name", COSINE_STRATEGIES)
@settings(max_examples=40, deadline=None)
@ANY_POOL
def test_easy_and_hard_agree_with_plain_loops(
    name: str, sizes: list[int], seed: int, picked: float, share: float
) -> None:
    pool = random_pool(sizes, seed, picked)
    if not pool.n_eligible:
        return
    n = max(1, round(share * pool.n_eligible))
    easy = "easy" in name
    score = {
        at: 1 - plain_cosine(pool, at) if easy else plain_cosine(pool, at)
        for at in range(pool.n_pairs)
    }
    offers = plain_offers(pool, score, last=set())
    corpus = [offer for offer in offers if sizes[offer.prompt] == 2]
    within = [offer for offer in offers if sizes[offer.prompt] > 2]
    selection = choose(name, pool, n, seed)
    n_within = sum(sizes[p] > 2 for p in pool.prompt_of_pair[selection.positions])
    positions, scores = selection.positions, selection.scores
    first = Selection.of(positions[:n_within], scores=scores[:n_within])
    assert_earliest_passes(pool, within, first, n_within)
    by_score = [offer.position for offer in sorted(corpus, key=lambda offer: -offer.score)]
    assert positions[n_within:].tolist() == by_score[: n - n_within]
    if name.endswith("ranked"):
        in_order = sorted(within, key=lambda offer: (offer.turn, -offer.score))
        assert positions[:n_within].tolist() == [offer.position for offer in in_order[:n_within]]


@settings(max_examples=100, deadline=None)
@ANY_POOL
def test_centroid_agrees_with_plain_loops(
    sizes: list[int], seed: int, picked: float, share: float
) -> None:
    pool = random_pool(sizes, seed, picked)
    if not pool.n_eligible:
        return
    n = max(1, round(share * pool.n_eligible))
    second, to_centre = {}, {}
    for prompt in range(len(sizes)):
        rows = np.flatnonzero(pool.prompt_of_response == prompt).tolist()
        members, distances = plain_two_means(pool.response_vectors[rows])
        second |= dict(zip(rows, members, strict=True))
        to_centre |= dict(zip(rows, distances, strict=True))
    pairs = list(enumerate(zip(pool.pair_a.tolist(), pool.pair_b.tolist(), strict=True)))
    score = {at: -(to_centre[a] + to_centre[b]) for at, (a, b) in pairs}
    inside = {at for at, (a, b) in pairs if second[a] == second[b]}
    offers = [
        replace(offer, turn=offer.turn + 10_000 * (offer.position in inside))
        for offer in plain_offers(pool, score, last=inside)
    ]
    assert_earliest_passes(pool, offers, choose("real-centroid", pool, n, seed), n)


# Geometry. --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [1.0, 0.4, 0.05])
def test_cosines_are_those_of_the_pairs_however_few_are_in_the_pool(kept: float) -> None:
    pool = random_pool([70, 2, 3, 1, 9, 4, 4], seed=1, d=40)
    rng = np.random.default_rng(0)
    some = np.flatnonzero(rng.random(pool.n_pairs) < kept)
    got = cosines_of_pairs(
        pool.response_vectors, pool.prompt_of_response, pool.pair_a[some], pool.pair_b[some]
    )
    assert got == pytest.approx([plain_cosine(pool, at) for at in some], abs=1e-6)


@pytest.mark.parametrize("k", [2, 3, 4, 8])
def test_two_means_finds_clusters_that_stand_apart(k: int) -> None:
    rng = np.random.default_rng(k)
    poles = np.eye(6)
    truth = np.array([[True, False, *(rng.random(k - 2) < 0.5)] for _ in range(50)])
    points = poles[truth.astype(int).ravel()] + 0.05 * rng.standard_normal((50 * k, 6))
    vectors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    found = two_means(vectors, np.repeat(np.arange(50), k)).second.reshape(50, k)
    found ^= ~found[:, :1]  # which cluster is called the second is nobody's business
    assert np.array_equal(found, truth)


@pytest.mark.parametrize("k", [3, 4, 7])
def test_two_means_is_mostly_the_best_of_all_partitions(k: int) -> None:
    pool = random_pool([k] * 200, seed=k, d=8)
    clusters = two_means(pool.response_vectors, pool.prompt_of_response)
    at_best = 0
    for prompt in range(200):
        rows = np.flatnonzero(pool.prompt_of_response == prompt)
        points = pool.response_vectors[rows].astype(float)
        best = min(
            sum(((part - part.mean(axis=0)) ** 2).sum() for part in (points[mask], points[~mask]))
            for mask in (
                np.array([False, *bits])
                for bits in itertools.product((False, True), repeat=k - 1)
                if any(bits)
            )
        )
        found = (clusters.to_centre[rows] ** 2).sum()
        assert found >= best - 1e-9
        at_best += found <= best + 1e-9
    assert at_best >= {3: 200, 4: 150, 7: 80}[k]


@pytest.mark.parametrize("k", [2, 3, 10, 70])
def test_equal_responses_still_make_two_clusters_of_different_responses(k: int) -> None:
    rng = np.random.default_rng(0)
    point = rng.standard_normal(384).astype(np.float32)
    point /= np.linalg.norm(point)
    vectors = np.tile(point, (2 * k, 1))
    vectors[:k] += rng.normal(0, 1e-8, (k, 384)).astype(np.float32)  # equal but for rounding
    prompts = np.repeat([0, 1], k)
    second = two_means(vectors, prompts).second.reshape(2, k)
    assert second.any(axis=1).all()
    assert not second.all(axis=1).any()
    pool = Pool.of_responses(vectors, prompts)
    selection = choose("real-centroid", pool, 2)
    assert Counter(pool.prompt_of_pair[selection.positions].tolist()) == {0: 1, 1: 1}


@pytest.mark.parametrize("k", range(2, 13))
def test_two_means_ends_with_two_clusters_where_everything_is_tied(k: int) -> None:
    rng = np.random.default_rng(k)
    corners = 360 * np.arange(k) / k  # of a regular polygon, some of them more than once
    degrees = [rng.uniform(0, 360) + corners[rng.integers(0, k, k)] for _ in range(50)]
    found = two_means(at_angles(*np.concatenate(degrees)), np.repeat(np.arange(50), k))
    second = found.second.reshape(50, k)
    assert (second.any(axis=1) & ~second.all(axis=1)).all()


@pytest.mark.parametrize("prior_variance", [0.01, 1.0, 9.0])
def test_with_no_label_the_d_optimal_pair_of_each_prompt_is_the_easy_one(
    prior_variance: float,
) -> None:
    """The gain of one vote, log(1 + p (1 - p) z' S z) with p = 1/2 and prior S = s2 I."""
    pool = random_pool([3, 4, 5, 9, 20, 3], seed=11, picked=0, d=12)
    z = (pool.response_vectors[pool.pair_a] - pool.response_vectors[pool.pair_b]).astype(float)
    gain = np.log1p(0.25 * prior_variance * (z * z).sum(axis=1))
    best = {
        int(max(np.flatnonzero(pool.prompt_of_pair == prompt), key=lambda at: gain[at]))
        for prompt in range(6)
    }
    easy = choose("real-easy", pool, 6)
    assert set(easy.positions.tolist()) == best
    closed_form = np.log1p(prior_variance * easy.scores / 2)
    assert closed_form == pytest.approx(gain[easy.positions], abs=1e-6)
