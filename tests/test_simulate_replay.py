"""A replay asks as the live loop does, draws every vote once, and survives being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from annotator.preference.votes import Votes
from annotator.simulate import SimulationError
from annotator.simulate import replay as replay_module
from annotator.simulate.account import account
from annotator.simulate.replay import (
    NOTHING,
    PROMPTS,
    VOTES,
    Ballots,
    Plan,
    Run,
    held_out_prompts,
    replay,
    reserved_votes,
)
from annotator.simulate.runs import RunStore
from annotator.simulate.simulation import Request, checked, simulate
from annotator.simulate.world import World, world_of
from strategies import STRATEGIES
from strategies.pool import Pool, Selection, Strategy, UnknownStrategy, needs
from strategies.within_prompt import all_pairs, peer_agreement
from tests.synthetic_world import (
    RidgeLearner,
    ridge,
    slow_ridge,
    synthetic_features,
    synthetic_world,
)

ROOT = Path(__file__).resolve().parents[1]
PLAN = Plan(budgets=(20, 50, 90), batch=10, control=0.15)


class Witness(RidgeLearner):
    """A learner that remembers the votes it was shown."""

    def __init__(self, world: World, seen: list[np.ndarray]) -> None:
        super().__init__(world)
        self._seen = seen

    def learn(self, votes):  # type: ignore[no-untyped-def]
        self._seen.append(np.stack([votes.a, votes.b, votes.grade], axis=1))
        return super().learn(votes)


def seen_by(world: World, plan: Plan, strategy: str, seed: int) -> list[np.ndarray]:
    seen: list[np.ndarray] = []
    replay(world, plan, strategy, seed, lambda w: Witness(w, seen))
    return seen


def rows(votes: np.ndarray) -> list[tuple[int, ...]]:
    return sorted(map(tuple, votes.tolist()))


@pytest.mark.parametrize("strategy", ["random", "real-easy", "real-centroid"])
def test_every_vote_is_real_and_is_charged_once(strategy: str) -> None:
    world = synthetic_world().world
    pool = world.pool
    pair = world.vote_pair
    left = rows(np.stack([pool.pair_a[pair], pool.pair_b[pair], world.vote_grade], axis=1))
    seen = seen_by(world, PLAN, strategy, 3)
    assert [len(votes) for votes in seen] == [20, 50, 90]
    for vote in rows(seen[-1]):
        left.remove(vote)  # raises if it was drawn more often than it is there
    for before, after in pairwise(seen):
        there = rows(after)
        for vote in rows(before):
            there.remove(vote)


def test_an_unasked_pair_comes_first() -> None:
    world = synthetic_world(votes_a_pair=4).world
    n_pairs = world.pool.n_pairs
    plan = Plan(budgets=(n_pairs, n_pairs + 30), batch=7, control=0.15)
    once, more = seen_by(world, plan, "real-easy", 0)
    assert len({(a, b) for a, b, _ in once.tolist()}) == n_pairs
    assert len(more) == n_pairs + 30


def test_all_votes_can_be_spent() -> None:
    world = synthetic_world().world
    (votes,) = seen_by(world, replace(PLAN, budgets=(world.n_votes,)), "real-hard", 0)
    assert len(votes) == world.n_votes


def test_piles_are_the_same_for_all_strategies_and_differ_by_seed() -> None:
    """The first vote of a pair is the same whoever asks for it."""
    world = synthetic_world(votes_a_pair=6, noise=2.0).world
    plan = Plan(budgets=(world.pool.n_pairs,), batch=10, control=0.15)
    first = {
        (strategy, seed): rows(seen_by(world, plan, strategy, seed)[0])
        for strategy in ("random", "real-easy")
        for seed in (0, 1)
    }
    assert first["random", 0] == first["real-easy", 0]
    assert first["random", 0] != first["random", 1]


def test_piles_are_drawn_evenly() -> None:
    """Which of a pair's votes comes first is a fair draw."""
    world = synthetic_world(votes_a_pair=3).world
    drawn = np.zeros(world.n_votes)
    for seed in range(400):
        ballots = Ballots(world, seed)
        ballots.take(np.arange(world.pool.n_pairs), np.zeros(world.pool.n_pairs, dtype=np.bool_))
        drawn[ballots.drawn()] += 1
    in_pile = np.bincount(world.vote_pair)[world.vote_pair]
    assert drawn / 400 == pytest.approx(1 / in_pile, abs=0.12)


