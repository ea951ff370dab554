r"""Transcripts of HH-RLHF: whole dialogues as text, told apart by their last turn.

    {"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": "\n\nHuman: ...\n\nAssistant: ..."}

The prompt is everything before the last turn of the assistant. One space after the colon is
part of the frame; all other space is part of the text.
"""

from __future__ import annotations

import re
from typing import Any

from annotator.candidates.candidate import Candidate, text_of
from annotator.candidates.formats.messages import shared_history
from annotator.candidates.formats.trl import SIDES, preference
from annotator.candidates.identity import Message
from annotator.errors import RejectedRow

_TURN = re.compile(r"\n\n(Human|Assistant): ?")
_BEGINS = re.compile(r"\s*Human:")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def matches(row: dict[str, Any]) -> bool:
    """No prompt, and both sides are text that begins with a turn of the human."""
    texts = [row.get(side) for side in SIDES]
    return row.get("prompt") is None and all(
        isinstance(text, str) and _BEGINS.match(text) for text in texts
    )


def read(row: dict[str, Any]) -> Candidate:
    """The candidate in a pair of transcripts. Raises RejectedRow."""
    first, second = (_turns(text_of(row.get(side), side), side) for side in SIDES)
    return preference(row, *shared_history(first, second, SIDES))


def _turns(transcript: str, side: str) -> list[Message]:
    if not _BEGINS.match(transcript):
        raise RejectedRow(f'{side} does not begin with "Human:"')
    # The very first line ends may have been stripped from the file.
    pieces = _TURN.split("\n\n" + transcript.lstrip())
    return [
        Message(role=_ROLES[speaker], content=content)
        for speaker, content in zip(pieces[1::2], pieces[2::2], strict=True)
    ]
