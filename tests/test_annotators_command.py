"""`annotator annotators` as a person runs it, on simulated people; and what is drawn of them."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import evalica
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from sqlite_utils import Database

from annotator.annotators.project import evidence_of_project, people_of_project
from annotator.annotators.words import lines
from annotator.cli import main
from annotator.config import template
from annotator.export.write import export_file, export_stream
from annotator.labels.style import style_of
from annotator.report import annotators_plot
from annotator.store import open_db, writing
from tests.small_world import add_prompt

ANNA, BEN, LEFTY, COIN, QUICK, NEW, IDLE = range(1, 8)
NAMES = {
    ANNA: "anna", BEN: "ben", LEFTY: "<b>lefty</b> & co", COIN: "coin", QUICK: "$quick$",
    NEW: "ben", IDLE: "idle",
}  # fmt: skip
GRADES = {2: "a_much_better", 1: "a_better", 0: "tie", -1: "b_better", -2: "b_much_better"}
NUMBER = {**{name: grade for grade, name in GRADES.items()}, "both_bad": 0}


class World:
    """A database that is filled by what people do; `truth` of each pick in -2..2, never 0."""

    def __init__(self, db: Database, seed: int = 0) -> None:
        self.db = db
        self.rng = np.random.default_rng(seed)
        self.truth: dict[int, int] = {}
        self.side: dict[int, str] = {}
        self.ends: dict[int, tuple[int, int]] = {}
        self.n_annotations = 0
        db.execute("PRAGMA synchronous=OFF")
        db.execute(
            """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
            created_at) VALUES (1, 's', 'm', 5, 't', 's', 2, '')"""
        )
        for overlap in (2, 1):
            db.execute(
                """INSERT INTO rounds (started_at, strategy, seed, n_acquired, n_control, overlap,
                pool, version) VALUES ('', 'random', 0, 1, 1, ?, '{}', '')""",
                [overlap],
            )
        for studio_id, name in NAMES.items():
            db.execute("INSERT INTO annotators VALUES (?, 's', ?, ?)", [studio_id, studio_id, name])

    def new_pair(self, arm: str) -> int:
        """A pick on a new prompt with two responses, some longer, some with marks of style."""
        n = len(self.truth)
        texts = [
            f"answer {j} "
            + "word " * int(self.rng.integers(1, 80))
            + "\n- item" * int(self.rng.integers(0, 4))
            for j in range(2)
        ]
        a, b = add_prompt(self.db, [{"role": "user", "content": f"question {n}"}], texts)
        return self.pick(a, b, arm, int(self.rng.choice([-2, -1, 1, 2])))

    def pick(self, a: int, b: int, arm: str, truth: int, round_id: int = 1) -> int:
        place = len(self.truth)
        side = "ab" if self.rng.random() < 0.5 else "ba"
        self.db.execute(
            """INSERT INTO picks (id, round_id, place, pair_key, a_id, b_id, arm, draw,
            side_order, strategy) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'random')""",
            [place + 1, round_id, place, f"{a} {b}", a, b, arm, place, side],
        )
        self.truth[place + 1], self.side[place + 1], self.ends[place + 1] = truth, side, (a, b)
        return place + 1

    def vote(
        self, pick: int, who: int, grade: int | None, *, seconds: float = 30.0, edit: int = 0
    ) -> int:
        """A vote, or a skip where `grade` is None; the annotation's id. `edit` an earlier one."""
        self.n_annotations += not edit
        status = "skip" if grade is None else "vote"
        self.db.execute(
            """INSERT INTO votes (project_id, annotation_id, studio_task_id, pick_id, annotator_id,
            status, grade, seconds, updated_at, seen_at, raw)
            VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, '', '{}')""",
            [
                edit or self.n_annotations, pick, pick, who, status,
                None if grade is None else GRADES[grade], seconds,
                f"2026-01-01T00:00:00.{self.n_annotations + edit:06}Z",
            ],
        )  # fmt: skip
        return edit or self.n_annotations

    def answer(self, pick: int, who: int) -> int:
        """What this person says of the pick, the way they are; the grade."""
        left = 1 if self.side[pick] == "ab" else -1
        if who == LEFTY:
            grade = left
        elif who == COIN:
            grade = int(np.sign(self.truth[pick]) * self.rng.choice([-1, 1], p=[0.6, 0.4]))
        else:
            draw = self.rng.random()
            grade = self.truth[pick] if draw < 0.85 else 0 if draw < 0.92 else -self.truth[pick]
        self.vote(pick, who, grade, seconds=self.rng.gamma(4, 1 if who == QUICK else 8))
        return grade

    def gold(self, pick: int) -> None:
        label = "a" if self.truth[pick] > 0 else "b"
        self.db.execute("INSERT INTO gold VALUES (?, ?, ?, 1)", [*self.ends[pick], label])


