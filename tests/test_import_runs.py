"""Imports as a whole: twice, killed, side by side, large, of real sets, and as a command."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlite_utils import Database

from annotator import progress
from annotator.candidates.ingest import import_files, size_of
from annotator.candidates.outcome import Counts
from annotator.store import open_db
from annotator.store.database import check_integrity

Row = dict[str, Any]


def numbered(n: int) -> Row:
    return {
        "prompt": f"prompt {n}",
        "prompt_id": str(n),
        "responses": [
            {
                "id": f"{k}",
                "text": f"response {k} to {n}",
                "model": f"m{k}",
                "scores": {"rm": k / 7},
            }
            for k in range(3)
        ],
        "comparisons": [
            {"a": "0", "b": "2", "label": "b", "annotator": f"w{n % 5}"},
            {"a": "0", "b": "1", "label": "tie"},
        ],
    }


def write(path: Path, *rows: Row) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def everything(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All that was imported, but for when and by which run."""
    tables = {}
    for name in ("prompts", "responses", "source_labels", "source_scores"):
        columns = [column.name for column in db[name].columns if column.name != "import_id"]
        query = f"SELECT {', '.join(columns)} FROM {name} ORDER BY 1, 2"
        tables[name] = db.execute(query).fetchall()
    return tables


def read_database(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    db = open_db(path)
    try:
        check_integrity(db, path, thorough=True)
        return everything(db)
    finally:
        db.close()


def test_a_second_import_adds_nothing(db: Database, tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", *map(numbered, range(50)))
    first = import_files(db, [path], batch_rows=7)
    before = everything(db), db["imports"].count
    second = import_files(db, [path], batch_rows=11)
    assert (everything(db), db["imports"].count) == before
    assert first.total.anything_added
    assert not second.total.anything_added
    assert second.as_json()["nothing_new"] is True
    assert second.total == Counts(
        rows=50, prompts_known=50, responses_known=150, labels_known=100, scores_known=150
    )


def test_rows_with_one_prompt_become_one_prompt(db: Database, tmp_path: Path) -> None:
    pairs = [("best", "good"), ("good", "bad"), ("best", "bad"), ("best", "good")]
    rows = [{"prompt": "p", "chosen": a, "rejected": b} for a, b in pairs]
    counts = import_files(db, [write(tmp_path / "f.jsonl", *rows)], batch_rows=2).total
    assert (counts.prompts_added, counts.prompts_known) == (1, 3)
    assert (counts.responses_added, counts.responses_known) == (3, 5)
    # The fourth row says again what the first one said.
    assert (counts.labels_added, counts.labels_known) == (3, 1)


def test_equal_votes_in_one_row_are_all_kept(db: Database, tmp_path: Path) -> None:
    row = numbered(1)
    row["comparisons"] = [
        {"a": "0", "b": "1", "label": "a"},
        {"a": "1", "b": "0", "label": "b"},
        {"a": "0", "b": "1", "label": "a", "annotator": "w"},
        {"a": "0", "b": "1", "label": "a", "strength": 2},
        {"a": "0", "b": "1", "label": "a", "kind": "llm:x"},
        {"a": "0", "b": "1", "label": "b"},
    ]
    path = write(tmp_path / "f.jsonl", row)
    assert import_files(db, [path]).total.labels_added == 6
    assert import_files(db, [path]).total.labels_known == 6
    row["comparisons"].append({"a": "0", "b": "1", "label": "a"})
    counts = import_files(db, [write(path, row)]).total
    assert (counts.labels_added, counts.labels_known) == (1, 6)


def test_what_an_import_leaves_behind(db: Database, tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", numbered(1))
    import_files(db, [path])
    import_files(db, [write(tmp_path / "g.jsonl", numbered(1), numbered(2) | {"dataset": "f"})])
    rows = list(
        db.query("SELECT file, dataset, format, finished_at > started_at AS ok FROM imports")
    )
    assert [(Path(row["file"]).name, row["dataset"], row["ok"]) for row in rows] == [
        ("f.jsonl", "f", 1),
        ("g.jsonl", "g", 1),
    ]
    counts = "SELECT import_id, count(*) FROM responses GROUP BY 1 ORDER BY 1"
    assert db.execute(counts).fetchall() == [(1, 3), (2, 3)]


def test_a_failing_disk_leaves_whole_batches(db: Database, tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", *map(numbered, range(20)))
    db.execute(
        "CREATE TEMP TRIGGER broken BEFORE INSERT ON main.responses WHEN new.text LIKE '% to 13'"
        " BEGIN SELECT raise(ABORT, 'disk I/O error'); END"
    )
    with pytest.raises(Exception, match="the disk refused a write"):
        import_files(db, [path], batch_rows=5)
    assert db["prompts"].count == 10
    db.execute("DROP TRIGGER broken")
    import_files(db, [path], batch_rows=5)
    assert db["prompts"].count == 20
    assert db.execute("SELECT count(*) FROM imports WHERE finished_at IS NULL").fetchone() == (1,)


CHILD = """
import sys
from pathlib import Path
from annotator.candidates.ingest import import_files
from annotator.store import open_db
db = open_db(Path(sys.argv[1]), create=True)
sys.stdin.readline()
def tell(n):
    print(n, flush=True)
report = import_files(db, [Path(sys.argv[2])], batch_rows=int(sys.argv[3]), progress=tell)
print("done", report.total.anything_added, flush=True)
"""


def start(database: Path, file: Path, batch_rows: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(database), str(file), str(batch_rows)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_killed_again_and_again(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", *map(numbered, range(600)))
    undisturbed = open_db(tmp_path / "undisturbed.db", create=True)
    import_files(undisturbed, [path])
    wanted = everything(undisturbed)
    undisturbed.close()
    database = tmp_path / "killed.db"
    sizes = []
    for n_batches in (1, 3, 9, 20):
        with start(database, path, batch_rows=20) as child:
            go(child)
            assert child.stdout is not None
            for _ in range(n_batches):
                assert child.stdout.readline().strip().isdecimal()
            child.kill()
        sizes.append(len(read_database(database)["prompts"]))
    assert sizes == sorted(sizes)
    assert 20 <= sizes[0] < sizes[-1] < 600
    with start(database, path, batch_rows=20) as child:
        out, err = child.communicate("\n")
    assert (child.returncode, err) == (0, "")
    assert out.endswith("done True\n")
    assert read_database(database) == wanted


def test_three_imports_of_one_file_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", *map(numbered, range(600)))
    database = tmp_path / "a.db"
    open_db(database, create=True).close()
    children = [start(database, path, batch_rows=n) for n in (7, 20, 33)]
    for child in children:
        go(child)
    for child in children:
        out, err = child.communicate()
        assert (child.returncode, err) == (0, ""), out
    alone = open_db(tmp_path / "alone.db", create=True)
    import_files(alone, [path])
    assert read_database(database) == everything(alone)
    alone.close()


MEASURED = """
import re, sys
from pathlib import Path
from annotator.candidates.ingest import import_files
from annotator.store import open_db
db = open_db(Path(sys.argv[1]), create=True)
report = import_files(db, [Path(sys.argv[2])])
counts = report.total
# Not ru_maxrss, which a child takes over from a large parent.
peak_kib = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(counts.accepted, counts.rejected, int(peak_kib) // 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    n_rows, text = 3000, "word " * 5000
    with path.open("w", encoding="ascii") as handle:
        for n in range(n_rows):
            responses = [f"{k} {n} {text}" for k in range(2)]
            handle.write(json.dumps({"prompt": f"prompt {n}", "responses": responses}) + "\n")
        for n in range(150):  # refused, each of 1.25 MB
            responses = ["same", "same"]
            row = {"prompt": f"{n}", "responses": responses, "more": text * 50}
            handle.write(json.dumps(row) + "\n")
        handle.write('{"prompt": "')
        for _ in range(100):
            handle.write("absurd " * 150_000)  # one line of 105 MB
        handle.write('"}\n')
        handle.write(json.dumps(numbered(0)) + "\n")
    assert path.stat().st_size > 400_000_000
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path / "a.db"), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    accepted, rejected, peak_mib = map(int, done.stdout.split())
    assert (accepted, rejected) == (n_rows + 1, 151)
    assert peak_mib < 300
    path.unlink()


# From the table that comes with the sets: prompts, responses, human votes.
SETS = {
    "ukpconvarg1": (32, 1_052, 84_445),
    "hh_rlhf_test": (8_513, 17_032, 8_516),
    "mt_bench_human": (160, 930, 1_751),
    "pandalm_test": (170, 799, 2_997),
    "llmbar": (885, 1_770, 885),
    "hanna_scores": (96, 1_056, 15_840),
}


@pytest.mark.parametrize("name", SETS)
def test_real_sets(db: Database, tmp_path: Path, shared_data: Path, name: str) -> None:
    path = shared_data / f"{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    assert _size(rows) == SETS[name]
    # A row with an empty response or without two different ones is refused; the rest arrives.
    texts = [[r["text"] for r in row["responses"]] for row in rows]
    fit = [all(map(str.strip, given)) and len(set(given)) > 1 for given in texts]
    sound = [row for row, is_fit in zip(rows, fit, strict=True) if is_fit]
    report = import_files(db, [path], rejects=tmp_path / "rejects.jsonl")
    counts = report.total
    assert (counts.rows, counts.accepted) == (len(rows), len(sound))
    n_prompts, n_responses, n_human = _size(sound)
    assert counts.prompts_added + counts.prompts_known == n_prompts
    assert counts.responses_added + counts.responses_known == n_responses
    gold = [g for row in sound for g in row.get("gold", []) if g["label"] is not None]
    n_labels = sum(len(row["comparisons"]) for row in sound) + len(gold)
    assert counts.labels_added + counts.labels_known + counts.labels_void == n_labels
    assert counts.prompts_added == db["prompts"].count == len({row["prompt"] for row in sound})
    different = {(row["prompt"], r["text"]) for row in sound for r in row["responses"]}
    assert counts.responses_added == db["responses"].count == len(different)
    assert _votes_by_text(db) == _votes_in(sound)
    if name == "ukpconvarg1":  # nothing of it is refused: 84,445 less those on identical texts
        void_gold = sum(_is_void(row, g) for row in rows for g in row["gold"] if g["label"])
        n_void = counts.labels_void - void_gold
        assert sum(_votes_in(rows).values()) + n_void == n_human == 84_445
        assert len(gold) == 16_081
    before = everything(db)
    assert not import_files(db, [path], rejects=tmp_path / "r2.jsonl").total.anything_added
    assert everything(db) == before


def _is_void(row: Row, label: Row) -> bool:
    """Whether a label is on two responses that read the same."""
    text = {r["id"]: r["text"] for r in row["responses"]}
    return bool(text[label["a"]] == text[label["b"]])


def _size(rows: list[Row]) -> tuple[int, int, int]:
    human = [c for row in rows for c in row["comparisons"] if c["kind"] == "human"]
    return len(rows), sum(len(row["responses"]) for row in rows), len(human)


def _votes_in(rows: list[Row]) -> Counter[tuple[str, ...]]:
    """Human votes as (prompt, preferred text, other text), ties in alphabetical order; one row
    says a vote of its own as often as it stands there, several rows say it once.
    """
    votes: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        text = {r["id"]: r["text"] for r in row["responses"]}
        here: Counter[tuple[Any, ...]] = Counter()
        for c in row["comparisons"]:
            a, b = text[c["a"]], text[c["b"]]
            if a != b and c["kind"] == "human":
                pair = (b, a) if c["label"] == "b" else (a, b)
                pair = tuple(sorted(pair)) if c["label"] == "tie" else pair
                here[(row["prompt"], *pair, c["label"] == "tie", c["annotator"],
                      c.get("strength"))] += 1  # fmt: skip
        for vote, n in here.items():
            votes[vote] = max(votes[vote], n)
    total: Counter[tuple[str, ...]] = Counter()
    for vote, n in votes.items():
        total[vote[:4]] += n
    return total


def _votes_by_text(db: Database) -> Counter[tuple[str, ...]]:
    query = """
        SELECT p.messages, a.text, b.text, l.label FROM source_labels l
        JOIN responses a ON a.id = l.a_id JOIN responses b ON b.id = l.b_id
        JOIN prompts p ON p.id = a.prompt_id WHERE l.kind = 'human'"""
    votes: Counter[tuple[Any, ...]] = Counter()
    for messages, a, b, label in db.execute(query):
        pair = (b, a) if label == "b" else (a, b)
        pair = tuple(sorted(pair)) if label == "tie" else pair
        votes[(json.loads(messages)[0]["content"], *pair, label == "tie")] += 1
    return votes


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`annotator import` in a project, and what it printed."""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "annotator.toml").write_text("")
    open_db(database(tmp_path), create=True).close()
    from annotator.cli import main

    def invoke(*arguments: object) -> Result:
        project = ["--project", str(tmp_path / "project")]
        return CliRunner().invoke(main, ["import", *map(str, arguments), *project])

    return invoke


def database(tmp_path: Path) -> Path:
    from annotator.config import load_settings

    folder = tmp_path / "project"
    return folder / load_settings(folder).project.database


def test_the_command(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", *map(numbered, range(3)))
    done = run(path)
    assert (done.exit_code, done.stderr) == (0, "")
    head, row = done.stdout.splitlines()
    assert head.split() == ["file", "format", "rows", "rejected", "prompts", "responses",
                            "labels", "scores"]  # fmt: skip
    assert row.split() == ["f.jsonl", "native", "3", "0", "+3", "+9", "+6", "+9"]
    again = run(path)
    assert again.exit_code == 0
    assert again.stdout.splitlines()[-1] == "nothing new"
    assert len(read_database(database(tmp_path))["responses"]) == 9


def test_the_command_says_when_it_is_incomplete(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", numbered(1), {"prompt": "p", "responses": ["x"]})
    done = run(path, "--json")
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert report["total"]["rejected"] == 1
    assert report["files"][0]["counts"]["prompts_added"] == 1
    assert "1 of 2 rows rejected" in done.stderr
    assert "line 2: 1 response, expected at least 2" in done.stderr
    assert report["rejects"] in done.stderr
    assert json.loads(Path(report["rejects"]).read_text())["line"] == 2
    assert Path(report["rejects"]).parent == tmp_path / "project"


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    first = write(tmp_path / "f.jsonl", numbered(1))
    run(first)
    before = read_database(database(tmp_path))
    more = write(tmp_path / "g.jsonl", numbered(1), numbered(2), numbered(2), {"prompt": 1})
    done = run(more, "--dry-run", "--json", "--format", "native")
    report = json.loads(done.stdout)
    assert done.exit_code == 3
    assert (report["dry_run"], report["rejects"]) == (True, None)
    assert report["total"]["prompts_added"] == 1
    assert report["total"]["prompts_known"] == 2
    assert report["total"]["rejected"] == 1
    assert read_database(database(tmp_path)) == before
    assert not list((tmp_path / "project").glob("rejects*"))
    text = run(more, "--dry-run", "--dataset", "d").stdout
    assert "dry run: nothing was written" in text


def test_the_command_and_wrong_use(run: Run, tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run(tmp_path / "absent").exit_code == 2
    path = write(tmp_path / "f.jsonl", {"a": 1})
    assert run(path, "--format", "xml").exit_code == 2
    unknown = run(path)
    assert unknown.exit_code == 1
    assert "no format fits" in unknown.stderr
    assert "Traceback" not in unknown.output


def test_the_command_says_what_the_columns_are(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("prompt,system,temperature,gpt,llama\np,brief,0.7,x,y\n")
    said = (
        "columns: prompt is the prompt; gpt, llama are responses; system, temperature passed over"
    )
    assert said in run(path).stdout.splitlines()
    done = run(path, "--responses", 'gpt, "system"', "--prompt", "LLAMA", "--json")
    assert json.loads(done.stdout)["files"][0]["columns"] == {
        "prompt": "llama",
        "responses": ["gpt", "system"],
        "passed_over": ["prompt", "temperature"],
    }
    assert run(path, "--responses", "gpt,llama", "--format", "trl").exit_code == 2
    path.write_text("text,gpt,llama\np,x,y\n")
    done = run(path, "--format", "columns")
    assert done.exit_code == 1
    assert "text, gpt, llama" in done.stderr
    assert "--prompt" in done.stderr


def test_progress_ends_at_the_size_of_the_files(db: Database, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": f"p{n}", "chosen": "x", "rejected": "y"} for n in range(100)]
    write(tmp_path / "a.jsonl", *rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        steps: list[int] = []
        import_files(db, [tmp_path / name], progress=steps.append, batch_rows=30)
        assert sum(steps) == size_of([tmp_path / name])
        assert min(steps) >= 0


class Terminal:
    """Stands for standard error that a person watches."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        raise OSError


@pytest.mark.parametrize(
    ("quiet", "environment", "seen"), [(False, "", True), (True, "", False), (False, "1", False)]
)
def test_bars_are_for_people(
    monkeypatch: pytest.MonkeyPatch, quiet: bool, environment: str, seen: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("ANNOTATOR_QUIET", environment)
    with progress.progress_bar(2000, "import", "B", quiet=quiet) as advance:
        advance(1000)
        advance(1000)
    assert ("import" in terminal.text) == seen


def test_no_bar_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert not os.isatty(2)
    with progress.progress_bar(None, "import") as advance:
        advance(5)
    assert capfd.readouterr().err == ""
