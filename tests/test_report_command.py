"""`annotator report` and what it gathers: from an empty project to one that is well under way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlite_utils import Database

from annotator.cli import main
from annotator.config import Settings, load_settings, template
from annotator.errors import AnnotatorError
from annotator.labels.votes import Vote, record_votes
from annotator.report import project_view as views
from annotator.report.project_report import TITLES, report_html, sections
from annotator.report.project_view import PARTS, QUICK, project_view, readable_prompts
from annotator.signals import embeddings
from annotator.store import open_db, writing
from tests.fake_encoder import FakeEncoder
from tests.played_project import play
from tests.ready_project import copy_project
from tests.test_report import Page, assert_sound

Document = dict[str, Any]
HOSTILE = "<script>alert(1)</script> ]]> & \"'"


@pytest.fixture(autouse=True, scope="module")
def encoder() -> Iterator[FakeEncoder]:
    """No weights: vectors come out of the texts' hashes."""
    fake = FakeEncoder(name="all-MiniLM-L6-v2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "find_weights", lambda name: fake)
        patch.setattr(embeddings, "load_weights", lambda weights, precision: fake)
        yield fake


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A project in which nothing has happened."""
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "annotator.toml").write_text(template("Empty"), encoding="utf-8")
    open_db(folder / "annotator.db", create=True).close()
    return folder


@pytest.fixture(scope="module")
def made(encoder: FakeEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the sample that three simulated people have labelled, made once."""
    folder = tmp_path_factory.mktemp("made") / "played"
    play(folder, rounds=2, batch=40, overlap=2, leave_open=3)
    view_of(folder)  # what takes long is computed once for all
    return folder


@pytest.fixture
def played(made: Path, tmp_path: Path) -> Path:
    """One's own copy of it."""
    return copy_project(made, tmp_path / "played")


def view_of(folder: Path, **options: Any) -> Document:
    """What project_view gathers there."""
    settings, db = opened(folder)
    try:
        return project_view(db, folder / settings.project.database, settings, **options)
    finally:
        db.close()


def opened(folder: Path) -> tuple[Settings, Database]:
    settings = load_settings(folder)
    return settings, open_db(folder / settings.project.database)


def run(folder: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", "--project", str(folder), *map(str, arguments)])


# Gathering.


def test_an_empty_project_says_of_every_part_what_is_missing(empty: Path) -> None:
    view = view_of(empty)
    missing = {name: view[name]["missing"] for name in PARTS if "missing" in view[name]}
    assert set(missing) == {"map", "people", "suspects", "judge"}
    assert missing["map"].startswith("There is no data map yet")
    assert not any(view[name].get("fault") for name in PARTS)
    page = Page(report_html(view))
    assert_sound(page)
    for why in missing.values():
        assert why in page.text
    assert "No round yet" in page.text


def test_a_played_project_has_every_part_but_the_judge(played: Path) -> None:
    view = view_of(played)
    assert [name for name in PARTS if "missing" in view[name]] == ["judge"]
    assert view["judge"]["missing"].startswith("No judge has scored a response")
    n_picks = 2 * 40 + 2  # and two pairs asked again in the second round
    assert view["pulse"]["waiting"] == 2 * 3
    assert view["pulse"]["votes"] == view["budget"]["ledger"]["votes"] == 2 * (n_picks - 3)
    assert view["map"]["n_on_map"] == len(view["map"]["points"]) == 90
    assert {one["name"] for one in view["people"]["people"]} == {"anna", "ben", "cleo"}
    _, db = opened(played)
    view["readable"] = readable_prompts(db, view)
    db.close()
    page = Page(report_html(view))
    assert_sound(page)
    for words in ("anna", "cleo", "hybrid", "peer agreement", "Votes foretold"):
        assert words in page.text


def test_a_part_that_fails_costs_itself_alone(
    played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Document:
        raise ZeroDivisionError(HOSTILE)

    monkeypatch.setitem(PARTS, "people", broken)
    view = view_of(played)
    assert view["people"]["fault"] and HOSTILE in view["people"]["missing"]
    assert "missing" not in view["map"] and "missing" not in view["suspects"]
    page = Page(report_html(view))
    assert_sound(page)
    assert "a fault of annotator: ZeroDivisionError" in page.text


def test_an_error_for_people_is_no_fault(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> Document:
        raise AnnotatorError("the votes are on one prompt alone", todo="label more")

    monkeypatch.setitem(PARTS, "judge", refused)
    part = view_of(played)["judge"]
    assert (part["missing"], part["fault"]) == ("The votes are on one prompt alone.", False)


def test_the_quick_parts_leave_the_others_as_they_were(played: Path) -> None:
    before = view_of(played)
    vote(played, "b_better")
    after = view_of(played, parts=QUICK, before=before)
    assert after["pulse"]["votes"] == before["pulse"]["votes"] + 1
    assert after["people"] is before["people"] and after["map"] is before["map"]
    alone = view_of(played, parts=QUICK)
    assert alone["people"] == {"missing": "Not computed yet.", "fault": False}
    assert set(sections(alone)) == set(TITLES)


def test_what_takes_long_is_kept_until_a_vote_comes(
    played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = view_of(played)
    calls = count_calls(monkeypatch)
    again = view_of(played)
    assert calls == []
    for name in ("people", "suspects", "map"):
        assert {**again[name], "as_of": ""} == {**first[name], "as_of": ""}
    vote(played, "b_much_better")
    third = view_of(played)
    assert calls == ["people", "suspects"]  # the map is not made of votes
    assert third["people"]["votes"] == first["people"]["votes"] + 1


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from annotator.annotators import project as people_project

    calls: list[str] = []
    people, suspects = people_project.people_of_project, views._suspects_document
    map_document = views._map_document

    def counted(name: str, made: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return made(*arguments, **options)

        return call

    monkeypatch.setattr(people_project, "people_of_project", counted("people", people))
    monkeypatch.setattr(views, "_suspects_document", counted("suspects", suspects))
    monkeypatch.setattr(views, "_map_document", counted("map", map_document))
    return calls


def vote(folder: Path, grade: str) -> None:
    """One more vote, on a pair that waits."""
    _, db = opened(folder)
    query = "SELECT id FROM picks WHERE id NOT IN (SELECT pick_id FROM votes) ORDER BY id LIMIT 1"
    pick_id = db.execute(query).fetchone()[0]
    one = Vote(9_999, pick_id, "vote", "2026-04-01T00:00:00+00:00", {}, pick_id, 1, grade)
    with writing(db):
        record_votes(db, 1, [one], {})
    db.close()


# Texts.


def test_suspects_and_a_sample_can_be_read(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "READABLE_PROMPTS", 5)
    monkeypatch.setattr(views, "READABLE_RESPONSES", 2)
    view = view_of(played)
    _, db = opened(played)
    found = readable_prompts(db, view)
    texts = dict(db.execute("SELECT id, text FROM responses").fetchall())
    db.close()
    ids = [prompt["id"] for prompt in found["prompts"]]
    suspects = [
        row["prompt_id"] for name in views.SUSPECTS_OF_CLASS for row in view["suspects"][name]
    ]
    assert suspects and set(suspects) <= set(ids)
    sample = [point["id"] for point in view["map"]["points"][:5]]
    assert set(ids) == {*suspects, *sample} and found["of_map"] == 5
    for prompt in found["prompts"]:
        assert [one["text"] for one in prompt["responses"]][2:] == ["(2 more responses)"]
        assert all(one["text"] in texts.values() for one in prompt["responses"][:2])
        scores = [one["score"] for one in prompt["responses"][:2]]
        assert scores == sorted(scores, reverse=True)


def test_texts_without_end_are_cut(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, db = opened(played)
    db.execute("UPDATE responses SET text = text || ' ' || ?", ["& so on " * 20_000])
    db.conn.commit()
    view = view_of(played)
    view["readable"] = readable_prompts(db, view)
    db.close()
    assert len(report_html(view).encode()) < 5_000_000
    cut = view["readable"]["prompts"][0]["responses"][0]["text"]
    assert re.search(r"… \([\d,]+ more characters\)$", cut)


# The command.


def test_the_command_writes_one_page(played: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    done = run(played, "--out", out)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{out}, 0.")
    page = Page(out.read_text("utf-8"))
    assert_sound(page)
    assert "article" in {tag for tag, _ in page.tags}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.html"]


def test_the_command_takes_an_empty_project(empty: Path, tmp_path: Path) -> None:
    done = run(empty, "--out", tmp_path / "out.html")
    assert done.exit_code == 0, done.output
    assert_sound(Page((tmp_path / "out.html").read_text("utf-8")))


def test_hostile_candidates_and_names_stay_texts(played: Path, tmp_path: Path) -> None:
    _, db = opened(played)
    db.execute("UPDATE responses SET text = text || ?, model = ?", [HOSTILE, HOSTILE])
    db.execute(
        "UPDATE prompts SET messages = json_array(json_object('role', ?, 'content', ?))",
        [HOSTILE, HOSTILE],
    )
    db.execute("UPDATE annotators SET name = ? || id", [HOSTILE])
    db.conn.commit()
    db.close()
    out = tmp_path / "out.html"
    assert run(played, "--out", out).exit_code == 0
    page = Page(out.read_text("utf-8"))
    assert_sound(page)
    assert page.text.count(HOSTILE) > 100


def test_a_part_that_fails_ends_with_three_and_a_page(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Document:
        raise ValueError("no such thing")

    monkeypatch.setitem(PARTS, "map", broken)
    done = run(played, "--out", tmp_path / "out.html")
    assert done.exit_code == 3
    assert "a part failed: map: This part failed" in done.stderr
    assert_sound(Page((tmp_path / "out.html").read_text("utf-8")))


@pytest.mark.parametrize(
    ("out", "said"), [("page.txt", "does not end in .html"), ("no/page.html", "there is no folder")]
)
def test_a_path_for_no_page_is_refused_at_once(empty: Path, out: str, said: str) -> None:
    done = run(empty, "--out", empty / out)
    assert done.exit_code == 2 and said in done.stderr


def test_a_page_that_cannot_be_written_leaves_the_last_one(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.html"
    out.write_text("the last one", encoding="utf-8")

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    done = run(empty, "--out", out)
    assert done.exit_code == 1
    assert "cannot be written: No space left on device" in done.stderr
    assert out.read_text("utf-8") == "the last one"
    assert not list(tmp_path.glob(".out*"))
