"""What came of an import, in numbers that add up, and the list of what was refused."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, NamedTuple

from annotator.candidates.formats.columns import Layout
from annotator.candidates.records import excerpt
from annotator.errors import CandidateError


class Problem(NamedTuple):
    """Something of a file that was not stored: the line, why, and what stands there."""

    line: int
    reason: str
    raw: object


@dataclass(slots=True)
class Counts:
    """What was read and what of it was new.

    rows = accepted + rejected, blank lines apart. Of the accepted rows
    accepted = prompts_added + prompts_known, all responses in them are new or known (a response
    that repeats another of its row counts as known), all labels are new, known or void (they
    compare two identical responses), and all scores of the responses that stand for themselves
    are new, known or conflicting (another value is kept).
    """

    rows: int = 0
    blank: int = 0
    rejected: int = 0
    prompts_added: int = 0
    prompts_known: int = 0
    responses_added: int = 0
    responses_known: int = 0
    labels_added: int = 0
    labels_known: int = 0
    labels_void: int = 0
    scores_added: int = 0
    scores_known: int = 0
    scores_conflicting: int = 0

    @property
    def accepted(self) -> int:
        return self.rows - self.rejected

    @property
    def anything_added(self) -> bool:
        return bool(
            self.prompts_added or self.responses_added or self.labels_added or self.scores_added
        )

    @property
    def complete(self) -> bool:
        """Whether everything that was read is in the database now."""
        return not (self.rejected or self.scores_conflicting)

    def add(self, other: Counts) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


@dataclass(slots=True)
class FileReport:
    """What came of one file; `columns` says what its columns were taken for, if that had to be
    decided.
    """

    file: str
    format: str
    dataset: str
    counts: Counts = field(default_factory=Counts)
    columns: Layout | None = None

    @property
    def columns_said(self) -> str:
        """One line on the columns; "" if nothing had to be decided."""
        if self.columns is None:
            return ""
        said = [
            f"{self.columns.prompt} is the prompt",
            f"{', '.join(self.columns.responses)} are responses",
        ]
        if self.columns.passed_over:
            over = ", ".join(name or "(no name)" for name in self.columns.passed_over)
            said.append(f"{over} passed over")
        return _printable(f"columns: {'; '.join(said)}")


@dataclass(slots=True)
class ImportReport:
    """What came of an import. `rejects` is the file that lists what was refused, if any was.

    Where `purpose` is gold, labels are gold answers, and of responses and scores only those are
    counted that an answer is about.
    """

    purpose: str = "candidates"
    files: list[FileReport] = field(default_factory=list)
    rejects: Path | None = None
    first_problems: list[str] = field(default_factory=list)

    @property
    def total(self) -> Counts:
        total = Counts()
        for report in self.files:
            total.add(report.counts)
        return total

    @property
    def prompts_added(self) -> int:
        return self.total.prompts_added

    @property
    def responses_added(self) -> int:
        return self.total.responses_added

    @property
    def responses_known(self) -> int:
        return self.total.responses_known

    def as_json(self) -> dict[str, Any]:
        """The report as plain values."""
        total = self.total
        return {
            "purpose": self.purpose,
            "files": [asdict(report) for report in self.files],
            "total": asdict(total),
            "nothing_new": not total.anything_added,
            "rejects": None if self.rejects is None else str(self.rejects),
            "first_problems": self.first_problems,
        }


class RejectLog:
    """JSON lines {file, line, reason, raw}, in a file that is made with the first of them.

    Without a path nothing is written. The first few are kept for the person at the screen.
    """

    SHOWN = 5

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.written: Path | None = None
        self.first: list[str] = []
        self._handle: IO[str] | None = None

    def __enter__(self) -> RejectLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.close()

    def write(self, file: str, problems: Iterable[Problem]) -> None:
        """Appends the problems of one batch, in the order of their lines."""
        for line, reason, raw in sorted(problems, key=lambda problem: problem.line):
            if len(self.first) < self.SHOWN:
                self.first.append(f"{file}, line {line}: {_printable(reason)}")
            self._append({"file": file, "line": line, "reason": reason, "raw": excerpt(raw)})
        if self._handle is not None:
            self._handle.flush()

    def _append(self, entry: dict[str, Any]) -> None:
        if self.path is None:
            return
        try:
            if self._handle is None:
                self._handle = self.path.open("x", encoding="ascii")
                self.written = self.path
            self._handle.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise CandidateError(
                f"cannot write the rejected rows to {self.path}: {error.strerror or error}",
                expected="a folder that this user may write to, with space left",
                todo="make room or change owner and permissions, then import again",
            ) from error


def _printable(reason: str) -> str:
    # A reason can quote what the row holds; a terminal obeys control characters.
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in reason)
