"""Simulated annotators for the demo. They are marked as such wherever they appear.

They log in under accounts of their own, answer through the server's own API as a browser would,
and write into each rationale that nobody was asked. Their judgement comes from the quality that
the authors of the sample noted for each response, with noise of a size that makes them disagree
with themselves now and then. Nothing measured with them says anything about people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from annotator.studio.client import Studio

RATIONALE = "simulated by `annotator demo --play`: no person gave this answer"
SCORE_NAME = "demo_quality"
NOISE = 0.12  # standard deviation of a judgement, on the scale of quality from 0 to 1
TIE_BELOW = 0.06
MUCH_ABOVE = 0.35
BAD_BELOW = 0.2


def simulated_grade(left: float, right: float, rng: np.random.Generator) -> str:
    """A grade in the screen's frame for two responses of quality `left` and `right` (0 to 1)."""
    seen_left, seen_right = (quality + rng.normal(0, NOISE) for quality in (left, right))
    if max(seen_left, seen_right) < BAD_BELOW:
        return "both_bad"
    lead = abs(seen_left - seen_right)
    if lead < TIE_BELOW:
        return "tie"
    side = "left" if seen_left > seen_right else "right"
    return f"{side}_much_better" if lead > MUCH_ABOVE else f"{side}_better"


def answer_all(
    robots: Sequence[Studio],
    tasks: Sequence[tuple[int, float, float]],
    rng: np.random.Generator,
    on_answer: Callable[[int], object] = lambda n: None,
) -> int:
    """Has the robots answer (task id, quality left, quality right) in turn; how many they did."""
    from annotator.studio.screen import answer_result

    for turn, (task_id, left, right) in enumerate(tasks):
        result = answer_result(simulated_grade(left, right, rng), rationale=RATIONALE)
        robots[turn % len(robots)].submit(task_id, result)
        on_answer(1)
    return len(tasks)
