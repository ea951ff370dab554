"""A judge's answer as a grade: moments against numpy's, and every way of not answering."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from annotator.signals.judges.grades import (
    LEAST_MASS,
    Grade,
    Refused,
    Unparsable,
    find_grade,
    grade,
)
from annotator.signals.judges.reply import Choice, Reply, Token
from annotator.signals.judges.rubric import load_pair_rubric, load_rubric, messages, pair_messages

Top = Sequence[tuple[str, float]]  # (token, probability)


def _choice(
    text: str | None,
    tokens: tuple[Token, ...] | None = None,
    *,
    refusal: str | None = None,
    finish_reason: str = "stop",
) -> Choice:
    return Choice(text, refusal, finish_reason, tokens)


def _reply(*choices: Choice) -> Reply:
    return Reply(choices, None, "m", "{}")


def _token(text: str, top: Top = ()) -> Token:
    probability = dict(top).get(text, 1.0)
    return Token(text, math.log(probability), tuple((said, math.log(p)) for said, p in top))


def _read(text: str, how: str = "integer", field: str | None = None) -> Grade:
    return grade([_reply(_choice(text))], how, field=field)


def _reason(text: str, field: str | None = None, finish_reason: str = "stop") -> str:
    with pytest.raises(Unparsable) as caught:
        grade([_reply(_choice(text, finish_reason=finish_reason))], "integer", field=field)
    return caught.value.reason


# -- Log-probs ------------------------------------------------------------------------------------

VARIANTS = ("{}", " {}", "{} ", "\n{}", '{}"', "*{}*", "{}\n", "{},")


@st.composite
def spread_distributions(draw: st.DrawFn) -> tuple[list[float], list[tuple[str, float]]]:
    """Probabilities of the grades 1 to 5, and a top list that spreads each over token variants."""
    weights = draw(st.lists(st.floats(0.01, 1.0), min_size=5, max_size=5))
    mass = draw(st.floats(LEAST_MASS + 0.01, 1.0))
    p = [weight / sum(weights) for weight in weights]
    top = []
    for k, probability in enumerate(p, 1):
        shapes = draw(st.lists(st.sampled_from(VARIANTS), min_size=1, max_size=4, unique=True))
        shares = draw(st.lists(st.floats(0.1, 1), min_size=len(shapes), max_size=len(shapes)))
        for shape, share in zip(shapes, shares, strict=True):
            top.append((shape.format(k), mass * probability * share / sum(shares)))
    if mass < 1.0:
        top.append((draw(st.sampled_from(["The", "4.", "45", "N/A", "five", "1st"])), 1.0 - mass))
    return p, draw(st.permutations(top))


@given(spread_distributions(), st.data())
def test_mean_and_variance_come_out_however_the_tokens_are_spelt(
    spread: tuple[list[float], list[tuple[str, float]]], data: st.DataObject
) -> None:
    p, top = spread
    # Those that are an answer by themselves; the others stand among the alternatives only.
    alone = [said for said, _ in top if said.strip("* \n") in set("12345")]
    assume(alone)
    sampled = data.draw(st.sampled_from(alone))
    found = grade([_reply(_choice(sampled, (_token(sampled, top),)))], "logprobs")
    grades = np.arange(1, 6)
    expected = np.average(grades, weights=p)
    assert found.mean == pytest.approx(expected, abs=1e-9)
    assert found.variance == pytest.approx(
        np.average((grades - expected) ** 2, weights=p), abs=1e-9
    )
    assert found.how == "logprobs"


def test_a_grade_by_hand() -> None:
    top = [("4", 0.5), (" 4", 0.1), ("5", 0.3), ("3", 0.06), ("Four", 0.04)]
    found = grade([_reply(_choice("4", (_token("4", top),)))], "logprobs")
    mean = (4 * 0.6 + 5 * 0.3 + 3 * 0.06) / 0.96
    variance = (0.6 * (4 - mean) ** 2 + 0.3 * (5 - mean) ** 2 + 0.06 * (3 - mean) ** 2) / 0.96
    assert found.mass == pytest.approx(0.96)
    assert found.mean == pytest.approx(mean)
    assert found.variance == pytest.approx(variance)


TOP = [("2", 0.25), ("4", 0.75)]  # mean 3.5, variance .75


@pytest.mark.parametrize(
    ("text", "tokens", "field"),
    [
        (
            "Score: 4",
            [_token("Score"), _token(":"), _token(" 4", [(" 2", 0.25), (" 4", 0.75)])],
            None,
        ),
        ("Score: 4", [_token("Score"), _token(": "), _token("4", TOP)], None),
        # The digit of a key stands before the grade: an index would find the wrong one.
        (
            '{"q2": "4 5", "overall": 4}',
            [
                _token('{"q2": "4 5", "'),
                _token("overall"),
                _token('":'),
                _token(" "),
                _token("4", TOP),
                _token("}"),
            ],
            "overall",
        ),
        (
            '{"overall":4}',
            [_token('{"overall":4', [('{"overall":4', 0.75), ('{"overall":2', 0.25)]), _token("}")],
            "overall",
        ),
        (
            '{"overall":"4"}',
            [
                _token('{"overall":"'),
                _token('4"', [('4"', 0.7), ("4", 0.05), ('2"', 0.25)]),
                _token("}"),
            ],
            "overall",
        ),
        (
            '{"overall":4}',
            [_token('{"overall"'), _token(":4", [(":4", 0.75), (": 2", 0.25)]), _token("}")],
            "overall",
        ),
        (
            '{"a":2,"overall":4}',
            [
                _token(
                    '{"a":2,"overall":4',
                    [('{"a":2,"overall":4', 0.75), ('{"a":2,"overall":2', 0.25)],
                ),
                _token("}"),
            ],
            "overall",
        ),
        # What a server leaves in the tokens and takes out of the text.
        ("4", [_token("4", TOP), _token("<|im_end|>")], None),
        ("4", [_token("4", TOP), _token("\n"), _token("</s>")], None),
        (
            "4",
            [_token("<think>"), _token("2 or 4, so 4"), _token("</think>"), _token("4", TOP)],
            None,
        ),
        (" 4", [_token("4", TOP)], None),
        ("4", [_token(" "), _token("4", TOP)], None),
    ],
)
def test_the_token_is_found_by_its_place_in_the_text(
    text: str, tokens: list[Token], field: str | None
) -> None:
    found = grade([_reply(_choice(text, tuple(tokens)))], "logprobs", field=field)
    assert (found.mean, found.variance) == (pytest.approx(3.5), pytest.approx(0.75))


@pytest.mark.parametrize(
    ("text", "tokens", "reason"),
    [
        ("4", None, "no log-probs"),
        ("4", (_token("4"),), "no alternatives"),
        ("4", (_token("4", [("4", 0.6), ("5", 0.2)]),), "weak mass"),
        ("4", (_token("4", [("4", 0.6), ("5.", 0.4)]),), "weak mass"),
        ("4", (_token("4", [("4", 0.6), ("5/", 0.4)]),), "weak mass"),
        ("4", (_token("4", [("4", 0.6), ("45", 0.4)]),), "weak mass"),
        ("4", (_token("4", [("4", 0.6), ("4th", 0.4)]),), "weak mass"),
        ("4", (_token("4", [("4", 0.6), ("a4", 0.4)]),), "weak mass"),
        ("4", (_token("4", [("4", 0.9), ("5", 0.9)]),), "wrong log-probs"),
        ("4", (_token("5", [("5", 1.0)]),), "log-probs do not fit the text"),
        ("4", (_token("token_id:4", [("token_id:4", 1.0)]),), "log-probs do not fit the text"),
        ("4 ", (_token("4", TOP), _token("2")), "log-probs do not fit the text"),
        (
            "4 and 5",
            (_token("4", TOP), _token(" and"), _token(" 5", [(" 5", 1.0)])),
            "no whole number",
        ),
        ("Score: 4\nScore: 4", (), "two grades"),
        ("7", (_token("7", [("7", 1.0)]),), "out of scale"),
        ("4/5", (_token("4", [("4", 1.0)]), _token("/5")), "no whole number"),
        ("four", (_token("four", [("four", 1.0)]),), "no grade"),
    ],
)
def test_log_probs_that_cannot_be_trusted_are_refused(
    text: str, tokens: tuple[Token, ...] | None, reason: str
) -> None:
    with pytest.raises(Unparsable) as caught:
        grade([_reply(_choice(text, tokens))], "logprobs")
    assert caught.value.reason == reason


def test_the_sampled_token_counts_where_the_alternatives_leave_it_out() -> None:
    token = Token("4", math.log(0.75), (("2", math.log(0.25)),))
    assert grade([_reply(_choice("4", (token,)))], "logprobs").mean == pytest.approx(3.5)


def test_a_tail_of_impossible_tokens_changes_nothing() -> None:
    top = (("4", math.log(0.75)), ("2", math.log(0.25)), ("1", -9999.0), ("3", -math.inf))
    token = Token("4", math.log(0.75), top)
    assert grade([_reply(_choice("4", (token,)))], "logprobs").mean == pytest.approx(3.5)


def test_log_probs_above_zero_are_a_fault_and_no_overflow() -> None:
    token = Token("4", 5000.0, (("4", 5000.0),))
    with pytest.raises(Unparsable, match="wrong log-probs"):
        grade([_reply(_choice("4", (token,)))], "logprobs")


@pytest.mark.parametrize("scale", [(1, 10), (0, 100), (5, 1), (-1, 5)])
def test_log_probs_need_single_digits(scale: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="single digits"):
        grade([_reply(_choice("1", (_token("1", [("1", 1.0)]),)))], "logprobs", scale)


def test_a_scale_from_nought_to_nine() -> None:
    token = _token("0", [("0", 0.5), ("9", 0.5)])
    found = grade([_reply(_choice("0", (token,)))], "logprobs", (0, 9))
    assert (found.mean, found.variance) == (pytest.approx(4.5), pytest.approx(20.25))


# -- Free text ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        (" 4\r\n", 4),
        ("4.", 4),
        ("**4**", 4),
        ("[[4]]", 4),
        ("'4'", 4),
        ("score: 3", 3),
        ("Score = 3", 3),
        ("**Rating:** [[2]]", 2),
        ("Overall grade:\n5", 5),
        ("The score is 3. It misses 2 points.", 3),
        ("Score: 4 - good", 4),
        ("4\n\nIt makes 2 small errors.", 4),
        ("1. Clear\n2. Short\nScore: 5", 5),
        ("The scale: Score: 1 to 5\nScore: 4", 4),
        ("First I thought\n2\nbut it is\n3", 3),
    ],
)
def test_grades_that_are_read(text: str, value: int) -> None:
    assert _read(text) == Grade(float(value), None, "integer", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4/5", "no whole number"),
        ("4 / 5", "no whole number"),
        ("5 out of 5", "no whole number"),
        ("Score: 4/5", "no whole number"),
        ("Score: **4**/10", "no whole number"),
        ("Score: 4 out of ten", "no whole number"),
        ("4.5", "no whole number"),
        ("4,5", "no whole number"),
        ("Score: 4.5x", "no whole number"),
        ("80%", "no whole number"),
        ("3-4", "no whole number"),
        ("3 or 4", "no whole number"),
        ("Score: 2\nScore: 4.5", "no whole number"),
        ("11", "out of scale"),
        ("0", "out of scale"),
        ("-3", "out of scale"),
        ("999999999999", "out of scale"),
        ("Score: 3\nScore: 11", "out of scale"),
        ("four", "no grade"),
        ("４", "no grade"),
        ("I would give it a 4", "no grade"),
        ("1. Clear\n2. Short", "no grade"),
        ("a score of 5 means perfect", "no grade"),
        ("Grade: B", "no grade"),
        ("4\nScore: 2", "two grades"),
        ("1\n2\n3\n4\n5", "two grades"),
        ("", "empty answer"),
        (" \n", "empty answer"),
    ],
)
def test_grades_that_are_refused(text: str, reason: str) -> None:
    assert _reason(text) == reason


@pytest.mark.parametrize("how", ["logprobs", "integer", "samples"])
@pytest.mark.parametrize(
    "choice",
    [
        _choice(None, refusal="I cannot do that."),
        _choice("4", refusal="I cannot do that."),
        _choice("4", finish_reason="content_filter"),
    ],
)
def test_a_refusal_is_told_apart(choice: Choice, how: str) -> None:
    with pytest.raises(Refused):
        grade([_reply(choice)], how)
    assert not issubclass(Refused, Unparsable)


def test_an_answer_cut_off_before_it_began() -> None:
    assert _reason("", finish_reason="length") == "cut off"


def test_a_digit_that_may_be_half_a_grade() -> None:
    """Cut behind "1" on a scale to 10, it may have become 10; "2" can only be 2."""
    one, two = (_reply(_choice(text, finish_reason="length")) for text in "12")
    with pytest.raises(Unparsable, match="cut off"):
        grade([one], "integer", (1, 10))
    assert grade([two], "integer", (1, 10)).mean == 2
    assert grade([one], "integer", (1, 5)).mean == 1


def test_ten_is_read_from_text() -> None:
    assert grade([_reply(_choice("10"))], "integer", (1, 10)).mean == 10


def test_no_text_makes_the_search_slow() -> None:
    """Each would take minutes with a quadratic search; the suite's time limit would tell."""
    for text in ("4" + " " * 300_000 + "x", "score:" * 50_000, "(" * 300_000 + "4", "4" * 300_000):
        with pytest.raises(Unparsable):
            find_grade(text)
        with pytest.raises(Unparsable):
            find_grade(text, "overall")


