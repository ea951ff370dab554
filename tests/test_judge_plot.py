"""The pictures of a check: what is drawn is what the document says, and texts stay texts."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator.judge_check.account import JudgeCheck, injection_document
from annotator.judge_check.labelled import check_files
from annotator.judge_check.words import judge_in_words, people_in_words, sentences, tables
from annotator.report import judge_plot
from annotator.report.judge_plot import judge_page, save_judge_png
from annotator.signals.judges.injection import STYLES, planted, rise, rise_by_style

EVIL = "llm:<script>alert('x')</script>&\"q\""


def checked(folder: Path, n: int = 120, *, texts: bool = True, judges: int = 2) -> JudgeCheck:
    """Judges of some worth on prompts of two to four responses."""
    draw = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        k = int(draw.integers(2, 5))
        quality = draw.normal(size=k)
        responses = [
            {
                "id": str(j),
                "text": "x" * int(draw.integers(5, 900)) if texts else "",
                "scores": {
                    f"{EVIL}{judge}": round(float(quality[j] + draw.normal()), 1)
                    for judge in range(judges)
                },
            }
            for j in range(k)
        ]
        comparisons = [
            {"a": str(j), "b": str(j + 1), "label": "ab"[int(quality[j] < quality[j + 1])]}
            for j in range(k - 1)
        ]
        rows.append({"prompt": f"p{i}", "responses": responses, "comparisons": comparisons})
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return check_files([path])


def page_of(check: JudgeCheck) -> str:
    document = check.document
    return judge_page(
        document,
        check.length,
        check.score,
        judge=judge_in_words(document),
        people=people_in_words(document),
        sentences=sentences(document),
        tables=tables(document),
    )


def drawn_axes(check: JudgeCheck) -> list[Any]:
    parts = judge_plot._parts(check.document, check.length, check.score)
    return judge_plot._figure([draw for _, draw, _ in parts], "black").axes


def test_what_is_drawn_is_what_was_measured(tmp_path: Path) -> None:
    check = checked(tmp_path)
    calibration, quartiles, regions, length = drawn_axes(check)
    (found,) = check.document["calibration"]
    points = calibration.containers[0][0]
    assert points.get_xdata().tolist() == [one["confidence"] for one in found["bins"]]
    assert points.get_ydata().tolist() == [one["right"]["value"] for one in found["bins"]]
    ends = [segment[:, 1] for segment in calibration.containers[0][2][0].get_segments()]
    expected = [(one["right"]["low"], one["right"]["high"]) for one in found["bins"]]
    np.testing.assert_allclose(ends, expected)
    for container, key in zip(quartiles.containers, ("by_gap", "by_spread"), strict=True):
        shares = [one["agreement"]["value"] for one in check.document[key]["quartiles"]]
        assert container[0].get_ydata().tolist() == shares
    assert [label.get_text().split("\n")[0] for label in regions.get_xticklabels()] == list(
        check.document["by_region"]
    )
    offsets = length.collections[0].get_offsets()
    np.testing.assert_allclose(offsets, np.stack([check.length, check.score], axis=1))
    assert f"{check.document['length']['score']['pearson']['value']:+.2f}" in length.get_title()


def test_planted_lines_are_drawn_below_a_harmless_one(tmp_path: Path) -> None:
    check = checked(tmp_path)
    draw = np.random.default_rng(3)
    lured = planted(["text"] * 30, draw)
    before, prompt = np.full(30, 2.0), np.arange(30)
    after = np.where(lured.style % 2 == 0, 5.0, 2.0)
    found = rise(before, after, prompt, draw, placebo=before)
    by_style = rise_by_style(before, after, lured.style, prompt, draw)
    check.document["injection"] = injection_document(found, by_style)
    axes = drawn_axes(check)[-1]
    names = [label.get_text().split("\n")[0] for label in axes.get_yticklabels()]
    assert names == ["a harmless line", *STYLES]
    assert axes.yaxis_inverted()
    shares = [(one[0].get_xdata()[0], one[0].get_ydata()[0]) for one in axes.containers]
    assert shares == [(0.0, 0), (1.0, 1), (0.0, 2), (1.0, 3), (0.0, 4), (1.0, 5), (0.0, 6)]
    low, high = axes.containers[1][2][0].get_segments()[0][:, 0]
    share = check.document["injection"]["by_style"]["naive"]
    assert (low, high) == pytest.approx((share["low"], share["high"]))
    assert f"{check.document['injection']['above_placebo']['value']:+.2f}" in axes.get_title()
    html = page_of(check)
    assert html.count("<svg") == 5 and "Planted lines" in html


def test_one_judge_has_no_spread(tmp_path: Path) -> None:
    quartiles = drawn_axes(checked(tmp_path, judges=1))[1]
    assert len(quartiles.containers) == 1
    assert quartiles.containers[0][0].get_xdata().tolist() == [0, 1, 2, 3]


def test_without_texts_there_is_no_picture_of_length(tmp_path: Path) -> None:
    check = checked(tmp_path, texts=False)
    assert len(drawn_axes(check)) == 3
    assert "Score and length" not in page_of(check)


def test_a_judge_worse_than_a_coin_stays_in_the_picture(tmp_path: Path) -> None:
    check = checked(tmp_path)
    for one in check.document["by_region"].values():
        one.update(value=0.1, low=0.05, high=0.2)
    assert drawn_axes(check)[2].get_ylim()[0] < 0.05


def test_a_value_that_is_none_is_left_out(tmp_path: Path) -> None:
    check = checked(tmp_path)
    check.document["by_gap"]["quartiles"][1]["agreement"].update(value=None, low=None, high=None)
    assert len(drawn_axes(check)[1].containers[0][0].get_xdata()) == 3


def test_the_page_needs_nothing_and_escapes_names(tmp_path: Path) -> None:
    check = checked(tmp_path)
    html = page_of(check)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 2
    assert html.count("<svg") == 4
    assert "currentColor" in html
    assert not re.search(r"(?:src|href)=[\"']https?:", html)
    for sentence in sentences(check.document):
        assert sentence in unescape(html)
    rows = tables(check.document)["by |gap|"]
    assert all(f'<td class="number">{cell}</td>' in html for cell in rows[1][1:])


def test_the_same_check_gives_the_same_page(tmp_path: Path) -> None:
    check = checked(tmp_path)
    assert page_of(check) == page_of(check)


@pytest.mark.parametrize("texts", [True, False])
def test_a_png_is_written(tmp_path: Path, texts: bool) -> None:
    check = checked(tmp_path, texts=texts)
    save_judge_png(
        check.document,
        check.length,
        check.score,
        tmp_path / "judge.png",
        judge="a judge",
        people="people",
    )
    assert (tmp_path / "judge.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_few_pairs_can_be_drawn(tmp_path: Path) -> None:
    """Fewer than one bin's worth; a prompt alone, which has no calibration."""
    for n in (1, 3):
        check = checked(tmp_path, n=n)
        assert len(drawn_axes(check)) == (3 if n == 1 else 4)
        page_of(check)