WORKERS = (ANNA, BEN, LEFTY, COIN, QUICK)


def fill(db: Database, *, n_control: int = 60, n_acquired: int = 60) -> World:
    """Two votes a pair, a third where these take two sides; gold for all, repeats, few by NEW."""
    world = World(db)
    for arm in world.rng.permutation(["control"] * n_control + ["acquired"] * n_acquired).tolist():
        pick = world.new_pair(arm)
        first, second, third = world.rng.permutation(WORKERS)[:3].tolist()
        sides = {np.sign(world.answer(pick, who)) for who in (first, second)}
        if len(sides) == 2 and arm == "acquired":
            world.answer(pick, third)
    for _ in range(30):
        pick = world.new_pair("gold")
        world.gold(pick)
        for who in WORKERS:
            world.answer(pick, who)
    for pick in range(1, 31):
        again = world.pick(*world.ends[pick], "repeat", world.truth[pick], round_id=2)
        asked = db.execute("SELECT annotator_id FROM votes WHERE pick_id = ?", [pick]).fetchall()
        world.answer(again, asked[0][0])
    for pick in range(1, 6):
        world.vote(pick, NEW, None)
        world.vote(pick + 5, NEW, 1)
    return world


def make(folder: Path) -> Path:
    folder.mkdir()
    (folder / "annotator.toml").write_text(template("people"), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("made") / "project")
    db = open_db(folder / "annotator.db", create=True)
    fill(db)
    db.close()
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A project whose people have voted."""
    return Path(shutil.copytree(made, tmp_path / "project"))


@pytest.fixture
def filled(project: Path) -> Iterator[Database]:
    """The database of such a project."""
    db = open_db(project / "annotator.db")
    yield db
    db.close()


def run(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--project", str(project)])


def document_of(project: Path, *arguments: str) -> dict[str, Any]:
    done = run(project, "annotators", "--json", *arguments)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def person(document: dict[str, Any], who: int) -> dict[str, Any]:
    (found,) = [one for one in document["people"] if one["id"] == who]
    return found


def current(db: Database) -> list[dict[str, Any]]:
    """All current votes with their picks, read without the code under test."""
    return list(
        db.query(
            """SELECT v.id, v.annotator_id, v.grade, v.seconds, v.status, p.id AS pick, p.arm,
            p.side_order, p.pair_key, p.a_id, p.b_id FROM current_votes v
            JOIN picks p ON p.id = v.pick_id ORDER BY v.id"""
        )
    )


def test_everybody_is_listed_with_what_they_did(filled: Database) -> None:
    document = people_of_project(filled, 0.7)
    rows, evidence = current(filled), evidence_of_project(filled)
    place = {person.id: at for at, person in enumerate(evidence.people)}
    assert [one["id"] for one in document["people"]][-1] == NEW
    assert IDLE not in [one["id"] for one in document["people"]]
    votes = [one["votes"] for one in document["people"]]
    assert votes == sorted(votes, reverse=True)
    for one in document["people"]:
        mine = [row for row in rows if row["annotator_id"] == one["id"]]
        answers = [row for row in mine if row["status"] == "vote"]
        assert (one["votes"], one["skips"]) == (len(answers), len(mine) - len(answers))
        assert one["name"] == NAMES[one["id"]]
        # Pace and sides are of first answers, repeats apart.
        first = [row for row in answers if row["arm"] != "repeat"]
        assert one["seconds"]["value"] == pytest.approx(
            np.median([row["seconds"] for row in first]), abs=1e-4
        )
        its = evidence.early & (evidence.votes.annotator == place[one["id"]])
        assert its.sum() <= len(first)  # sides: of votes asked before anybody had answered
        grade, left_is_a = evidence.votes.grade[its], evidence.left_is_a[its]
        on_left = (grade > 0) == left_is_a
        assert one["left"]["n"] == np.count_nonzero(grade)
        assert one["left"]["hits"] == np.count_nonzero(on_left & (grade != 0))
        assert one["shown_a_left"]["hits"] == np.count_nonzero(left_is_a)


def test_gold_and_repeats_are_those_of_the_tables(filled: Database) -> None:
    document = people_of_project(filled, 0.7)
    gold = {(a, b): label for a, b, label in filled.execute("SELECT a_id, b_id, label FROM gold")}
    right: dict[int, list[bool]] = defaultdict(list)
    said: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in current(filled):
        if row["status"] == "vote":
            side = np.sign(NUMBER[row["grade"]])
            said[row["annotator_id"], row["pair_key"]].append(side)
            if row["arm"] == "gold":
                known = {"a": 1, "b": -1}[gold[row["a_id"], row["b_id"]]]
                right[row["annotator_id"]].append(side == known)
    for one in document["people"]:
        assert one["gold"]["n"] == len(right[one["id"]])
        assert one["gold"]["hits"] == sum(right[one["id"]])
        twice = [sides for (who, _), sides in said.items() if who == one["id"] and len(sides) == 2]
        assert one["repeats"]["n"] == len(twice)
        assert one["repeats"]["hits"] == sum(first == later for first, later in twice)
    assert person(document, ANNA)["repeats"]["n"] > 0


def first_votes_alpha(db: Database, arms: tuple[str, ...], metric: str) -> tuple[float, int]:
    """evalica's alpha of the first two votes on each pair of these arms, and how many pairs."""
    cells: dict[str, dict[int, float]] = defaultdict(dict)
    for row in current(db):
        of_pair = cells[row["pair_key"]]
        if row["status"] == "vote" and row["arm"] in arms and len(of_pair) < 2:
            grade = NUMBER[row["grade"]]
            of_pair[row["annotator_id"]] = np.sign(grade) + 2 if metric == "nominal" else grade + 3
    table = pd.DataFrame(cells).astype(float)
    twice = int((table.notna().sum() > 1).sum())
    return float(evalica.alpha(table, metric).alpha), twice


