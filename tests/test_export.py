"""Exports: what is in a row, where it is from, what is left out."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlite_utils import Database

from annotator.cli.export import ENDINGS, FORMAT_NAMES
from annotator.errors import AnnotatorError
from annotator.export.formats import FORMATS
from annotator.export.write import WRITERS, export_file, export_stream
from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.store import writing
from tests.small_world import add_prompt, add_prompts, add_round

DIALOGUE = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "Tell me a riddle, please: « é »"},
]


@pytest.fixture
def labelled(db: Database) -> Database:
    """Five pairs: a wins, b wins (shown the other way round), tie, both bad, disputed; one open."""
    ids = [add_prompt(db, DIALOGUE, ["one", "two"]), *add_prompts(db, [2, 2, 2, 2, 2])]
    add_round(db, [(pair[0], pair[1]) for pair in ids])
    with writing(db):
        db.execute(
            """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
            created_at) VALUES (1, 's', 'm', 5, 't', 's', 1, '')"""
        )
        record_annotators(db, "s", {11: "anna", 12: "ben"})
        votes = [
            (1, 1, "a_much_better"), (2, 1, "b_better"), (3, 1, "tie"), (4, 2, "both_bad"),
            (5, 1, "a_better"), (5, 2, "b_better"),
        ]  # fmt: skip
        record_votes(
            db,
            1,
            [
                Vote(n, 100 + pick, "vote", f"2026-01-01T00:00:0{n}Z", {}, pick, who, grade)
                for n, (pick, who, grade) in enumerate(votes)
            ],
            {},
        )
    return db


def _rows(db: Database, name: str) -> list[dict[str, Any]]:
    stream = io.StringIO()
    export_stream(db, name, stream)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _texts(db: Database, pick: int) -> tuple[str, str]:
    """The stored (a, b) texts of a pick."""
    return db.execute(
        """SELECT a.text, b.text FROM picks p JOIN responses a ON a.id = p.a_id
        JOIN responses b ON b.id = p.b_id WHERE p.id = ?""",
        [pick],
    ).fetchone()


def test_the_command_knows_every_format() -> None:
    assert set(FORMAT_NAMES) == set(FORMATS)
    assert list(ENDINGS) == list(WRITERS)


def test_trl_has_the_winner_as_chosen_whatever_side_it_was_on(labelled: Database) -> None:
    rows = {row["prompt"]: row for row in _rows(labelled, "trl")}
    assert len(rows) == 2
    a, b = _texts(labelled, 1)
    dialogue = rows["user: Hello\nassistant: Hi\nuser: Tell me a riddle, please: « é »"]
    assert (dialogue["chosen"], dialogue["rejected"]) == (a, b)
    a, b = _texts(labelled, 2)
    assert (rows["question 0"]["chosen"], rows["question 0"]["rejected"]) == (b, a)


def test_every_row_says_where_it_is_from(labelled: Database) -> None:
    for name in ("trl", "trl-conversational", "hh"):
        for row in _rows(labelled, name):
            assert row["label_source"] == "human"
            assert row["round"] == 1
            assert row["seed"] == 7
            assert row["arm"] == "acquired"
            assert row["strategy"] == "real-easy"
            assert row["n_votes"] == 1
            assert row["agreement"] == 1.0
            assert row["annotators"] == [1]
            assert row["chosen_model"] == f"model of {_last_text(row['chosen'])}"


def _last_text(chosen: Any) -> str:
    if isinstance(chosen, list):
        return str(chosen[-1]["content"])
    return str(chosen).rsplit("\n\nAssistant: ", 1)[-1]


def test_conversational_form_keeps_the_dialogue(labelled: Database) -> None:
    row = next(r for r in _rows(labelled, "trl-conversational") if len(r["prompt"]) == 3)
    assert row["prompt"] == DIALOGUE
    assert row["chosen"] == [{"role": "assistant", "content": _texts(labelled, 1)[0]}]


def test_hh_transcripts(labelled: Database) -> None:
    row = next(r for r in _rows(labelled, "hh") if "Hello" in r["chosen"])
    a, b = _texts(labelled, 1)
    start = (
        "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Tell me a riddle, please: « é »\n\nAssistant: "
    )
    assert (row["chosen"], row["rejected"]) == (start + a, start + b)


def test_votes_hold_everything_that_was_said(labelled: Database) -> None:
    rows = _rows(labelled, "votes")
    assert sorted(row["grade"] for row in rows) == sorted(
        ["a_much_better", "b_better", "tie", "both_bad", "a_better", "b_better"]
    )
    control = [row for row in rows if row["arm"] == "control"]
    assert {row["propensity"] for row in control} == {0.25}
    assert {row["left"] for row in rows} == {"a", "b"}


def test_what_has_no_winner_is_counted(labelled: Database, tmp_path: Path) -> None:
    report = export_file(labelled, "trl", tmp_path / "out.jsonl")
    assert (report.rows, report.pairs) == (2, 5)
    assert dict(report.left_out) == {"tie": 1, "both_bad": 1, "disputed": 1}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_parquet_holds_the_same_as_json_lines(
    labelled: Database, tmp_path: Path, name: str
) -> None:
    export_file(labelled, name, tmp_path / "out.jsonl")
    export_file(labelled, name, tmp_path / "out.parquet")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == lines
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl", "out.parquet"]


def test_the_strength_of_every_vote_is_kept(labelled: Database, tmp_path: Path) -> None:
    more = [
        (2, 2, "b_much_better"), (2, 3, "a_much_better"), (2, 4, "b_better"), (2, 5, "b_better"),
        (1, 2, "tie"), (1, 3, "a_better"), (1, 4, "both_bad"), (1, 5, "a_better"),
        (1, 6, "a_better"), (1, 7, "b_better"),
    ]  # fmt: skip
    with writing(labelled):
        record_annotators(labelled, "s", {n: f"person {n}" for n in range(20, 25)})
        votes = [
            Vote(50 + n, 100 + pick, "vote", f"2026-01-02T00:00:{n:02}Z", {}, pick, who, grade)
            for n, (pick, who, grade) in enumerate(more)
        ]
        record_votes(labelled, 1, votes, {})
    for name in ("trl", "trl-conversational", "hh"):
        export_file(labelled, name, tmp_path / "out.parquet")
        rows = {row["n_votes"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
        assert rows[7]["grades"] == [
            "chosen_much_better", "tie", "chosen_better", "both_bad", "chosen_better",
            "chosen_better", "rejected_better",
        ]  # fmt: skip
        assert rows[7]["margin"] == pytest.approx(4 / 7)
        # Here b won: what was said for b is said for the chosen one.
        assert rows[5]["grades"] == [
            "chosen_better", "chosen_much_better", "rejected_much_better", "chosen_better",
            "chosen_better",
        ]  # fmt: skip
        assert rows[5]["margin"] == pytest.approx(3 / 5)


def test_columns_of_parquet_have_their_types(labelled: Database, tmp_path: Path) -> None:
    export_file(labelled, "trl", tmp_path / "out.parquet")
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert str(schema.field("grades").type.value_type) == "string"
    assert str(schema.field("annotators").type.value_type) == "int64"
    assert str(schema.field("margin").type) == "double"


def test_gzip_is_gzip_and_always_the_same(
    labelled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_file(labelled, "votes", tmp_path / "a.jsonl")
    export_file(labelled, "votes", tmp_path / "a.jsonl.gz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    export_file(labelled, "votes", tmp_path / "b.jsonl.gz")
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.jsonl").read_bytes() != b""
    assert packed == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize("name", ["out.csv", "out", "out.json", "out.parquet.gz", "out.gz"])
def test_no_file_under_a_wrong_name(labelled: Database, tmp_path: Path, name: str) -> None:
    with pytest.raises(AnnotatorError, match=r"\.jsonl, \.jsonl\.gz, \.parquet"):
        export_file(labelled, "trl", tmp_path / name)
    assert not (tmp_path / name).exists()


def test_nothing_labelled_is_an_empty_file(db: Database, tmp_path: Path) -> None:
    assert export_file(db, "trl", tmp_path / "a.jsonl").rows == 0
    assert (tmp_path / "a.jsonl").read_text() == ""
    export_file(db, "trl", tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 0


def test_an_export_that_fails_leaves_the_old_file(
    labelled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", _full_disk)
    with pytest.raises(AnnotatorError, match="No space"):
        export_file(labelled, "trl", path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []


def _full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")
