"""Finished replays on disk, each under a hash of everything that determines it.

One file a run, written aside and renamed: a killed simulation leaves whole runs or nothing, and the
same command goes on from there. A run made by other code, another encoder or other votes has
another name, so nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import BadZipFile

import numpy as np

from annotator.simulate.replay import Plan, Run, parted
from strategies import strategy_named

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Arrays = TypeVar("Arrays", bound=DataclassInstance)

# What a replay runs through. A change of any of it makes old runs another thing.
SOURCES = (
    "strategies",
    "annotator/preference",
    "annotator/rounds/choose.py",
    "annotator/rounds/features.py",
    "annotator/signals/scores.py",
    "annotator/simulate/metrics.py",
    "annotator/simulate/replay.py",
    "annotator/simulate/world.py",
)


@dataclass(frozen=True)
class RunStore:
    """The finished runs of one world under one plan.

    `learner` names what is learnt with, `code` is the hash of what a replay runs through: taken
    once, so that all processes of a simulation agree. `scores` are the hashes, by name, of the
    scores that strategies go by, `judge` the name of those they go by unless they name others.
    """

    folder: Path
    world: str
    plan: Plan
    learner: str
    code: str = field(default_factory=lambda: code_fingerprint())
    scores: Mapping[str, str] = field(default_factory=dict)
    judge: str | None = None

    def load(self, strategy: str, seed: int) -> Run | None:
        """That run, or None if it is not finished. A damaged file counts as none."""
        return load_arrays(Run, self._path(strategy, seed))

    def save(self, strategy: str, seed: int, run: Run) -> None:
        """Keeps a finished run; whole or not at all."""
        save_arrays(run, self._path(strategy, seed))

    def _path(self, strategy: str, seed: int) -> Path:
        determined_by = {
            "world": self.world,
            "plan": asdict(self.plan),
            "learner": self.learner,
            "strategy": [strategy, _code_of(strategy)],
            "seed": seed,
            "code": self.code,
            "numpy": np.__version__,
        }
        if scores := parted(strategy)[1] or self.judge:
            determined_by["scores"] = self.scores[scores]
        return named_after(determined_by, self.folder)


def named_after(determined_by: Mapping[str, Any], folder: Path) -> Path:
    """The file in `folder` for what all this determines."""
    name = hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"{name}.npz"


def load_arrays(kind: type[Arrays], path: Path) -> Arrays | None:
    """The dataclass of arrays in that file; None if there is none. A damaged file goes away."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return kind(**{part.name: arrays[part.name] for part in fields(kind)})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        path.unlink(missing_ok=True)
        return None


def save_arrays(arrays: DataclassInstance, path: Path) -> None:
    """Writes a dataclass of arrays; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, **asdict(arrays))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def code_fingerprint(sources: Iterable[str] = SOURCES) -> str:
    """A hash of the source of all that a replay runs through."""
    digest = hashlib.sha256()
    for source in sources:
        package, *inside = source.split("/")
        for name, content in _sources(files(package).joinpath(*inside)):
            digest.update(f"{source} {name} {len(content)}".encode())
            digest.update(content)
    return digest.hexdigest()[:32]


def _sources(place: Traversable) -> Iterable[tuple[str, bytes]]:
    if place.is_file():
        return [(place.name, place.read_bytes())]
    return [
        (entry.name, entry.read_bytes())
        for entry in sorted(place.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".py")
    ]


def _code_of(strategy: str) -> str:
    """A hash of the module of a strategy, which may be another distribution's."""
    module = sys.modules[strategy_named(parted(strategy)[0]).__module__]
    try:
        return hashlib.sha256(inspect.getsource(module).encode()).hexdigest()[:32]
    except (OSError, TypeError):  # compiled, or made at run time
        return str(module.__name__)
