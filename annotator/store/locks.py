"""Locks between processes that end with the process that holds them."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from annotator.errors import StoreBusy

POLL_SECONDS = 0.05


@contextmanager
def hold_lock(path: Path, what: str, *, wait_seconds: float = 600.0) -> Iterator[None]:
    """The named lock, held by this process alone until the block ends.

    The kernel frees it when the process dies, even by kill -9, so there is never a stale lock
    to remove. Raises StoreBusy after `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        _acquire(handle.fileno(), path, what, wait_seconds)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def _acquire(descriptor: int, path: Path, what: str, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreBusy(
                    f"another process has been busy with {what} for over {wait_seconds:.0f} s",
                    expected=f"the lock {path} to become free",
                    todo="wait for that process or stop it, then try again",
                ) from None
            time.sleep(POLL_SECONDS)