@pytest.mark.parametrize("n_control", [60, 20])
def test_agreement_is_of_first_votes_on_control_pairs_if_there_are_enough(
    db: Database, n_control: int
) -> None:
    fill(db, n_control=n_control)
    document = people_of_project(db, 0.7)
    arms = ("control",) if n_control == 60 else ("control", "acquired")
    found = document["agreement"]
    assert document["pairs_from"]["from"] == ("control" if n_control == 60 else "all")
    for metric in ("nominal", "ordinal"):
        expected, n_pairs = first_votes_alpha(db, arms, metric)
        assert found[f"{metric}_alpha"]["value"] == pytest.approx(expected, abs=1e-4)
        assert found["pairs"] == n_pairs
    said = "\n".join(lines(document))
    assert ("drawn by lot" in said) == (n_control == 60)
    assert ("20 control pairs have two votes, and it takes 30" in said) == (n_control == 20)
    assert (document["votes_after_the_first"] > 10) == (n_control == 20)
    assert ("further votes are left out" in said) == (document["votes_after_the_first"] > 0)


def test_an_edit_makes_no_first_vote_a_later_one(db: Database) -> None:
    world = World(db)
    pick, other = world.new_pair("acquired"), world.new_pair("acquired")
    annotation = world.vote(pick, ANNA, 1)
    world.vote(pick, LEFTY, -1)
    world.vote(pick, BEN, 1)
    for who in (BEN, ANNA):
        world.vote(other, who, 2)
    world.vote(pick, ANNA, 2, edit=annotation)
    evidence = evidence_of_project(db)
    assert [one.id for one in evidence.people] == [ANNA, BEN, LEFTY]
    late = evidence.votes.annotator[~evidence.early]
    assert late.tolist() == [1]  # Ben, although Anna's vote is now the newest row
    assert evidence.votes.grade[evidence.votes.annotator == 0].tolist() == [2, 2]


def test_alarms_are_raised_on_those_who_deserve_them(project: Path) -> None:
    document = document_of(project)
    kinds = {one["id"]: {alarm["kind"] for alarm in one["alarms"]} for one in document["people"]}
    assert "left" in kinds[LEFTY]
    assert "gold" in kinds[COIN]
    assert kinds[QUICK] == {"fast"}
    assert kinds[ANNA] == kinds[BEN] == kinds[NEW] == set()
    assert document["tested"] == 5
    said = run(project, "annotators").stdout
    assert re.search(r"lefty</b> & co presses left whatever stands there: \d+ of \d+", said)
    assert re.search(r"coin gets too many known answers wrong: right on \d+ of 30", said)
    assert "$quick$ is very fast: median" in said
    assert "no alarm raised" in said  # of NEW, with 5 votes


