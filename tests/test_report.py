"""The project's page: what stands in it, and that nothing can break it or get out of it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from annotator.report import project_view as views
from annotator.report.project_report import (
    MOST_ROWS,
    TITLES,
    Links,
    report_html,
    sections,
    style_sheet,
)
from tests.report_views import (
    Document,
    data_map,
    empty_view,
    full_view,
    people,
    readable,
    share,
    suspect,
)

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    "]]> <!-- --> <![CDATA[ x",
    "\"><img src=x onerror='alert(3)'>",
    "' onclick=alert(4) data-x='",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "javascript:alert(5)",
    "\u202eright to left\u202c שלום",
    "W" * 400,
    "null",
    "NaN",
    "&lt;b&gt; &amp; &#x3C;",
)
AT_ONCE = (" ".join(HOSTILE), "null", "0")  # a page takes its time


# Reading a page.


class Page(HTMLParser):
    """A page taken apart, with every breach of the rules of nesting noted."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.problems: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        self.problems += [f"<{tag}> has {n} twice" for n in names if names.count(n) > 1]
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID and "svg" not in self.open and tag != "svg":
            self.problems.append(f"<{tag}/> closes itself, which HTML does not know")
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.problems.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """Everything that is read, with spaces as one."""
        return " ".join(" ".join(self.texts).replace("\N{NO-BREAK SPACE}", " ").split())

    def values(self, name: str) -> list[str]:
        """The values of an attribute, wherever it stands."""
        return [v for _, attrs in self.tags if (v := attrs.get(name)) is not None]


def assert_sound(page: Page, *, outside: tuple[str, ...] = ()) -> None:
    """Nested as it should be, ids its own, every reference met, nothing from anywhere else."""
    assert page.problems == []
    ids = Counter(page.values("id"))
    assert [one for one, n in ids.items() if n > 1] == []
    wanted = {i for key in ("aria-labelledby", "aria-describedby") for i in page.values(key)}
    links = page.values("href")
    inner = {link[1:] for link in links if link.startswith("#")}
    clips = {i for v in page.values("clip-path") for i in re.findall(r"url\(#(.*?)\)", v)}
    assert (wanted | inner | clips) - set(ids) == set()
    elsewhere = [link for link in links if not link.startswith("#")]
    assert all(link.startswith(outside) if outside else False for link in elsewhere), elsewhere
    assert page.values("src") == page.values("srcset") == []
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "img", "form", "base"}
    names = {name for _, attrs in page.tags for name in attrs}
    assert "style" not in names and not any(name.startswith("on") for name in names)


def hostile(view: Document, text: str) -> Document:
    """The view with every text that comes from people, models or servers replaced."""
    view["project"] = text
    view["budget"]["sentences"] = [text, text]
    view["budget"]["saving"]["sentence"] = text
    view["budget"]["next"]["sentence"] = text
    view["budget"]["certificates"][0] |= {"source": text, "void_because": text}
    view["budget"]["ledger"]["people"] |= {"how": text, "currency": text}
    view["budget"]["stop"]["rules"][0] |= {"rule": text, "detail": text}
    view["map"] |= data_map(30, start=text) | {"scores": text}
    view["people"] |= people((text, text, "ben"))
    view["suspects"] |= {
        "likely wrong": [
            suspect(7, text) | {"reason": text, "verdict": text, "a": text, "b": text}
        ],
        "notes": [text],
    }
    view["judge"]["words"] = {
        "judge": text, "held_against": text, "sentences": [text],
        "tables": [[[text, text], [text, text]]],
    }  # fmt: skip
    view["rounds"]["rounds"][0]["strategy"] = text
    view["readable"] = readable([1, 7], text)
    return view


# The whole page.


@pytest.mark.parametrize("view", [full_view(), empty_view()], ids=["full", "empty"])
def test_the_report_is_sound_and_asks_nobody(view: Document) -> None:
    html = report_html(view)
    page = Page(html)
    assert_sound(page)
    assert html.startswith("<!doctype html>")
    assert "default-src 'none'" in html and "http:" not in html and "https:" not in html
    assert list(sections(view)) == list(TITLES)
    assert [i for i in page.values("id") if i in TITLES] == list(TITLES)


def test_the_policy_lets_in_this_style_sheet_alone() -> None:
    html = report_html(full_view())
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in html
    assert "unsafe-inline" not in html and "script-src" not in html


@pytest.mark.parametrize("text", AT_ONCE, ids=["hostile", "null", "zero"])
def test_no_text_breaks_out(text: str) -> None:
    view = hostile(full_view(30), text)
    page = Page(report_html(view))
    plain = Page(report_html(full_view(30)))
    assert_sound(page)
    known = {tag for tag, _ in plain.tags}
    assert {tag for tag, _ in page.tags} <= known
    shown = " ".join(text.split())
    assert page.text.count(shown) >= 20, "the text is shown, as it was written"
    assert shown in page.values("aria-label")[-1] or shown in page.text


