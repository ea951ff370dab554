"""Gold: what a labelled file says is known, and that it becomes nobody's candidate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlite_utils import Database

from annotator.candidates.catalog import count_candidates, n_candidates, response_table
from annotator.candidates.gold import GOLD_UNKNOWN, gold_answers, gold_pairs
from annotator.candidates.ingest import import_files
from annotator.candidates.outcome import ImportReport
from annotator.cli import main
from annotator.config import template
from annotator.labels import crowd
from annotator.rounds.pool import build_pool
from annotator.signals import vector_rows
from annotator.signals.datamap import build_map, ensure_map, map_entries, placed_prompts
from annotator.signals.embeddings import count_missing, embed_missing, vector_counts
from annotator.signals.judges.routes import prompts_with_responses, sizes_of_prompts
from annotator.signals.vector_rows import embedded_responses
from annotator.status import project_status
from annotator.store import open_db
from tests.fake_encoder import FakeEncoder

Row = dict[str, Any]


def written(path: Path, *rows: Row) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def trl(prompt: str, chosen: str, rejected: str) -> Row:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def native(prompt: str, texts: list[str], *labels: tuple[int, int, str, str | None]) -> Row:
    """Responses by number, and (a, b, label, kind) of each comparison."""
    return {
        "prompt": prompt,
        "responses": [{"id": str(i), "text": text} for i, text in enumerate(texts)],
        "comparisons": [
            {"a": str(a), "b": str(b), "label": label, "kind": kind} for a, b, label, kind in labels
        ],
    }


def take(db: Database, path: Path, *rows: Row, gold: bool = True) -> ImportReport:
    return import_files(db, [written(path, *rows)], gold=gold)


def answers(db: Database) -> dict[frozenset[str], str]:
    """The two texts of each gold pair -> the better one, or "tie"."""
    query = """SELECT a.text, b.text, g.label, a.response_key < b.response_key FROM gold g
        JOIN responses a ON a.id = g.a_id JOIN responses b ON b.id = g.b_id"""
    found = {}
    for a, b, label, in_order in db.execute(query):
        assert in_order
        found[frozenset((a, b))] = {"a": a, "b": b, "tie": "tie"}[label]
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gold.jsonl"


def reasons(report: ImportReport) -> str:
    return "\n".join(report.first_problems)


class TestImport:
    def test_labels_of_any_format_become_answers(self, db: Database, file: Path) -> None:
        take(db, file, *[trl(f"question {i}", f"good {i}", f"bad {i}") for i in range(6)])
        assert answers(db) == {frozenset((f"good {i}", f"bad {i}")): f"good {i}" for i in range(6)}
        other = file.with_name("native.jsonl")
        report = take(
            db,
            other,
            native("q", ["one", "two", "three"], (0, 1, "b", "human"), (2, 0, "tie", "objective")),
            native("r", ["four", "five"], (0, 1, "both_bad", None)),
        )
        assert report.total.labels_added == 3
        found = answers(db)
        assert found[frozenset(("one", "two"))] == "two"
        assert found[frozenset(("three", "one"))] == "tie"
        assert found[frozenset(("four", "five"))] == "tie"
        assert db["source_labels"].count == 0 and db["source_scores"].count == 0

    def test_twice_adds_nothing(self, db: Database, file: Path) -> None:
        rows = [trl(f"question {i}", f"good {i}", f"bad {i}") for i in range(4)]
        first = take(db, file, *rows)
        assert (first.total.labels_added, first.total.rejected) == (4, 0)
        before = db.conn.total_changes
        again = take(db, file, *rows, rows[0])
        assert not again.total.anything_added and again.total.rejected == 0
        assert (again.total.labels_known, again.total.prompts_known) == (5, 5)
        assert db.conn.total_changes == before

    def test_a_row_that_contradicts_an_earlier_answer_is_refused(
        self, db: Database, file: Path
    ) -> None:
        take(db, file, trl("q", "good", "bad"), trl("r", "yes", "no"))
        # In a file of its own, and in the same batch of one file.
        report = take(
            db,
            file.with_name("other.jsonl"),
            native("q", ["bad", "good"], (0, 1, "a", None)),
            native("r", ["yes", "no"], (0, 1, "tie", None)),
            native("s", ["new", "old"], (0, 1, "a", None)),
            native("s", ["new", "old"], (0, 1, "b", None)),
        )
        assert (report.total.rejected, report.total.labels_added) == (3, 1)
        said = reasons(report)
        assert "line 1: contradicts an earlier gold answer" in said
        assert "says that 'bad' is better than 'good', earlier it was that 'good' is better" in said
        assert "are equally good, earlier it was that 'yes' is better than 'no'" in said
        assert "line 4: contradicts" in said
        assert answers(db) == {
            frozenset(("good", "bad")): "good",
            frozenset(("yes", "no")): "yes",
            frozenset(("new", "old")): "new",
        }

    def test_a_refused_row_leaves_nothing(self, db: Database, file: Path) -> None:
        take(db, file, trl("q", "good", "bad"))
        row = native("q", ["good", "bad", "third"], (0, 2, "a", None), (0, 1, "b", None))
        report = take(db, file.with_name("other.jsonl"), row)
        assert report.total.rejected == 1
        assert db["responses"].count == 2 and db["gold"].count == 1

    def test_what_is_no_answer_is_refused(self, db: Database, file: Path) -> None:
        report = take(
            db,
            file,
            native("none", ["x", "y"]),
            native("a model's", ["x", "y"], (0, 1, "a", "llm:m")),
            native("both ways", ["x", "y"], (0, 1, "a", "human"), (0, 1, "b", "human")),
            native(
                "both ways known", ["x", "y"], (0, 1, "a", "objective"), (1, 0, "a", "objective")
            ),
        )
        assert report.total.rejected == 4 and db["prompts"].count == 0
        said = reasons(report)
        assert said.count("no label says which of two responses is better") == 2
        assert said.count("its labels contradict each other: 'x' is better than 'y', and 'y'") == 2

    def test_what_is_known_goes_before_what_people_said(self, db: Database, file: Path) -> None:
        said = [(0, 1, "b", "human"), (0, 1, "a", "objective"), (1, 0, "a", "human")]
        take(db, file, native("q", ["x", "y"], *said, (0, 1, "b", "llm:m")))
        assert answers(db) == {frozenset(("x", "y")): "x"}

    def test_only_what_an_answer_is_about_is_kept(self, db: Database, file: Path) -> None:
        row = native("q", ["a", "b", "c", "d", "e"], (4, 1, "a", None), (1, 4, "b", None))
        row["responses"][4]["scores"] = {"quality": 3.0}
        report = take(db, file, row)
        assert sorted(text for (text,) in db.execute("SELECT text FROM responses")) == ["b", "e"]
        assert answers(db) == {frozenset(("b", "e")): "e"}
        assert report.total.scores_added == 0 and db["source_scores"].count == 0

    def test_answers_by_position(self, db: Database, file: Path) -> None:
        rows = [["good", "bad"], (0, 1, "a", None)], [["x", "y"], (1, 0, "tie", None)]
        take(db, file, *(native(f"q{i}", *row) for i, row in enumerate(rows)))
        take(db, file.with_name("c.jsonl"), {"prompt": "s", "responses": ["1", "2"]}, gold=False)
        query = "SELECT id FROM responses ORDER BY prompt_id, response_key"
        ids = [row[0] for row in db.execute(query)]
        a, b = np.array(ids[::2]), np.array(ids[1::2])
        texts = dict(db.execute("SELECT id, text FROM responses").fetchall())
        better = 1 if texts[int(a[0])] == "good" else -1
        assert gold_answers(db, a, b).tolist() == [better, 0, GOLD_UNKNOWN]
        assert gold_answers(db, a[:0], b[:0]).shape == (0,)
        assert GOLD_UNKNOWN == crowd.GOLD_UNKNOWN  # two rooms that do not know each other
        assert gold_pairs(db) == sorted(zip(a[:2].tolist(), b[:2].tolist(), strict=True))


CANDIDATES = [
    {"prompt": f"candidate {i}", "responses": [f"{i}.{j}" for j in range(k)]}
    for i, k in enumerate([3, 2, 4])
]
GOLD = [
    trl("only gold", "good", "bad"),
    trl("candidate 0", "0.0", "0.2"),  # both are candidates
    trl("candidate 1", "1.1", "a worse one"),  # one is
    trl("a text that a candidate asks", "yes", "candidate 2"),  # a response like another's prompt
]


class TestGoldOnly:
    """Three prompts of candidates, with 3, 2 and 4 responses: 10 pairs, one of which is gold."""

    @pytest.fixture(params=["candidates first", "gold first"])
    def mixed(self, request: pytest.FixtureRequest, db: Database, tmp_path: Path) -> Database:
        files = [("c.jsonl", CANDIDATES, False), ("g.jsonl", GOLD, True)]
        for name, rows, gold in files if request.param == "candidates first" else files[::-1]:
            take(db, tmp_path / name, *rows, gold=gold)
        return db

    def test_it_is_no_candidate(self, mixed: Database) -> None:
        texts = dict(mixed.execute("SELECT id, text FROM responses").fetchall())
        ids = response_table(mixed).response_ids.tolist()
        expected = sorted(text for row in CANDIDATES for text in row["responses"])
        assert sorted(texts[i] for i in ids) == expected
        assert n_candidates(mixed) == 9
        assert count_candidates(mixed) == {
            "prompts": 3, "responses": 9, "pairs": 10, "source_labels": 0, "gold": 4,
        }  # fmt: skip
        status = project_status(mixed)
        assert status["pairs_left"] == 9
        assert mixed["gold"].count == 4 and len(texts) == 14

    def test_nobody_embeds_maps_or_judges_it(self, mixed: Database, tmp_path: Path) -> None:
        path = tmp_path / "annotator.db"
        encoder = FakeEncoder()
        report = embed_missing(mixed, encoder, path)
        # Nine responses and three prompts, the text of one of which is gold's as well.
        assert (report.total, report.added) == (12, 12)
        assert count_missing(mixed, report.encoder_id) == 0
        assert vector_counts(mixed)[0] | {"encoder": ""} == {"encoder": "", "texts": 12, "of": 12}
        build = build_map(mixed, path, report.encoder_id)
        assert (build.n_responses, len(placed_prompts(mixed, build).prompt_ids)) == (9, 3)
        before = mixed.conn.total_changes
        ensure_map(mixed, path, report.encoder_id)
        assert mixed.conn.total_changes == before  # the map is current
        ids = placed_prompts(mixed, build).prompt_ids.tolist()
        assert sorted(len(e.responses) for e in map_entries(mixed, build, ids)) == [2, 3, 4]
        assert sorted(sizes_of_prompts(mixed).tolist()) == [2, 3, 4]
        judged = [text for prompt in prompts_with_responses(mixed) for text in prompt.responses]
        assert len(judged) == 9 and not set(judged) & {"good", "bad", "yes", "a worse one"}

    def test_neither_it_nor_a_gold_pair_can_be_chosen(
        self, mixed: Database, tmp_path: Path
    ) -> None:
        path = tmp_path / "annotator.db"
        encoder_id = embed_missing(mixed, FakeEncoder(), path).encoder_id
        candidates = build_pool(mixed, path, encoder_id)
        pool, ids = candidates.pool, candidates.response_ids
        assert (pool.n_prompts, pool.n_responses, pool.n_pairs) == (3, 9, 10)
        texts = dict(mixed.execute("SELECT id, text FROM responses").fetchall())
        closed = np.flatnonzero(~pool.pair_eligible)
        pairs = [{texts[int(ids[pool.pair_a[i]])], texts[int(ids[pool.pair_b[i]])]} for i in closed]
        assert pairs == [{"0.0", "0.2"}]

    def test_gold_alone_is_no_project(self, db: Database, tmp_path: Path) -> None:
        take(db, tmp_path / "g.jsonl", *GOLD)
        assert project_status(db)["next"] == "annotator import FILE"
        report = embed_missing(db, FakeEncoder(), tmp_path / "annotator.db")
        assert (report.total, report.added) == (0, 0)

    def test_it_becomes_a_candidate_with_a_file_of_candidates(
        self, mixed: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "annotator.db"
        encoder_id = embed_missing(mixed, FakeEncoder(), path).encoder_id
        monkeypatch.setattr(vector_rows, "SETTLED_SECONDS", -1.0)
        assert len(embedded_responses(mixed, path, encoder_id).response_ids) == 9
        rows = [
            {"prompt": "only gold", "responses": ["good", "another"]},
            {"prompt": "candidate 1", "responses": ["a worse one", "1.1"]},
        ]
        report = take(mixed, tmp_path / "later.jsonl", *rows, gold=False)
        total = report.total
        assert (total.prompts_added, total.prompts_known) == (1, 1)
        assert (total.responses_added, total.responses_known) == (3, 1)
        assert not take(mixed, tmp_path / "later.jsonl", *rows, gold=False).total.anything_added
        assert not take(mixed, tmp_path / "g.jsonl", *GOLD).total.anything_added
        assert count_candidates(mixed) == {
            "prompts": 4, "responses": 12, "pairs": 3 + 3 + 6 + 1, "source_labels": 0, "gold": 4,
        }  # fmt: skip
        assert embed_missing(mixed, FakeEncoder(), path).added == 4  # three responses, a prompt
        assert len(embedded_responses(mixed, path, encoder_id).response_ids) == 12
        pool = build_pool(mixed, path, encoder_id).pool
        # Gold pairs of candidates alone: 0.0 with 0.2, and 1.1 with the worse one.
        assert (pool.n_pairs, pool.n_eligible) == (13, 11)

    def test_becoming_candidates_without_new_texts_is_noticed(
        self, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In two batches of one import, and all texts have vectors: only the number moves."""
        monkeypatch.setattr(vector_rows, "SETTLED_SECONDS", -1.0)
        path = tmp_path / "annotator.db"
        gold = [trl(f"q{i}", f"good {i}", f"bad {i}") for i in range(4)]
        rows = [{"prompt": f"q{i}", "responses": [f"good {i}", f"bad {i}"]} for i in range(4)]
        take(db, tmp_path / "g.jsonl", *gold)
        texts = [text for row in gold for text in row.values()]
        known = {"prompt": "of equal texts", "responses": texts}
        take(db, tmp_path / "c.jsonl", known, gold=False)
        encoder = FakeEncoder()
        embed_missing(db, encoder, path)
        n_asked = len(encoder.texts)
        seen = []

        def look(_: int) -> None:
            encoder_id = embed_missing(db, encoder, path).encoder_id
            seen.append(len(embedded_responses(db, path, encoder_id).response_ids))

        later = written(tmp_path / "later.jsonl", *rows)
        import_files(db, [later], progress=look, batch_rows=2)
        assert seen == [16, 20] and len(encoder.texts) == n_asked


