"""Chat completions as plain data: reading them, refusing what is none, keys of requests."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from annotator.signals.judges.reply import (
    ChatRequest,
    Malformed,
    Reply,
    Usage,
    reply_from_json,
)


def _token(text: str, logprob: float = -0.1, *, of_bytes: bytes | None = None) -> dict[str, Any]:
    data = list(of_bytes) if of_bytes is not None else None
    return {"token": text, "logprob": logprob, "bytes": data, "top_logprobs": []}


def _completion(**changes: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": "4", "refusal": None},
        "logprobs": {
            "content": [{**_token("4"), "top_logprobs": [_token("4"), _token("5", -2.3)]}]
        },
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge-2026-01-01",
        "choices": [choice],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 7,
            "total_tokens": 107,
            "prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 32},
            "completion_tokens_details": {"reasoning_tokens": 6},
        },
    } | changes


def test_a_whole_completion_is_read() -> None:
    reply = reply_from_json(_completion())
    assert reply.model == "judge-2026-01-01"
    assert reply.usage == Usage(prompt=100, completion=7, cached=64, cache_write=32, reasoning=6)
    (choice,) = reply.choices
    assert (choice.text, choice.refusal, choice.finish_reason) == ("4", None, "stop")
    assert choice.tokens is not None
    assert choice.tokens[0].top == (("4", -0.1), ("5", -2.3))


def test_our_example_is_what_the_client_knows_as_a_completion() -> None:
    """What the client's own model writes out again reads as the same reply."""
    document = _completion()
    again = json.loads(ChatCompletion.model_validate(document).model_dump_json())
    assert replace(reply_from_json(again), raw="") == replace(reply_from_json(document), raw="")


def test_raw_reads_as_the_same_reply_again() -> None:
    document = _completion()
    document["choices"][0]["message"]["content"] = "lone \ud800 surrogate, 漢"
    document["choices"][0]["logprobs"] = None
    reply = reply_from_json(document)
    assert reply.raw.isascii()
    assert reply_from_json(json.loads(reply.raw)) == reply


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("<html>", "not a JSON object but a str"),
        (None, "not a JSON object"),
        ([], "not a JSON object but a list"),
        ({}, "choices is missing or null"),
        (_completion(choices=None), "choices is missing or null"),
        (_completion(choices=[]), "choices is empty"),
        (_completion(choices="4"), "choices is a str"),
        (_completion(choices=[None]), "a choice is missing or null"),
        (_completion(choices=["4"]), "a choice is a str"),
        (_completion(choices=[{"index": 0}]), "a choice's message is missing or null"),
        (_completion(choices=[{"message": {"content": 4}}]), "content is a int"),
        (_completion(choices=[{"message": {"content": [{"type": "text"}]}}]), "content is a list"),
        (_completion(choices=[{"message": {"refusal": True}}]), "refusal is a bool"),
        (_completion(choices=[{"message": {}, "logprobs": "no"}]), "logprobs is a str"),
        (_completion(choices=[{"message": {}, "logprobs": {"content": 3}}]), "content is a int"),
        (_completion(choices=[{"message": {}, "logprobs": {"content": [7]}}]), "a token is a int"),
        (
            _completion(choices=[{"message": {}, "logprobs": {"content": [{"logprob": -1}]}}]),
            "a token's text is missing or null",
        ),
        (
            _completion(choices=[{"message": {}, "logprobs": {"content": [{"token": "4"}]}}]),
            "a token's logprob is missing or null",
        ),
        (
            _completion(
                choices=[{"message": {}, "logprobs": {"content": [_token("4", float("nan"))]}}]
            ),
            "logprob is a float",
        ),
        ({"error": {"message": "overloaded"}}, "overloaded"),
    ],
)
def test_what_is_no_completion_is_malformed(document: Any, says: str) -> None:
    with pytest.raises(Malformed, match=says.replace("(", r"\(")):
        reply_from_json(document)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "logprobs", "usage", "token", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(["choices", "usage", "model", "message", "logprobs"]))
def test_no_json_breaks_the_reader(value: Any, at: str) -> None:
    document = _completion()
    if at in document:
        document[at] = value
    else:
        document["choices"][0][at] = value
    with suppress(Malformed):
        assert isinstance(reply_from_json(document), Reply)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        "free",
        {"prompt_tokens": 3},
        {"prompt_tokens": 3, "completion_tokens": -1},
        {"prompt_tokens": 3.5, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
    ],
)
def test_a_usage_that_cannot_be_read_is_an_unknown_bill(usage: Any) -> None:
    assert reply_from_json(_completion(usage=usage)).usage is None


def test_a_usage_without_details_has_no_parts() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": None}
    assert reply_from_json(_completion(usage=usage)).usage == Usage(3, 1)


