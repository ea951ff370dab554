"""One contract for all strategies, and the arrays that it is about.

A new strategy is under test as soon as it stands in STRATEGIES. The only thing to say about it here
is whether it ranks everything and draws nothing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import strategies
from strategies import STRATEGIES
from strategies.pool import (
    BadBatchSize,
    BadPool,
    Pool,
    PoolTooSmall,
    Selection,
    StrategyViolation,
    check_selection,
)
from tests.signalled_pool import moved_signals, signals_of, with_all_signals

DRAWS_NOTHING = {"real-easy-ranked", "real-hard-ranked", "k-center"} | {
    "uncertainty",
    "certainty",
    "information",
    "expected-error",
    "d-optimal",
}

DRAWS_SELDOM = {"hybrid"}  # one pick in twenty: two seeds may agree on a small batch

SIZES = {
    "one K, rows in order": [4] * 12,
    "corpus of pairs": [2] * 30,
    "mixed": [2, 3, 2, 5, 4, 2, 7, 2, 3, 2, 2, 6],
    "lone responses": [1, 3, 1, 1, 4, 2, 1],
    "one large prompt": [70],
    "large and small": [70, 2, 2, 3, 2, 12],
}


def unit_vectors(n: int, rng: np.random.Generator, d: int = 6) -> np.ndarray:
    vectors = rng.standard_normal((n, d), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pool_of(sizes: list[int], seed: int = 0, picked: float = 0.3) -> Pool:
    """A pool with these numbers of responses, in an order that no strategy may rely on.

    Responses of a prompt stand apart, prompts are numbered with gaps, pairs are shuffled and turned
    round at random, and a share of them, the first one always, was picked before. It has every
    signal that a strategy may need.
    """
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.repeat(2 * np.arange(len(sizes)) + 1, sizes))
    pool = Pool.of_responses(unit_vectors(len(prompts), rng), prompts)
    pool = rearranged(pool, rng, np.arange(pool.n_responses), np.arange(2 * len(sizes) + 1))
    before = np.flatnonzero(rng.random(pool.n_pairs) < picked)
    pool = with_all_signals(pool, rng)
    return pool.without(np.append(before, 0) if picked else before)


def rearranged(
    pool: Pool, rng: np.random.Generator, new_response: np.ndarray, new_prompt: np.ndarray
) -> Pool:
    """The same pool with responses and prompts renumbered, pairs shuffled and turned round."""
    order = rng.permutation(pool.n_pairs)
    turned = rng.random(pool.n_pairs) < 0.5
    a, b = new_response[pool.pair_a[order]], new_response[pool.pair_b[order]]
    vectors = np.empty_like(pool.response_vectors)
    vectors[new_response] = pool.response_vectors
    prompts = np.empty_like(pool.prompt_of_response)
    prompts[new_response] = new_prompt[pool.prompt_of_response]
    return replace(
        pool,
        response_vectors=vectors,
        prompt_of_response=prompts,
        pair_a=np.where(turned, b, a),
        pair_b=np.where(turned, a, b),
        pair_eligible=pool.pair_eligible[order],
        **moved_signals(pool, new_response, order, turned),
    )


def choose(name: str, pool: Pool, n: int, seed: int = 0) -> Selection:
    selection = STRATEGIES[name](pool, n, np.random.default_rng(seed))
    check_selection(pool, selection, n)
    return selection


@pytest.fixture(params=sorted(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=sorted(SIZES))
def pool(request: pytest.FixtureRequest) -> Pool:
    if request.param == "one K, rows in order":
        rng = np.random.default_rng(1)
        prompts = np.repeat(np.arange(12), 4)
        pool = Pool.of_responses(unit_vectors(48, rng), prompts).without(np.arange(9))
        return with_all_signals(pool, rng)
    return pool_of(SIZES[request.param])


class TestEveryStrategy:
    def test_chooses_n_distinct_eligible_pairs(self, name: str, pool: Pool) -> None:
        for n in (1, 2, pool.n_eligible // 2, pool.n_eligible):
            chosen = choose(name, pool, n).positions
            assert len(set(chosen.tolist())) == n
            assert pool.pair_eligible[chosen].all()

    def test_chooses_all_when_asked_for_all(self, name: str, pool: Pool) -> None:
        chosen = choose(name, pool, pool.n_eligible).positions
        assert np.array_equal(np.sort(chosen), np.flatnonzero(pool.pair_eligible))

    def test_same_seed_same_batch(self, name: str, pool: Pool) -> None:
        n = pool.n_eligible // 2
        first, again = choose(name, pool, n, seed=5), choose(name, pool, n, seed=5)
        assert np.array_equal(first.positions, again.positions)
        assert np.array_equal(first.scores, again.scores, equal_nan=True)
        assert np.array_equal(first.propensities, again.propensities, equal_nan=True)

    def test_another_seed_another_batch_if_it_draws(self, name: str) -> None:
        pool = pool_of([4] * 40)
        batches = {tuple(choose(name, pool, 20, seed=seed).positions) for seed in range(4)}
        if name in DRAWS_SELDOM:
            assert len(batches) > 1
        else:
            assert len(batches) == (1 if name in DRAWS_NOTHING else 4)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("ranked", sorted(DRAWS_NOTHING))
    def test_row_order_is_irrelevant_if_it_draws_nothing(self, ranked: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        pool = pool_of(SIZES["large and small"], seed)
        new_response = rng.permutation(pool.n_responses)
        new_prompt = rng.permutation(pool.n_prompts)
        moved = rearranged(pool, rng, new_response, new_prompt)
        n = pool.n_eligible // 3
        here, there = choose(ranked, pool, n), choose(ranked, moved, n)
        assert [
            {int(new_response[pool.pair_a[at]]), int(new_response[pool.pair_b[at]])}
            for at in here.positions
        ] == [{int(moved.pair_a[at]), int(moved.pair_b[at])} for at in there.positions]
        assert np.array_equal(here.scores, there.scores)

    def test_leaves_its_inputs_untouched(self, name: str, tmp_path: Path) -> None:
        given = pool_of(SIZES["mixed"])
        arrays = {
            "prompt_of_response": given.prompt_of_response.copy(),
            "pair_a": given.pair_a.copy(),
            "pair_b": given.pair_b.copy(),
            "pair_eligible": given.pair_eligible.copy(),
            **{name: array.copy() for name, array in signals_of(given).items()},
        }
        shard = tmp_path / "vectors"
        given.response_vectors.tofile(shard)
        vectors = np.memmap(shard, np.float32, "r+", shape=given.response_vectors.shape)
        before = {key: array.tobytes() for key, array in arrays.items()} | {"v": vectors.tobytes()}
        for array in list(arrays.values())[::2]:
            array.flags.writeable = False
        choose(name, Pool(response_vectors=vectors, **arrays), given.n_eligible // 2)
        after = {key: array.tobytes() for key, array in arrays.items()} | {"v": vectors.tobytes()}
        assert after == before

    def test_names_an_exhausted_pool(self, name: str) -> None:
        pool = pool_of(SIZES["mixed"])
        with pytest.raises(PoolTooSmall, match="are eligible") as caught:
            choose(name, pool, pool.n_eligible + 1)
        assert (caught.value.asked, caught.value.eligible) == (pool.n_eligible + 1, pool.n_eligible)
        with pytest.raises(PoolTooSmall):
            choose(name, pool.without(np.arange(pool.n_pairs)), 1)

    def test_names_an_empty_pool(self, name: str) -> None:
        with pytest.raises(PoolTooSmall):
            choose(name, pool_of([], picked=0), 1)
        with pytest.raises(PoolTooSmall):
            choose(name, pool_of([1, 1], picked=0), 1)

    @pytest.mark.parametrize("n", [0, -3, 2.0])
    def test_refuses_a_batch_of_nothing(self, name: str, n: int) -> None:
        with pytest.raises(BadBatchSize, match="were asked for"):
            choose(name, pool_of(SIZES["mixed"]), n)

    def test_gives_propensities_to_all_or_to_none(self, name: str, pool: Pool) -> None:
        propensities = choose(name, pool, pool.n_eligible // 2).propensities
        unknown = np.isnan(propensities)
        assert unknown.all() or not unknown.any()

    def test_scores_do_not_depend_on_the_batch_size(self, name: str, pool: Pool) -> None:
        everything = choose(name, pool, pool.n_eligible)
        scores = dict(zip(everything.positions.tolist(), everything.scores, strict=True))
        some = choose(name, pool, max(1, pool.n_eligible // 3))
        expected = [scores[at] for at in some.positions.tolist()]
        assert np.array_equal(some.scores, expected, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
    picked=st.floats(0, 0.9),
    share=st.floats(0, 1),
)
def test_the_contract_holds_on_any_pool(
    sizes: list[int], seed: int, picked: float, share: float
) -> None:
    pool = pool_of([*sizes, 3], seed, picked)
    if pool.n_eligible == 0:
        return
    n = max(1, round(share * pool.n_eligible))
    for name in STRATEGIES:
        choose(name, pool, n, seed)


class TestRandom:
    def test_propensity_is_n_of_all_eligible(self) -> None:
        pool = pool_of(SIZES["mixed"])
        selection = choose("random", pool, 7)
        assert selection.propensities.tolist() == [7 / pool.n_eligible] * 7
        assert np.isnan(selection.scores).all()

    def test_every_pair_and_every_couple_of_pairs_is_equally_likely(self) -> None:
        pool = pool_of([3, 2, 4], picked=0.2)
        draws, n, eligible = 6000, 3, np.flatnonzero(pool.pair_eligible)
        rng = np.random.default_rng(7)
        together = np.zeros((pool.n_pairs, pool.n_pairs), dtype=np.int64)
        for _ in range(draws):
            chosen = STRATEGIES["random"](pool, n, rng).positions
            together[np.ix_(chosen, chosen)] += 1
        counts = together[np.ix_(eligible, eligible)]
        assert together.sum() == counts.sum() == draws * n * n
        share = n / len(eligible)
        both = share * (n - 1) / (len(eligible) - 1)
        for expected, got in (
            (share, counts.diagonal()),
            (both, counts[np.triu_indices(len(eligible), 1)]),
        ):
            deviation = np.sqrt(draws * expected * (1 - expected))
            assert np.abs(got - draws * expected).max() < 4 * deviation


class TestPool:
    def test_of_responses_makes_every_pair_within_prompts_in_order(self) -> None:
        prompts = np.array([5, 0, 5, 2, 0, 5])
        pool = Pool.of_responses(unit_vectors(6, np.random.default_rng(0)), prompts)
        assert list(zip(pool.pair_a.tolist(), pool.pair_b.tolist(), strict=True)) == [
            (1, 4),
            (0, 2),
            (0, 5),
            (2, 5),
        ]
        assert pool.prompt_of_pair.tolist() == [0, 5, 5, 5]
        assert pool.responses_per_prompt.tolist() == [2, 0, 1, 0, 0, 3]
        assert (pool.n_prompts, pool.n_responses, pool.n_pairs, pool.n_eligible) == (6, 6, 4, 4)

    @pytest.mark.parametrize("seed", range(5))
    def test_of_responses_agrees_with_the_plain_loop(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        prompts = rng.integers(0, 20, size=70)
        pool = Pool.of_responses(unit_vectors(70, rng), prompts)
        loop = [
            (prompts[a], a, b)
            for a in range(70)
            for b in range(a + 1, 70)
            if prompts[a] == prompts[b]
        ]
        made = zip(prompts[pool.pair_a], pool.pair_a, pool.pair_b, strict=True)
        assert list(made) == sorted(loop)

    def test_arrays_cannot_be_written_through_it(self) -> None:
        vectors = unit_vectors(4, np.random.default_rng(0))
        pool = Pool.of_responses(vectors, np.zeros(4, dtype=np.int64))
        for array in (pool.response_vectors, pool.pair_a, pool.pair_eligible):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
        assert np.shares_memory(pool.response_vectors, vectors)
        assert vectors.flags.writeable

    def test_narrow_integers_are_converted(self) -> None:
        vectors = unit_vectors(4, np.random.default_rng(0))
        pool = Pool.of_responses(vectors, np.array([0, 0, 1, 1], dtype=np.uint8))
        assert pool.prompt_of_response.dtype == np.int64

    def test_without_leaves_the_first_pool_as_it_was(self) -> None:
        pool = pool_of([3, 3], picked=0)
        less = pool.without(np.array([4, 1]))
        assert np.flatnonzero(~less.pair_eligible).tolist() == [1, 4]
        assert pool.n_eligible == 6
        assert np.shares_memory(less.response_vectors, pool.response_vectors)
        with pytest.raises(ValueError, match="read-only"):
            less.pair_eligible[0] = False

    @pytest.mark.parametrize("position", [-1, 6])
    def test_without_refuses_positions_of_no_pair(self, position: int) -> None:
        with pytest.raises(BadPool, match=f"positions holds {position}"):
            pool_of([3, 3], picked=0).without(np.array([position]))


def broken_vectors(value: float, dtype: type = np.float32) -> np.ndarray:
    vectors = unit_vectors(7, np.random.default_rng(0)).astype(dtype)
    vectors[3] = value
    return vectors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_vectors": broken_vectors(np.nan)}, "response 3 holds NaN"),
        ({"response_vectors": broken_vectors(np.inf)}, "response 3 has length inf"),
        ({"response_vectors": broken_vectors(0)}, "response 3 is zero"),
        ({"response_vectors": broken_vectors(1e38)}, "response 3 has length inf"),
        ({"response_vectors": broken_vectors(1)}, "response 3 has length 2.449"),
        ({"response_vectors": broken_vectors(1, np.float64)}, "array of float64"),
        ({"response_vectors": np.ones(7, dtype=np.float32)}, r"has shape \(7,\)"),
        (
            {"response_vectors": np.ones((6, 1), dtype=np.float32)},
            "of 7 responses, and .* of 6",
        ),
        ({"prompt_of_response": np.array([0, 0, 0, 1, 1, -1, 1])}, "prompt_of_response holds -1"),
        ({"prompt_of_response": np.array([0, 0, 0, 1, 1, 1, 2**60])}, f"holds {2**60}"),
        ({"prompt_of_response": np.zeros(7)}, "array of float64"),
        ({"pair_a": np.array([0, 0, 4])}, "pair 2 is of response 4 with itself"),
        ({"pair_a": np.array([0, 0, 7])}, "pair_a holds 7"),
        ({"pair_b": np.array([1, 2, -1])}, "pair_b holds -1"),
        ({"pair_b": np.array([1, 6, 4])}, "pair 1 joins prompts 0 and 1"),
        ({"pair_b": np.array([1, 2])}, "pair_b is of 2 pairs, and pair_a of 3"),
        ({"pair_a": np.array([0, 3, 1]), "pair_b": np.array([1, 4, 0])}, "0 and 1 stands .* twice"),
        ({"pair_eligible": np.ones(3, dtype=np.int64)}, "pair_eligible is an array of int64"),
        ({"pair_eligible": np.ones(4, dtype=np.bool_)}, "pair_eligible is of 4 pairs"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    good = {
        "response_vectors": unit_vectors(7, np.random.default_rng(0)),
        "prompt_of_response": np.array([0, 0, 0, 1, 1, 1, 1]),
        "pair_a": np.array([0, 0, 3]),
        "pair_b": np.array([1, 2, 4]),
        "pair_eligible": np.ones(3, dtype=np.bool_),
    }
    Pool(**good)
    with pytest.raises(BadPool, match=message):
        Pool(**(good | change))


def test_vectors_past_the_first_block_are_checked() -> None:
    vectors = unit_vectors(200_000, np.random.default_rng(0), d=2)
    vectors[-1] = np.nan
    with pytest.raises(BadPool, match="response 199999 holds NaN"):
        Pool.of_responses(vectors, np.arange(200_000) // 2)


INTACT = Selection.of(np.array([1, 3, 4]), propensities=np.array([1.0, 0.5, np.nan]))


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (replace(INTACT, positions=np.array([1, 3, 1])), "a pair twice"),
        (replace(INTACT, positions=np.array([1, 3, 0])), "pair 0, which is not eligible"),
        (replace(INTACT, positions=np.array([1, 3, 6])), "position 6"),
        (replace(INTACT, positions=np.array([1, 3, -1])), "position -1"),
        (replace(INTACT, positions=np.array([1.0, 3.0, 4.0])), "of float64"),
        (replace(INTACT, positions=[1, 3, 4]), "positions as a list"),
        (Selection.of(np.array([1, 3])), r"positions as an array \(2,\)"),
        (replace(INTACT, scores=np.zeros(2)), r"scores as an array \(2,\)"),
        (replace(INTACT, scores=np.zeros(3, dtype=np.float32)), "of float32"),
        (replace(INTACT, propensities=np.array([0.0, 0.5, 1.0])), "propensity 0.0"),
        (replace(INTACT, propensities=np.array([0.5, 1.5, 1.0])), "propensity 1.5"),
        (np.array([1, 3, 4]), "gave back a ndarray"),
    ],
)
def test_a_selection_that_breaks_the_contract_is_refused(
    selection: Selection, message: str
) -> None:
    pool = pool_of([3, 3], picked=0).without(np.array([0]))
    check_selection(pool, INTACT, 3)
    with pytest.raises(StrategyViolation, match=message) as caught:
        check_selection(pool, selection, 3)
    assert "report it to its author" in str(caught.value)


def test_errors_say_what_was_found_what_was_expected_and_what_to_do() -> None:
    assert str(PoolTooSmall(asked=9, eligible=4)).splitlines() == [
        "9 pairs were asked for, and 4 are eligible",
        "expected: at most as many as are eligible",
        "to do: ask for fewer, or import more candidates",
    ]


def test_strategies_import_numpy_scipy_and_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"numpy", "scipy", "strategies"}
    for source in Path(strategies.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            assert {found.split(".")[0] for found in names} <= allowed, source.name


def test_importing_strategies_loads_nothing_heavy() -> None:
    code = "import sys, strategies; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(strategies.__file__).parents[1],
    ).stdout.split()
    assert "strategies" in loaded
    assert not {"annotator", "faiss", "scipy", "sklearn", "torch"} & set(loaded)
