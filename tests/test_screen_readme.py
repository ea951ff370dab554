"""The bodies that the screen's README shows are answers that a sync takes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from annotator.studio.screen import Answer, answer_result, read_answer

README = Path(__file__).resolve().parents[1] / "label_studio_config" / "README.md"


def test_the_bodies_of_the_readme_can_be_read() -> None:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"^```json\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    answer, skip = (json.loads(block) for block in blocks)
    reason = "The other one does not answer the question."
    assert read_answer(answer) == Answer("left_much_better", "high", reason, lead_seconds=12.5)
    assert read_answer(skip) == Answer(grade=None, skipped=True, lead_seconds=3.0)
    sent = answer_result("left_much_better", confidence="high", rationale=reason)
    assert [item | {"origin": "manual"} for item in answer["result"]] == sent
