"""Locks between processes that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from annotator.errors import StoreBusy, StoreError

POLL_SECONDS = 0.05


@contextmanager
def hold_lock(
    path: Path,
    what: str,
    *,
    wait_seconds: float = 600.0,
    on_wait: Callable[[], object] = lambda: None,
) -> Iterator[int]:
    """The named lock, held by this process alone until the block ends; gives its descriptor.

    Calls `on_wait` once when another holder has to be waited for. The kernel frees the lock when
    its holder dies, even by kill -9, so there is never a stale lock to remove. A child that is
    handed the descriptor keeps the lock past its parent's death. Raises StoreBusy after
    `wait_seconds`.
    """
    descriptor = _opened(path)
    try:
        if not _taken(descriptor):
            on_wait()
            _wait(descriptor, path, what, wait_seconds)
        yield descriptor
    finally:
        # Closed, not unlocked: unlocking would also take the lock from a child that shares it.
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"cannot make the lock {path}: {error.strerror}",
            expected="a folder that this user may write to",
            todo="check owner and permissions, and that the disk is not full",
        ) from error


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(descriptor: int, path: Path, what: str, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while not _taken(descriptor):
        if time.monotonic() > deadline:
            raise StoreBusy(
                f"another process has been busy with {what} for over {wait_seconds:.0f} s",
                expected=f"the lock {path} to become free",
                todo="wait for that process or stop it, then try again",
            )
        time.sleep(POLL_SECONDS)
