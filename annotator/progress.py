"""Progress bars: on standard error, only for a person who watches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MIN_SECONDS = 0.2  # between two redraws

Advance = Callable[[int], object]


@contextmanager
def progress_bar(
    total: int | None, what: str, unit: str = "it", *, quiet: bool = False
) -> Iterator[Advance]:
    """A function that moves the bar on by n units; it does nothing where no bar is wanted.

    There is a bar only when standard error is a terminal, `quiet` is false and ANNOTATOR_QUIET
    is not set. The unit "B" is shown as kB, MB, ... `total` may be unknown (None).
    """
    if quiet or not _watched():
        yield stand_still
        return
    from tqdm import tqdm

    with tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=unit == "B",
        mininterval=MIN_SECONDS,
        file=sys.stderr,
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        yield bar.update


def stand_still(n: int) -> None:
    """The bar that is not there."""


def _watched() -> bool:
    return sys.stderr.isatty() and not os.environ.get("ANNOTATOR_QUIET")
