"""Who is who: keys made of content, so that the same text is the same row wherever it comes from.

Text is taken exactly as it stands. It is not stripped, not Unicode-normalised, and line ends are
not unified: two texts that differ in a trailing space or in CRLF are two responses. A tool that
asks people to judge texts must show them, and export them, as they were written; and a rule for
"the same but for ..." that changes in a later release would change every key.

A key is the first 128 bits of SHA-256 in hexadecimal. Each kind of key is hashed with its own
prefix, so a prompt and a response with equal text never share one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import TypedDict

KEY_CHARS = 32


class Message(TypedDict):
    """One turn of a prompt."""

    role: str
    content: str


def canonical_messages(messages: Sequence[Message]) -> str:
    """The one JSON spelling of `messages`: role before content, no spaces, nothing escaped
    that need not be. This is what is stored and what is hashed.
    """
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in messages]
    return json.dumps(turns, ensure_ascii=False, separators=(",", ":"))


def prompt_key(messages: Sequence[Message]) -> str:
    """The key of a prompt; a text `t` is the prompt of one user turn `t`."""
    return _key("prompt", canonical_messages(messages))


def response_key(prompt_key: str, text: str) -> str:
    """The key of a response: the same text to two prompts is two responses."""
    return _key("response", prompt_key, text)


def pair_key(a_key: str, b_key: str) -> str:
    """The key of a pair of responses, given in its one order. Raises ValueError unless a < b."""
    if a_key >= b_key:
        raise ValueError(f"a pair is stored a < b by response key, not {a_key!r}, {b_key!r}")
    return _key("pair", a_key, b_key)


def showing_key(pair: str, n: int) -> str:
    """The key of the n-th time that a pair is shown, from 1; the first time that of the pair.

    Keys of later times look like those of pairs: whoever sees one must not learn from it that
    somebody was asked about the pair before.
    """
    return pair if n == 1 else _key("showing", pair, str(n))


def label_key(pair: str, verdict: Sequence[str | float | None], occurrence: int) -> str:
    """The key of a label that came with the data.

    `verdict` is what was said (label in the frame of the pair, strength, annotator, kind).
    `occurrence` counts equal verdicts on that pair within one row of one file, from 0: a row
    with two equal anonymous votes holds two votes, and the same row read again adds none.
    """
    return _key("label", pair, json.dumps([*verdict, occurrence]))


def text_hash(text: str) -> str:
    """The hash of a text alone, wherever it stands: the key of its vector."""
    return _key("text", text)


def prompt_text(messages: Sequence[Message]) -> str:
    """The one text that stands for a prompt when it is embedded.

    A single user turn is its content; a dialogue is one `role: content` a turn.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in messages)


def _key(kind: str, *parts: str) -> str:
    # Texts hold no NUL (imports refuse it), so the parts cannot run into each other.
    return sha256("\0".join((kind, *parts)).encode()).hexdigest()[:KEY_CHARS]
