"""Overlap policies compared on labelled sets: votes, truth, replay, account and command."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner, Result

from annotator.candidates.formats import native
from annotator.cli import main
from annotator.cli.simulate import TRUTH_NAMES
from annotator.errors import RejectedRow
from annotator.labels.crowd import CrowdVotes
from annotator.labels.overlap import Overlap
from annotator.labels.panel import panel_verdict
from annotator.preference.vote_model import VoteModel
from annotator.signals import embeddings
from annotator.simulate import SimulationError, overlap_simulation
from annotator.simulate.overlap import (
    GOLD,
    SET_ASIDE,
    TRUTHS,
    OverlapPlan,
    OverlapRun,
    joint_fit,
    panel_of,
    replay_overlap,
)
from annotator.simulate.overlap_account import (
    MISSED,
    OPEN,
    REACHED,
    accuracy_at,
    overlap_account,
    votes_for,
)
from annotator.simulate.overlap_simulation import (
    OverlapRequest,
    simulate_overlap,
    usual_truth,
)
from annotator.simulate.overlap_words import overlap_lines, overlap_sentences, overlap_tables
from annotator.simulate.world import NO_TRUTH, World, load_world, world_of
from tests.crowd_world import crowd_world
from tests.fake_encoder import FakeEncoder
from tests.synthetic_world import synthetic_features

ROOT = Path(__file__).resolve().parents[1]
OVERLAPS = tuple(
    map(Overlap.parse, ("fixed:1", "fixed:3", "fixed:5", "until-agree:2-5", "expected-gain:1-5"))
)
AT_PANEL = Overlap.parse("expected-gain:1-5@panel")
FIXED_3, UNTIL_AGREE, EXPECTED_GAIN = OVERLAPS[1], OVERLAPS[3], OVERLAPS[4]


# A consensus small enough to check by eye, and at module level so that other processes find it.


@dataclass(frozen=True)
class Counted:
    """P(a) after votes each right three times in four; the gain is that of a vote, by hand."""

    net: np.ndarray
    n_votes: np.ndarray

    @property
    def preferred(self) -> np.ndarray:
        return 1.0 / (1.0 + 3.0 ** -self.net.astype(np.float64))

    def gain(self, pairs: np.ndarray | None = None, ahead: int = 1) -> np.ndarray:
        """Closest pairs first, and of these the ones with the fewest votes."""
        assert pairs is None
        gain: np.ndarray = 1.0 / (1.0 + 10.0 * np.abs(self.net) + self.n_votes)
        return gain

    @property
    def mean(self) -> np.ndarray:
        return 0.5 * self.net.astype(np.float64)

    @property
    def variance(self) -> np.ndarray:
        return np.ones(len(self.net))

    @property
    def model(self) -> VoteModel:
        return VoteModel()


class Counting:
    """Counts votes, and remembers what it was told."""

    asked: ClassVar[list[CrowdVotes]] = []

    def __call__(self, a: np.ndarray, b: np.ndarray, votes: CrowdVotes) -> Counted:
        assert len(a) == len(b) == votes.n_pairs
        self.asked.append(votes)
        net = np.bincount(votes.pair, np.sign(votes.grade), minlength=votes.n_pairs)
        return Counted(net, np.bincount(votes.pair, minlength=votes.n_pairs))


def counting(world: World) -> Counting:
    """What the tests make a consensus of."""
    Counting.asked.clear()
    return Counting()


@pytest.fixture(scope="module")
def world() -> World:
    return crowd_world(n_prompts=12).world


# What a file says.

GOLD_ROW: dict[str, Any] = {
    "prompt": "which?",
    "responses": [{"id": name, "text": f"the text {name}"} for name in "wxyz"],
    "comparisons": [
        {"a": "x", "b": "w", "label": "a", "annotator": "ann"},
        {"a": "w", "b": "x", "label": "a", "annotator": "bob"},
        {"a": "w", "b": "x", "label": "tie"},
        {"a": "w", "b": "y", "label": "b", "annotator": "ann"},
        {"a": "w", "b": "z", "label": "b"},
        {"a": "x", "b": "y", "label": "b"},
        {"a": "x", "b": "z", "label": "b"},
    ],
    "gold": [
        {"a": "x", "b": "w", "label": "a", "method": "panel"},
        {"a": "w", "b": "y", "label": None, "method": "panel"},
        {"a": "w", "b": "z", "label": "tie"},
        {"a": "x", "b": "y", "label": "a"},
        {"a": "y", "b": "x", "label": "a"},
        {"a": "y", "b": "z", "label": "b"},
    ],
}


def test_gold_is_read_as_objective_labels() -> None:
    labels = native.read(GOLD_ROW).labels
    gold = [(o.a, o.b, o.label, o.annotator) for o in labels if o.kind == "objective"]
    assert gold == [
        (1, 0, "a", "panel"),
        (0, 3, "tie", None),
        (1, 2, "a", None),
        (2, 1, "a", None),
        (2, 3, "b", None),
    ]
    assert len(labels) == len(gold) + len(GOLD_ROW["comparisons"])
    without = {name: part for name, part in GOLD_ROW.items() if name != "gold"}
    assert native.read(without).labels == native.read(without | {"gold": None}).labels
    assert all(label.kind == "human" for label in native.read(without).labels)


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ("a", "gold is text, expected a list"),
        ([{"a": "w", "b": "w", "label": "a"}], "gold label 1: it compares a response with itself"),
        ([{"a": "w", "b": "q", "label": "a"}], "gold label 1: b is 'q', the id of no response"),
        ([{"a": "w", "b": "x", "label": None}, {"a": "w", "b": "x"}], "label 2: label is missing"),
        ([{"a": "w", "b": "x", "label": "left"}], "gold label 1: label is 'left'"),
        (["w"], "gold label 1: it is text, expected an object"),
    ],
)
def test_gold_that_is_none_refuses_the_row(gold: Any, said: str) -> None:
    with pytest.raises(RejectedRow, match=said):
        native.read(GOLD_ROW | {"gold": gold})


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    """No weights: vectors come out of the texts' hashes."""
    fake = FakeEncoder(name="all-MiniLM-L6-v2")
    monkeypatch.setattr(embeddings, "find_weights", lambda name: fake)
    monkeypatch.setattr(embeddings, "load_weights", lambda weights, precision: fake)
    return fake


