"""A small project on disk with real vectors, made once and copied for each test that needs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from annotator.candidates.ingest import import_files
from annotator.config import DEFAULT_ENCODER, template
from annotator.signals.embeddings import ensure_embedded
from annotator.store import open_db

SIZES = (2, 4, 3, 5, 2, 4, 6, 3)
N_PAIRS = sum(k * (k - 1) // 2 for k in SIZES)  # 47


def write_candidates(path: Path, sizes: tuple[int, ...] = SIZES) -> Path:
    """JSON lines: one prompt per number, with that many responses."""
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"Question {i}: what would you pack for a trip of {i + 1} days?",
            "responses": [
                {"text": f"Take {j + 1} shirts, {i} books and nothing else.", "model": f"model-{j}"}
                for j in range(k)
            ],
        }
        for i, k in enumerate(sizes)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_project(folder: Path) -> Path:
    """A project in `folder` whose candidates are imported and embedded; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotator.toml").write_text(template("ready"), encoding="utf-8")
    path = folder / "annotator.db"
    db = open_db(path, create=True)
    try:
        import_files(db, [write_candidates(folder / "candidates.jsonl")])
        ensure_embedded(db, path, DEFAULT_ENCODER)
    finally:
        db.close()
    return folder


def copy_project(made: Path, to: Path) -> Path:
    """A project of one's own, with the same texts, vectors and database identity."""
    return Path(shutil.copytree(made, to))


def table_counts(project: Path) -> dict[str, int]:
    """Rows of every table of the project's database."""
    db = open_db(project / "annotator.db")
    try:
        return {name: db[name].count for name in db.table_names()}
    finally:
        db.close()


def rows_of(project: Path, query: str) -> list[tuple[Any, ...]]:
    """The answer to one query on the project's database."""
    db: Database = open_db(project / "annotator.db")
    try:
        return list(db.execute(query).fetchall())
    finally:
        db.close()
