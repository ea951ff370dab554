"""Gold and repeats: how many, which, where in the batch, and that nothing gives them away."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sqlite_utils import Database

from annotator.candidates.catalog import response_table
from annotator.candidates.gold import gold_pairs
from annotator.candidates.identity import pair_key, showing_key
from annotator.candidates.ingest import import_files
from annotator.cli import main
from annotator.doctor import broken_invariants
from annotator.export.write import export_stream
from annotator.judge_check.project import check_project
from annotator.labels.votes import (
    ARMS,
    Vote,
    counted_votes,
    record_annotators,
    record_votes,
    repeated_votes,
)
from annotator.rounds import checks as checks_module
from annotator.rounds.batch import Batch, BatchRequest, choose_and_record
from annotator.rounds.checks import Checks, draw_checks, mixed_in, rounded_by_lot, share_of_recent
from annotator.rounds.picks import Pick
from annotator.rounds.signalled import SignalledStrategy
from annotator.rounds.sync import sync
from annotator.signals.embeddings import embed_missing
from annotator.signals.scores import record_judged
from annotator.store import open_db, writing
from annotator.studio.client import Studio
from annotator.studio.screen import answer_result
from strategies import STRATEGIES
from tests.fake_encoder import FakeEncoder
from tests.fake_studio import FakeStudio, fake_studio
from tests.pushed_world import be_impatient, push
from tests.ready_project import copy_project, make_project, rows_of, table_counts
from tests.small_world import add_prompts, add_round

PEOPLE = (2, 3)  # of the fake studio
JUDGE = "judge:rubric:m@h:helpful-v1-logprobs:12345678"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def import_gold(db: Database, folder: Path, n: int) -> None:
    """That many gold pairs on prompts of their own."""
    rows = [
        {"prompt": f"gold {i}", "chosen": f"right {i}", "rejected": f"wrong {i}"} for i in range(n)
    ]
    import_files(db, [write_rows(folder / "gold.jsonl", rows)], gold=True)


def drawn(db: Database, n: int, seed: int = 0, gold: float = 0.0, repeats: float = 0.0) -> Checks:
    return draw_checks(db, n, gold=gold, repeats=repeats, seed=seed)


class TestHowMany:
    def test_the_share_holds_in_the_long_run(self) -> None:
        rng = np.random.default_rng(0)
        for expected in (3.0, 0.3, 0.15, 2.5, 0.0, 100 * 0.29):
            found = [rounded_by_lot(expected, rng) for _ in range(4000)]
            nearest = round(expected, 9)
            assert set(found) <= {int(np.floor(nearest)), int(np.ceil(nearest))}
            assert abs(np.mean(found) - expected) < 5 * 0.5 / np.sqrt(4000)

    def test_of_a_hundred_pairs_three_and_three(self, db: Database, tmp_path: Path) -> None:
        import_gold(db, tmp_path, 10)
        voted(db, [20], {n: [1] for n in range(20)})
        checks = drawn(db, 100, gold=0.03, repeats=0.03)
        assert (checks.n_gold, checks.n_repeat, checks.notes) == (3, 3, [])

    def test_fewer_where_there_are_no_more_and_it_is_said(
        self, db: Database, tmp_path: Path
    ) -> None:
        # Of gold nobody has spoken.
        assert drawn(db, 100, gold=0.03, repeats=0.03).notes == ["repeats: 0 of 3; no votes yet"]
        import_gold(db, tmp_path, 2)
        voted(db, [4], {0: [1]})
        checks = drawn(db, 100, gold=0.03, repeats=0.03)
        assert (checks.n_gold, checks.n_repeat) == (2, 1)
        assert [note.split(";")[0] for note in checks.notes] == [
            "gold: 2 of 3 pairs", "repeats: 1 of 3",
        ]  # fmt: skip

    def test_none_where_none_is_asked_for(self, db: Database, tmp_path: Path) -> None:
        import_gold(db, tmp_path, 2)
        voted(db, [4], {0: [1]})
        assert drawn(db, 100) == Checks()


def voted(
    db: Database, rounds: list[int], votes: dict[int, list[int]], grade: str = "a_better"
) -> list[int]:
    """Rounds of these sizes on pairs of their own, and votes: place of the pair -> who, in order.

    Pairs are numbered through all rounds. Pick ids.
    """
    pairs = [pair for ids in add_prompts(db, [2] * sum(rounds)) for pair in combinations(ids, 2)]
    picks: list[int] = []
    for size in rounds:
        picks += add_round(db, pairs[len(picks) : len(picks) + size])
    with writing(db):
        db.execute(
            """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
            created_at) VALUES (1, 's', 'm', 5, 't', 's', 1, '')"""
        )
        record_annotators(db, "s", {i: f"person {i}" for i in range(1, 9)})
    cast(db, [(picks[place], who, grade) for place, people in votes.items() for who in people])
    return picks


def cast(db: Database, votes: list[tuple[int, int, str]]) -> None:
    """(pick, person, grade), as a sync would record them."""
    n = db["votes"].count
    with writing(db):
        rows = [
            Vote(n + i, n + i, "vote", f"2026-01-01T00:00:{i:02d}Z", {}, pick, who, grade)
            for i, (pick, who, grade) in enumerate(votes, start=1)
        ]
        record_votes(db, 1, rows, {})


class TestGold:
    def test_what_was_shown_least_comes_first(self, db: Database, tmp_path: Path) -> None:
        import_gold(db, tmp_path, 5)
        pairs = gold_pairs(db)
        record_gold(db, [pairs[0], pairs[3]])
        record_gold(db, [pairs[3]])
        for seed in range(20):
            checks = drawn(db, 10, seed, gold=0.4)
            chosen = [(pick.a_id, pick.b_id) for pick in checks.gold]
            assert set(chosen[:3]) == {pairs[1], pairs[2], pairs[4]}
            assert chosen[3] == pairs[0]
            assert "was shown before" in checks.notes[0]
            assert drawn(db, 10, seed, gold=0.3).notes == []

    def test_among_equals_it_is_drawn_uniformly(self, db: Database, tmp_path: Path) -> None:
        import_gold(db, tmp_path, 5)
        counts: Counter[tuple[int, int]] = Counter()
        for seed in range(1000):
            counts.update((p.a_id, p.b_id) for p in drawn(db, 10, seed, gold=0.2).gold)
        # Two of five, a binomial with p = 0.4: standard deviation 15.5.
        assert len(counts) == 5 and all(abs(n - 400) < 78 for n in counts.values())

    def test_a_pick_of_gold(self, db: Database, tmp_path: Path) -> None:
        import_gold(db, tmp_path, 4)
        keys = dict(db.execute("SELECT id, response_key FROM responses").fetchall())
        for place, pick in enumerate(drawn(db, 10, gold=0.3).gold):
            assert pick.pair_key == pair_key(keys[pick.a_id], keys[pick.b_id])
            assert (pick.arm, pick.place, pick.draw) == ("gold", place, place)
            assert (pick.strategy, pick.score, pick.propensity) == ("least-shown", None, None)


def record_gold(db: Database, pairs: list[tuple[int, int]]) -> list[int]:
    """A round of these gold pairs alone; pick ids."""
    from annotator.rounds.picks import Round, record_round
    from annotator.studio.outbox import queue_tasks

    drawn_ = drawn(db, 1000, gold=0.5).gold
    picks = {(pick.a_id, pick.b_id): pick for pick in drawn_}
    chosen = [mixed_in([], Checks(gold=[picks[pair]]), 0)[0] for pair in pairs]
    chosen = [Pick(**(vars(pick) | {"place": place})) for place, pick in enumerate(chosen)]
    with writing(db):
        head = Round("random", 1, 0, 0, 1, None, {}, n_gold=len(chosen))
        round_id, ids = record_round(db, head, chosen)
        keys = [f"{round_id}.{place}" for place in range(len(ids))]
        queue_tasks(db, list(zip(ids, keys, strict=True)))
    return ids


class TestRepeats:
    def test_a_pair_is_shown_again_with_its_sides_swapped(self, db: Database) -> None:
        picks = voted(db, [6], {0: [1], 3: [1], 4: [1], 5: [2]})  # 4 is control
        repeats = drawn(db, 10, repeats=0.5).repeats
        first = {
            (a, b): (key, side)
            for key, a, b, side in db.execute("SELECT pair_key, a_id, b_id, side_order FROM picks")
        }
        asked = {
            pick_id: (a, b) for pick_id, a, b in db.execute("SELECT id, a_id, b_id FROM picks")
        }
        assert {(p.a_id, p.b_id) for p in repeats} == {asked[picks[i]] for i in (0, 3, 5)}
        for place, pick in enumerate(repeats):
            key, side = first[pick.a_id, pick.b_id]
            assert (pick.pair_key, pick.side_order) == (key, {"ab": "ba", "ba": "ab"}[side])
            assert (pick.arm, pick.draw, pick.strategy) == ("repeat", place, "recent-voters")

    def test_its_score_is_its_voters_share_of_the_recent_votes(self, db: Database) -> None:
        voted(db, [6], {0: [1, 2], 1: [1], 2: [1], 3: [2], 5: [3]})  # 3 of 6, 2 of 6, 1 of 6
        repeats = drawn(db, 10, repeats=0.5).repeats
        places = db.execute("SELECT a_id, b_id, place FROM picks").fetchall()
        place = {(a, b): at for a, b, at in places}
        found = {place[p.a_id, p.b_id]: p.score for p in repeats}
        assert found == pytest.approx({0: 5 / 6, 1: 1 / 2, 2: 1 / 2, 3: 1 / 3, 5: 1 / 6})

    def test_pairs_are_drawn_by_that_share(self, db: Database) -> None:
        voted(db, [4], {0: [1], 1: [1], 2: [1], 3: [2]})  # 3/4, 3/4, 3/4, 1/4
        first: Counter[int] = Counter()
        repeats = 2000
        place = {(a, b): at for a, b, at in db.execute("SELECT a_id, b_id, place FROM picks")}
        for seed in range(repeats):
            (pick,) = drawn(db, 2, seed, repeats=0.5).repeats
            first[place[pick.a_id, pick.b_id]] += 1
        for at, chance in enumerate([0.3, 0.3, 0.3, 0.1]):
            spread = np.sqrt(repeats * chance * (1 - chance))
            assert abs(first[at] - repeats * chance) < 5 * spread

    def test_who_has_stopped_voting_is_not_waited_for(
        self, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks_module, "RECENT_VOTES", 3)
        picks = voted(db, [6], {0: [1], 1: [1], 2: [2], 3: [2], 5: [2]})
        place = dict(db.execute("SELECT a_id, id FROM picks").fetchall())
        found = drawn(db, 10, repeats=0.5)
        assert {place[p.a_id] for p in found.repeats} == {picks[2], picks[3], picks[5]}
        assert found.notes[0].startswith("repeats: 3 of 5")

    def test_share_of_recent_votes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert share_of_recent(np.array([7, 9, 7, 7])).tolist() == [0.75, 0.25, 0.75, 0.75]
        assert share_of_recent(np.array([], dtype=np.int64)).tolist() == []
        monkeypatch.setattr(checks_module, "RECENT_VOTES", 2)
        assert share_of_recent(np.array([7, 9, 7, 3])).tolist() == [0.5, 0.0, 0.5, 0.5]

    def test_what_was_voted_on_lately_waits(self, db: Database) -> None:
        """The second round's first vote came before the last vote on the first round."""
        votes = {0: [1], 1: [1], 2: [1], 4: [1], 3: [1], 5: [1]}  # 3 is of the first round
        picks = voted(db, [4, 4], votes)
        place = dict(db.execute("SELECT a_id, id FROM picks").fetchall())
        for seed in range(20):
            chosen = [place[p.a_id] for p in drawn(db, 10, seed, repeats=0.5).repeats]
            assert set(chosen[:3]) == {picks[0], picks[1], picks[2]}
            assert set(chosen[3:]) < {picks[3], picks[4], picks[5]}

    def test_what_does_not_qualify(self, db: Database, tmp_path: Path) -> None:
        """Skipped, offered by a machine, not voted on, gold, and repeated before."""
        picks = voted(db, [6], {0: [1], 4: [1], 5: [1]})
        with writing(db):
            record_votes(
                db,
                1,
                [
                    Vote(91, 91, "skip", "2026-01-01T01:00:00Z", {}, picks[1], 1),
                    Vote(92, 92, "vote", "2026-01-01T01:00:00Z", {}, picks[2], 1, "tie",
                         prefilled=True),
                ],
                {},
            )  # fmt: skip
        texts = dict(db.execute("SELECT id, text FROM responses").fetchall())
        a, b = db.execute("SELECT a_id, b_id FROM picks WHERE id = ?", [picks[4]]).fetchone()
        gold = {"prompt": "question 4", "chosen": texts[a], "rejected": texts[b]}
        import_files(db, [write_rows(tmp_path / "g.jsonl", [gold])], gold=True)
        assert gold_pairs(db) == [(a, b)]
        repeated = db.execute("SELECT a_id, b_id FROM picks WHERE id = ?", [picks[5]]).fetchone()
        with writing(db):
            db.execute(
                """INSERT INTO rounds (id, started_at, strategy, seed, n_acquired, n_control,
                overlap, pool, version, n_repeat)
                VALUES (9, '', 'random', 1, 0, 0, 1, '{}', '', 1)"""
            )
            db.execute(
                """INSERT INTO picks (round_id, place, pair_key, a_id, b_id, arm, draw, side_order,
                strategy) SELECT 9, 0, pair_key, ?, ?, 'repeat', 0, 'ab', 'recent-voters'
                FROM picks WHERE id = ?""",
                [*repeated, picks[5]],
            )
        (pick,) = drawn(db, 10, repeats=0.5).repeats
        assert (
            pick.a_id == db.execute("SELECT a_id FROM picks WHERE id = ?", [picks[0]]).fetchone()[0]
        )