def test_the_minimum_decides_by_the_end_of_the_interval(project: Path) -> None:
    gold = person(document_of(project), ANNA)["gold"]
    assert gold["low"] < gold["value"] < gold["high"] < 1
    between = str((gold["value"] + gold["high"]) / 2)
    above = str(gold["high"] + 0.01)
    for minimum, alarmed in ((between, False), (above, True)):
        found = person(document_of(project, "--minimum", minimum), ANNA)
        assert any(alarm["kind"] == "gold" for alarm in found["alarms"]) == alarmed


@pytest.mark.parametrize(("n", "kinds"), [(19, set()), (20, {"gold", "left"})])
def test_nobody_is_judged_before_twenty_votes(db: Database, n: int, kinds: set[str]) -> None:
    """Every answer on the left, and none of them right."""
    world = World(db)
    for _ in range(n):
        pick = world.new_pair("gold")
        left = 1 if world.side[pick] == "ab" else -1
        world.truth[pick] = -left
        world.gold(pick)
        world.vote(pick, NEW, left)
    document = people_of_project(db, 0.7)
    (one,) = document["people"]
    assert (one["gold"]["hits"], one["gold"]["n"], one["left"]["hits"]) == (0, n, n)
    assert {alarm["kind"] for alarm in one["alarms"]} == kinds
    assert (one["left_p"] is not None) == bool(kinds)


def believed(db: Database, who: int, n_votes: int, skill: tuple[float, float, float]) -> None:
    """Skills of a first build."""
    with writing(db):
        db.execute(
            """INSERT OR IGNORE INTO consensus_builds (id, last_vote_id, n_votes, n_pairs, settings,
            built_at) VALUES (1, (SELECT max(id) FROM votes), 9, 9, '{}', '')"""
        )
        db.execute(
            "INSERT INTO annotator_skills VALUES (1, ?, ?, ?, ?, ?, 0.3, 0.1, 0.5)",
            [who, n_votes, *skill],
        )


def test_skill_is_that_of_the_newest_build_and_hidden_before_twenty_votes(filled: Database) -> None:
    before = people_of_project(filled, 0.7)
    assert before["skills_from"] is None
    assert "No skills yet" in "\n".join(lines(before))
    believed(filled, ANNA, 60, (0.9, 0.8, 0.95))
    believed(filled, BEN, 60, (0.5, 0.4, 0.69))
    believed(filled, NEW, 19, (0.2, 0.1, 0.3))
    document = people_of_project(filled, 0.7)
    assert person(document, ANNA)["skill"] == {"value": 0.9, "low": 0.8, "high": 0.95}
    assert person(document, ANNA)["left_bias"] == {"value": 0.3, "low": 0.1, "high": 0.5}
    assert person(document, NEW)["skill"]["value"] is None
    assert person(document, NEW)["left_bias"]["value"] is None
    assert [alarm["kind"] for alarm in person(document, BEN)["alarms"]] == ["skill"]
    assert document["notes"] == []
    said = lines(document)
    assert any("ben (6)" in line and "after 20 votes" in line for line in said)
    assert any(line.startswith("ben (2) seems to follow the pair in only 50.0 %") for line in said)
    World.vote(_bare(filled), 1, NEW, 1)
    assert "Votes have come since" in people_of_project(filled, 0.7)["notes"][0]


def _bare(db: Database) -> World:
    """A world around a database that is filled already."""
    world = World.__new__(World)
    world.db, world.n_annotations = db, 10_000
    return world


def test_length_and_style_are_of_a_less_b_whatever_the_ids(filled: Database) -> None:
    evidence = evidence_of_project(filled)
    pairs = np.unique(evidence.votes.pair)
    texts = evidence.texts(pairs)
    by_id = dict(filled.execute("SELECT id, text FROM responses").fetchall())
    length = {key: len(text) for key, text in by_id.items()}
    ids = filled.execute("SELECT DISTINCT a_id, b_id FROM picks ORDER BY a_id, b_id").fetchall()
    assert list(zip(*texts, strict=True)) == [(by_id[a], by_id[b]) for a, b in ids]
    won, n = 0, 0
    first: set[tuple[int, str]] = set()
    for row in current(filled):
        key = (row["annotator_id"], row["pair_key"])
        if row["status"] == "vote" and row["arm"] == "control" and key not in first:
            first.add(key)
            longer = np.sign(length[row["a_id"]] - length[row["b_id"]])
            side = np.sign(NUMBER[row["grade"]])
            won += longer == side and side != 0
            n += bool(longer and side)
    document = people_of_project(filled, 0.7)
    # Votes by NEW are the third on their pair.
    assert document["longer"]["votes"] == pytest.approx(n, abs=5)
    assert document["longer"]["wins"]["value"] == pytest.approx(won / n, abs=0.03)
    assert [one["name"] for one in document["style"]] == ["length", "lists", "left side"]
    difference = style_of(texts[0]) - style_of(texts[1])
    assert np.abs(difference[:, 1]).max() > 0