def test_control_votes_are_drawn_alike_for_all_strategies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = synthetic_world().world
    chosen: dict[str, list[tuple[int, set[int]]]] = {}
    real = replay_module.choose_batch

    def watched(pool, strategy, n, n_control, seed):  # type: ignore[no-untyped-def]
        choice = real(pool, strategy, n, n_control, seed)
        of = chosen.setdefault(strategy.__name__, [])
        of.append((n_control, set(choice.positions[choice.control].tolist())))
        return choice

    monkeypatch.setattr(replay_module, "choose_batch", watched)
    for strategy in ("random", "real-easy"):
        replay(world, PLAN, strategy, 5, ridge)
    assert chosen["random"][0] == chosen["real_easy"][0]  # later ones: other pairs are left
    # 10 pairs a batch, 15 % of them control, and never across a budget.
    assert [n for n, _ in chosen["real_easy"]] == [2] * 9
    assert len(chosen["random"]) == 9


def test_no_batch_goes_past_a_budget() -> None:
    plan = Plan(budgets=(20, 200, 400), batch=15, control=0.15)
    assert [plan.batch_size(n) for n in (0, 15, 20, 190, 200, 390)] == [15, 5, 15, 10, 15, 10]


def test_held_out_prompts_are_never_shown_and_alone_are_measured() -> None:
    world = synthetic_world().world
    held = held_out_prompts(world, 4)
    assert held.sum() == 2  # a fifth of the eleven with votes
    plan = replace(PLAN, set_aside=PROMPTS)
    votes = seen_by(world, plan, "real-easy", 4)[-1]
    assert not held[world.pool.prompt_of_response[votes[:, :2]]].any()
    run = replay(world, plan, "random", 4, ridge)
    assert not run.counted[~held].any()
    assert run.counted[held].all()
    assert not run.unseen[:, ~held].any()
    assert not np.array_equal(held, held_out_prompts(world, 5))


def test_reserved_votes_are_never_shown_and_alone_are_measured() -> None:
    world = synthetic_world(votes_a_pair=2).world
    reserved = reserved_votes(world, 4)
    assert reserved.sum() == round(0.2 * world.n_votes)
    plan = replace(PLAN, budgets=(30, world.n_votes - reserved.sum()), set_aside=VOTES)
    drawn = rows(seen_by(world, plan, "real-easy", 4)[-1])
    pool, pair = world.pool, world.vote_pair
    votes = np.stack([pool.pair_a[pair], pool.pair_b[pair], world.vote_grade], axis=1)
    assert drawn == rows(votes[~reserved])  # all others, in the end
    run = replay(world, plan, "random", 4, ridge)
    decided = reserved & (world.vote_grade != 0)
    of_prompt = np.bincount(pool.prompt_of_pair[pair[decided]], minlength=pool.n_prompts)
    assert np.array_equal(run.counted, of_prompt)
    assert np.array_equal(run.unseen, [of_prompt, of_prompt])  # calibration goes by them too
    belief = RidgeLearner(world).learn(Votes(*votes[~reserved].T))
    foretold = np.sign(
        belief.reward_mean[votes[decided, 0]] - belief.reward_mean[votes[decided, 1]]
    )
    assert run.right[-1].sum() == np.count_nonzero(foretold == votes[decided, 2])
    assert not np.array_equal(reserved, reserved_votes(world, 5))


def test_a_pair_whose_votes_are_all_set_aside_is_not_shown() -> None:
    world = synthetic_world(votes_a_pair=1).world
    reserved = reserved_votes(world, 0)
    pool = Ballots(world, 0, reserved).pool()
    assert pool.n_pairs == world.n_votes - reserved.sum()
    ballots = Ballots(world, 0, reserved)
    everything = np.arange(pool.n_pairs)
    ballots.take(everything, np.zeros(pool.n_pairs, dtype=np.bool_))
    assert ballots.n_taken == ballots.n_votes
    assert np.array_equal(ballots.not_drawn(), reserved)


