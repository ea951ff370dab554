"""The labelling screen against the code that fills and reads it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotator.studio import screen
from annotator.studio.screen import Answer, BrokenAnswer, read_answer, task_data


@pytest.fixture(scope="module")
def config() -> ET.Element:
    return ET.fromstring(screen.config_xml())


def choices(config: ET.Element, name: str) -> list[tuple[str, str]]:
    """Alias and key of each choice, in the order of the screen."""
    found = config.find(f".//Choices[@name='{name}']")
    assert found is not None
    return [(choice.attrib["alias"], choice.attrib["hotkey"]) for choice in found]


class TestConfig:
    def test_grades_and_keys(self, config: ET.Element) -> None:
        assert choices(config, "preference") == [
            ("left_much_better", "1"),
            ("left_better", "2"),
            ("tie", "3"),
            ("both_bad", "4"),
            ("right_better", "5"),
            ("right_much_better", "6"),
        ]
        assert choices(config, "confidence") == [("low", "7"), ("high", "8")]
        assert tuple(alias for alias, _ in choices(config, "preference")) == screen.SCREEN_GRADES
        assert tuple(alias for alias, _ in choices(config, "confidence")) == screen.CONFIDENCES

    def test_the_controls_are_those_that_answers_may_hold(self, config: ET.Element) -> None:
        controls = {tag.attrib["name"]: tag for tag in config.iter() if "toName" in tag.attrib}
        assert {name: tag.tag.lower() for name, tag in controls.items()} == screen.TYPES
        assert {tag.attrib["toName"] for tag in controls.values()} == {screen.ANSWERED_TEXT}
        assert config.find(f".//Text[@name='{screen.ANSWERED_TEXT}']") is not None

    def test_every_variable_is_in_the_data(self, config: ET.Element) -> None:
        values = [tag.attrib.get("value", "") for tag in config.iter()]
        shown = {value[1:] for value in values if value.startswith("$")}
        data = task_data("key", [{"role": "user", "content": "Hi"}], "a", "b")
        assert shown == data.keys() - {screen.TASK_KEY}
        prompt = config.find(".//Paragraphs")
        assert prompt is not None
        names = {prompt.attrib["nameKey"], prompt.attrib["textKey"]}
        assert names == data[screen.MESSAGES][0].keys()

    def test_only_tags_that_escape_show_what_a_model_wrote(self, config: ET.Element) -> None:
        showing = {tag.tag for tag in config.iter() if tag.attrib.get("value", "").startswith("$")}
        assert showing == {"Paragraphs", "Text"}
        # Otherwise a response that is one address would be fetched and shown.
        assert all(tag.attrib["valueType"] == "text" for tag in config.iter("Text"))

    def test_nobody_is_asked_about_a_and_b(self, config: ET.Element) -> None:
        words = " ".join(tag.attrib.get("value", "") for tag in config.iter()).split()
        assert not {"A", "B", "b"} & set(words)

    def test_exactly_one_answer_is_required(self, config: ET.Element) -> None:
        required = {tag.attrib["name"] for tag in config.iter() if tag.get("required") == "true"}
        assert required == {"preference"}

    def test_the_version_belongs_to_the_text(self) -> None:
        assert len(screen.screen_version()) == 12
        assert int(screen.screen_version(), 16)


class TestTaskData:
    def test_names_and_texts(self) -> None:
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why?\n\nReally?"},
            {"role": "narrator", "content": "  <b>"},
        ]
        assert task_data("k1", messages, "left\ttext", "") == {
            "task_key": "k1",
            "messages": [
                {"role": "System", "content": "Be brief."},
                {"role": "User", "content": "Why?\n\nReally?"},
                {"role": "narrator", "content": "  <b>"},
            ],
            "response_left": "left\ttext",
            "response_right": "",
        }

    def test_an_empty_prompt_still_has_a_message(self) -> None:
        assert task_data("k", [], "a", "b")["messages"] == [{"role": "Prompt", "content": ""}]

    def test_what_reorders_text_is_spelt_out(self) -> None:
        data = task_data("k", [{"role": "user", "content": "\u202eevil"}], "a\u2066b\x00", "\ud83d")
        assert data["messages"][0]["content"] == "⟦U+202E⟧evil"
        assert data["response_left"] == "a⟦U+2066⟧b⟦U+0000⟧"
        assert data["response_right"] == "⟦U+D83D⟧"

    @given(st.text())
    def test_ordinary_text_is_left_alone_and_any_text_can_travel(self, text: str) -> None:
        shown = screen.spell_out(text)
        json.dumps(shown, ensure_ascii=False).encode()
        if not any(
            ord(letter) in {0, *range(0x202A, 0x202F), *range(0x2066, 0x206A)} for letter in text
        ):
            assert shown == text

    def test_right_to_left_marks_of_ordinary_writing_stay(self) -> None:
        assert screen.spell_out("\u05d0\u200f!\u061c\u200e") == "\u05d0\u200f!\u061c\u200e"


def annotation(*items: Any, **more: Any) -> dict[str, Any]:
    return {"id": 1, "result": list(items), "was_cancelled": False, "lead_time": 4.5, **more}


def item(name: str = "preference", **change: Any) -> dict[str, Any]:
    value = {"text": ["why"]} if name == "rationale" else {"choices": ["tie"]}
    kind = "textarea" if name == "rationale" else "choices"
    return {"from_name": name, "to_name": "left", "type": kind, "value": value} | change


class TestReadAnswer:
    def test_a_full_answer(self) -> None:
        found = read_answer(
            annotation(
                item(value={"choices": ["right_much_better"]}, origin="manual", id="x"),
                item("confidence", value={"choices": ["high"]}),
                item("rationale", value={"text": ["one", "two"]}),
            )
        )
        assert found == Answer("right_much_better", "high", "one\ntwo", lead_seconds=4.5)

    def test_the_least_answer(self) -> None:
        assert read_answer({"result": [item()]}) == Answer("tie")

    @pytest.mark.parametrize("grade", screen.SCREEN_GRADES)
    def test_what_we_write_we_read(self, grade: str) -> None:
        result = screen.answer_result(grade, confidence="low", rationale="Because.")
        assert read_answer({"result": result}) == Answer(grade, "low", "Because.")

    def test_a_skip_needs_no_answer(self) -> None:
        found = read_answer(annotation(item(), was_cancelled=True))
        assert found == Answer(None, skipped=True, lead_seconds=4.5)

    @pytest.mark.parametrize("origin", ["prediction", "prediction-changed"])
    def test_an_answer_that_was_filled_in_is_flagged(self, origin: str) -> None:
        assert read_answer(annotation(item(origin=origin))).origin_prediction

    @pytest.mark.parametrize("seconds", [-1, "5", None, True, float("nan"), float("inf"), 10**400])
    def test_a_wrong_time_is_no_time(self, seconds: object) -> None:
        assert read_answer(annotation(item(), lead_time=seconds)).lead_seconds is None

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            (None, "missing, not an object"),
            (annotation(), "no preference"),
            (annotation(item("rationale")), "no preference"),
            ({"result": None}, "result is missing"),
            (annotation(item(), was_cancelled="no"), "was_cancelled is 'no'"),
            (annotation("x"), "holds 'x'"),
            (annotation(item(), item()), "two answers under preference"),
            (annotation(item(), item("stars")), "under 'stars'"),
            (annotation(item(from_name=["preference"])), "under a list"),
            (annotation(item(to_name="right")), "belongs to 'right'"),
            (annotation(item(type="rating")), "type 'rating'"),
            (annotation(item(value="tie")), "value of preference is 'tie'"),
            (annotation(item(value={})), "found missing"),
            (annotation(item(value={"choices": []})), "found 0 of them"),
            (annotation(item(value={"choices": ["tie", "both_bad"]})), "found 2 of them"),
            (annotation(item(value={"choices": ["a_better"]})), "preference is 'a_better'"),
            (annotation(item(value={"choices": ["Equally good"]})), "is 'Equally good'"),
            (annotation(item(value={"choices": [{}]})), "preference is an object"),
            (annotation(item(), item("confidence", value={"choices": ["tie"]})), "is 'tie'"),
            (annotation(item(), item("rationale", value={"text": [1]})), "not text"),
            (annotation(item(), item("rationale", value={})), "not text"),
        ],
    )
    def test_anything_else_is_broken_and_says_why(self, broken: object, reason: str) -> None:
        with pytest.raises(BrokenAnswer) as caught:
            read_answer(broken)
        assert reason in caught.value.found
        assert len(caught.value.found) < 250

    def test_the_reason_does_not_repeat_a_novel(self) -> None:
        with pytest.raises(BrokenAnswer) as caught:
            read_answer(annotation(item(value={"choices": ["x" * 10**6]})))
        assert len(caught.value.found) < 250


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
# Near misses find more than noise does: real names with anything behind them.
NEAR = st.fixed_dictionaries(
    {},
    optional={
        "from_name": st.sampled_from(["preference", "confidence", "rationale"]) | JSON,
        "to_name": st.just("left") | JSON,
        "type": st.sampled_from(["choices", "textarea"]) | JSON,
        "value": st.dictionaries(
            st.sampled_from(["choices", "text"]),
            st.lists(st.sampled_from([*screen.SCREEN_GRADES, "low"]) | JSON, max_size=2) | JSON,
        )
        | JSON,
        "origin": JSON,
    },
)
ANNOTATION = st.fixed_dictionaries(
    {"result": st.lists(NEAR | JSON, max_size=4) | JSON},
    optional={"was_cancelled": JSON, "lead_time": JSON},
)


@given(ANNOTATION | JSON)
def test_whatever_arrives_is_an_answer_or_broken(found: object) -> None:
    try:
        answer = read_answer(found)
    except BrokenAnswer as broken:
        assert broken.found
    else:
        assert (answer.grade in screen.SCREEN_GRADES) != answer.skipped


class TestFrames:
    @pytest.mark.parametrize(
        ("grade", "seen", "meant"),
        [
            ("left_much_better", "ab", "a_much_better"),
            ("left_much_better", "ba", "b_much_better"),
            ("left_better", "ab", "a_better"),
            ("left_better", "ba", "b_better"),
            ("right_better", "ab", "b_better"),
            ("right_better", "ba", "a_better"),
            ("right_much_better", "ab", "b_much_better"),
            ("right_much_better", "ba", "a_much_better"),
            ("tie", "ba", "tie"),
            ("both_bad", "ba", "both_bad"),
        ],
    )
    def test_both_ways(self, grade: str, seen: str, meant: str) -> None:
        assert screen.to_pair_frame(grade, seen) == meant
        assert screen.to_screen_frame(meant, seen) == grade

    def test_a_grade_of_the_other_frame_is_refused(self) -> None:
        with pytest.raises(ValueError, match="unknown grade"):
            screen.to_pair_frame("a_better", "ab")
        with pytest.raises(ValueError, match="unknown grade"):
            screen.to_screen_frame("left_better", "ab")

    def test_so_is_a_side_order_that_is_none(self) -> None:
        with pytest.raises(ValueError, match="side order"):
            screen.to_pair_frame("tie", "AB")
