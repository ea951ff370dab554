"""A round on a real database: what is chosen, what is recorded of it, what is left for the next."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlite_utils import Database

from annotator.cli import main
from annotator.doctor import broken_invariants
from annotator.rounds.batch import Batch, BatchRequest, choose_and_record
from annotator.rounds.pool import build_pool
from annotator.signals.embeddings import embed_missing, response_vectors
from annotator.store import open_db
from strategies.pool import PoolTooSmall
from tests.fake_encoder import FakeEncoder
from tests.ready_project import N_PAIRS, copy_project, make_project, rows_of, table_counts
from tests.small_world import add_prompts
from tests.test_strategies_registry import install

Pair = tuple[int, int]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return copy_project(made, tmp_path / "project")


class World:
    """Candidates with made-up vectors, and rounds on them."""

    def __init__(self, db: Database, path: Path, sizes: list[int]) -> None:
        self.db, self.path = db, path
        add_prompts(db, sizes)
        self.embed()

    def embed(self) -> None:
        self.encoder_id = embed_missing(self.db, FakeEncoder(), self.path).encoder_id

    def choose(self, n: int, *, dry_run: bool = False, **settings: Any) -> Batch:
        request = {"strategy": "real-easy", "control": 0.2, "overlap": 1, "seed": 5} | settings
        return choose_and_record(
            self.db, self.path, self.encoder_id, BatchRequest(n=n, **request), dry_run=dry_run
        )

    def picked(self) -> list[Pair]:
        return self.db.execute("SELECT a_id, b_id FROM picks ORDER BY id").fetchall()

    def all_pairs(self) -> set[Pair]:
        """Every pair within a prompt, the response with the smaller key first."""
        rows = self.db.execute("SELECT prompt_id, response_key, id FROM responses").fetchall()
        rows.sort()
        return {(x[2], y[2]) for x, y in combinations(rows, 2) if x[0] == y[0]}

    def eligible(self) -> set[Pair]:
        candidates = build_pool(self.db, self.path, self.encoder_id)
        pool, ids = candidates.pool, candidates.response_ids
        open_ = np.flatnonzero(pool.pair_eligible)
        return set(
            zip(ids[pool.pair_a[open_]].tolist(), ids[pool.pair_b[open_]].tolist(), strict=True)
        )


@pytest.fixture
def world(db: Database, tmp_path: Path) -> World:
    return World(db, tmp_path / "annotator.db", [2, 5, 3, 2, 4, 6])


def test_what_is_recorded_of_a_round(world: World) -> None:
    batch = world.choose(10, overlap=3)
    (head,) = world.db.query("SELECT * FROM rounds")
    assert (head["strategy"], head["seed"], head["overlap"]) == ("real-easy", 5, 3)
    assert (head["n_acquired"], head["n_control"], head["encoder_id"]) == (8, 2, world.encoder_id)
    pool = json.loads(head["pool"])
    assert pool | {"fingerprint": ""} == {
        "n_prompts": 6, "n_responses": 22, "n_pairs": 36, "n_eligible": 36, "n_redundant": 0,
        "fingerprint": "",
    }  # fmt: skip
    assert len(pool["fingerprint"]) == 32
    assert batch.round_id == head["id"] and batch.n_votes == 30
    tasks = world.db.execute("SELECT pick_id, task_key, state FROM tasks ORDER BY pick_id")
    picks = world.db.execute("SELECT id, pair_key FROM picks ORDER BY id")
    assert tasks.fetchall() == [(*pick, "pending") for pick in picks.fetchall()]
    assert broken_invariants(world.db) == []


def test_what_is_recorded_of_a_pick(world: World) -> None:
    world.choose(10)
    keys = dict(world.db.execute("SELECT id, response_key FROM responses").fetchall())
    picks = list(world.db.query("SELECT * FROM picks ORDER BY place"))
    assert [pick["place"] for pick in picks] == list(range(10))
    assert {(pick["a_id"], pick["b_id"]) for pick in picks} <= world.all_pairs()
    assert all(keys[pick["a_id"]] < keys[pick["b_id"]] for pick in picks)
    assert len({pick["pair_key"] for pick in picks}) == 10
    by_arm = {arm: [p for p in picks if p["arm"] == arm] for arm in ("control", "acquired")}
    assert [len(by_arm[arm]) for arm in ("control", "acquired")] == [2, 8]
    for pick in by_arm["control"]:
        assert (pick["strategy"], pick["score"]) == ("random", None)
        assert pick["propensity"] == pytest.approx(2 / 36)
    for arm, n in (("control", 2), ("acquired", 8)):
        assert sorted(pick["draw"] for pick in by_arm[arm]) == list(range(n))
        assert Counter(pick["side_order"] for pick in by_arm[arm]) == {"ab": n // 2, "ba": n // 2}


def test_the_score_of_a_pick_is_that_of_its_pair(world: World) -> None:
    """Worked out again from the vectors: a shifted position would give another pair's score."""
    world.choose(12, strategy="real-easy-ranked")
    rows = world.db.execute("SELECT a_id, b_id, score FROM picks WHERE arm = 'acquired'").fetchall()
    a, b, scores = (np.array(column) for column in zip(*rows, strict=True))
    left, right = (
        response_vectors(world.db, world.path, world.encoder_id, ids.astype(np.int64)).astype(float)
        for ids in (a, b)
    )
    assert scores == pytest.approx(1 - (left * right).sum(axis=1), abs=1e-5)