def test_the_world_knows_truth_and_annotators(encoder: FakeEncoder, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(GOLD_ROW) + "\n", encoding="utf-8")
    world = load_world([path], tmp_path / "cache", encoder="x")
    texts = {encoder.vector(f"the text {name}").tobytes(): name for name in "wxyz"}
    names = [texts[vector.tobytes()] for vector in world.pool.response_vectors]
    truth = {
        (names[a], names[b]): value
        for a, b, value in zip(
            world.pool.pair_a, world.pool.pair_b, world.truth.tolist(), strict=True
        )
    }
    expected = {("w", "x"): -1, ("w", "z"): 0}
    for (a, b), value in truth.items():
        if (a, b) in expected or (b, a) in expected:
            assert value == expected.get((a, b), -expected.get((b, a), 0))
        else:
            assert value == NO_TRUTH, "no gold label, a null one, or two that contradict"
    assert len(truth) == 5, "gold on a pair without votes is passed over"
    assert world.n_votes == 7
    of_ann = world.vote_annotator == world.vote_annotator[_row(world, names, "wy")[0]]
    assert of_ann.sum() == 2, "ann judged two pairs"
    assert len(np.unique(world.vote_annotator)) == 1 + 1 + 4, "ann, bob, four nobody knows"
    assert sorted(np.unique(world.vote_annotator)) == list(range(6))


def _row(world: World, names: list[str], ends: str) -> np.ndarray:
    pair = [
        i
        for i, (a, b) in enumerate(zip(world.pool.pair_a, world.pool.pair_b, strict=True))
        if {names[a], names[b]} == set(ends)
    ]
    return np.flatnonzero(world.vote_pair == pair[0])


