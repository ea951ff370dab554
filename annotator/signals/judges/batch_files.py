"""The files of the Batch API: lines that go out, lines that come back, and the folder they wait in.

A line that goes out is one request under its key, so that the answer finds its call in whatever
order it comes. The folder stands beside the database. A file is whole on disk, or not there; it is
named by its hash, and stays until its answers are in the ledger.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from annotator.errors import StoreError
from annotator.signals.judges.reply import ChatRequest

Worth = TypeVar("Worth")

URL = "/v1/chat/completions"
# A line that was never worked on, and so never billed.
NOT_DONE = ("batch_expired", "batch_cancelled")
_LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Line:
    """A request as it stands in a file."""

    key: str
    model: str
    text: bytes  # JSON and a line end


def line_of(request: ChatRequest, key: str) -> Line:
    """The request's line; its key is the custom_id."""
    document = {"custom_id": key, "method": "POST", "url": URL, "body": request.body()}
    # ASCII: a lone surrogate, which UTF-8 cannot hold, goes out as it came.
    return Line(key, request.model, json.dumps(document).encode("ascii") + b"\n")


def request_in(line: Line) -> ChatRequest:
    """The request that a line of ours was made from, but for the number of its sample."""
    body = dict(json.loads(line.text)["body"])
    messages = tuple((one["role"], one["content"]) for one in body.pop("messages"))
    return ChatRequest(body.pop("model"), messages, tuple(body.items()))


# Lines that come back


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of an output or error file: a response with its status, or the reason for none."""

    key: str
    status: int | None  # of the response; None: there is none
    body: Any = None
    code: str = ""
    message: str = ""

    @property
    def was_not_done(self) -> bool:
        """It says itself that nobody worked on it."""
        return self.status is None and self.code in NOT_DONE


def read_answers(content: bytes) -> Iterator[Answer | None]:
    """Every line of a file that a server made; None for one that cannot be read."""
    for text in io.BytesIO(content):
        if text.strip():
            yield _answer(text)


def _answer(text: bytes) -> Answer | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("custom_id"), str):
        return None
    key, response = document["custom_id"], document.get("response")
    if isinstance(response, dict) and type(response.get("status_code")) is int:
        return Answer(key, response["status_code"], response.get("body"))
    error = document.get("error")
    error = error if isinstance(error, dict) else {"message": error}
    message = str(error.get("message") or "the line has neither response nor error")
    return Answer(key, None, None, str(error.get("code") or ""), message[:_LONGEST_MESSAGE])


@dataclass
class Returned(Generic[Worth]):
    """What a batch has brought: what the first answer under each key is worth, and all else."""

    answers: dict[str, Worth] = field(default_factory=dict)
    unknown: int = 0  # lines under ids that are not the batch's
    repeated: int = 0  # lines beyond the first of their id
    unreadable: int = 0
    lost: bool = False  # there is a file that cannot be fetched

    def take(
        self, answer: Answer | None, keys: Container[str], worth: Callable[[Answer], Worth]
    ) -> None:
        """Takes one line in; `keys` are the batch's."""
        if answer is None:
            self.unreadable += 1
        elif answer.key not in keys:
            self.unknown += 1
        elif answer.key in self.answers:
            self.repeated += 1
        else:
            self.answers[answer.key] = worth(answer)

    @property
    def may_lack_answers(self) -> bool:
        """A call without an answer may have one that cannot be read."""
        return self.lost or self.unreadable > 0


# The folder


class Folder:
    """DATABASE.batches: the files that are not taken in yet, HASH.jsonl each."""

    def __init__(self, database_path: Path) -> None:
        self._path = database_path.with_name(f"{database_path.name}.batches")

    def write(self, number: int, lines: Sequence[Line]) -> str:
        """Writes a file, and gives its hash; on disk when this returns.

        `number` is the batch's, and part of the hash: the same lines may be sent again after a
        batch that failed. Raises StoreError, and leaves nothing, where the disk refuses.
        """
        name = _hash(number, (line.text for line in lines))
        part = self._path / f"{name}.part"
        try:
            # For this user alone: prompts may be private.
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.writelines(line.text for line in lines)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._file(name))
            self._settle()
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write the file of a batch into {self._path}: {error.strerror}",
                expected="free space, and a folder that this user may write to",
                todo="make room, then run the same command again: it goes on where it stopped",
            ) from error
        return name

    def read(self, number: int, name: str) -> bytes | None:
        """A file's bytes; None if it is not there, or not as it was written."""
        try:
            content = self._file(name).read_bytes()
        except OSError:
            return None
        return content if _hash(number, [content]) == name else None

    def lines(self, name: str, keys: set[str]) -> dict[str, Line]:
        """Lines of a file by their keys; empty if it is not there."""
        found: dict[str, Line] = {}
        with (
            suppress(OSError, ValueError, KeyError, TypeError),
            self._file(name).open("rb") as file,
        ):
            for text in file:
                document = json.loads(text)
                key = document["custom_id"]
                if key in keys:
                    found[key] = Line(key, document["body"]["model"], text)
                if len(found) == len(keys):
                    break
        return found

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with suppress(OSError):
            self._file(name).unlink(missing_ok=True)

    def sweep(self, keep: Iterable[str]) -> None:
        """Removes what a process that died left behind: all files but those to keep."""
        kept = {self._file(name) for name in keep}
        with suppress(OSError):
            for path in self._path.iterdir():
                if path.suffix in (".jsonl", ".part") and path not in kept:
                    path.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._path / f"{name}.jsonl"

    def _settle(self) -> None:
        """Has the folder's entry on disk too."""
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _hash(number: int, texts: Iterable[bytes]) -> str:
    digest = hashlib.sha256(f"{number}\n".encode("ascii"))
    for text in texts:
        digest.update(text)
    return digest.hexdigest()