def test_what_is_set_aside_changes_nothing_in_the_other_piles() -> None:
    """The votes that are left come in the order in which they would have come."""
    world = synthetic_world(votes_a_pair=5, noise=2.0).world
    reserved = reserved_votes(world, 1)
    whole, rest = Ballots(world, 1), Ballots(world, 1, reserved)
    order = whole._order
    assert np.array_equal(rest._order[~reserved[rest._order]], order[~reserved[order]])


def test_the_same_seed_replays_to_the_same_run() -> None:
    world = synthetic_world().world
    first, second, other = (replay(world, PLAN, "real-easy", s, ridge) for s in (1, 1, 2))
    for field in fields(Run):
        if field.name != "seconds":
            assert np.array_equal(getattr(first, field.name), getattr(second, field.name), True)
    assert not np.array_equal(first.right, other.right)


def test_calibration_is_on_votes_that_were_not_seen() -> None:
    world = synthetic_world().world
    plan = replace(PLAN, budgets=(40, world.n_votes))
    first, last = replay(world, plan, "random", 2, ridge).unseen.sum(axis=1)
    shown = seen_by(world, plan, "random", 2)[0]
    assert first == np.count_nonzero(world.vote_grade) - np.count_nonzero(shown[:, 2])
    assert last == 0


def test_what_is_measured_gets_better_with_votes() -> None:
    world = synthetic_world(noise=0.2, ties=0.0).world
    runs = [replay(world, replace(PLAN, budgets=(3, 90), batch=3), "random", s, ridge)
            for s in range(5)]  # fmt: skip
    few, many = np.mean([run.right.sum(axis=1) / run.counted.sum() for run in runs], axis=0)
    assert 0.5 < few < many - 0.05
    assert many > 0.9


@dataclass(frozen=True)
class Told:
    """What a strategy was shown before one batch."""

    eligible: np.ndarray
    votes: np.ndarray
    margin: np.ndarray