@pytest.mark.parametrize("text", AT_ONCE, ids=["hostile", "null", "zero"])
def test_no_text_breaks_out_of_a_section_of_the_dashboard(text: str) -> None:
    for name, html in sections(hostile(full_view(30), text)).items():
        page = Page(html)
        assert page.open == [] and page.problems == []
        assert_sound(page, outside=("/prompt/", "/pair/"))
        assert page.tags[0][0] == "section" and page.tags[0][1]["id"] == name


def test_headings_stand_in_order_and_landmarks_have_names() -> None:
    page = Page(report_html(full_view()))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    named = [attrs for tag, attrs in page.tags if tag in ("section", "nav")]
    assert all(attrs.get("aria-label") or attrs.get("aria-labelledby") for attrs in named)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("main") == tags.count("header") == tags.count("footer") == 1
    first_link = next(attrs for tag, attrs in page.tags if tag == "a")
    assert first_link["href"] == "#main"


def test_every_picture_says_what_it_shows() -> None:
    page = Page(report_html(full_view()))
    charts = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("class") == "chart"]
    assert len(charts) == 6  # saving and burn in two forms, map, calibration
    ids = page.values("id")
    for attrs in charts:
        # A role of img would hide the links of the map from a screen reader.
        is_map = attrs["aria-labelledby"] == "map-title"
        assert attrs["role"] == ("group" if is_map else "img")
        assert {attrs["aria-labelledby"], attrs["aria-describedby"]} <= set(ids)
    decoration = [attrs for tag, attrs in page.tags if tag == "svg" and attrs not in charts]
    assert all(attrs.get("aria-hidden") == "true" for attrs in decoration)
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    scrolled = [attrs for _, attrs in page.tags if attrs.get("class") == "scroll"]
    assert scrolled and all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)


def test_first_comes_where_we_stand_then_the_saving() -> None:
    view = full_view()
    text = Page(report_html(view)).text
    places = [text.index(s) for s in view["budget"]["sentences"]]
    tile = text.index("34 % of votes 95 % interval 12 to 48 %")
    assert places == sorted(places) and places[-1] < tile
    assert tile < text.index("Quality reached with so many votes")


# The saving in its answers.


def standing(**changes: Any) -> str:
    """What stands first on the page where the saving's document has these values."""
    view = full_view()
    view["budget"]["saving"] |= changes
    return Page(sections(view)["standing"]).text


def test_a_saving_that_is_not_shown_is_no_number() -> None:
    found = standing(
        answer="not-shown", share=None, low=None, high=None, curve=None, more_votes=120,
        sentence="Not shown yet: about 120 more votes.",
    )  # fmt: skip
    assert "Saved not shown yet It would take about 120 more votes to show" in found
    assert "of votes" not in found.split("Votes foretold")[0].split("Saved")[-1]


def test_a_strategy_that_does_not_save_says_so() -> None:
    found = standing(answer="not-saving", share=-0.04, sentence="This strategy is not saving here.")
    assert "Saved nothing here Pairs drawn at random are as good." in found
    assert "4 %" not in found.split("Votes foretold")[0].split("Saved")[-1]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.12, 0.48, "95 % interval 12 to 48 %"),
        (0.12, None, "95 % interval 12 % or more"),
        (-0.02, 0.3, "95 % interval -2 to 30 %"),
    ],
)
def test_an_open_end_is_said_in_words(low: float, high: float | None, words: str) -> None:
    assert words in standing(low=low, high=high)


def test_what_is_spared_stands_apart_and_is_never_added() -> None:
    view = full_view()
    text = Page(sections(view)["saving"]).text
    assert "Spared apart from that" in text
    assert "adaptive overlap 210 2 % (1 to 4) 3 votes on each pair" in text
    assert "inference 640 640 3 % (1 to 7)" in text
    assert "850" not in text and "74 %" not in text


def test_the_way_to_the_first_answer_is_shown() -> None:
    view = full_view()
    view["budget"]["saving"] |= {"answer": "too-few", "control_votes": 12, "curve": None}
    page = Page(sections(view)["saving"])
    (bar,) = [attrs for tag, attrs in page.tags if tag == "progress"]
    assert (bar["value"], bar["max"]) == ("12", "30")
    assert "12 of 30 control votes" in page.text


def test_numbers_without_a_value_are_never_written_as_none() -> None:
    view = empty_view()
    view["budget"]["quality"]["accuracy"] = share(None)
    view["people"] = people() | {"notes": []}
    view["people"]["people"][0]["seconds"] = share(None)
    view["suspects"]["missing"] = "Nobody has voted yet."
    text = Page(report_html(view)).text
    assert not re.search(r"\b(None|nan|inf)\b", text)