def test_gold_alone_is_the_votes(encoder: FakeEncoder, tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    row = {name: part for name, part in GOLD_ROW.items() if name != "comparisons"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    world = load_world([path], tmp_path / "cache", encoder="x")
    assert world.n_votes == 5
    assert set(world.truth.tolist()) == {NO_TRUTH}


def test_runs_of_strategies_stay_valid(world: World) -> None:
    """The fingerprint is of what a strategy's replay sees: neither annotators nor truth."""
    other = replace(
        world, vote_annotator=world.vote_annotator[::-1], truth=np.zeros_like(world.truth)
    )
    assert other.fingerprint() == world.fingerprint()
    assert other.fingerprint_of_people() != world.fingerprint_of_people()
    turned = replace(world, vote_grade=-world.vote_grade)
    assert turned.fingerprint() != world.fingerprint()


def test_votes_keep_their_annotator_side_and_truth_in_any_order() -> None:
    """Shuffled, and with pairs turned round, the world is the same."""
    rng = np.random.default_rng(3)
    features = synthetic_features(rng, np.array([1, 0, 1, 0, 1]))
    first, second = np.array([0, 2, 2, 1, 0, 4]), np.array([2, 0, 4, 3, 4, 2])
    grade, annotator = np.array([1, 1, 0, -1, -1, 1]), np.array([7, 3, 7, -1, 9, -1])
    left = np.array([True, False, True, True, False, False])
    gold = (np.array([2, 1, 0]), np.array([0, 3, 4]), np.array([1, 0, -1]))

    def rows(order: np.ndarray, turned: np.ndarray) -> set[tuple[int, ...]]:
        a, b = np.where(turned, second, first), np.where(turned, first, second)
        world = world_of(
            "w",
            features,
            (a[order], b[order], np.where(turned, -grade, grade)[order]),
            annotators=annotator[order],
            first_on_left=(left != turned)[order],
            gold=gold,
        )
        truth = dict(zip(zip(world.pool.pair_a.tolist(), world.pool.pair_b.tolist(), strict=True),
                         world.truth.tolist(), strict=True))  # fmt: skip
        assert truth == {(0, 2): -1, (2, 4): NO_TRUTH, (0, 4): -1, (1, 3): 0}
        known = world.vote_annotator < 3
        assert sorted(world.vote_annotator[~known]) == [3, 4]
        return {
            (int(world.pool.pair_a[p]), int(world.pool.pair_b[p]), int(g), int(j), bool(s))
            for p, g, j, s in zip(
                world.vote_pair[known],
                world.vote_grade[known],
                world.vote_annotator[known],
                world.vote_left_is_a[known],
                strict=True,
            )
        }

    straight = rows(np.arange(6), np.zeros(6, dtype=np.bool_))
    assert straight == {(0, 2, 1, 1, True), (0, 2, -1, 0, True), (2, 4, 0, 1, True),
                        (0, 4, -1, 2, False)}  # fmt: skip
    for _ in range(5):
        assert rows(rng.permutation(6), rng.random(6) < 0.5) == straight


# The replay.


def spent(world: World, overlap: Overlap, seed: int = 0, **plan: Any) -> OverlapRun:
    return replay_overlap(world, OverlapPlan(**plan), overlap, seed, counting)


def test_fixed_asks_the_same_number_and_begins_with_the_same_votes(world: World) -> None:
    measured = np.count_nonzero(world.truth != NO_TRUTH)
    drawn: dict[int, set[tuple[Any, ...]]] = {}
    for n in (1, 3, 5):
        run = spent(world, Overlap.parse(f"fixed:{n}"))
        assert run.votes.shape[0] == 1
        assert run.votes.sum() == n * measured
        (votes,) = Counting.asked
        drawn[n] = set(zip(votes.pair.tolist(), votes.grade.tolist(), strict=True))
        assert np.all(np.bincount(votes.pair) == n)
    assert drawn[1] <= drawn[3] <= drawn[5]


def test_right_and_log_loss_are_those_of_a_hand_count(world: World) -> None:
    run = spent(world, FIXED_3, seed=4)
    (votes,) = Counting.asked
    pairs = np.flatnonzero(world.truth != NO_TRUTH)
    right, counted, loss = [np.zeros((2, world.pool.n_prompts)) for _ in range(3)]
    for place, pair in enumerate(pairs):
        truth, grades = world.truth[pair], votes.grade[votes.pair == place]
        prompt = world.pool.prompt_of_response[world.pool.pair_a[pair]]
        if truth == 0:
            continue
        n_a, n_b = np.sum(grades > 0), np.sum(grades < 0)
        by_majority = (n_a + 1) / (n_a + n_b + 2)
        by_model = 3.0**n_a / (3.0**n_a + 3.0**n_b)
        for reading, p in enumerate((by_majority, by_model)):
            of_truth = p if truth > 0 else 1 - p
            right[reading, prompt] += 0.5 if n_a == n_b else float(of_truth > 0.5)
            loss[reading, prompt] -= np.log(of_truth)
            counted[reading, prompt] += 1
    np.testing.assert_allclose(run.right[0], right)
    np.testing.assert_allclose(run.log_loss[0], loss)
    np.testing.assert_allclose(run.counted, counted[0])
    assert run.counted.sum() < run.pairs.sum(), "ties need votes too, and are not measured"


def test_until_agree_spends_what_the_rule_says(world: World) -> None:
    run = spent(world, UNTIL_AGREE, seed=2)
    spent_by_rule = 0
    five = spent(world, Overlap.parse("fixed:5"), seed=2)
    (votes,) = Counting.asked  # those of fixed:5, pair by pair in the order in which they come
    for pair in range(votes.n_pairs):
        signs, n = np.sign(votes.grade[votes.pair == pair]), 2
        while n < 5 and abs(signs[:n].sum()) < 2:
            n += 1
        spent_by_rule += n
    assert run.votes.sum() == spent_by_rule < five.votes.sum()


def test_expected_gain_goes_from_the_least_to_the_most_by_gain(world: World) -> None:
    run = spent(world, EXPECTED_GAIN, growth=0.2)
    total = run.votes.sum(axis=1)
    assert total[0] == run.pairs.sum()
    assert total[-1] == 5 * run.pairs.sum()
    assert len(total) == len(Counting.asked) > 5
    for votes, later in pairwise(Counting.asked):
        n_votes, n_later = (np.bincount(of.pair, minlength=of.n_pairs) for of in (votes, later))
        more, may = n_later - n_votes, n_votes < 5
        assert set(more.tolist()) <= {0, 1}
        assert more.sum() == min(round(0.2 * len(votes.pair)), may.sum())
        net = np.bincount(votes.pair, np.sign(votes.grade), minlength=votes.n_pairs)
        gain = Counted(net, n_votes).gain()
        passed = gain[may & (more == 0)]
        assert gain[more > 0].min() >= passed.max(initial=-np.inf)


def test_a_policy_that_aims_at_the_panel_ends_in_its_majority(world: World) -> None:
    """It asks where the panel is least sure, and with all votes it says what fixed:5 says."""
    gained = spent(world, AT_PANEL, growth=0.3)
    asked = list(Counting.asked)
    fixed = spent(world, Overlap.parse("fixed:5"))
    assert gained.right.shape[1] == 3
    np.testing.assert_allclose(gained.right[-1, 2], fixed.right[0, 0])
    for votes, later in pairwise(asked):
        n_votes, n_later = (np.bincount(of.pair, minlength=of.n_pairs) for of in (votes, later))
        net = np.bincount(votes.pair, np.sign(votes.grade), minlength=votes.n_pairs).astype(int)
        of = Counted(net, n_votes)
        gain = panel_verdict(of.mean, of.variance, of.model, net, n_votes, 5).gain
        more = n_later > n_votes
        passed = gain[(n_votes < 5) & ~more]
        assert gain[more].min() >= passed.max(initial=-np.inf)


def test_nobody_is_asked_twice_about_a_pair(world: World) -> None:
    """Votes are drawn without replacement, whoever asks."""
    spent(world, EXPECTED_GAIN, growth=0.5)
    last = Counting.asked[-1]
    drawn = np.stack((last.pair, last.annotator), axis=1)
    assert len(np.unique(drawn, axis=0)) == len(drawn)


def test_a_sample_of_pairs_is_the_seeds(world: World) -> None:
    plan = OverlapPlan(n_pairs=30)
    one, again, other = (panel_of(world, plan, seed) for seed in (0, 0, 1))
    assert len(one.pairs) == len(np.unique(one.pairs)) == 30
    np.testing.assert_array_equal(one.pairs, again.pairs)
    np.testing.assert_array_equal(one.order, again.order)
    assert set(one.pairs) != set(other.pairs)
    everything = panel_of(world, OverlapPlan(n_pairs=10**6), 0)
    assert everything.n_pairs == np.count_nonzero(world.truth != NO_TRUTH)


def uneven_world(seed: int = 0) -> World:
    """Pairs with one to nine votes, no gold, and unknown annotators."""
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.repeat(np.arange(6), 4))
    features = synthetic_features(rng, prompts)
    ends = [np.flatnonzero(prompts == p)[[0, i]] for p in range(6) for i in (1, 2, 3)]
    n_votes = [1 + i % 9 for i in range(len(ends))]
    a, b = np.repeat(np.array(ends), n_votes, axis=0).T
    return world_of("uneven", features, (a, b, rng.choice([-1, 0, 1, 2], len(a))))


def test_votes_set_aside_are_the_truth_and_never_drawn() -> None:
    world = uneven_world()
    assert usual_truth(world) == SET_ASIDE
    on_pair = np.bincount(world.vote_pair)
    for seed in range(4):
        panel = panel_of(world, OverlapPlan(truth=SET_ASIDE), seed)
        assert panel.n_pairs == np.count_nonzero(on_pair >= 2)
        _, drawn = panel.drawn(panel.n_there)
        assert len(np.unique(drawn)) == len(drawn)
        apart = np.setdiff1d(np.arange(world.n_votes), drawn)
        for place, pair in enumerate(panel.pairs):
            its = apart[world.vote_pair[apart] == pair]
            expected = {2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1, 9: 3}[int(on_pair[pair])]
            assert len(its) == expected
            assert panel.truth[place] == np.sign(np.sign(world.vote_grade[its]).sum())
            assert panel.n_there[place] == on_pair[pair] - expected
    for overlap in OVERLAPS:
        run = spent(world, overlap, truth=SET_ASIDE)
        assert run.votes.sum(axis=1).max() <= panel.n_there.sum()


def test_without_truth_it_is_said() -> None:
    world = uneven_world()
    with pytest.raises(SimulationError, match="no pair with votes has a gold label"):
        panel_of(world, OverlapPlan(truth=GOLD), 0)
    one_each = np.unique(world.vote_pair, return_index=True)[1]
    single = replace(
        world, vote_pair=world.vote_pair[one_each], vote_grade=world.vote_grade[one_each]
    )
    with pytest.raises(SimulationError, match="no pair has two votes"):
        panel_of(single, OverlapPlan(truth=SET_ASIDE), 0)


# The account.


def test_votes_for_an_accuracy_against_numpy() -> None:
    rng = np.random.default_rng(0)
    votes = np.cumsum(rng.uniform(0.1, 1.0, (50, 6)), axis=1)
    accuracy = np.cumsum(rng.uniform(0.01, 0.1, (50, 6)), axis=1)
    target = rng.uniform(0.0, 0.4, 50)
    found = votes_for(votes, accuracy, target)
    for row in range(50):
        if target[row] > accuracy[row, -1]:
            assert found[row] == np.inf
        else:
            assert found[row] == pytest.approx(np.interp(target[row], accuracy[row], votes[row]))
    assert {*np.isinf(found)} == {True, False}
    middle = 0.5 * (votes[:, 1] + votes[:, 2])
    np.testing.assert_allclose(
        accuracy_at(votes, accuracy, middle), 0.5 * (accuracy[:, 1] + accuracy[:, 2])
    )


def done(world: World, tmp_path: Path, seeds: int = 6, **request: Any) -> dict[str, Any]:
    asked = OverlapRequest(request.pop("overlaps", OVERLAPS), seeds, **request)
    return overlap_account(simulate_overlap(world, asked, tmp_path, make_consult=counting))


def test_the_document_holds_the_means_of_the_runs(world: World, tmp_path: Path) -> None:
    document = done(world, tmp_path)
    runs = [spent(world, UNTIL_AGREE, seed) for seed in range(6)]
    of = document["policies"]["until-agree:2-5"]
    votes = sum(run.votes.sum() for run in runs) / sum(run.pairs.sum() for run in runs)
    assert of["votes"]["mean"] == [pytest.approx(votes, abs=1e-4)]
    for reading, name in enumerate(("majority", "model")):
        right = sum(run.right[0, reading].sum() for run in runs)
        expected = right / sum(run.counted.sum() for run in runs)
        values = of["accuracy"][name]
        assert values["mean"] == [pytest.approx(expected, abs=1e-4)]
        assert values["low"][0] < values["mean"][0] < values["high"][0]
    # By these counts the model's side is the majority's.
    assert of["accuracy"]["model"] == of["accuracy"]["majority"]
    assert document["pairs"] == np.count_nonzero(world.truth != NO_TRUTH)
    assert document["pairs_with_side"] == np.count_nonzero(np.abs(world.truth) == 1)
    json.dumps(document, allow_nan=False)


def test_equal_votes_are_equal(world: World, tmp_path: Path) -> None:
    """expected-gain asked to the end is fixed:5: the same votes, so no difference and all votes."""
    document = done(world, tmp_path)
    policies = document["policies"]
    last = {end: part[-1] for end, part in policies["expected-gain:1-5"]["votes"].items()}
    assert last == {end: 5.0 for end in ("mean", "low", "high")}
    accuracy = policies["expected-gain:1-5"]["accuracy"]["majority"]
    assert {end: part[-1] for end, part in accuracy.items()} == {
        end: part[0] for end, part in policies["fixed:5"]["accuracy"]["majority"].items()
    }


def comparison(document: dict[str, Any], policy: str, reference: str) -> dict[str, Any]:
    (one,) = [
        c
        for c in document["comparisons"]
        if (c["policy"], c["reference"], c["reading"]) == (policy, reference, "majority")
    ]
    return one


def test_comparisons_against_fixed_numbers(world: World, tmp_path: Path) -> None:
    document = done(world, tmp_path)
    three = comparison(document, "expected-gain:1-5", "fixed:3")
    assert (three["share"], three["at_share"], three["margin"]) == (0.6, 0.6, 0.0)
    curve = document["policies"]["expected-gain:1-5"]
    at = np.interp(0.6 * 3, curve["votes"]["mean"], curve["accuracy"]["model"]["mean"])
    assert three["accuracy"] == pytest.approx(at, abs=2e-4)
    assert three["difference"]["mean"] == pytest.approx(at - three["target"], abs=3e-4)
    agree = comparison(document, "until-agree:2-5", "fixed:3")
    votes = document["policies"]["until-agree:2-5"]["votes"]["mean"][0]
    assert agree["at_share"] == pytest.approx(votes / 3, abs=1e-4)
    assert agree["verdict"] == MISSED, "it spends more than 60 % from the start"
    one = comparison(document, "expected-gain:1-5", "fixed:1")
    assert one["verdict"] is None, "no goal is set for one vote"


@pytest.mark.parametrize(("lift", "verdict"), [(0.3, REACHED), (-0.3, MISSED), (0.0, OPEN)])
def test_a_verdict_goes_by_the_interval(
    world: World, tmp_path: Path, lift: float, verdict: str
) -> None:
    """The curve's accuracy is moved against the fixed one: far above, far below, about equal."""
    request = OverlapRequest(OVERLAPS, 6)
    simulation = simulate_overlap(world, request, tmp_path, make_consult=counting)
    base = overlap_account(simulation)
    gap = comparison(base, "expected-gain:1-5", "fixed:3")["difference"]["mean"]
    moved = [
        replace(run, right=run.right + (lift - gap) * run.counted)
        for run in simulation.runs["expected-gain:1-5"]
    ]
    document = overlap_account(
        replace(simulation, runs=simulation.runs | {"expected-gain:1-5": moved})
    )
    three = comparison(document, "expected-gain:1-5", "fixed:3")
    assert three["difference"]["mean"] == pytest.approx(lift, abs=2e-3)
    assert three["verdict"] == verdict
    said = overlap_sentences(document)[0]
    assert {REACHED: "is reached", MISSED: "is missed", OPEN: "is not shown"}[verdict] in said


def test_few_seeds_give_no_verdict(world: World, tmp_path: Path) -> None:
    document = done(world, tmp_path, seeds=2)
    assert not document["conclusive"]
    assert all(one["verdict"] is None for one in document["comparisons"])
    assert any("2 seeds are too narrow" in note for note in document["notes"])


def test_finished_runs_are_not_replayed(world: World, tmp_path: Path) -> None:
    first = done(world, tmp_path, seeds=2)
    assert Counting.asked
    Counting.asked.clear()
    assert done(world, tmp_path, seeds=2) == first
    assert not Counting.asked
    other = replace(world, truth=-world.truth * (np.abs(world.truth) == 1))
    assert done(other, tmp_path, seeds=2) != first
    assert Counting.asked, "another truth is another world"


def test_larger_batches_are_another_run_with_fewer_points(world: World, tmp_path: Path) -> None:
    points = []
    for growth in (0.2, 0.8):
        request = OverlapRequest((EXPECTED_GAIN,), seeds=1, growth=growth)
        document = overlap_account(
            simulate_overlap(world, request, tmp_path, make_consult=counting), replicates=20
        )
        assert document["growth"] == growth
        points.append(len(document["policies"][str(EXPECTED_GAIN)]["votes"]["mean"]))
    assert points[0] > points[1] > 2


def test_a_change_of_what_a_replay_runs_through_is_another_run() -> None:
    """Whatever a joint fit imports of ours is among the sources that name a run."""
    code = (
        "import sys, annotator.labels.joint_fit, annotator.simulate.overlap\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('annotator.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {Path(path).relative_to(ROOT).as_posix() for path in done.stdout.split()}
    fitting = {
        path for path in imported if path.startswith(("annotator/labels/", "annotator/pref"))
    }
    assert "annotator/labels/people.py" in fitting
    covered = {path for path in fitting if path.startswith(overlap_simulation.SOURCES)}
    assert fitting - covered == {"annotator/labels/__init__.py"}


def test_several_processes_find_the_same(world: World, tmp_path: Path) -> None:
    alone = done(world, tmp_path / "one", seeds=2)
    together = done(world, tmp_path / "two", seeds=2, jobs=2)
    for document in (alone, together):
        for of in document["policies"].values():
            of["seconds"] = 0
    assert together == alone


def test_what_is_said_of_few_votes_and_of_the_truth(tmp_path: Path) -> None:
    document = done(uneven_world(), tmp_path)
    assert document["truth"] == SET_ASIDE
    assert any("set aside, anew with every seed" in note for note in document["notes"])
    assert any("fewer than 5 votes to draw" in note for note in document["notes"])
    assert "majority of votes set aside" in "\n".join(overlap_lines(document))


# The real model.


def test_a_consensus_owes_nothing_to_those_before(world: World) -> None:
    """Its settings are tuned to the votes there are, as those of the loop, which begins anew."""
    panel, consult = panel_of(world, OverlapPlan(), 0), joint_fit(world)
    panel.consensus(np.ones(panel.n_pairs, dtype=np.int64), consult)
    # So many more that pairs turn out to be a matter of their own, though votes have not doubled.
    n_votes = np.where(np.arange(panel.n_pairs) < 60, 2, 1)
    later = panel.consensus(n_votes, consult)
    anew = panel.consensus(n_votes, joint_fit(world))
    np.testing.assert_array_equal(later.preferred, anew.preferred)


def test_the_model_needs_fewer_votes_than_a_majority() -> None:
    """In a world with exact truth: above fixed:3's accuracy by majority with 60 % of its votes."""
    world, plan = crowd_world(n_prompts=16).world, OverlapPlan(growth=0.35)
    accuracy, loss = [], []
    for seed in range(2):
        fixed = replay_overlap(world, plan, FIXED_3, seed, joint_fit)
        gained = replay_overlap(world, plan, Overlap.parse("expected-gain:1-3"), seed, joint_fit)
        votes = gained.votes.sum(axis=1) / fixed.votes.sum()
        right = gained.right.sum(axis=2)[:, 1] / gained.counted.sum()
        by_majority, by_model = fixed.right.sum(axis=2)[0] / fixed.counted.sum()
        accuracy.append((np.interp(0.6, votes, right), by_majority, by_model))
        loss.append(fixed.log_loss.sum(axis=2)[0])
    at_share, by_majority, by_model = np.mean(accuracy, axis=0)
    assert at_share > by_majority
    assert by_model > by_majority + 0.02
    majority_loss, model_loss = np.mean(loss, axis=0)
    assert model_loss < 0.75 * majority_loss


# The command.


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of whoever runs the tests stays as it is; no project here; votes are counted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    defaults: Callable[..., Any] = overlap_simulation.simulate_overlap
    monkeypatch.setattr(defaults, "__kwdefaults__", {"make_consult": counting})
    return tmp_path


def labelled(path: Path, *, gold: bool = True, n: int = 12) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        pairs = [(a, b) for a in range(2 + i % 3) for b in range(a)]
        rows.append(
            {
                "prompt": f"question {i}",
                "responses": [{"id": f"{k}", "text": f"{k} of {i}"} for k in range(2 + i % 3)],
                "comparisons": [
                    {"a": f"{a}", "b": f"{b}", "label": str(rng.choice(["a", "a", "b", "tie"])),
                     "annotator": f"v{voter}"}
                    for a, b in pairs
                    for voter in range(5)
                ],
            }
        )  # fmt: skip
        if gold:
            rows[-1]["gold"] = [{"a": f"{a}", "b": f"{b}", "label": "a"} for a, b in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


SPECS = (
    "--overlap",
    "fixed:3,fixed:5,until-agree:2-5,expected-gain:1-5,expected-gain:1-5@panel",
    "--seeds",
    "5",
)


def test_names_are_those_of_the_simulation() -> None:
    assert TRUTH_NAMES == TRUTHS


def test_the_whole_command(encoder: FakeEncoder, home: Path) -> None:
    path, out, page = labelled(home / "set.jsonl"), home / "out.json", home / "o.html"
    done = run(path, *SPECS, "--json", out, "--plot", page)
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text(encoding="utf-8"))
    assert (document["kind"], document["dataset"]) == ("overlap", "set")
    assert (document["truth"], document["seeds"], document["annotators"]) == ("gold", 5, 5)
    assert list(document["policies"]) == SPECS[1].split(",")
    last = done.output.rstrip().splitlines()[-1]
    assert last == overlap_sentences(document)[-1]
    assert last.startswith("On set `expected-gain:1-5@panel`, read by the panel, ")
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 2
    assert "<script" not in html
    for cell in ("fixed, majority", "expected-gain:1-5@panel, panel", last.replace("`", "")):
        assert cell in html
    for row in overlap_tables(document)["against"][1:]:
        assert row[0] in done.output
    again = run(path, *SPECS, "--json", "-")
    assert json.loads(again.stdout) == document


def test_a_picture(encoder: FakeEncoder, home: Path) -> None:
    path, picture = labelled(home / "set.jsonl"), home / "o.png"
    assert run(path, *SPECS, "--plot", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_truth_may_be_votes_although_there_is_gold(encoder: FakeEncoder, home: Path) -> None:
    path = labelled(home / "set.jsonl")
    document = json.loads(run(path, *SPECS, "--truth", "votes", "--json", "-").stdout)
    assert document["truth"] == "votes"
    few = json.loads(run(path, *SPECS, "--pairs", "9", "--json", "-").stdout)
    assert few["pairs"] == 9
    refused = run(labelled(home / "plain.jsonl", gold=False), *SPECS, "--truth", "gold")
    assert refused.exit_code == 1
    assert "--truth votes" in refused.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--overlap", "fixed"), "no overlap policy with its range"),
        (("--overlap", "fixed:2-5"), "until-agree:2-5"),
        (("--overlap", "often:3"), "expected: one of fixed, until-agree, expected-gain"),
        (("--overlap", ","), "it names nothing"),
        ((*SPECS, "--strategies", "random"), "--strategies does not go with --overlap"),
        ((*SPECS, "--budgets", "10"), "--budgets does not go with --overlap"),
        ((*SPECS, "--control", "0.1"), "--control does not go with --overlap"),
        ((*SPECS, "--scores", "llm:x"), "--scores does not go with --overlap"),
        (("--pairs", "10"), "--pairs goes only with --overlap"),
        (("--truth", "gold"), "--truth goes only with --overlap"),
        ((*SPECS, "--plot", "o.pdf"), "ends in none of"),
    ],
)
def test_bad_options_are_said(
    encoder: FakeEncoder, home: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = run(labelled(home / "set.jsonl"), *arguments)
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())


# The page.


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("overlap_script", ROOT / "scripts" / "overlap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_what_is_stored(script: ModuleType) -> None:
    if not list(script.STORED.glob("*.json")):
        pytest.skip("nothing is stored yet")
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.stored())
    for document in script.stored():
        assert (script.STORED / script.file_name(document)).is_file()


def test_a_page_is_made_of_the_json_alone(
    script: ModuleType, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for truth in TRUTHS:
        document = done(world, tmp_path / "cache", seeds=5, truth=truth) | {"annotator": "0"}
        path = tmp_path / script.file_name(document)
        path.write_text(json.dumps(document), encoding="utf-8")
    for name, value in (("STORED", tmp_path), ("PAGE", tmp_path / "o.md"), ("ROOT", tmp_path)):
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(sys, "argv", ["overlap.py", "--page-only"])
    script.main()
    written = (tmp_path / "o.md").read_text(encoding="utf-8")
    titles = [line[3:] for line in written.splitlines() if line.startswith("## ")]
    assert titles[0] == "In short"
    assert len(titles) == 3
    # Of each set four goals: against fixed:3 and fixed:5, in either reading.
    for title in titles[1:]:
        link = f"| [synthetic crowd](#{script.anchor(title)}) |"
        assert written.count(link) == 4