class TestMixing:
    def picks(self, n: int) -> list[Pick]:
        return [
            Pick(i, f"key {i}", 2 * i, 2 * i + 1, "control" if i % 5 == 0 else "acquired", i,
                 "ab", "random", None, None)
            for i in range(n)
        ]  # fmt: skip

    def checks(self, n_gold: int, n_repeat: int) -> Checks:
        made = [
            Pick(i, f"check {i}", 1000 + 2 * i, 1001 + 2 * i, arm, i, "ab" if i % 3 else "ba",
                 "s", None, None)
            for i, arm in enumerate(["gold"] * n_gold + ["repeat"] * n_repeat)
        ]  # fmt: skip
        return Checks(made[:n_gold], made[n_gold:])

    def test_everything_is_there_once_at_places_of_its_own(self) -> None:
        picks, checks = self.picks(20), self.checks(3, 2)
        batch = mixed_in(picks, checks, seed=4)
        assert [pick.place for pick in batch] == list(range(25))
        sources = {pick.pair_key: pick for pick in [*picks, *checks.gold, *checks.repeats]}
        assert {pick.pair_key for pick in batch} == set(sources)
        for pick in batch:
            kept = {"place", "side_order"}
            before = vars(sources[pick.pair_key])
            assert {k: v for k, v in vars(pick).items() if k not in kept} == {
                k: v for k, v in before.items() if k not in kept
            }
            if pick.arm == "repeat":
                assert pick.side_order == before["side_order"]
        sides = [pick.side_order == "ab" for pick in batch]
        assert sum(sides) in {12, 13}
        assert all(2 <= sum(sides[i : i + 8]) <= 6 for i in range(18))

    def test_the_same_seed_mixes_the_same_way(self) -> None:
        one, same, other = (mixed_in(self.picks(20), self.checks(3, 2), s) for s in (4, 4, 5))
        assert one == same != other

    def test_without_checks_a_batch_stays_as_it_is(self) -> None:
        picks = self.picks(7)
        assert mixed_in(picks, Checks(), seed=1) is picks

    def test_checks_stand_anywhere(self) -> None:
        counts = np.zeros(25)
        for seed in range(800):
            batch = mixed_in(self.picks(20), self.checks(3, 2), seed)
            counts[[pick.place for pick in batch if pick.arm in ("gold", "repeat")]] += 1
        assert (np.abs(counts - 160) < 5 * np.sqrt(800 * 0.2 * 0.8)).all()