def test_the_same_seed_on_equal_databases_gives_the_same_batch(tmp_path: Path) -> None:
    chosen = []
    for name in ("one", "two"):
        path = tmp_path / name / "annotator.db"
        path.parent.mkdir()
        db = open_db(path, create=True)
        world = World(db, path, [4, 2, 7, 3])
        batches = [world.choose(6, seed=99), world.choose(6, seed=99)]
        chosen.append([(batch.head, batch.picks) for batch in batches])
        db.close()
    assert chosen[0] == chosen[1]


def test_without_a_seed_each_batch_has_its_own(world: World) -> None:
    seeds = {world.choose(5, seed=None, dry_run=True).head.seed for _ in range(5)}
    assert len(seeds) == 5
    assert max(seeds) < 2**53


def test_a_seed_replays_the_batch_that_drew_it(world: World) -> None:
    first = world.choose(9, seed=None, dry_run=True)
    assert world.choose(9, seed=first.head.seed, dry_run=True) == first


@pytest.mark.parametrize("sizes", [[2] * 9, [70, 2, 3], [5, 2, 12, 2]], ids=str)
@pytest.mark.parametrize("strategy", ["real-easy", "real-hard", "real-centroid", "random"])
def test_rounds_never_repeat_a_pair(
    db: Database, tmp_path: Path, sizes: list[int], strategy: str
) -> None:
    world = World(db, tmp_path / "annotator.db", sizes)
    everything = world.all_pairs()
    assert world.eligible() == everything
    for n in (4, 3, 2):
        world.choose(n, strategy=strategy, seed=None)
        assert world.eligible() == everything - set(world.picked())
    assert len(set(world.picked())) == 9
    assert broken_invariants(db) == []


def test_pairs_stay_the_same_when_candidates_come_later(world: World) -> None:
    """Responses that join old prompts: ids no longer follow prompts or keys."""
    world.choose(8)
    add_later(world.db, "answer {} that came later")
    world.embed()
    ids = build_pool(world.db, world.path, world.encoder_id).response_ids
    assert (np.diff(ids) < 0).any()
    assert world.eligible() == world.all_pairs() - set(world.picked())
    world.choose(20)
    assert len(set(world.picked())) == 28
    assert world.eligible() == world.all_pairs() - set(world.picked())
    assert broken_invariants(world.db) == []


def add_later(db: Database, text: str) -> None:
    """One more response to every prompt."""
    from annotator.candidates.identity import response_key, text_hash

    for prompt_id, key in db.execute("SELECT id, prompt_key FROM prompts").fetchall():
        said = text.format(prompt_id)
        db.execute(
            """INSERT INTO responses (response_key, prompt_id, text, text_hash, import_id)
            VALUES (?, ?, ?, ?, 1)""",
            [response_key(key, said), prompt_id, said, text_hash(said)],
        )


def test_the_whole_pool_and_then_nothing(world: World) -> None:
    world.choose(36)
    assert set(world.picked()) == world.all_pairs()
    with pytest.raises(PoolTooSmall) as caught:
        world.choose(1)
    assert (caught.value.asked, caught.value.eligible) == (1, 0)


def test_a_batch_larger_than_the_pool_records_nothing(world: World) -> None:
    world.choose(30)
    with pytest.raises(PoolTooSmall) as caught:
        world.choose(7)
    assert (caught.value.asked, caught.value.eligible) == (7, 6)
    assert (world.db["rounds"].count, world.db["picks"].count, world.db["tasks"].count) == (
        1, 30, 30,
    )  # fmt: skip


