"""The same work on many things, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from annotator.progress import Advance

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

Work = Callable[..., object]
Item = tuple[Any, ...]  # the arguments of one piece of work


def run_all(work: Work, items: Sequence[Item], jobs: int, progress: Advance) -> None:
    """Calls `work(*item)` for every item, in up to `jobs` processes; what it returns is dropped.

    `work` goes to each process once, so it must be picklable. What it raises is raised here.
    """
    if jobs == 1 or len(items) < 2:
        for item in items:
            work(*item)
            progress(1)
        return
    with _workers(min(jobs, len(items)), work) as pool:
        for done in as_completed([pool.submit(_work_on, *item) for item in items]):
            done.result()
            progress(1)


@contextmanager
def _workers(jobs: int, work: Work) -> Iterator[ProcessPoolExecutor]:
    """Processes for the work; where anything goes wrong they are ended at once, not waited for."""
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(work,),
    )
    try:
        with _one_thread_each():
            yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    pool.shutdown()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside take one thread for linear algebra: jobs would fight over cores."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_work: Work | None = None


def _start_worker(work: Work) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for work for ever, even if its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work_on(*item: Any) -> None:
    assert _work is not None
    _work(*item)
