"""What the benchmarks of this folder share: the fastest of several runs, and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def fastest(calls: list[Callable[[], object]], repeat: int) -> list[float]:
    """Seconds of the fastest run of each call; they take turns, so that load falls on all alike."""
    best = [float("inf")] * len(calls)
    for _ in range(repeat):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


def forget_peak_memory() -> int:
    """Bytes in use; the peak is counted anew from here. Linux only.

    A new process begins with the peak of the one that started it.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> int:
    """Bytes in use at the peak. Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