def test_a_dry_run_records_nothing(world: World) -> None:
    before = world.db.conn.total_changes
    dry = world.choose(10, dry_run=True)
    assert dry.round_id is None
    assert world.db.conn.total_changes == before
    assert world.db["rounds"].count == 0
    assert world.choose(10).picks == dry.picks


def test_control_propensity_follows_the_pool_as_it_shrinks(world: World) -> None:
    for n_eligible in (36, 26, 16):
        batch = world.choose(10, control=0.5, seed=None)
        drawn = [pick.propensity for pick in batch.picks if pick.arm == "control"]
        assert drawn == pytest.approx([5 / n_eligible] * 5)
        assert batch.head.pool["n_eligible"] == n_eligible


# Through the command


def command(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["next-batch", *arguments, "--project", str(project)], catch_exceptions=False
    )


def test_eight_processes_at_once_take_disjoint_batches(project: Path) -> None:
    arguments = [sys.executable, "-m", "annotator", "next-batch", "-n", "5", "--no-push", "--json"]
    running = [
        subprocess.Popen(
            [*arguments, "--project", str(project)],
            cwd=Path(__file__).resolve().parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    done = [(*process.communicate(timeout=200), process.returncode) for process in running]
    assert [(code, err) for _, err, code in done] == [(0, "")] * 8
    assert sorted(json.loads(out)["round"] for out, _, _ in done) == list(range(1, 9))
    pairs = rows_of(project, "SELECT pair_key FROM picks")
    assert len(pairs) == len(set(pairs)) == 40
    # Each chose from what those before it had left.
    left = [
        json.loads(pool)["n_eligible"]
        for (pool,) in rows_of(project, "SELECT pool FROM rounds ORDER BY id")
    ]
    assert left == [N_PAIRS - 5 * i for i in range(8)]
    db = open_db(project / "annotator.db")
    assert broken_invariants(db) == []
    db.close()


PLUGINS = """
import numpy as np
from strategies.pool import Selection, eligible_for


def last_ones(pool, n, rng):
    return Selection.of(eligible_for(pool, n)[-n:], scores=np.arange(n, dtype=np.float64))


def twice(pool, n, rng):
    return Selection.of(np.repeat(eligible_for(pool, n)[:1], n))


def taken(pool, n, rng):
    return Selection.of(np.flatnonzero(~pool.pair_eligible)[:n])


def raises(pool, n, rng):
    raise ZeroDivisionError("in somebody else's code")
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution with four strategies, installed for this process and its children."""
    site = tmp_path / "site"
    site.mkdir()
    names = ("last-ones", "twice", "taken", "raises")
    install(site, "plug-ins", {n: f"plug_ins:{n.replace('-', '_')}" for n in names}, PLUGINS)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return site


def test_anothers_strategy_by_name(project: Path, plugins: Path) -> None:
    done = command(project, "-n", "6", "--strategy", "last-ones", "--no-push", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["strategy"] == "last-ones"
    query = "SELECT strategy, score FROM picks WHERE arm = 'acquired' ORDER BY draw"
    assert rows_of(project, query) == [("last-ones", float(i)) for i in range(5)]
    listed = CliRunner().invoke(main, ["next-batch", "--strategies"]).stdout
    assert re.search(r"^last-ones +from plug-ins$", listed, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "found"), [("twice", "chose a pair twice"), ("taken", "which is not eligible")]
)
def test_a_plugin_that_breaks_the_contract_is_named(
    project: Path, plugins: Path, name: str, found: str
) -> None:
    command(project, "-n", "8", "--no-push")
    before = table_counts(project)
    done = command(project, "-n", "8", "--control", "0", "--strategy", name, "--no-push")
    assert done.exit_code == 1
    assert found in done.stderr and "to do:" in done.stderr
    assert "fault of the strategy" in done.stderr
    assert table_counts(project) == before


def test_what_a_plugin_raises_itself_is_shown_whole_and_nothing_is_recorded(
    project: Path, plugins: Path
) -> None:
    before = table_counts(project)
    with pytest.raises(ZeroDivisionError, match="somebody else's code"):
        command(project, "-n", "8", "--strategy", "raises", "--no-push")
    assert table_counts(project) == before
