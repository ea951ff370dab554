"""What is refused: by line and reason, all of a row or nothing, and the numbers add up."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from annotator.candidates import candidate, records
from annotator.candidates.ingest import import_files
from annotator.candidates.outcome import ImportReport
from annotator.store import open_db

Row = dict[str, Any]

TABLES = ("prompts", "responses", "source_labels", "source_scores", "imports")


def good(n: int) -> Row:
    return {
        "prompt": f"prompt {n}",
        "prompt_id": f"p{n}",
        "responses": [{"id": "x", "text": f"x{n}"}, {"id": "y", "text": "y", "scores": {"s": n}}],
        "comparisons": [{"a": "x", "b": "y", "label": "b"}],
    }


def with_response(**change: Any) -> Row:
    row = good(0)
    row["responses"][1].update(change)
    return row


def with_label(**change: Any) -> Row:
    row = good(0)
    row["comparisons"][0].update(change)
    return row


def encoded(row: Any) -> bytes:
    return json.dumps(row).encode()


# name -> (the line, what the reason must say)
BAD = {
    "not UTF-8": (b'{"prompt": "caf\xe9", "responses": ["x", "y"]}', "not UTF-8"),
    "not JSON": (b'{"prompt": "p", "responses": ["x", "y"', "not JSON"),
    "two objects": (b'{"prompt": "p"} {"prompt": "q"}', "not JSON"),
    "a list": (b'["p", "x", "y"]', "the line holds a list, expected an object"),
    "only null": (b"null", "the line holds missing"),
    "nested": (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    "long number": (b'{"prompt": ' + b"9" * 5000 + b"}", "not JSON"),
    "lone surrogate": (encoded(with_response(text="a\ud800b")), r"lone surrogate \(U\+D800\)"),
    "surrogate in the prompt": (encoded(good(0) | {"prompt": "\udfff"}), "lone surrogate"),
    "surrogate in an id": (encoded(good(0) | {"prompt_id": "\udfff"}), "prompt_id holds a lone"),
    "NUL": (encoded(with_response(text="a\0b")), "response 2: text holds NUL"),
    "NUL in a model": (encoded(with_response(model="a\0b")), "response 2: model holds NUL"),
    "empty": (encoded(with_response(text="")), "response 2 is empty"),
    "white": (encoded(with_response(text=" \t\u2003\n")), "response 2 is empty"),
    "no prompt": (encoded({"responses": ["x", "y"]}), "prompt is missing"),
    "empty prompt": (encoded(good(0) | {"prompt": " \n"}), "the prompt is empty"),
    "no turns": (encoded(good(0) | {"prompt": []}), "the prompt is empty"),
    "identical": (encoded({"prompt": "p", "responses": ["x", "x", "x"]}), "all 3 .* identical"),
    "one": (encoded({"prompt": "p", "responses": ["x"]}), "1 response, expected at least 2"),
    "none": (encoded({"prompt": "p", "responses": []}), "0 responses, expected at least 2"),
    "responses text": (encoded({"prompt": "p", "responses": "xy"}), "responses is text"),
    "prompt number": (encoded(good(0) | {"prompt": 3}), "prompt is a number, expected text"),
    "text number": (encoded(with_response(text=3)), "response 2: text is a number"),
    "text missing": (encoded(with_response(text=None)), "response 2: text is missing"),
    "null": (encoded({"prompt": "p", "responses": ["x", None]}), "response 2: it is missing"),
    "id object": (encoded(good(0) | {"prompt_id": {}}), "prompt_id is an object"),
    "id true": (encoded(with_response(id=True)), "response 2: id is true or false"),
    "id half": (encoded(with_response(id=1.5)), "response 2: id is a number"),
    "long id": (encoded(with_response(id="i" * 1001)), "id has 1,001 characters"),
    "dataset list": (encoded(good(0) | {"dataset": []}), "dataset is a list"),
    "score NaN": (encoded(with_response(scores={"s": float("nan")})), "score 's' is nan"),
    "score infinite": (encoded(with_response(scores={"s": float("-inf")})), "score 's' is -inf"),
    "score too large": (encoded(with_response(scores={"s": 10**400})), "score 's' is inf"),
    "score text": (encoded(with_response(scores={"s": "4"})), "score 's' is text"),
    "score true": (encoded(with_response(scores={"s": True})), "score 's' is true or false"),
    "score nameless": (encoded(with_response(scores={"": 1})), "a score has no name"),
    "scores list": (encoded(with_response(scores=[1])), "scores is a list"),
    "unknown label": (encoded(with_label(label="A")), "comparison 1: label is 'A'"),
    "label number": (encoded(with_label(label=0)), "comparison 1: label is a number"),
    "unknown response": (encoded(with_label(b="z")), "b is 'z', the id of no response here"),
    "itself": (encoded(with_label(b="x")), "compares a response with itself"),
    "no side": (encoded(good(0) | {"comparisons": [{"a": "x", "label": "a"}]}), "b is 'None'"),
    "strength": (encoded(with_label(strength="much")), "strength is text"),
    "strength NaN": (encoded(with_label(strength=float("nan"))), "strength is nan"),
    "kind": (encoded(with_label(kind="robot")), "kind 'robot'"),
    "kind llm:": (encoded(with_label(kind="llm:")), "kind 'llm:'"),
    "comparisons": (encoded(good(0) | {"comparisons": {"a": "x"}}), "comparisons is an object"),
    "comparison": (encoded(good(0) | {"comparisons": ["a"]}), "comparison 1: it is text"),
    "id twice": (encoded(with_response(id="x") | {"comparisons": []}), "stands for two texts"),
}  # fmt: skip


def contents(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    return {name: list(db.execute(f"SELECT * FROM {name} ORDER BY 1, 2")) for name in TABLES}


def listed(report: ImportReport) -> list[Row]:
    if report.rejects is None:
        return []
    return [json.loads(line) for line in report.rejects.read_text("ascii").splitlines()]


@pytest.mark.parametrize("name", BAD)
def test_refused(db: Database, tmp_path: Path, name: str) -> None:
    line, reason = BAD[name]
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\n".join([encoded(good(1)), b"", line, b" \r", encoded(good(2))]))
    report = import_files(db, [path], format="native")
    counts = report.total
    assert (counts.rows, counts.blank, counts.rejected, counts.accepted) == (3, 2, 1, 2)
    assert [row[0] for row in db.execute("SELECT external_id FROM prompts")] == ["p1", "p2"]
    assert db["responses"].count == 4
    (entry,) = listed(report)
    assert (entry["file"], entry["line"]) == (str(path), 3)
    assert entry["raw"] == line[:2000].decode(errors="replace")[: records.MAX_EXCERPT_CHARS]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(entry["reason"])


@given(st.lists(st.sampled_from(["good", "known", "blank", *BAD]), max_size=40), st.integers(1, 7))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_numbers_add_up(
    tmp_path_factory: pytest.TempPathFactory, plan: list[str], batch_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("mix")
    text: dict[str, bytes] = {name: line for name, (line, _) in BAD.items()}
    text |= {"blank": b"  ", "known": encoded(good(-1))}
    lines = [text.get(kind, encoded(good(n))) for n, kind in enumerate(plan)]
    (folder / "f.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    db = open_db(folder / "a.db", create=True)
    try:
        report = import_files(db, [folder], format="native", batch_rows=batch_rows)
        counts = report.total
        bad = [n for n, kind in enumerate(plan, start=1) if kind in BAD]
        assert [entry["line"] for entry in listed(report)] == bad
        assert counts.blank == plan.count("blank")
        assert counts.rejected == len(bad)
        assert counts.rows + counts.blank == len(plan)
        n_good, n_same = plan.count("good"), plan.count("known")
        assert counts.prompts_added == n_good + bool(n_same) == db["prompts"].count
        assert counts.prompts_known == n_same - bool(n_same)
        assert counts.responses_added + counts.responses_known == 2 * counts.accepted
        assert counts.labels_added + counts.labels_known == counts.accepted
        assert counts.scores_added + counts.scores_known == counts.accepted
        assert db["responses"].count == counts.responses_added
    finally:
        db.close()


def test_what_a_batch_refuses_and_what_a_line_refuses_come_in_order(
    db: Database, tmp_path: Path
) -> None:
    rows = [good(1), good(2) | {"prompt_id": "p1"}, {"prompt": 1, "responses": []}, good(3)]
    rows.append(good(4) | {"prompt_id": "p3"})
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\n".join(map(encoded, rows)))
    report = import_files(db, [path])
    assert [entry["line"] for entry in listed(report)] == [2, 3, 5]
    assert report.total.rejected == 3


@pytest.mark.parametrize("batch_rows", [1, 100])
def test_an_id_stands_for_one_text(db: Database, tmp_path: Path, batch_rows: int) -> None:
    other = good(2) | {"prompt_id": "p1"}
    reused = good(1)
    reused["responses"][0]["text"] = "another x"
    elsewhere = good(2) | {"prompt_id": "p1", "dataset": "elsewhere"}
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\n".join(map(encoded, [good(1), other, reused, elsewhere, good(1)])))
    report = import_files(db, [path], batch_rows=batch_rows)
    assert [entry["line"] for entry in listed(report)] == [2, 3]
    assert "prompt id 'p1' stands for another text in dataset 'f'" in report.first_problems[0]
    assert "response id 'x' stands for another text" in report.first_problems[1]
    assert (report.total.prompts_added, report.total.prompts_known) == (2, 1)
    before = contents(db)
    again = import_files(db, [path], batch_rows=batch_rows)
    assert contents(db) == before
    assert [entry["line"] for entry in listed(again)] == [2, 3]


@pytest.mark.parametrize("batch_rows", [1, 100])
def test_a_prompt_under_a_second_id_keeps_the_ids_of_its_responses_apart(
    db: Database, tmp_path: Path, batch_rows: int
) -> None:
    first, second = good(1), good(2) | {"prompt": "prompt 1"}
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\n".join(map(encoded, [first, second, second])))
    report = import_files(db, [path], batch_rows=batch_rows)
    assert report.total.scores_conflicting == 2  # of y: 1 is kept, the second id says 2
    assert (report.total.rejected, report.total.prompts_added) == (0, 1)
    ids = dict(db.execute("SELECT text, external_id FROM responses").fetchall())
    assert ids == {"x1": "x", "y": "y", "x2": "f/p2/x"}
    changed = second | {"responses": [{"id": "x", "text": "x3"}, {"id": "y", "text": "y"}]}
    path.write_bytes(encoded(changed))
    assert import_files(db, [path]).total.rejected == 1


@pytest.mark.parametrize("batch_rows", [1, 100])
def test_the_first_score_stays(db: Database, tmp_path: Path, batch_rows: int) -> None:
    rows = [good(1), good(1), good(1)]
    rows[1]["responses"][1]["scores"] = {"s": 1.0, "t": 5}
    rows[2]["responses"][1]["scores"] = {"s": 2, "u": 7}
    path = tmp_path / "f.jsonl"
    path.write_bytes(b"\n".join(map(encoded, rows)))
    report = import_files(db, [path], batch_rows=batch_rows)
    counts = report.total
    assert (counts.scores_added, counts.scores_known, counts.scores_conflicting) == (3, 1, 1)
    assert (counts.rejected, counts.complete) == (0, False)
    scores = dict(db.execute("SELECT name, value FROM source_scores").fetchall())
    assert scores == {"s": 1.0, "t": 5.0, "u": 7.0}
    (entry,) = listed(report)
    assert entry["line"] == 3
    assert entry["reason"] == (
        "the rest is stored, but a score is kept as it was: 's' is 2.0, kept is 1.0"
    )


def test_identical_responses_are_one(db: Database, tmp_path: Path) -> None:
    row = {
        "prompt": "p",
        "responses": [
            {"id": "1", "text": "same", "model": "m1", "scores": {"s": 1}},
            {"id": "2", "text": "other"},
            {"id": "3", "text": "same", "model": "m3", "scores": {"s": 2}},
        ],
        "comparisons": [
            {"a": "1", "b": "3", "label": "tie"},
            {"a": "1", "b": "2", "label": "a"},
            {"a": "2", "b": "3", "label": "b"},
        ],
    }
    (tmp_path / "f.jsonl").write_bytes(encoded(row))
    counts = import_files(db, [tmp_path / "f.jsonl"]).total
    assert (counts.responses_added, counts.responses_known) == (2, 1)
    assert (counts.labels_added, counts.labels_void, counts.scores_added) == (2, 1, 1)
    assert counts.complete
    query = "SELECT text, model, external_id FROM responses ORDER BY id"
    assert db.execute(query).fetchall() == [("same", "m1", "1"), ("other", None, "2")]
    # Both votes say that "same" is the better text.
    won = "SELECT DISTINCT CASE label WHEN 'a' THEN a_id ELSE b_id END FROM source_labels"
    assert db.execute(won).fetchall() == [(1,)]


def test_limits(db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate, "MAX_TEXT_CHARS", 50)
    monkeypatch.setattr(candidate, "MAX_RESPONSES", 3)
    monkeypatch.setattr("annotator.candidates.storing.MAX_RESPONSES", 3)
    turns = [{"role": "user", "content": "u" * 30}, {"role": "user", "content": "v" * 30}]
    rows = [
        {"prompt": "p", "responses": ["x", "y" * 50]},
        {"prompt": "p", "responses": ["x", "y" * 51]},
        {"prompt": turns, "responses": ["x", "y"]},
        {"prompt": "q", "responses": ["1", "2", "3", "4"]},
        {"prompt": "p", "responses": ["x", "z"]},
        {"prompt": "p", "responses": ["z", "a fourth"]},
        {"prompt": "p", "responses": ["x", "z"]},
    ]
    (tmp_path / "f.jsonl").write_bytes(b"\n".join(map(encoded, rows)))
    report = import_files(db, [tmp_path / "f.jsonl"])
    assert [(entry["line"], entry["reason"]) for entry in listed(report)] == [
        (2, "response 2: text has 51 characters; the limit is 50"),
        (3, "the prompt has 60 characters; the limit is 50"),
        (4, "4 responses; the limit is 3"),
        (6, "with this row the prompt has 4 responses; the limit is 3"),
    ]
    assert db["responses"].count == 3


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_absurd_lines_are_passed_over(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    line = encoded(good(1))
    monkeypatch.setattr(records, "MAX_LINE_BYTES", len(line + end) - 1)
    rows = [line, b"{" + b" " * 3_000_000 + b"}", line, line + b" ", line + b" " * 99, line]
    (tmp_path / "f.jsonl").write_bytes(end.join(rows))
    report = import_files(db, [tmp_path / "f.jsonl"], format="native")
    assert [entry["line"] for entry in listed(report)] == [2, 4, 5]
    assert (report.total.rows, report.total.prompts_known) == (6, 2)


def test_csv_rows_are_refused_one_by_one(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes(
        b"id,prompt,m1,m2\n"
        b"1,p,x,y\n"
        b'2,"two\nlines",x,y\n'
        b"3,p,x\n"
        b"\n"
        b"4,caf\xe9,x,y\n"
        b'5,p,"x"y,z\n'
        b"6,p6, ,y\n"
        b"7,p7,x,x\n"
        b"8,p8,x,\n"
        b"9,p9,x\x00,y\n"
        b"10,p10,x,y\n"
        b'11,p,"never closed,y\n'
    )
    report = import_files(db, [path])
    assert [(entry["line"], entry["reason"]) for entry in listed(report)] == [
        (5, "3 cells, the first line names 4 columns"),
        (7, "not UTF-8"),
        (8, "not CSV: ',' expected after '\"'"),
        (9, "response 1 is empty"),
        (10, "all 2 responses are identical"),
        (11, "1 response, expected at least 2"),
        (12, "column 'm1' holds NUL (U+0000)"),
        (14, "not CSV: unexpected end of data"),
    ]
    counts = report.total
    assert (counts.rows, counts.blank, counts.accepted) == (11, 1, 3)
    ids = [row[0] for row in db.execute("SELECT external_id FROM prompts ORDER BY id")]
    assert ids == ["1", "2", "10"]


def test_absurd_lines_of_a_table_are_passed_over(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 30)
    # Cut after 30 bytes, the third line would look like a sound row.
    rows = [b"prompt,m1,m2", b"p1,x,y", b"p2,x," + b"y" * 40, b"p3,x,y"]
    (tmp_path / "f.csv").write_bytes(b"\n".join(rows))
    report = import_files(db, [tmp_path / "f.csv"])
    assert [(entry["line"], "longer than" in entry["reason"]) for entry in listed(report)] == [
        (3, True)
    ]
    assert report.total.accepted == 2


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_TEXT_CHARS", 1000)
    rows = [b"prompt,m1,m2", b'p,"x,y', *(b"p%d,x,y" % n for n in range(1000))]
    (tmp_path / "f.csv").write_bytes(b"\n".join(rows))
    report = import_files(db, [tmp_path / "f.csv"])
    assert report.total.rejected == 1
    assert "never closed" in listed(report)[0]["reason"]
    assert report.total.accepted > 800


def test_parquet_rows_are_refused_one_by_one(db: Database, tmp_path: Path) -> None:
    texts = [b"fine", b"caf\xe9", b"", None, b"good"]
    column = pa.array(texts, pa.binary()).cast(pa.binary())
    chosen = pa.Array.from_buffers(pa.string(), len(texts), column.buffers())
    prompts = pa.array(["p", "p", "p", "p", None])
    rejected = pa.array(["no"] * 5)
    pq.write_table(
        pa.table({"prompt": prompts, "chosen": chosen, "rejected": rejected}),
        tmp_path / "f.parquet",
    )
    report = import_files(db, [tmp_path / "f.parquet"])
    reasons = {entry["line"]: entry["reason"] for entry in listed(report)}
    assert reasons == {
        2: "not UTF-8",
        3: "response 1 is empty",
        4: "chosen is missing, expected text",
        5: "there is no prompt, and chosen and rejected do not begin alike",
    }


def test_bytes_are_no_text(db: Database, tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": b"x", "rejected": b"y"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    report = import_files(db, [tmp_path / "f.parquet"], format="trl")
    assert listed(report)[0]["reason"] == "chosen is bytes, expected text"


def test_a_file_that_breaks_off_keeps_what_came_before(db: Database, tmp_path: Path) -> None:
    whole = gzip.compress(b"\n".join(encoded(good(n)) for n in range(5000)), mtime=0)
    (tmp_path / "f.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    report = import_files(db, [tmp_path / "f.jsonl.gz"])
    (entry,) = listed(report)
    assert entry["reason"].startswith("from here on the file cannot be read")
    assert entry["line"] == report.total.rows == report.total.accepted + 1 > 1000
    (tmp_path / "f.jsonl.gz").write_bytes(whole)
    report = import_files(db, [tmp_path / "f.jsonl.gz"])
    assert report.total.rejected == 0
    assert db["prompts"].count == 5000


def test_parquet_that_is_damaged_inside(db: Database, tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "chosen": f"x{n}", "rejected": "y"} for n in range(4000)]
    path = tmp_path / "f.parquet"
    pq.write_table(
        pa.Table.from_pylist(rows),
        path,
        row_group_size=1000,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    # One letter of one text, which nothing but the checksum can tell.
    path.write_bytes(path.read_bytes().replace(b"x2500", b"x9500", 1))
    report = import_files(db, [path])
    assert report.total.rejected == 1
    assert 1000 < report.total.accepted <= 2000
    assert "cannot be read" in report.first_problems[0]
    assert db.execute("SELECT count(*) FROM responses WHERE text = 'x9500'").fetchone() == (0,)


def test_large_rejected_rows_are_listed_in_short(db: Database, tmp_path: Path) -> None:
    row = {"prompt": "p" * 900, "chosen": "x" * 900, "rejected": " ", "more": list(range(900))}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "f.parquet")
    (tmp_path / "f.jsonl").write_bytes(encoded(row))
    (tmp_path / "f.csv").write_text(f"prompt,chosen,rejected\n{'p' * 900},{'x' * 900}, \n")
    report = import_files(db, [tmp_path / f"f.{end}" for end in ("parquet", "jsonl", "csv")])
    assert [len(entry["raw"]) for entry in listed(report)] == [500, 500, 500]


def test_a_file_name_that_is_no_text(db: Database, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_bytes(b"\n".join([encoded(good(1)), b"{"]))
    report = import_files(db, [path])
    assert report.files[0].dataset == "caf\ufffd"
    assert db.execute("SELECT dataset FROM prompts").fetchone() == ("caf\ufffd",)


def test_the_list_is_made_only_if_there_is_anything_to_list(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "f.jsonl").write_bytes(encoded(good(1)))
    report = import_files(db, [folder])
    assert report.rejects is None
    assert not list(tmp_path.glob("rejects-*"))
    (folder / "f.jsonl").write_bytes(b"\n".join([encoded(good(1)), b"{"]))
    report = import_files(db, [folder])
    assert report.rejects is not None
    assert [report.rejects] == list(tmp_path.glob("rejects-*.jsonl"))
    given = tmp_path / "mine.jsonl"
    assert import_files(db, [folder], rejects=given).rejects == given


def test_reasons_cannot_speak_to_the_terminal(db: Database, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_bytes(encoded(with_label(label="\x1b[2J\u202e")))
    (shown,) = import_files(db, [tmp_path / "f.jsonl"]).first_problems
    assert shown.isprintable()


POISON = [
    "\r\n lines \r",
    "\u202eright to left",
    "=cmd|' /C calc'!A0",
    "<script>",
    "\ufeff",
    "\x1b",
]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(POISON),
                min_size=3, max_size=6))  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_text_comes_through_unchanged_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    prompt, *responses = texts
    folder = tmp_path_factory.mktemp("poison")
    row = {"prompt": prompt, "responses": responses}
    (folder / "f.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", "utf-8", newline="")
    db = open_db(folder / "a.db", create=True)
    try:
        report = import_files(db, [folder], format="native")
        refused = any("\0" in text or not text.strip() for text in texts) or len(set(responses)) < 2
        assert report.total.rejected == refused
        if not refused:
            kept = [text for (text,) in db.execute("SELECT text FROM responses ORDER BY id")]
            assert kept == list(dict.fromkeys(responses))
            ((messages,),) = db.execute("SELECT messages FROM prompts").fetchall()
            assert json.loads(messages) == [{"role": "user", "content": prompt}]
    finally:
        db.close()
