"""Raw records out of files: JSON lines, CSV and parquet, the first two gzipped or not.

A file is streamed. Whatever cannot be taken apart comes out as a record with a `problem` in its
place, so that a broken line costs that line and nothing else, and every line is accounted for.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from annotator.candidates.candidate import MAX_TEXT_CHARS, kind_of
from annotator.errors import CandidateError, UnknownFormat

if TYPE_CHECKING:
    from pyarrow import RecordBatch

MAX_LINE_BYTES = 32 * 1024 * 1024  # a longer line is passed over without being held
MAX_EXCERPT_CHARS = 500  # of a rejected row, in the list of rejected rows
MAX_EXCERPT_ITEMS = 50
PARQUET_ROWS = 256  # taken out of a parquet file at a time

LINES_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv")
PARQUET_SUFFIXES = (".parquet",)
SUFFIXES = LINES_SUFFIXES + TABLE_SUFFIXES + PARQUET_SUFFIXES

_GZIP_MAGIC = b"\x1f\x8b"
_PARQUET_MAGIC = b"PAR1"
_BOM = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Record:
    """One line or row: `row` if it could be taken apart, else the `problem`; blank: neither.

    `line` counts from 1, as an editor does; in parquet it is the number of the row. `raw` is what
    stands there, cut so that many records can be kept.
    """

    line: int
    raw: object
    row: dict[str, Any] | None = None
    problem: str | None = None

    @property
    def blank(self) -> bool:
        return self.row is None and self.problem is None


class RecordFile:
    """One file of records.

    `position` is how many of its `size` bytes were read so far, as they lie on the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            self.size = path.stat().st_size
            with path.open("rb") as handle:
                magic = handle.read(4)
        self.zipped = magic.startswith(_GZIP_MAGIC)
        self.kind = _kind(path, magic, self.zipped)
        self.position = 0

    @property
    def is_table(self) -> bool:
        """Whether all records have the same columns."""
        return self.kind != "lines"

    def read(self) -> Generator[Record, None, None]:
        """All records, from the start."""
        self.position = 0
        with _readable(self.path):
            if self.kind == "parquet":
                yield from self._parquet()
            else:
                yield from self._text()

    def sample(self, n: int) -> list[Record]:
        """The first records that are not blank, at most `n`."""
        with closing(self.read()) as records:
            return list(islice((record for record in records if not record.blank), n))

    def _text(self) -> Iterator[Record]:
        read = _json_records if self.kind == "lines" else _table_records
        damage = (EOFError, OSError, zlib.error)
        with self.path.open("rb") as raw, _unzipped(raw, self.zipped) as stream:
            for record in _until_damaged(read(_lines(stream)), damage):
                self.position = raw.tell()
                yield record

    def _parquet(self) -> Iterator[Record]:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            # No read-ahead and a small buffer: a row group is never held as a whole.
            file = ParquetFile(
                self.path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True
            )
        except ArrowException as error:
            raise CandidateError(
                f"{self.path} is not a sound parquet file: {error}",
                expected="a complete parquet file",
                todo="fetch or write the file again",
            ) from error
        with file:
            n_rows = max(file.metadata.num_rows, 1)
            batches = file.iter_batches(batch_size=PARQUET_ROWS, use_threads=False)
            for record in _until_damaged(_parquet_records(batches), (ArrowException, OSError)):
                self.position = self.size * min(record.line, n_rows) // n_rows
                yield record


def find_files(paths: list[Path]) -> list[Path]:
    """The files meant by `paths`, in order and each once; a folder stands for all files in it
    and below whose name ends like one we read. Raises CandidateError.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for file in _files_of(path):
            found.setdefault(file.resolve(), file)
    return list(found.values())


def dataset_name(path: Path) -> str:
    """The file's name without the endings that tell its kind: `a.v2.jsonl.gz` is `a.v2`."""
    whole = file_name(Path(path.name))
    name = whole.removesuffix(".gz")
    return next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name) or whole


