"""The story of an import: find the files, tell their formats, take them in batch by batch.

A kill loses at most the batch at hand, and the same command run again completes the import:
rows are known by their content, so what is there already is not added twice. For the same reason
two imports of one file may run side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from annotator.candidates.candidate import Candidate, name_of, sound
from annotator.candidates.formats import FORMATS, SAMPLE, Format, find_format
from annotator.candidates.formats.columns import Layout, layout_of
from annotator.candidates.gold import as_gold
from annotator.candidates.keyed import KeyedRow, keyed
from annotator.candidates.outcome import Counts, FileReport, ImportReport, Problem, RejectLog
from annotator.candidates.records import Record, RecordFile, dataset_name, file_name, find_files
from annotator.candidates.storing import ImportEntry, finish_import, store_batch
from annotator.errors import RejectedRow, UnknownFormat
from annotator.progress import stand_still
from annotator.store import now

if TYPE_CHECKING:
    from sqlite_utils import Database

BATCH_ROWS = 2_000
BATCH_WEIGHT = 8_000_000  # characters
ITEM_WEIGHT = 200  # of a label or a score, as if it were that many characters
CACHE_KIB = 64 * 1024


class _Source(NamedTuple):
    records: RecordFile
    format: Format
    dataset: str
    columns: Layout | None
    purpose: str

    def candidate(self, row: dict[str, Any]) -> Candidate:
        return self.format.read(row) if self.columns is None else self.columns.read(row)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How the caller wants files read. What is left open is found out file by file.

    `format` is a name in FORMATS; `prompt` and `responses` name columns of a table with one
    column per response, and with either of them the format is "columns".
    """

    format: str | None = None
    prompt: str | None = None
    responses: tuple[str, ...] = ()

    @property
    def forced(self) -> str | None:
        return "columns" if self.prompt or self.responses else self.format