def adaptive(told: list[Told]) -> Strategy:
    @needs("posterior")
    def ask_what_is_least_sure(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
        margin = pool.signal("pair_error")
        told.append(Told(pool.pair_eligible.copy(), pool.signal("pair_votes").copy(), margin))
        eligible = np.flatnonzero(pool.pair_eligible)
        return Selection.of(eligible[np.argsort(margin[eligible], kind="stable")[:n]])

    return ask_what_is_least_sure


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """A strategy `least-sure` that goes by the learner of the tests, and what it was shown."""
    shown: list[Told] = []

    def with_margins(pool, belief, pair_votes):  # type: ignore[no-untyped-def]
        margin = np.abs(belief.reward_mean[pool.pair_a] - belief.reward_mean[pool.pair_b])
        return pool.with_signals(pair_error=margin, pair_votes=pair_votes)

    monkeypatch.setattr(replay_module, "with_posterior", with_margins)
    monkeypatch.setitem(STRATEGIES, "least-sure", adaptive(shown))
    return shown


def test_what_goes_by_the_posterior_is_told_every_vote(told: list[Told]) -> None:
    world = synthetic_world(votes_a_pair=4).world
    learners: list[list[np.ndarray]] = []

    def witness(world: World) -> Witness:
        learners.append([])
        return Witness(world, learners[-1])

    replay(world, PLAN, "least-sure", 0, witness)
    seen, judged = learners
    assert [len(votes) for votes in seen] == [10 * i for i in range(9)]  # before every batch
    # The learner that is measured hears of them as often as with any other strategy.
    assert [len(votes) for votes in judged] == [20, 50, 90]
    assert [shown.votes.sum() for shown in told] == [10 * i for i in range(9)]
    for votes, shown in zip(seen, told, strict=True):
        reward = RidgeLearner(world).learn(Votes(*votes.T)).reward_mean
        expected = np.abs(reward[world.pool.pair_a] - reward[world.pool.pair_b])
        assert shown.margin == pytest.approx(expected)


def test_no_pair_is_asked_again_before_all_were_asked(told: list[Told]) -> None:
    world = synthetic_world(votes_a_pair=4).world
    n_pairs = world.pool.n_pairs
    plan = replace(PLAN, control=0.0, budgets=(n_pairs // 2, n_pairs + 20))
    replay(world, plan, "least-sure", 0, ridge)
    in_pile = np.bincount(world.vote_pair)
    for shown in told:
        # Its arms draw nothing before it, so what it sees is what may be asked.
        if shown.votes.all():
            assert np.array_equal(shown.eligible, shown.votes < in_pile)
        else:
            assert np.array_equal(shown.eligible, shown.votes == 0)
    assert max(shown.votes.max() for shown in told) > 1


# Errors.


def test_more_votes_than_there_are_is_an_error() -> None:
    world = synthetic_world().world
    with pytest.raises(SimulationError, match=f"has {world.n_votes} to draw"):
        replay(world, replace(PLAN, budgets=(world.n_votes + 1,)), "random", 0, ridge)


def test_one_prompt_cannot_be_held_out() -> None:
    world = synthetic_world(sizes=(6,)).world
    with pytest.raises(SimulationError, match="one prompt"):
        held_out_prompts(world, 0)


def test_what_cannot_be_replayed_is_said_before_anything_runs(tmp_path: Path) -> None:
    world = synthetic_world().world
    good = Request(("real-easy",), (20,), 1)
    for request, error, said in [
        (replace(good, strategies=("real-eazy",)), UnknownStrategy, "real-eazy"),
        (replace(good, metric="accuracy"), SimulationError, "no metric"),
        (replace(good, budgets=(0, 5)), SimulationError, "budgets"),
        (replace(good, budgets=(5000, 9000)), SimulationError, "5,000 votes, and the set has 185"),
    ]:
        with pytest.raises(error, match=said):
            simulate(world, request, tmp_path, make_learner=ridge)
    assert list(tmp_path.rglob("*")) == []


def test_budgets_beyond_the_votes_are_left_out_and_said(tmp_path: Path) -> None:
    world = synthetic_world().world
    done = simulate(world, Request((), (40, 20, 999), 1), tmp_path, make_learner=ridge)
    assert done.request.budgets == (20, 40)
    assert done.request.strategies == ("random",)
    assert any("999" in note and "185" in note for note in done.notes)
    assert any("One seed" in note for note in done.notes)


# Resuming.


def test_a_second_call_replays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, request = synthetic_world().world, Request(("real-easy",), (20, 60), 2)
    first = account(simulate(world, request, tmp_path, make_learner=ridge), replicates=50)
    monkeypatch.setattr("annotator.simulate.simulation.replay", None)
    assert account(simulate(world, request, tmp_path, make_learner=ridge), replicates=50) == first
    ranks = replace(request, metric="rank-correlation")
    simulate(world, ranks, tmp_path, make_learner=ridge)  # the same runs


@pytest.mark.parametrize("change", [{"control": 0.3}, {"batch": 4}, {"budgets": (20, 61)}])
def test_another_plan_is_another_run(tmp_path: Path, change: dict[str, object]) -> None:
    world, request = synthetic_world().world, Request((), (20, 60), 1)
    simulate(world, request, tmp_path, make_learner=ridge)
    simulate(world, replace(request, **change), tmp_path, make_learner=ridge)
    assert len(list(tmp_path.rglob("*.npz"))) == 2


def test_other_votes_or_another_learner_are_another_run(tmp_path: Path) -> None:
    world, request = synthetic_world().world, Request((), (20,), 1)
    other = replace(world, vote_grade=-world.vote_grade)
    simulate(world, request, tmp_path, make_learner=ridge)
    simulate(other, request, tmp_path, make_learner=ridge)
    simulate(world, request, tmp_path, make_learner=slow_ridge)
    assert len(list(tmp_path.rglob("*.npz"))) == 3


def test_a_damaged_run_is_replayed(tmp_path: Path) -> None:
    world, request = synthetic_world().world, Request((), (20,), 1)
    whole = simulate(world, request, tmp_path, make_learner=ridge)
    (path,) = tmp_path.rglob("*.npz")
    for damage in (b"", path.read_bytes()[:200]):
        path.write_bytes(damage)
        again = simulate(world, request, tmp_path, make_learner=ridge)
        assert np.array_equal(again.runs["random"][0].right, whole.runs["random"][0].right)


def test_several_processes_come_to_the_same(tmp_path: Path) -> None:
    world, request = synthetic_world().world, Request(("real-easy",), (20, 60), 2)
    alone = simulate(world, request, tmp_path / "1", make_learner=ridge)
    before = os.environ.get("OPENBLAS_NUM_THREADS")
    both = simulate(world, replace(request, jobs=2), tmp_path / "2", make_learner=ridge)
    assert os.environ.get("OPENBLAS_NUM_THREADS") == before
    for name in alone.runs:
        for one, two in zip(alone.runs[name], both.runs[name], strict=True):
            assert np.array_equal(one.right, two.right)


SCRIPT = """
import sys
from itertools import pairwise
from pathlib import Path
from annotator.simulate.simulation import Request, checked, simulate
from tests.synthetic_world import slow_ridge, synthetic_world

if __name__ == "__main__":
    request = Request(("real-easy",), (20, 40, 60), 3, jobs=int(sys.argv[2]))
    try:
        simulate(synthetic_world().world, request, Path(sys.argv[1]), make_learner=slow_ridge)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def start(tmp_path: Path, jobs: int) -> subprocess.Popen[bytes]:
    script = tmp_path / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "cache"), str(jobs)],
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition, seconds: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def members_of(session: int) -> list[int]:
    """Living processes of that session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rsplit(")", 1)[1].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_session) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_simulation_goes_on(tmp_path: Path, jobs: int, how: signal.Signals) -> None:
    finished = tmp_path / "cache" / "runs"
    process = start(tmp_path, jobs)
    wait_for(lambda: list(finished.glob("*.npz")))
    process.send_signal(how)
    assert process.wait(30) == (-how if how == signal.SIGKILL else 130)
    wait_for(lambda: not members_of(process.pid))  # workers do not outlive it
    kept = {path.name: path.stat().st_mtime_ns for path in finished.glob("*.npz")}
    assert 1 <= len(kept) < 6

    assert start(tmp_path, jobs).wait(60) == 0
    after = {path.name: path.stat().st_mtime_ns for path in finished.glob("*.npz")}
    assert len(after) == 6
    assert {name: after[name] for name in kept} == kept  # what was finished was not done again

    world, request = synthetic_world().world, Request(("real-easy",), (20, 40, 60), 3)
    resumed = simulate(world, request, tmp_path / "cache", make_learner=slow_ridge)
    whole = simulate(world, request, tmp_path / "whole", make_learner=ridge)
    for name in whole.runs:
        for one, two in zip(whole.runs[name], resumed.runs[name], strict=True):
            assert np.array_equal(one.right, two.right)


def test_half_a_file_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replay(synthetic_world().world, PLAN, "random", 0, ridge)
    store = RunStore(tmp_path, "world", PLAN, "ridge")

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        store.save("random", 0, run)
    assert list(tmp_path.iterdir()) == []
    assert store.load("random", 0) is None


# The real learner.


@pytest.mark.parametrize("set_aside", [NOTHING, PROMPTS, VOTES])
def test_hybrid_is_replayed_with_the_preference_model(set_aside: str) -> None:
    world = synthetic_world(noise=0.3).world
    plan = Plan(budgets=(20, 60), batch=10, control=0.15, set_aside=set_aside)
    runs = [replay(world, plan, "hybrid", seed) for seed in (1, 1, 2, 3)]
    assert np.array_equal(runs[0].right, runs[1].right)
    few, many = (
        sum(run.right[i].sum() for run in runs) / sum(run.counted.sum() for run in runs)
        for i in (0, 1)
    )
    assert few > 0.55
    assert max(0.65, few - 0.05) < many
    assert all((run.brier.sum(axis=1) / run.unseen.sum(axis=1) < 0.25).all() for run in runs)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_is_replayed(name: str) -> None:
    world = synthetic_world(votes_a_pair=4).world
    run = replay(world, Plan(budgets=(12, 24), batch=6, control=0.15), name, 0)
    assert run.right.shape == (2, world.pool.n_prompts)


def coin_tosses(seed: int) -> World:
    """A vote on every pair, that says nothing of anything."""
    rng = np.random.default_rng(seed)
    prompts = np.repeat(np.arange(30), 4)
    a, b = all_pairs(prompts)
    features = synthetic_features(rng, prompts)
    return world_of("coin tosses", features, (a, b, rng.choice([-1, 1], len(a)).astype(np.int64)))


def test_votes_that_were_set_aside_see_no_saving_in_coin_tosses(tmp_path: Path) -> None:
    """Where every vote is noise, asking settles the pairs that were asked and tells of no other."""
    world = coin_tosses(0)
    request = Request(("hybrid", "expected-error"), (30, 60, 120), seeds=6)
    told = {
        metric: account(simulate(world, replace(request, metric=metric), tmp_path))
        for metric in ("pair-accuracy", "reserved-accuracy")
    }
    for name in ("random", "hybrid", "expected-error"):
        assert told["pair-accuracy"]["strategies"][name]["mean"][-1] > 0.7
        assert told["reserved-accuracy"]["strategies"][name]["mean"][-1] == pytest.approx(
            0.5, abs=0.1
        )
    verdicts = {saved["verdict"] for saved in told["reserved-accuracy"]["saved"].values()}
    assert verdicts == {"no measurable difference"}
    assert any("votes that nobody was shown" in note for note in told["pair-accuracy"]["notes"])
    assert not any("nobody was shown" in note for note in told["reserved-accuracy"]["notes"])


# Data maps of several judges.


def judged_world(seed: int = 0) -> World:
    """A world whose files brought two judges, one of whom left responses out."""
    world = synthetic_world(seed).world
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, world.pool.n_responses))
    second[::7] = np.nan
    return replace(world, scores={"llm:one": first, "llm:two": second})