def test_reasoning_that_only_the_total_counts_is_billed_as_completion() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 61}
    assert reply_from_json(_completion(usage=usage)).usage == Usage(10, 51)


@pytest.mark.parametrize("logprobs", [None, {}, {"content": None}, {"content": []}])
def test_absent_log_probs_are_none(logprobs: Any) -> None:
    choice = {"message": {"content": "4"}, "logprobs": logprobs}
    assert reply_from_json(_completion(choices=[choice])).choices[0].tokens is None


def test_a_character_split_over_tokens_is_put_together() -> None:
    """As OpenAI sends it: the token's text is an escape, its bytes are part of a character."""
    euro = "€".encode()
    content = [
        _token("a", of_bytes=b"a"),
        _token("bytes:\\xe2\\x82", of_bytes=euro[:2]),
        _token("bytes:\\xac", of_bytes=euro[2:]),
        _token("4", of_bytes=b"4"),
    ]
    choice = {"message": {"content": "a€4"}, "logprobs": {"content": content}}
    tokens = reply_from_json(_completion(choices=[choice])).choices[0].tokens
    assert tokens is not None
    assert [token.text for token in tokens] == ["a", "", "€", "4"]


def test_an_alternative_that_is_part_of_a_character_says_no_digit() -> None:
    """Its escape spells digits, which are none of the answer's."""
    parts = [
        {"token": "bytes:\\xe4", "logprob": -1.0, "bytes": [0xE4]},
        {"token": "é", "logprob": -2.0, "bytes": list("é".encode())},
        {"token": "4", "logprob": -3.0, "bytes": [0x34]},
    ]
    content = [_token("4") | {"top_logprobs": parts}]
    choice = {"message": {"content": "4"}, "logprobs": {"content": content}}
    tokens = reply_from_json(_completion(choices=[choice])).choices[0].tokens
    assert tokens is not None
    assert tokens[0].top == (("\ufffd", -1.0), ("é", -2.0), ("4", -3.0))


def test_the_text_of_the_document_is_kept_where_it_is_given() -> None:
    text = json.dumps(_completion(), indent=1)
    reply = reply_from_json(json.loads(text), raw=text)
    assert reply.raw == text
    assert replace(reply, raw="") == replace(reply_from_json(_completion()), raw="")


def test_without_bytes_the_texts_stand() -> None:
    choice = {"message": {"content": "a4"}, "logprobs": {"content": [_token("a"), _token("4")]}}
    tokens = reply_from_json(_completion(choices=[choice])).choices[0].tokens
    assert tokens is not None
    assert [token.text for token in tokens] == ["a", "4"]


REQUEST = ChatRequest(
    model="m",
    messages=(("system", "s"), ("user", "u")),
    params=(("temperature", 0.0), ("logprobs", True), ("response_format", {"type": "text"})),
)


def test_the_body_is_what_goes_over_the_wire() -> None:
    assert REQUEST.body() == {
        "model": "m",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "temperature": 0.0,
        "logprobs": True,
        "response_format": {"type": "text"},
    }


def test_the_order_of_parameters_does_not_matter() -> None:
    turned = replace(REQUEST, params=REQUEST.params[::-1])
    assert turned == REQUEST
    assert turned.key("h") == REQUEST.key("h")


@pytest.mark.parametrize(
    "changed",
    [
        replace(REQUEST, model="n"),
        replace(REQUEST, messages=(("user", "s"), ("user", "u"))),
        replace(REQUEST, messages=(("system", "su"), ("user", ""))),
        replace(REQUEST, params=REQUEST.params[1:]),
        replace(REQUEST, params=(("temperature", 0.1), *REQUEST.params[:-1])),
        replace(REQUEST, sample=1),
    ],
)
def test_whatever_determines_the_answer_changes_the_key(changed: ChatRequest) -> None:
    assert changed.key("host") != REQUEST.key("host")


def test_the_host_changes_the_key_and_the_same_request_keeps_it() -> None:
    assert REQUEST.key("a/v1") != REQUEST.key("b/v1")
    assert replace(REQUEST).key("a/v1") == REQUEST.key("a/v1")
    assert len(REQUEST.key("a/v1")) == 64


def test_a_text_with_a_lone_surrogate_has_a_key() -> None:
    assert replace(REQUEST, messages=(("user", "\ud800"),)).key("h") != REQUEST.key("h")


@pytest.mark.parametrize("params", [(("n", 1), ("n", 2)), (("model", "x"),), (("messages", []),)])
def test_a_parameter_given_twice_is_refused(params: Any) -> None:
    with pytest.raises(ValueError, match="twice"):
        ChatRequest("m", (("user", "u"),), params)