# -- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"overall": 4}',
        '{"overall":4,"verbosity":2}',
        '{"verbosity": 2, "overall": "4"}',
        '{\n    "overall": 4\n}',
        '```json\n{"overall": 4}\n```',
        'Here: {"overall": 4, "verb',
        '{"overall": <grade>} means {"overall": 2} or so. {"overall": 4}',
        '{"why": "it says \\"overall\\": 2, no", "overall": 4}',
    ],
)
def test_a_field_is_read(text: str) -> None:
    assert _read(text, field="overall").mean == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"overall": 4.0}', "no whole number"),
        ('{"overall": "4/5"}', "no whole number"),
        ('{"overall": 11}', "out of scale"),
        ('{"overall": null}', "no grade"),
        ('{"overall": true}', "no grade"),
        ('{"overall": "good"}', "no grade"),
        ('{"verbosity": 4}', "no grade"),
        ('{"detail": {"overall": 4}}', "no grade"),
        ('{"overall": "good", "detail": {"overall": 4}}', "no grade"),
        ('[{"overall": 4}]', "no grade"),
        ('{"overall": 1', "no grade"),  # cut: it may have become 11
        ('{"overall": 4, "overall": 2}', "two grades"),
        ("4", "no grade"),
    ],
)
def test_a_field_is_refused(text: str, reason: str) -> None:
    assert _reason(text, field="overall") == reason