# The map and its texts.


def test_points_lead_to_texts_that_are_there_and_others_do_not() -> None:
    view = full_view(50)
    view["readable"] = readable([1, 2, 3, 7])
    page = Page(report_html(view))
    articles = {attrs["id"] for tag, attrs in page.tags if tag == "article"}
    assert articles == {"p-1", "p-2", "p-3", "p-7"}
    points = [link for link in page.values("href") if link.startswith("#p-")]
    assert {link[1:] for link in points} == articles
    assert "4 of the points lead to their prompt" in page.text
    assert page.text.count("What would you pack for a trip of") == 50  # each has its words


def test_points_of_the_dashboard_all_lead_to_its_pages() -> None:
    html = sections(full_view(50))["map"]
    assert set(re.findall(r'href="(/prompt/\d+)"', html)) == {f"/prompt/{i + 1}" for i in range(50)}
    suspects = sections(full_view())["suspects"]
    assert re.findall(r'href="(/pair/[\d-]+)"', suspects) == [
        "/pair/70-71", "/pair/20-21", "/pair/30-31"
    ]  # fmt: skip


def test_addresses_follow_the_pattern() -> None:
    links = Links("#x{id}", "#y{id}-{a}-{b}", frozenset({7}))
    assert links.to_prompt(7) == "#x7" and links.to_prompt(8) is None
    assert links.to_pair(7, 1, 2) == "#y7-1-2" and links.to_pair(8, 1, 2) is None


def test_two_figures_never_share_an_id() -> None:
    html = "".join(sections(full_view()).values())
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 40
    assert re.findall(r'xlink|xmlns|<metadata|style="', html) == []


def test_a_million_responses_make_a_small_file() -> None:
    """The largest that project_view can give: points with long titles, texts to the brim."""
    view = full_view(views.MAP_POINTS)
    start = ('<"&>' * views.START_CHARS)[: views.START_CHARS]
    view["map"] = data_map(views.MAP_POINTS, start=start)
    long = ("<b> & \"x\" 'y' " * 400)[: views.TEXT_CHARS]
    for name, top in views.SUSPECTS_OF_CLASS.items():
        view["suspects"][name] = [suspect(i, long) | {"a": long, "b": long} for i in range(top)]
    n = views.READABLE_PROMPTS + sum(views.SUSPECTS_OF_CLASS.values())
    text = "a & b " * (views.READABLE_BYTES // (3 * n) // 10)
    view["readable"] = readable(list(range(n)), text)
    view["people"] = people(tuple(f"person {i}" for i in range(2_000)))
    view["rounds"]["rounds"] = [view["rounds"]["rounds"][0] | {"id": i} for i in range(5_000)]
    html = report_html(view)
    assert len(html.encode()) < 5_000_000
    page = Page(html)
    assert_sound(page)
    assert f"{MOST_ROWS} of 5,000" in page.text and f"{MOST_ROWS} of 2,000" in page.text


# Colours.


def themes() -> dict[str, dict[str, str]]:
    """The colours by their property, in each of the style sheet's themes."""
    blocks = re.findall(r":root \{(.*?)\}", style_sheet(), re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", block)) for block in blocks]
    assert len(found) == 3
    return dict(zip(("light", "dark", "print"), found, strict=True))


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_the_standard_does() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("theme", ["light", "dark", "print"])
def test_text_can_be_read_and_pictures_be_seen(theme: str) -> None:
    colours = themes()[theme]
    for ground in ("paper", "card"):
        for text in ("ink", "soft", "mark", "alarm", "good"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for series in ("series-0", "series-1", "series-2", "series-3", "series-6"):
            assert contrast(colours[series], colours[ground]) >= 3, (series, ground)


def test_two_points_are_not_joined_to_a_curve() -> None:
    """A line from nothing to the only measured point would promise what nobody measured."""
    view = full_view()
    curve = view["budget"]["saving"]["curve"]
    first = {"votes": 0, "quality": -0.69, "low": None, "high": None}
    curve["uniform"] = [first, curve["uniform"][-1]]
    html = sections(view)["saving"]
    uniform = re.findall(r'<path [^>]*stroke="var\(--series-1[^>]*>', html)
    assert uniform and not any("dasharray" in path for path in uniform)
    heights = [re.findall(r"[\d.]+", re.findall(r'd="M ([^"]+)"', path)[0]) for path in uniform]
    assert all(len(set(numbers[0::2])) == 1 for numbers in heights if len(numbers) == 4)


def test_series_differ_by_more_than_colour() -> None:
    html = sections(full_view())["saving"]
    dashes = set(re.findall(r'stroke-dasharray="([^"]+)"', html))
    assert dashes, "the second curve is dashed"
    keys = re.findall(r'class="series-\d" d="([^"]+)"', sections(full_view())["map"])
    assert len(set(keys)) == 3