class Loop:
    """Candidates, gold, a server and people: everything from choosing to syncing."""

    def __init__(self, folder: Path, studio: Studio) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.studio, self.path = folder, studio, folder / "annotator.db"
        self.db = open_db(self.path, create=True)
        rows = [
            {"prompt": f"question {i}", "responses": [f"answer {j} to {i}" for j in range(4)]}
            for i in range(16)
        ]
        import_files(self.db, [write_rows(folder / "candidates.jsonl", rows)])
        import_gold(self.db, folder, 12)
        self.encoder_id = embed_missing(self.db, FakeEncoder(), self.path).encoder_id

    def choose(self, n: int, seed: int = 5, **settings: Any) -> Batch:
        shares = {"gold": 0.2, "repeats": 0.2, "strategy": "random", "control": 0.2, "overlap": 1}
        request = BatchRequest(n=n, seed=seed, **(shares | settings))
        return choose_and_record(self.db, self.path, self.encoder_id, request, dry_run=False)

    def send(self) -> None:
        push(self.db, self.studio)

    def answer(self, who: int, grade: str, arms: tuple[str, ...] = ARMS) -> int:
        """A vote, in the pair's frame, by that person on every task of these arms without one."""
        query = f"""SELECT t.studio_id, p.side_order FROM picks p JOIN tasks t ON t.pick_id = p.id
            WHERE p.arm IN ({", ".join("?" for _ in arms)}) AND t.state = 'swept' AND NOT EXISTS (
              SELECT 1 FROM current_votes v WHERE v.pick_id = p.id) ORDER BY p.id"""
        tasks = self.db.execute(query, arms).fetchall()
        for task, side_order in tasks:
            side = (
                {"a": "left", "b": "right"} if side_order == "ab" else {"a": "right", "b": "left"}
            )
            said = grade if grade == "tie" else side[grade[0]] + grade[1:]
            self.studio.submit(task, answer_result(said), completed_by=who)
        sync(self.db, self.studio)
        return len(tasks)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStudio]:
    be_impatient(monkeypatch)
    with fake_studio() as server:
        yield server