def file_name(path: Path) -> str:
    """The path as text that can be stored, whatever bytes are in it."""
    return os.fsencode(path).decode(errors="replace")


def excerpt(raw: object) -> str:
    """The `raw` of a record as text, whatever is wrong with it."""
    if isinstance(raw, bytes):
        return raw.decode(errors="replace")[:MAX_EXCERPT_CHARS].rstrip()
    return json.dumps(raw, default=str)[:MAX_EXCERPT_CHARS]


def _start_of(raw: object) -> object:
    if isinstance(raw, bytes):
        return raw[: 4 * MAX_EXCERPT_CHARS]
    if isinstance(raw, str):
        return raw[:MAX_EXCERPT_CHARS]
    if isinstance(raw, dict):
        first = islice(raw.items(), MAX_EXCERPT_ITEMS)
        return {str(name): _start_of(value) for name, value in first}
    if isinstance(raw, list):
        return [_start_of(value) for value in raw[:MAX_EXCERPT_ITEMS]]
    return raw


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CandidateError(
            f"there is no file at {path}",
            expected="a file or a folder of files",
            todo="check the path",
        )
    below = (file for file in sorted(path.rglob("*")) if _in_sight(file.relative_to(path)))
    files = [file for file in below if file.is_file() and _known_suffix(file)]
    if not files:
        raise CandidateError(
            f"the folder {path} holds nothing to import",
            expected=f"files ending in {', '.join(SUFFIXES)}, gzipped or not",
            todo="name the files one by one if they end otherwise",
        )
    return files