def test_each_judges_map_is_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the strategy sees is that judge's scores, and peer agreement where none is named."""
    world, real = judged_world(), replay_module.choose_batch
    seen: list[np.ndarray] = []

    def watched(pool, strategy, n, n_control, seed):  # type: ignore[no-untyped-def]
        seen.append(pool.signal("response_score"))
        return real(pool, strategy, n, n_control, seed)

    monkeypatch.setattr(replay_module, "choose_batch", watched)
    peers = peer_agreement(world.pool.response_vectors, world.pool.prompt_of_response)
    for judge, scores in (("", peers), ("@llm:one", None), ("@llm:two", None)):
        seen.clear()
        replay(world, replace(PLAN, budgets=(20,)), f"datamap-low-mean{judge}", 0, ridge)
        wanted = world.scores[judge[1:]] if scores is None else scores
        assert len(seen) == 2
        assert all(np.array_equal(got, wanted, equal_nan=True) for got in seen)


def test_runs_by_different_judges_are_kept_apart(tmp_path: Path) -> None:
    world = judged_world()
    names = tuple(f"datamap-high-variance@{judge}" for judge in world.scores)
    request = Request((*names, "datamap-high-variance"), (20, 40), seeds=2)
    done = simulate(world, request, tmp_path, make_learner=ridge)
    assert list(done.runs) == ["random", *names, "datamap-high-variance"]
    first, second = (np.stack([run.right for run in done.runs[name]]) for name in names)
    assert not np.array_equal(first, second)
    n_files = len(list(tmp_path.rglob("*.npz")))
    assert n_files == 8
    other = replace(world, scores={**world.scores, "llm:one": -world.scores["llm:one"]})
    simulate(other, request, tmp_path, make_learner=ridge)
    assert len(list(tmp_path.rglob("*.npz"))) == n_files + 2  # the other judge's stand


@pytest.mark.parametrize(
    ("name", "message"),
    [("hybrid@llm:one", "goes by none"), ("datamap-low-mean@", "no scores after the @")],
)
def test_scores_that_cannot_matter_are_an_error(name: str, message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        checked(Request((name,), (20,), seeds=1))