@pytest.fixture
def loop(fake: FakeStudio, tmp_path: Path) -> Iterator[Loop]:
    with Studio(fake.url, fake.token) as studio:
        made = Loop(tmp_path / "loop", studio)
        yield made
        assert broken_invariants(made.db) == []
        made.db.close()


class TestLoop:
    def test_votes_land_where_they_belong(self, loop: Loop) -> None:
        first = loop.choose(20)
        assert (first.head.n_gold, first.head.n_repeat) == (4, 0)
        assert Counter(p.arm for p in first.picks) == {"acquired": 16, "control": 4, "gold": 4}
        assert first.n_votes == 24
        assert any(note.startswith("repeats: 0 of 4") for note in first.notes)
        loop.send()
        assert loop.answer(PEOPLE[0], "a_better") == 24
        second = loop.choose(20, seed=6)
        assert (second.head.n_gold, second.head.n_repeat) == (4, 4)
        assert second.n_votes == 28
        loop.send()
        loop.answer(PEOPLE[0], "b_better", ("repeat",))
        loop.answer(PEOPLE[1], "tie", ("gold",))
        rounds = list(loop.db.query("SELECT n_acquired, n_control, n_gold, n_repeat FROM rounds"))
        assert [tuple(row.values()) for row in rounds] == [(16, 4, 4, 0), (16, 4, 4, 4)]

        before, after = repeated_votes(loop.db)
        assert before.grade.tolist() == [1] * 4 and after.grade.tolist() == [-1] * 4
        assert [ARMS[i] for i in after.arm] == ["repeat"] * 4
        np.testing.assert_array_equal(before.left_is_a, ~after.left_is_a)
        assert {ARMS[i] for i in before.arm} <= {"acquired", "control"}
        votes = counted_votes(loop.db)
        by_arm = Counter(ARMS[i] for i in votes.arm)
        assert by_arm == {"acquired": 16, "control": 4, "gold": 8}
        on_gold = votes.take(votes.arm == ARMS.index("gold"))
        pairs = list(zip(on_gold.a_ids.tolist(), on_gold.b_ids.tolist(), strict=True))
        assert set(pairs) <= set(gold_pairs(loop.db)) and len(set(pairs)) == 8

    def test_a_repeat_that_somebody_else_gets_is_one_more_vote(self, loop: Loop) -> None:
        loop.choose(20, gold=0.0)
        loop.send()
        loop.answer(PEOPLE[0], "a_better")
        loop.choose(20, seed=6, gold=0.0)
        loop.send()
        loop.answer(PEOPLE[1], "a_better", ("repeat",))
        votes = counted_votes(loop.db)
        assert Counter(ARMS[i] for i in votes.arm)["repeat"] == 4
        assert len(repeated_votes(loop.db)[0]) == 0
        rows = exported(loop.db, "trl")
        assert sorted(row["n_votes"] for row in rows) == [1] * 16 + [2] * 4
        assert {row["arm"] for row in rows} == {"acquired", "control"}

    def test_nothing_gives_a_check_away(self, loop: Loop, fake: FakeStudio) -> None:
        for seed in (5, 6, 7):
            loop.choose(20, seed=seed)
            loop.send()
            loop.answer(PEOPLE[0], "a_better")
        arm = dict(
            loop.db.execute(
                "SELECT t.studio_id, p.arm FROM tasks t JOIN picks p ON p.id = t.pick_id"
            ).fetchall()
        )
        by_arm: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
        for task in fake.tasks.values():
            by_arm[arm[task["id"]]].append(task)
        assert [len(by_arm[name]) for name in ARMS] == [48, 12, 12, 8]
        for tasks in by_arm.values():
            for task in tasks:
                assert set(task["data"]) == {
                    "task_key", "messages", "response_left", "response_right",
                }  # fmt: skip
                assert re.fullmatch("[0-9a-f]{32}", task["data"]["task_key"])
                shape = {k: type(v) for k, v in task.items()}
                assert shape == {k: type(v) for k, v in by_arm["acquired"][0].items()}
        assert len({task["project"] for task in fake.tasks.values()}) == 1
        keys = {task["data"]["task_key"] for task in fake.tasks.values()}
        assert len(keys) == len(fake.tasks)

    def test_gold_shown_again_has_a_key_of_its_own(self, loop: Loop) -> None:
        for seed in range(4):  # 4 of 12 each time: in the fourth round all have been shown
            loop.choose(20, seed=seed, repeats=0.0)
        loop.send()
        query = """SELECT p.pair_key, t.task_key FROM picks p JOIN tasks t ON t.pick_id = p.id
            WHERE p.arm = 'gold' ORDER BY p.id"""
        shown: dict[str, list[str]] = {}
        for key, task_key in loop.db.execute(query):
            shown.setdefault(key, []).append(task_key)
        assert Counter(len(keys) for keys in shown.values()) == {1: 8, 2: 4}
        for key, keys in shown.items():
            assert keys == [key, showing_key(key, 2)][: len(keys)]

    def test_sides_and_places(self, loop: Loop) -> None:
        loop.choose(20)
        loop.send()
        loop.answer(PEOPLE[0], "a_better")
        batch = loop.choose(20, seed=6)
        sides = [pick.side_order == "ab" for pick in batch.picks]
        assert sum(sides) == 14
        assert all(2 <= sum(sides[i : i + 8]) <= 6 for i in range(21))
        first = dict(
            loop.db.execute("SELECT pair_key, side_order FROM picks WHERE round_id = 1").fetchall()
        )
        for pick in batch.picks:
            if pick.arm == "repeat":
                assert pick.side_order != first[pick.pair_key]

    def test_candidates_are_chosen_as_if_there_were_no_checks(self, loop: Loop) -> None:
        """The same seed, with and without: the arms that are compared do not depend on checks."""
        loop.choose(20)
        loop.send()
        loop.answer(PEOPLE[0], "a_better")
        request = BatchRequest(n=20, strategy="random", control=0.2, overlap=1, seed=6)
        bare = choose_and_record(loop.db, loop.path, loop.encoder_id, request, dry_run=True)
        full = loop.choose(20, seed=6)
        kept = {(p.pair_key, p.arm, p.draw) for p in full.picks if p.arm in ("acquired", "control")}
        assert kept == {(p.pair_key, p.arm, p.draw) for p in bare.picks}

    def test_the_same_seed_gives_the_same_batch(self, loop: Loop, fake: FakeStudio) -> None:
        with Studio(fake.url, fake.token) as studio:
            other = Loop(loop.folder.with_name("other"), studio)
            for one in (loop, other):
                one.choose(20)
                one.send()
                one.answer(PEOPLE[0], "a_better")
            batches = [one.choose(20, seed=9).picks for one in (loop, other)]
            other.db.close()
        assert batches[0] == batches[1]

    def test_the_learner_sees_neither_gold_nor_repeats_twice(
        self, loop: Loop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A gold pair of two candidates, so that it is not left out for want of a vector.
        rows = [{"prompt": "question 3", "chosen": "answer 0 to 3", "rejected": "answer 1 to 3"}]
        import_files(loop.db, [write_rows(loop.folder / "inside.jsonl", rows)], gold=True)
        loop.choose(20, gold=0.5)
        loop.choose(10, seed=8, gold=0.5)  # 15 shown: every one of the 13
        loop.send()
        loop.answer(PEOPLE[0], "a_better")
        loop.choose(20, seed=6, gold=0.0)
        loop.send()
        loop.answer(PEOPLE[0], "b_better", ("repeat",))
        seen: list[int] = []
        true = SignalledStrategy._with_model

        def watch(self: SignalledStrategy, part: Any, votes: Any) -> Any:
            assert "gold" not in {ARMS[i] for i in votes.arm}
            pairs = list(zip(votes.a_ids.tolist(), votes.b_ids.tolist(), strict=True))
            assert len(set(pairs)) == len(pairs)
            assert set(votes.grade.tolist()) == {1}  # what was said first
            seen.append(len(votes))
            return true(self, part, votes)

        monkeypatch.setattr(SignalledStrategy, "_with_model", watch)
        assert "expected-error" in STRATEGIES
        loop.choose(10, seed=7, strategy="expected-error")
        assert seen == [30]

    def test_a_judge_is_not_checked_by_gold(self, loop: Loop) -> None:
        loop.choose(20)
        loop.send()
        loop.answer(PEOPLE[0], "a_better")
        ids = response_table(loop.db).response_ids
        graded = np.linspace(0.0, 1.0, len(ids))
        with writing(loop.db):
            record_judged(loop.db, JUDGE, ids, graded, np.zeros(len(ids)))
        assert check_project(loop.db, [JUDGE]).document["people"]["votes"] == 20

    def test_exports_hold_no_check_as_a_preference(self, loop: Loop) -> None:
        loop.choose(20)
        loop.send()
        loop.answer(PEOPLE[0], "a_better")
        loop.choose(20, seed=6)
        loop.send()
        loop.answer(PEOPLE[0], "b_much_better", ("repeat", "gold"))
        for name in ("trl", "trl-conversational", "hh"):
            rows = exported(loop.db, name)
            assert len(rows) == 20
            assert all(row["n_votes"] == 1 and row["margin"] == 1 for row in rows)
            assert not any("gold" in json.dumps(row["chosen"]) for row in rows)
        votes = exported(loop.db, "votes")
        assert Counter(row["arm"] for row in votes) == {
            "acquired": 16, "control": 4, "gold": 8, "repeat": 4,
        }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("made") / "project")