def _in_sight(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _known_suffix(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(SUFFIXES)


def _kind(path: Path, magic: bytes, zipped: bool) -> str:
    if magic == _PARQUET_MAGIC:
        return "parquet"
    name = path.name.removesuffix(".gz")
    if name.endswith(PARQUET_SUFFIXES):
        raise CandidateError(
            f"{path} is not a parquet file{', but gzip' if zipped else ''}",
            expected="a parquet file, which begins with PAR1",
            todo="unpack or fetch the file again",
        )
    if name.endswith(TABLE_SUFFIXES):
        return "table"
    if name.endswith(LINES_SUFFIXES):
        return "lines"
    start = magic.removeprefix(_BOM).lstrip()
    return "lines" if start.startswith((b"{", _GZIP_MAGIC)) else "table"


def _unzipped(raw: BinaryIO, zipped: bool) -> AbstractContextManager[BinaryIO | gzip.GzipFile]:
    return gzip.GzipFile(fileobj=raw) if zipped else nullcontext(raw)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CandidateError(
            f"cannot read {path}: {error.strerror or error}",
            expected="a file that this user may read",
            todo="check owner and permissions",
        ) from error


def _until_damaged(
    records: Iterator[Record], damage: tuple[type[Exception], ...]
) -> Iterator[Record]:
    """The records; where the file turns out to be cut off or damaged, one that says so."""
    line = 0
    try:
        for record in records:
            line = record.line
            yield record
    except damage as error:
        yield Record(line + 1, b"", problem=f"from here on the file cannot be read: {error}")


def _lines(stream: BinaryIO | gzip.GzipFile) -> Iterator[tuple[bytes, bool]]:
    """The lines of a stream, and whether each is whole; of an absurdly long one, its start."""
    mark = _BOM
    while line := stream.readline(MAX_LINE_BYTES):
        whole = len(line) < MAX_LINE_BYTES or line.endswith(b"\n") or _nothing_left(stream)
        yield line.removeprefix(mark), whole
        mark = b""


def _nothing_left(stream: BinaryIO | gzip.GzipFile) -> bool:
    """Whether a line of the greatest length ends here; if not, the rest of it is passed over."""
    rest = stream.readline(1 << 20)
    ended = rest in (b"", b"\n")
    while rest and not rest.endswith(b"\n"):
        rest = stream.readline(1 << 20)
    return ended


def _json_records(lines: Iterator[tuple[bytes, bool]]) -> Iterator[Record]:
    for number, (line, whole) in enumerate(lines, start=1):
        record = Record(number, _start_of(line))
        if not whole:
            record.problem = _too_long()
        elif line.strip():
            _parse_json(line, record)
        yield record


def _parse_json(line: bytes, record: Record) -> None:
    try:
        row = json.loads(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        record.problem = f"not UTF-8: {error.reason} at byte {error.start + 1}"
    except RecursionError:
        record.problem = "not JSON that we read: nested too deeply"
    except json.JSONDecodeError as error:
        # Its own text counts lines within the line.
        what = error.msg.removesuffix(" at")
        record.problem = f"not JSON: {what} at character {error.pos + 1}"
    except ValueError as error:
        record.problem = f"not JSON: {error}"
    else:
        if isinstance(row, dict):
            record.row = row
        else:
            record.problem = f"the line holds {kind_of(row)}, expected an object"


def _too_long() -> str:
    return f"the line is longer than {MAX_LINE_BYTES // 2**20} MiB"


class _TableLines:
    """Feeds a csv.reader and remembers what that cannot tell: the last line as it was, and
    whether a line had to be cut.
    """

    def __init__(self, lines: Iterator[tuple[bytes, bool]]) -> None:
        self._lines = lines
        self.last = b""
        self.cut = False

    def __iter__(self) -> _TableLines:
        return self

    def __next__(self) -> str:
        self.last, whole = next(self._lines)
        self.cut |= not whole
        # Bytes that are no UTF-8 become lone surrogates, which are recognised cell by cell.
        return self.last.decode(errors="surrogateescape")


def _table_records(lines: Iterator[tuple[bytes, bool]]) -> Iterator[Record]:
    feed = _TableLines(lines)
    header, delimiter = _header(next(feed, ""))
    limit = csv.field_size_limit(MAX_TEXT_CHARS)
    try:
        reader = csv.reader(feed, delimiter=delimiter, strict=True)
        yield from _cell_records(feed, reader, header)
    finally:
        csv.field_size_limit(limit)


def _header(line: str) -> tuple[list[str], str]:
    delimiter = max(",;\t", key=line.count)
    header = next(csv.reader([line], delimiter=delimiter), [])
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise UnknownFormat(
            f"the columns {', '.join(sorted(twice))} appear more than once",
            expected="a first line that names every column once",
            todo="rename the columns",
        )
    return header, delimiter


def _cell_records(feed: _TableLines, reader: Any, header: list[str]) -> Iterator[Record]:
    while True:
        number = reader.line_num + 2  # the reader never saw the first line
        feed.cut = False
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(number, _start_of(feed.last), problem=f"not CSV: {_csv_reason(error)}")
        else:
            yield _table_record(number, cells, header, cut=feed.cut)


def _csv_reason(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a cell of over {MAX_TEXT_CHARS:,} characters, or a quote that is never closed"
    return str(error)


def _table_record(number: int, cells: list[str], header: list[str], *, cut: bool) -> Record:
    record = Record(number, _start_of(cells))
    if cut:
        record.problem = _too_long()
    elif cells and len(cells) != len(header):
        record.problem = f"{len(cells)} cells, the first line names {len(header)} columns"
    elif any(_undecoded(cell) for cell in cells):
        record.problem = "not UTF-8"
    elif cells:
        record.row = dict(zip(header, cells, strict=True))
    return record


def _undecoded(cell: str) -> bool:
    return not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell)


def _parquet_records(batches: Iterator[RecordBatch]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for row in _python_rows(batch):
            number += 1
            if row is None:
                yield Record(number, b"", problem="not UTF-8")
            else:
                yield Record(number, _start_of(row), row=row)


def _python_rows(batch: RecordBatch) -> Iterator[dict[str, Any] | None]:
    """The rows; None for one whose texts are not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for n in range(batch.num_rows):
            try:
                yield from batch.slice(n, 1).to_pylist()
            except UnicodeDecodeError:
                yield None
