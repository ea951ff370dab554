"""Writes an export: JSON lines, gzipped or not, or parquet; whole or not at all."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from uuid import uuid4

from annotator.errors import AnnotatorError
from annotator.export.formats import FORMATS, Row, by_machine, by_person
from annotator.export.labelled import LabelledPair, labelled_pairs
from annotator.export.machine import machine_labels, void_labels

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlite_utils import Database

ROWS_PER_GROUP = 5_000


@dataclass
class ExportReport:
    """Rows written, and pairs that gave none: votes that prefer neither response, or on gold.

    `machine`: certificate -> rows by it, which are among `rows` and not among `pairs`; `void`:
    certificate -> labels that were left out since nothing stands behind them any more.
    """

    rows: int = 0
    pairs: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    machine: Counter[int] = field(default_factory=Counter)
    void: Counter[int] = field(default_factory=Counter)


def export_file(
    db: Database,
    name: str,
    path: Path,
    *,
    hash_annotators: bool = False,
    by_crowd: bool = False,
    by_machines: bool = False,
) -> ExportReport:
    """Writes the labelled pairs to `path` in format `name`, as what `path` ends in says.

    `hash_annotators` and `by_crowd` as in labelled_pairs; with `by_machines` also what
    machine_labels gives, in no format of single votes. The file appears only when it is complete.
    Raises AnnotatorError when it cannot be written, or ends in none of WRITERS.
    """
    write = _writer(path)
    report = ExportReport()
    scratch = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        with _one_snapshot(db):
            pairs = labelled_pairs(db, hash_annotators=hash_annotators, by_crowd=by_crowd)
            rows = _rows(pairs, name, report)
            write(_with_machines(db, rows, name, report) if by_machines else rows, scratch)
        scratch.replace(path)
    except OSError as error:
        raise AnnotatorError(
            f"cannot write {path}: {error.strerror or error}",
            expected="a folder with room that this user may write to",
            todo="choose another --out; nothing was written",
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
    return report


def _writer(path: Path) -> Callable[[Iterable[Row], Path], None]:
    for ending, write in WRITERS.items():
        if path.name.lower().endswith(ending):
            return write
    raise AnnotatorError(
        f"{path} has an ending that says nothing of what to write",
        expected=f"a file that ends in {', '.join(WRITERS)}",
        todo="choose another name; nothing was written",
    )


def export_stream(
    db: Database,
    name: str,
    stream: IO[str],
    *,
    hash_annotators: bool = False,
    by_crowd: bool = False,
    by_machines: bool = False,
) -> ExportReport:
    """Writes JSON lines to an open stream, as `--out -` does."""
    report = ExportReport()
    pairs = labelled_pairs(db, hash_annotators=hash_annotators, by_crowd=by_crowd)
    rows = _rows(pairs, name, report)
    for row in _with_machines(db, rows, name, report) if by_machines else rows:
        stream.write(_line(row))
    return report


class _one_snapshot:
    """A read transaction, so that a sync in the middle changes nothing of what is written."""

    def __init__(self, db: Database) -> None:
        self.db = db

    def __enter__(self) -> None:
        self.db.execute("BEGIN")

    def __exit__(self, *_: object) -> None:
        self.db.execute("COMMIT")


def _rows(pairs: Iterable[LabelledPair], name: str, report: ExportReport) -> Iterator[Row]:
    form: Callable[[LabelledPair], list[Row]] = FORMATS[name]
    for pair in pairs:
        rows = form(pair)
        report.pairs += 1
        report.rows += len(rows)
        if not rows:
            report.left_out[pair.consensus.verdict if pair.consensus else "gold"] += 1
        yield from rows


def _with_machines(
    db: Database, rows: Iterable[Row], name: str, report: ExportReport
) -> Iterator[Row]:
    """People's rows first, then machines'; all with the same columns."""
    yield from map(by_person, rows)
    for label in machine_labels(db):
        report.rows += 1
        report.machine[label.certificate] += 1
        yield by_machine(name, label)
    report.void = void_labels(db)


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _write_jsonl(rows: Iterable[Row], path: Path) -> None:
    with path.open("w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(_line(row))
        handle.flush()
        os.fsync(handle.fileno())


def _write_jsonl_gz(rows: Iterable[Row], path: Path) -> None:
    with path.open("wb") as handle:
        # Neither name nor time go in: the same rows are the same bytes.
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as packed,
            io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as lines,
        ):
            for row in rows:
                lines.write(_line(row))
        handle.flush()
        os.fsync(handle.fileno())


def _write_parquet(rows: Iterable[Row], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    try:
        for group in _groups(rows):
            schema = writer.schema if writer else _schema(group[0])
            table = pa.Table.from_pylist(group, schema=schema)
            writer = writer or pq.ParquetWriter(path, schema, compression="zstd")
            writer.write_table(table)
        if writer is None:  # a file with no rows is still a file that others can open
            pq.write_table(pa.table({}), path)
    finally:
        if writer is not None:
            writer.close()


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS_PER_GROUP:
            yield group
            group = []
    if group:
        yield group


def _schema(row: Row) -> pa.Schema:
    """Types by name, not by the first rows: a column that is empty there is typed all the same."""
    import pyarrow as pa

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    annotator = pa.string() if _is_hashed(row) else pa.int64()
    typed = {
        "score": pa.float64(),
        "propensity": pa.float64(),
        "agreement": pa.float64(),
        "margin": pa.float64(),
        "probability": pa.float64(),
        "seconds": pa.float64(),
        "seed": pa.int64(),
        "round": pa.int64(),
        "n_votes": pa.int64(),
        "annotator": annotator,
        "vote": pa.int64(),
        "prefilled": pa.bool_(),
        "annotators": pa.list_(annotator),
        "grades": pa.list_(pa.string()),
        "certificate": pa.int64(),
        "certified_agree": pa.float64(),
        "certified_confidence": pa.float64(),
    }
    return pa.schema(
        (name, typed.get(name, messages if isinstance(value, list) else pa.string()))
        for name, value in row.items()
    )


def _is_hashed(row: Row) -> bool:
    """Whether annotators have names instead of ids; it is the same in all rows of an export.

    Machines' rows, which have none, come after people's.
    """
    people = [row["annotator"]] if "annotator" in row else row["annotators"]
    return any(isinstance(one, str) for one in people)


WRITERS: dict[str, Callable[[Iterable[Row], Path], None]] = {
    ".jsonl": _write_jsonl,
    ".jsonl.gz": _write_jsonl_gz,
    ".parquet": _write_parquet,
}