class TestCommand:
    @pytest.fixture
    def project(self, made: Path, tmp_path: Path) -> Path:
        folder = copy_project(made, tmp_path / "project")
        rows = [{"prompt": f"gold {i}", "chosen": "right", "rejected": "wrong"} for i in range(5)]
        write_rows(folder / "gold.jsonl", rows)
        return folder

    def run(self, project: Path, *arguments: str) -> Any:
        done = CliRunner().invoke(
            main,
            ["next-batch", "--no-push", "--json", *arguments, "--project", str(project)],
            catch_exceptions=False,
        )
        return done.exit_code, json.loads(done.stdout), done.stderr

    def test_gold_is_taken_in_and_mixed_in(self, project: Path) -> None:
        file = str(project / "gold.jsonl")
        code, batch, said = self.run(project, "-n", "10", "--gold", file, "--gold-share", "0.2")
        assert (code, batch["n_gold"], batch["n_repeat"], batch["votes_asked"]) == (0, 2, 0, 12)
        assert "took in 5 gold answers" in said
        code, batch, said = self.run(project, "-n", "10", "--gold", file, "--gold-share", "0.3")
        assert (code, batch["n_gold"], said) == (0, 3, "")
        query = "SELECT count(*), count(DISTINCT pair_key) FROM picks WHERE arm = 'gold'"
        assert rows_of(project, query) == [(5, 5)]

    def test_gold_from_the_settings(self, project: Path) -> None:
        settings = project / "annotator.toml"
        text = settings.read_text(encoding="utf-8")
        assert "gold = 0.03\n" in text and "repeats = 0.03\n" in text
        text = text.replace("# gold_file =", 'gold_file = "gold.jsonl"')
        settings.write_text(text.replace("gold = 0.03", "gold = 0.25"), encoding="utf-8")
        _, batch, said = self.run(project, "-n", "8")
        assert batch["n_gold"] == 2 and "took in 5" in said

    def test_a_bad_row_of_gold_stops_no_batch_and_is_complained_of(self, project: Path) -> None:
        with (project / "gold.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"prompt": "gold 0", "chosen": "wrong", "rejected": "right"}\n')
        arguments = ("-n", "10", "--gold", str(project / "gold.jsonl"), "--gold-share", "0.5")
        code, batch, said = self.run(project, *arguments)
        assert (code, batch["n_gold"]) == (3, 5)
        assert "contradicts an earlier gold answer" in said

    def test_a_kill_between_import_and_choice_loses_nothing(self, project: Path) -> None:
        """Killed when the gold is in and nothing is chosen; then the same command again."""
        arguments = ["next-batch", "-n", "10", "--no-push", "--json", "--seed", "4"]
        arguments += ["--gold", str(project / "gold.jsonl"), "--gold-share", "0.2"]
        arguments += ["--project", str(project)]
        script = (
            "import os\nfrom annotator.rounds import batch\n"
            "batch.draw_checks = lambda *_, **__: os._exit(9)\n"
            f"from annotator.cli import main\nmain({arguments!r})"
        )
        root = Path(__file__).resolve().parents[1]
        killed = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True)
        assert killed.returncode == 9, killed.stderr.decode()
        assert rows_of(project, "SELECT count(*) FROM gold") == [(5,)]
        before = {name: table_counts(project)[name] for name in ("rounds", "picks", "tasks")}
        assert set(before.values()) == {0}
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert (done.exit_code, json.loads(done.stdout)["n_gold"]) == (0, 2)
        assert rows_of(project, "SELECT count(*) FROM gold") == [(5,)]
        assert rows_of(project, "SELECT count(*) FROM imports WHERE purpose = 'gold'") == [(1,)]


def exported(db: Database, name: str) -> list[dict[str, Any]]:
    import io

    stream = io.StringIO()
    export_stream(db, name, stream)
    return [json.loads(line) for line in stream.getvalue().splitlines()]