@dataclass(slots=True)
class _Read:
    """The rows of one batch as they came, before the database was asked."""

    rows: list[KeyedRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    weight: int = 0

    @property
    def n_lines(self) -> int:
        return self.counts.rows + self.counts.blank


def import_files(
    db: Database,
    paths: Sequence[Path],
    *,
    format: str | None = None,
    prompt: str | None = None,
    responses: Sequence[str] = (),
    dataset: str | None = None,
    gold: bool = False,
    rejects: Path | None = None,
    progress: Callable[[int], object] = stand_still,
    batch_rows: int = BATCH_ROWS,
) -> ImportReport:
    """Takes in all files, or the files of a folder; the report says what was new.

    `format` is a name in FORMATS, found file by file if None. `prompt` and `responses` name
    columns; with either of them the format is "columns", whatever `format` says. Rows that name
    no dataset belong to `dataset`, if None to one named after the file. With `gold` the labels are
    gold answers, and what comes with them is no candidate (see `gold`). Refused rows are listed
    in `rejects`, by default a file beside the database. `progress` is told of bytes as they are
    read. Raises CandidateError or UnknownFormat, before anything is written, if a file cannot be
    read at all or its columns do not suffice.
    """
    reading = _Reading(format, prompt, tuple(responses))
    purpose = "gold" if gold else "candidates"
    sources = [_source(path, reading, dataset, purpose) for path in find_files(list(paths))]
    report = ImportReport(purpose)
    with RejectLog(rejects or _rejects_beside(db)) as log, _large_cache(db):
        for source in sources:
            report.files.append(_import_file(db, source, log, progress, batch_rows))
    report.rejects, report.first_problems = log.written, log.first
    return report


def size_of(paths: Sequence[Path]) -> int:
    """How many bytes `import_files` will tell `progress` of. Raises CandidateError."""
    return sum(path.stat().st_size for path in find_files(list(paths)))


def _source(path: Path, reading: _Reading, dataset: str | None, purpose: str) -> _Source:
    records = RecordFile(path)
    if reading.forced not in (None, "columns"):
        chosen, layout = FORMATS[reading.forced], None
    else:
        chosen, layout = _found(records, reading)
    return _Source(records, chosen, _dataset(dataset) or dataset_name(path), layout, purpose)


def _dataset(given: str | None) -> str | None:
    return name_of(given, "the name of the dataset")


def _found(records: RecordFile, reading: _Reading) -> tuple[Format, Layout | None]:
    """What the first records say of the format, and of the columns if they have to be told."""
    sample = records.sample(SAMPLE)
    rows = [record.row for record in sample if record.row is not None]
    if not sample:
        return FORMATS[reading.forced or "native"], None  # an empty file is as good as any
    if not rows:
        raise _no_records(records.path, sample[0])
    if reading.forced is None:
        chosen = find_format(rows, table=records.is_table, where=records.path)
    else:
        chosen = FORMATS[reading.forced]
    if chosen.name != "columns":
        return chosen, None
    return chosen, layout_of(rows, records.path, prompt=reading.prompt, responses=reading.responses)


def _no_records(path: Path, first: Record) -> UnknownFormat:
    start = first.raw.lstrip() if isinstance(first.raw, bytes) else b""
    if start.startswith(b"["):
        return UnknownFormat(
            f"{path} is one JSON array",
            expected="JSON lines: one object on each line",
            todo="jq -c '.[]' FILE > FILE.jsonl",
        )
    return UnknownFormat(
        f"no record in {path} can be read; line {first.line}: {first.problem}",
        expected="JSON lines (UTF-8), CSV with a first line of names, or parquet",
        todo="convert the file, or give it the ending of what it is",
    )


def _rejects_beside(db: Database) -> Path | None:
    """The file for refused rows, next to the database's; None if that is only in memory."""
    database = db.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()[0]
    if not database:
        return None
    return Path(database).parent / f"rejects-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.jsonl"


@contextmanager
def _large_cache(db: Database) -> Iterator[None]:
    # Keys are hashes, so each insert touches pages all over the indexes. With SQLite's 2 MB
    # they would be written out and read back within one batch.
    before = db.execute("PRAGMA cache_size").fetchone()[0]
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    try:
        yield
    finally:
        db.execute(f"PRAGMA cache_size = {before}")


def _import_file(
    db: Database,
    source: _Source,
    log: RejectLog,
    progress: Callable[[int], object],
    batch_rows: int,
) -> FileReport:
    file = file_name(source.records.path)
    report = FileReport(file, source.format.name, source.dataset, columns=source.columns)
    entry = ImportEntry(file, source.dataset, source.format.name, now(), source.purpose)
    told = 0
    for batch in _batches(source, batch_rows):
        stored, problems = store_batch(db, batch.rows, entry)
        report.counts.add(batch.counts)
        report.counts.add(stored)
        log.write(file, [*batch.problems, *problems])
        progress(source.records.position - told)
        told = source.records.position
    finish_import(db, entry)
    return report


def _batches(source: _Source, batch_rows: int) -> Iterator[_Read]:
    batch = _Read()
    with closing(source.records.read()) as records:
        for record in records:
            _read_into(batch, record, source)
            if batch.n_lines >= batch_rows or batch.weight >= BATCH_WEIGHT:
                yield batch
                batch = _Read()
    if batch.n_lines:
        yield batch


def _read_into(batch: _Read, record: Record, source: _Source) -> None:
    if record.blank:
        batch.counts.blank += 1
        return
    batch.counts.rows += 1
    try:
        row = _row(record, source)
    except RejectedRow as refusal:
        batch.counts.rejected += 1
        batch.problems.append(Problem(record.line, refusal.found, record.raw))
        return
    batch.rows.append(row)
    batch.weight += _weight(row)


def _weight(row: KeyedRow) -> int:
    candidate = row.sound.candidate
    n_chars = sum(len(response.text) for response in candidate.responses)
    n_chars += sum(len(turn["content"]) for turn in candidate.messages)
    n_items = len(row.labels) + sum(len(response.scores) for response in candidate.responses)
    return n_chars + ITEM_WEIGHT * n_items


def _row(record: Record, source: _Source) -> KeyedRow:
    if record.row is None:
        raise RejectedRow(record.problem or "")
    candidate = source.candidate(record.row)
    row = keyed(record.line, record.raw, sound(candidate), source.dataset)
    return as_gold(row) if source.purpose == "gold" else row