def test_regions_are_those_of_the_newest_map(project: Path) -> None:
    assert document_of(project)["by_region"] == {}
    db = open_db(project / "annotator.db")
    with writing(db):
        rng = np.random.default_rng(0)
        ids = [i for (i,) in db.execute("SELECT id FROM responses")]
        db.conn.executemany(
            "INSERT INTO source_scores VALUES (?, 'grade', ?, 1)",
            [(i, float(rng.normal())) for i in ids],
        )
    assert run(project, "map", "--scores", "grade").exit_code == 0
    document = document_of(project)
    regions = dict(db.execute("SELECT prompt_id, region FROM datamap").fetchall())
    counts: dict[str, int] = defaultdict(int)
    query = """SELECT r.prompt_id, count(DISTINCT v.annotator_id) FROM current_votes v
        JOIN picks p ON p.id = v.pick_id JOIN responses r ON r.id = p.a_id
        WHERE p.arm = 'control' AND v.status = 'vote' GROUP BY 1"""
    for prompt, n in db.execute(query):
        counts[regions[prompt]] += n >= 2
    db.close()
    assert {name: one["pairs"] for name, one in document["by_region"].items()} == counts
    assert sum(counts.values()) == document["agreement"]["pairs"]
    assert "by region (map of" in run(project, "annotators").stdout


def test_the_same_seed_says_the_same_and_writes_what_is_derived_once(project: Path) -> None:
    document_of(project)  # the consensus is brought up to date
    before = (project / "annotator.db").read_bytes()
    one, other = (run(project, "annotators", "--json").stdout for _ in range(2))
    assert one == other
    assert document_of(project, "--seed", "1")["agreement"] != json.loads(one)["agreement"]
    assert (project / "annotator.db").read_bytes() == before


def test_before_the_first_vote_there_is_a_word_and_nothing_to_draw(tmp_path: Path) -> None:
    folder = make(tmp_path / "empty")
    open_db(folder / "annotator.db", create=True).close()
    done = run(folder, "annotators")
    assert done.exit_code == 0
    assert done.stdout.startswith("Nobody has voted yet: label a batch")
    assert document_of(folder)["people"] == []
    plot = tmp_path / "people.png"
    refused = run(folder, "annotators", "--plot", str(plot))
    assert refused.exit_code == 1
    assert "nobody has voted yet" in refused.stderr
    assert not plot.exists()


def test_one_person_with_ties_alone(db: Database) -> None:
    world = World(db)
    for _ in range(30):
        world.vote(world.new_pair("acquired"), ANNA, 0)
    document = people_of_project(db, 0.7)
    assert document["agreement"]["undefined"] == "one annotator"
    (one,) = document["people"]
    assert one["left"]["value"] is None
    assert one["alarms"] == []
    said = "\n".join(lines(document))
    assert "all votes to compare are by one person" in said
    assert "nan" not in json.dumps(document).lower()


def test_skips_alone_are_listed(db: Database) -> None:
    world = World(db)
    world.vote(world.new_pair("acquired"), ANNA, None)
    document = people_of_project(db, 0.7)
    assert [(one["votes"], one["skips"]) for one in document["people"]] == [(0, 1)]
    assert "there are no votes on pairs to compare" in "\n".join(lines(document))


