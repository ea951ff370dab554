"""One file lock: whoever holds it may install, start or stop; everyone else waits."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(path: Path, on_wait: Callable[[], None]) -> Iterator[int]:
    """The descriptor of the lock file `path`, locked for as long as the block runs.

    Calls `on_wait` once when another holder has to be waited for. The kernel frees the lock when
    its holder dies, so there is no stale lock. A child that is handed the descriptor keeps the
    lock past the parent's death.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        # Closed, not unlocked: unlocking would also take the lock from a child that shares it.
        os.close(descriptor)
