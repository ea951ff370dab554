"""A labelled file as a database of its own in the cache: imported once, embedded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.candidates.ingest import import_files, size_of
from annotator.candidates.records import find_files
from annotator.progress import progress_bar
from annotator.signals.embeddings import ensure_embedded
from annotator.store import hold_lock, open_db

if TYPE_CHECKING:
    from sqlite_utils import Database

VERSION = 1  # raise it when `import` reads more of the same files than it did
BLOCK_BYTES = 1 << 20
WAIT_SECONDS = 7 * 86_400.0  # for another process that prepares the same files


@dataclass(frozen=True)
class PreparedSet:
    """An open database that holds the files' rows, every text with its vector.

    `n_refused`: rows of the files that `import` refused.
    """

    db: Database
    path: Path
    encoder_id: int
    n_refused: int


@contextmanager
def prepared_set(
    paths: Sequence[Path],
    cache: Path,
    *,
    encoder: str,
    precision: str = "auto",
    format: str | None = None,
) -> Iterator[PreparedSet]:
    """These files, imported and embedded unless `cache` holds them already.

    `format` as in `import_files`. Raises CandidateError, UnknownFormat or EncoderError as `import`
    and `embed` do. A killed run goes on where it stopped.
    """
    folder = cache / "labelled" / _key(paths, format)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labelled.db"
    db = open_db(path, create=True)
    try:
        with hold_lock(folder / "lock", "preparing a labelled set", wait_seconds=WAIT_SECONDS):
            n_refused = _import_once(db, paths, folder, format)
            encoder_id = ensure_embedded(db, path, encoder, precision).encoder_id
        yield PreparedSet(db, path, encoder_id, n_refused)
    finally:
        db.close()


def _key(paths: Sequence[Path], format: str | None) -> str:
    """A hash of what the files say and how they are read."""
    from annotator import __version__

    digest = hashlib.sha256(f"{__version__} {VERSION} {format}".encode())
    for path in find_files(list(paths)):
        digest.update(path.name.encode())  # rows that name no data set belong to one named so
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:32]


def _import_once(db: Database, paths: Sequence[Path], folder: Path, format: str | None) -> int:
    """Imports the files unless that was done; how many of their rows were refused."""
    done = folder / "imported"
    if not done.exists():
        with progress_bar(size_of(paths), "import", "B") as progress:
            report = import_files(db, paths, format=format, progress=progress)
        done.write_text(str(report.total.rejected), encoding="ascii")
    return int(done.read_text(encoding="ascii"))