class TestCommand:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        folder = tmp_path / "project"
        folder.mkdir()
        (folder / "annotator.toml").write_text(template("gold"), encoding="utf-8")
        open_db(folder / "annotator.db", create=True).close()
        return folder

    def run(self, project: Path, *arguments: str) -> Result:
        return CliRunner().invoke(
            main, ["import", *arguments, "--project", str(project)], catch_exceptions=False
        )

    def test_gold_is_taken_in_and_said_to_be(self, project: Path) -> None:
        file = written(project / "gold.jsonl", *GOLD)
        done = self.run(project, "--gold", str(file))
        assert done.exit_code == 0
        head, row, *_ = done.stdout.splitlines()
        assert head.split() == ["file", "format", "rows", "rejected", "prompts", "responses",
                                "gold", "scores"]  # fmt: skip
        assert row.split()[-2:] == ["+4", "+0"]
        document = json.loads(self.run(project, "--gold", str(file), "--json").stdout)
        assert (document["purpose"], document["nothing_new"]) == ("gold", True)

    def test_a_contradiction_is_listed_and_the_rest_is_taken_in(self, project: Path) -> None:
        rows = [trl("q", "good", "bad"), trl("q", "bad", "good"), trl("r", "x", "y")]
        done = self.run(project, "--gold", str(written(project / "gold.jsonl", *rows)))
        assert done.exit_code == 3
        assert "line 2: contradicts an earlier gold answer" in done.stderr
        db = open_db(project / "annotator.db")
        assert db["gold"].count == 2
        db.close()

    def test_a_dry_run_takes_nothing_in(self, project: Path) -> None:
        file = written(project / "gold.jsonl", *GOLD)
        assert "+4" in self.run(project, "--gold", str(file), "--dry-run").stdout
        db = open_db(project / "annotator.db")
        assert db["gold"].count == 0
        db.close()
