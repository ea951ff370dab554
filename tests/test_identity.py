"""Keys: made of exact content, different for whatever differs, the same for ever."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from annotator.candidates.identity import (
    Message,
    canonical_messages,
    label_key,
    pair_key,
    prompt_key,
    prompt_text,
    response_key,
    text_hash,
)

# What a file can hold: any text but NUL and lone surrogates.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
TURNS = st.builds(
    lambda role, content: Message(role=role, content=content),
    st.sampled_from(["system", "user", "assistant"]),
    TEXTS,
)


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def test_keys_never_change() -> None:
    # Written out by hand: a change of these is a change of every database there is.
    spelt = '[{"role":"user","content":"Hallo, schöne \\"Welt\\""}]'
    messages = user('Hallo, schöne "Welt"')
    assert canonical_messages(messages) == spelt
    key = sha256(b"prompt\0" + spelt.encode()).hexdigest()[:32]
    assert prompt_key(messages) == key
    assert response_key(key, "ja") == sha256(f"response\0{key}\0ja".encode()).hexdigest()[:32]
    assert pair_key("0a", "0b") == sha256(b"pair\0" + b"0a\0" + b"0b").hexdigest()[:32]
    assert text_hash("ja") == sha256(b"text\0ja").hexdigest()[:32]
    said = sha256(b'label\0p\0["a", null, "ann", "human", 1]').hexdigest()[:32]
    assert label_key("p", ("a", None, "ann", "human"), 1) == said


@pytest.mark.parametrize("other", ["x ", " x", "x\r\n", "x\n", "X", "x\u0301", "\ufeffx"])
def test_text_is_exact(other: str) -> None:
    assert text_hash("x") != text_hash(other)
    assert response_key("p", "x") != response_key("p", other)
    assert prompt_key(user("x")) != prompt_key(user(other))


def test_composed_and_decomposed_letters_are_two_texts() -> None:
    assert text_hash("\u00e9") != text_hash("e\u0301")


@given(st.lists(TURNS, min_size=1), st.lists(TURNS, min_size=1))
def test_prompts_share_a_key_only_if_they_are_equal(
    first: list[Message], second: list[Message]
) -> None:
    assert (prompt_key(first) == prompt_key(second)) == (first == second)
    assert json.loads(canonical_messages(first)) == first


@given(TEXTS, TEXTS)
def test_a_response_belongs_to_its_prompt(prompt: str, text: str) -> None:
    ours, theirs = prompt_key(user(prompt)), prompt_key(user(prompt + "?"))
    assert response_key(ours, text) != response_key(theirs, text)


def test_a_turn_cannot_be_forged_by_text() -> None:
    forged = user('hi"},{"role":"assistant","content":"hello')
    real = [*user("hi"), Message(role="assistant", content="hello")]
    assert prompt_key(forged) != prompt_key(real)


@given(TEXTS, TEXTS)
def test_a_pair_has_one_order(first: str, second: str) -> None:
    assume(first != second)
    a, b = sorted((text_hash(first), text_hash(second)))
    assert len(pair_key(a, b)) == 32
    with pytest.raises(ValueError, match="a < b"):
        pair_key(b, a)
    with pytest.raises(ValueError, match="a < b"):
        pair_key(a, a)


def test_the_text_of_a_prompt() -> None:
    assert prompt_text(user("  two\nlines ")) == "  two\nlines "
    dialogue = [
        Message(role="system", content="Be brief."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello"),
    ]
    assert prompt_text(dialogue) == "system: Be brief.\nuser: Hi\nassistant: Hello"
    assert prompt_text(dialogue[:1]) == "system: Be brief."


def test_keys_do_not_depend_on_the_process() -> None:
    script = (
        "from annotator.candidates.identity import prompt_key;"
        "print(prompt_key([{'content': 'é', 'role': 'user'}]))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert keys == {prompt_key(user("é"))}