# -- Samples --------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4))
def test_samples_have_numpys_moments(sizes: list[list[int]]) -> None:
    replies = [_reply(*(_choice(str(k)) for k in values)) for values in sizes]
    everything = [k for values in sizes for k in values]
    found = grade(replies, "samples")
    assert found.mean == pytest.approx(np.mean(everything))
    if len(everything) == 1:
        assert found.variance is None
    else:
        assert found.variance == pytest.approx(np.var(everything, ddof=1))


def test_one_sample_that_cannot_be_read_spoils_all() -> None:
    with pytest.raises(Unparsable):
        grade([_reply(_choice("4"), _choice("none"))], "samples")
    with pytest.raises(Refused):
        grade([_reply(_choice("4")), _reply(_choice(None, refusal="no"))], "samples")


def test_nothing_to_read() -> None:
    with pytest.raises(Unparsable, match="no answer"):
        grade([], "samples")
    with pytest.raises(ValueError, match="2 replies where one is read"):
        grade([_reply(_choice("4"))] * 2, "integer")
    with pytest.raises(ValueError, match="how is one of"):
        grade([_reply(_choice("4"))], "auto")


# -- The prompt itself ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["helpful", "aspects"])
def test_the_parser_finds_nothing_in_the_prompt(name: str) -> None:
    """A parser that reads its own template grades every echo alike (prometheus-eval, issue 58)."""
    rubric = load_rubric(name)
    for criterion in rubric.calls:
        sent = messages(rubric, [("user", "What is 2 + 2?")], "Four.", criterion)
        for text in [*(text for _, text in sent), "\n\n".join(text for _, text in sent)]:
            for field in [None, *(one.name for one in rubric.criteria)]:
                with pytest.raises(Unparsable):
                    find_grade(text, field)


def test_the_parser_finds_no_letter_in_the_pairwise_prompt() -> None:
    from annotator.signals.judges.pairwise import find_letter

    for _, text in pair_messages(load_pair_rubric(), [("user", "q")], "x", "y"):
        with pytest.raises(Unparsable):
            find_letter(_choice(text))