def test_what_is_drawn_is_what_the_document_says(project: Path, tmp_path: Path) -> None:
    document = document_of(project)
    people = annotators_plot._drawn(document)
    assert {people[0]["id"], people[1]["id"]} <= {LEFTY, COIN, QUICK}  # alarms first
    figure = annotators_plot._figure(document, people, "black")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["agrees with others", "skill", "presses left", "gold right", "same again"]
    keys = ("agreement", "skill", "left", "gold", "repeats")
    for axes, key in zip(figure.axes, keys, strict=True):
        drawn: dict[float, tuple[float, float, float]] = {}
        for container in axes.containers:
            line, _, (bars,) = container
            for x, y, segment in zip(*line.get_data(), bars.get_segments(), strict=True):
                drawn[y] = (x, segment[0, 0], segment[1, 0])
        shares = [one["agreement"]["share"] if key == "agreement" else one[key] for one in people]
        there = [i for i, share in enumerate(shares) if share["value"] is not None]
        assert sorted(drawn) == there
        for i in there:
            expected = [shares[i][end] for end in ("value", "low", "high")]
            np.testing.assert_allclose(drawn[i], expected, atol=1e-9)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == [annotators_plot._name(one) for one in people]
    png = tmp_path / "people.png"
    assert run(project, "annotators", "--plot", str(png)).exit_code == 0
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_page_says_the_same_and_runs_nothing(project: Path, tmp_path: Path) -> None:
    page = tmp_path / "people.html"
    done = run(project, "annotators", "--plot", str(page))
    assert done.exit_code == 0
    html = page.read_text(encoding="utf-8")
    assert "<b>lefty" not in html
    assert "&lt;b&gt;lefty&lt;/b&gt; &amp; co" in html
    assert "currentColor" in html
    assert "#123456" not in html
    assert not re.search(r"<script|(?:src|href)=.https?:", html)
    texts = unescape(re.sub(r"<[^>]+>", " ", html))
    for line in done.stdout.splitlines()[-12:-2]:
        assert line.strip() in texts or not line.strip()
    assert "$quick$" in texts


def test_wrong_usage_is_refused_before_anything_is_read(project: Path, tmp_path: Path) -> None:
    for arguments in (["--plot", "people.pdf"], ["--minimum", "1.5"]):
        assert run(project, "annotators", *arguments).exit_code == 2


# Export.


def _exported(db: Database, name: str, **options: bool) -> list[dict[str, Any]]:
    stream = io.StringIO()
    export_stream(db, name, stream, **options)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(("name", "column"), [("votes", "annotator"), ("trl", "annotators")])
def test_hashes_stand_for_ids_one_for_one(filled: Database, name: str, column: str) -> None:
    plain, hashed = (_exported(filled, name, hash_annotators=h) for h in (False, True))
    stands_for: dict[int, set[str]] = defaultdict(set)
    for one, other in zip(plain, hashed, strict=True):
        ids, names = one.pop(column), other.pop(column)
        assert one == other
        if name == "votes":
            stands_for[ids].add(names)
        else:
            assert len(names) == len(ids) == len(set(names))
            assert names == sorted(names)
    if name == "votes":
        assert {len(names) for names in stands_for.values()} == {1}
        assert len(set.union(*stands_for.values())) == len(stands_for) == 6
        assert all(re.fullmatch("[0-9a-f]{16}", n) for ns in stands_for.values() for n in ns)


def test_hashes_are_of_one_database_and_keyed(filled: Database) -> None:
    import hashlib
    import hmac

    names = {row["annotator"] for row in _exported(filled, "votes", hash_annotators=True)}
    (key,) = filled.execute("SELECT value FROM meta WHERE key = 'annotator_key'").fetchone()
    expected = {
        hmac.new(key.encode(), f"annotator {who}".encode(), hashlib.sha256).hexdigest()[:16]
        for who in (*WORKERS, NEW)
    }
    assert names == expected
    with writing(filled):
        filled.execute("UPDATE meta SET value = 'another' WHERE key = 'annotator_key'")
    again = {row["annotator"] for row in _exported(filled, "votes", hash_annotators=True)}
    assert not names & again


def test_parquet_holds_hashes_as_texts_and_ids_as_numbers(project: Path, tmp_path: Path) -> None:
    for name, column in (("votes", "annotator"), ("trl", "annotators")):
        for options in ([], ["--hash-annotators"]):
            path = tmp_path / f"{name}{len(options)}.parquet"
            done = run(project, "export", "--format", name, "--out", str(path), *options)
            assert done.exit_code == 0, done.output
            values = pq.read_table(path).column(column).to_pylist()
            flat = values if name == "votes" else [who for row in values for who in row]
            assert {type(who) for who in flat} == {str if options else int}


def test_an_export_without_rows_has_no_types_to_choose(db: Database, tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    export_file(db, "votes", path, hash_annotators=True)
    assert pq.read_table(path).num_rows == 0
