"""A judge held against people: in a project, in labelled files, and on the real sets."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sqlite_utils import Database

from annotator.candidates.ingest import import_files
from annotator.errors import ScoreError
from annotator.judge_check import JudgeCheckError
from annotator.judge_check.account import injection_document
from annotator.judge_check.evidence import PairVotes
from annotator.judge_check.labelled import check_files
from annotator.judge_check.project import CONTROL_VOTES_NEEDED, check_project
from annotator.judge_check.words import (
    _injection,
    _styles,
    lines,
    people_in_words,
    sentences,
)
from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.signals.datamap import build_map, placed_prompts
from annotator.signals.judges.calibration import SUREST
from annotator.signals.judges.injection import STYLES, planted, rise, rise_by_style
from annotator.signals.judges.panel import scores_in_data
from annotator.signals.judges.trust import Verdicts, shares
from annotator.store import writing
from strategies.datamap import REGIONS
from tests.small_world import add_prompts, add_round

JUDGE = "judge:rubric:m@h:helpful:12345678"


# Projects.


class Project:
    """Prompts with scores, picks on all pairs, and people who vote."""

    def __init__(self, db: Database, sizes: list[int]) -> None:
        self.db = db
        self.prompts = add_prompts(db, sizes)
        self.pairs = [pair for ids in self.prompts for pair in combinations(ids, 2)]
        with writing(db):
            db.execute(
                """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
                created_at) VALUES (1, 'http://s', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(db, "http://s", {7: "ada", 8: "bo", 9: "cy"})
        self.n_votes = 0

    def pick(self) -> None:
        add_round(self.db, self.pairs)

    def score(
        self, scores: dict[int, float], variance: float | None = None, method: str = JUDGE
    ) -> None:
        with writing(self.db):
            self.db.conn.executemany(
                "INSERT INTO scores VALUES (?, ?, ?, ?, NULL)",
                [(method, i, value, variance) for i, value in scores.items()],
            )

    def vote(self, grades: dict[tuple[int, int], list[str]]) -> None:
        picks = {(a, b): i for i, a, b in self.db.execute("SELECT id, a_id, b_id FROM picks")}
        votes = []
        for pair, said in grades.items():
            for who, grade in enumerate(said, start=1):
                self.n_votes += 1
                n = self.n_votes
                votes.append(Vote(n, n, "vote", "2026-01-01", {}, picks[pair], who, grade=grade))
        with writing(self.db):
            record_votes(self.db, 1, votes, {})

    def arm(self, pair: tuple[int, int]) -> str:
        query = "SELECT arm FROM picks WHERE a_id = ? AND b_id = ?"
        return str(self.db.execute(query, list(pair)).fetchone()[0])


@pytest.fixture
def project(db: Database) -> Project:
    made = Project(db, [3, 2, 4, 3])
    made.pick()
    return made


def by_id(project: Project) -> dict[int, float]:
    """A judge that prefers the response with the higher id."""
    return {i: float(i) for ids in project.prompts for i in ids}


def higher(pair: tuple[int, int]) -> str:
    return "a_better" if pair[0] > pair[1] else "b_better"


def lower(pair: tuple[int, int]) -> str:
    return "b_much_better" if pair[0] > pair[1] else "a_much_better"


def test_few_control_votes_are_not_enough_to_go_by_alone(project: Project) -> None:
    project.score(by_id(project))
    project.vote({pair: [higher(pair)] for pair in project.pairs[:6]})
    project.vote({project.pairs[6]: [lower(project.pairs[6])]})
    document = check_project(project.db, [JUDGE]).document
    assert document["people"]["from"] == "all"
    assert document["people"]["control_votes"] == 1
    assert document["agreement"]["value"] == pytest.approx(6 / 7, abs=1e-4)
    assert document["pairs"] == {
        "right": 6, "wrong": 1, "judge_tied": 0, "people_tied": 0, "both_tied": 0, "unscored": 0,
    }  # fmt: skip
    assert any("There are 1 control votes, and it takes 30" in note for note in document["notes"])
    assert any("too narrow" in note for note in document["notes"])


def test_enough_control_votes_are_gone_by_alone(db: Database) -> None:
    project = Project(db, [4] * 30)
    project.pick()
    project.score(by_id(project))
    control = [pair for pair in project.pairs if project.arm(pair) == "control"]
    assert len(control) == 36
    right, wrong = control[:24], control[24:CONTROL_VOTES_NEEDED]
    project.vote({pair: [higher(pair)] for pair in right})
    project.vote({pair: [lower(pair)] for pair in wrong[:-1]})
    others = [pair for pair in project.pairs if project.arm(pair) != "control"]
    project.vote({pair: [lower(pair)] for pair in others})
    before = check_project(db, [JUDGE]).document
    assert before["people"]["from"] == "all"
    project.vote({wrong[-1]: [lower(wrong[-1])]})
    document = check_project(db, [JUDGE]).document
    assert document["people"]["from"] == "control"
    assert document["people"]["pairs"] == CONTROL_VOTES_NEEDED
    assert document["agreement"]["value"] == pytest.approx(24 / 30)
    assert "control arm" in people_in_words(document)


def test_the_majority_of_a_pair_counts_once(project: Project) -> None:
    project.score(by_id(project))
    first, second, third = project.pairs[:3]
    project.vote(
        {
            first: [higher(first), higher(first), lower(first)],
            second: [higher(second), lower(second)],
            third: ["both_bad", lower(third), "tie"],
        }
    )
    document = check_project(project.db, [JUDGE]).document
    assert (document["pairs"]["right"], document["pairs"]["wrong"]) == (1, 1)
    assert document["pairs"]["people_tied"] == 1
    assert document["people"]["votes"] == 8
    # Twos of untied votes: first has 3 with 1 match, second 1 with none.
    assert document["people"]["agree"]["value"] == 0.25


def test_a_response_without_a_score_is_in_no_share(project: Project) -> None:
    scores = by_id(project)
    a, _ = project.pairs[0]
    del scores[a]
    project.score(scores)
    project.vote({pair: [higher(pair)] for pair in project.pairs})
    document = check_project(project.db, [JUDGE]).document
    unscored = sum(a in pair for pair in project.pairs)
    assert document["pairs"]["unscored"] == unscored
    assert document["agreement"]["n"] == len(project.pairs) - unscored
    assert any(note.startswith(f"{unscored} pairs with votes") for note in document["notes"])


def test_the_judges_variance_gives_a_second_calibration(project: Project) -> None:
    project.score(by_id(project), variance=0.5)
    project.vote({pair: [higher(pair)] for pair in project.pairs})
    document = check_project(project.db, [JUDGE]).document
    (normal,) = [one for one in document["calibration"] if one["how"] == "normal"]
    gaps = np.array([abs(a - b) for a, b in project.pairs])
    expected = np.mean((1 - stats.norm.cdf(gaps / np.sqrt(0.5 + 0.5))) ** 2)
    assert normal["brier"]["value"] == pytest.approx(expected, abs=1e-4)


def test_scores_of_judged_pairs_have_no_variance_that_adds_up(project: Project) -> None:
    """Of two responses each score has a quarter of v_swap and their gap all of it: not a half."""
    project.score(by_id(project), variance=0.25)
    project.score(by_id(project), variance=0.5, method="other")
    rows = [(JUDGE, min(p), max(p), 0.5, 0.25, 0) for p in project.pairs]
    with writing(project.db):
        project.db.conn.executemany("INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?)", rows)
    project.vote({pair: [higher(pair)] for pair in project.pairs})
    for methods in ([JUDGE], [JUDGE, "other"]):
        document = check_project(project.db, methods).document
        assert [one["how"] for one in document["calibration"]] == ["logistic"]
        assert any("do not add up" in note and JUDGE in note for note in document["notes"])
    alone = check_project(project.db, ["other"]).document
    assert [one["how"] for one in alone["calibration"]] == ["logistic", "normal"]
    assert not any("do not add up" in note for note in alone["notes"])


def test_the_variance_of_a_panels_mean_gap_is_that_of_a_mean(project: Project) -> None:
    """Two judges of variances .5 and 1.5: their mean score has (.5 + 1.5) / 4, a gap twice that."""
    project.score(by_id(project), variance=0.5)
    project.score({i: 3.0 * i for i in by_id(project)}, variance=1.5, method="other")
    project.vote({pair: [higher(pair)] for pair in project.pairs})
    document = check_project(project.db, [JUDGE, "other"]).document
    (normal,) = [one for one in document["calibration"] if one["how"] == "normal"]
    gaps = np.array([2.0 * abs(a - b) for a, b in project.pairs])
    expected = np.mean(-np.log(np.minimum(stats.norm.cdf(gaps / np.sqrt(1.0)), SUREST)))
    assert normal["log_loss"]["value"] == pytest.approx(expected, abs=1e-4)


def test_without_variance_there_is_none(project: Project) -> None:
    project.score(by_id(project))
    project.vote({pair: [higher(pair)] for pair in project.pairs})
    document = check_project(project.db, [JUDGE]).document
    assert [one["how"] for one in document["calibration"]] == ["logistic"]


def test_regions_are_those_of_the_newest_map(project: Project, tmp_path: Path) -> None:
    project.score(by_id(project))
    project.vote({pair: [higher(pair)] for pair in project.pairs})
    own = check_project(project.db, [JUDGE]).document
    assert own["regions_from"] == "the same scores"
    grades = {i: float((i * 7) % 5) for ids in project.prompts for i in ids}
    with writing(project.db):
        project.db.conn.executemany(
            "INSERT INTO source_scores VALUES (?, 'grade', ?, 1)", list(grades.items())
        )
    build = build_map(project.db, tmp_path / "annotator.db", None, "data:grade")
    placed = placed_prompts(project.db, build)
    prompt_of = dict(project.db.execute("SELECT id, prompt_id FROM responses").fetchall())
    region = dict(zip(placed.prompt_ids.tolist(), placed.region.tolist(), strict=True))
    expected = Counter(REGIONS[region[prompt_of[a]]] for a, _ in project.pairs)
    document = check_project(project.db, [JUDGE]).document
    assert {name: one["n"] for name, one in document["by_region"].items()} == dict(expected)
    assert "grade" in document["regions_from"]


def test_several_judges_are_a_panel(project: Project) -> None:
    project.score(by_id(project))
    project.score({i: -i / 2 for i in by_id(project)}, method="other")
    project.vote({pair: [higher(pair)] for pair in project.pairs})
    document = check_project(project.db, [JUDGE, "other"]).document
    assert document["agreement"]["value"] == 1.0
    assert [one["name"] for one in document["each_judge"]] == [JUDGE, "other"]
    assert document["each_judge"][1]["agreement"]["value"] == 0.0
    assert len(document["by_spread"]["quartiles"]) == 4


def test_flips_come_from_judgements(project: Project) -> None:
    project.score(by_id(project))
    project.vote({pair: [higher(pair)] for pair in project.pairs})
    assert check_project(project.db, [JUDGE]).document["flips"] is None
    rows = [(JUDGE, min(p), max(p), 0.5, 1.0, int(i < 3)) for i, p in enumerate(project.pairs)]
    with writing(project.db):
        project.db.conn.executemany("INSERT INTO judgements VALUES (?, ?, ?, ?, ?, ?)", rows)
    document = check_project(project.db, [JUDGE]).document
    assert document["flips"]["value"] == pytest.approx(3 / len(project.pairs), abs=1e-4)
    assert any("changed its verdict" in line for line in lines(document))


def test_labels_of_the_data_stand_in_for_votes(project: Project) -> None:
    project.score(by_id(project))
    rows = [
        (f"k{i}", a, b, "a" if higher((a, b)) == "a_better" else "b", kind)
        for i, (a, b) in enumerate(project.pairs)
        for kind in ("human" if i % 2 else "llm:x",)
    ]
    with writing(project.db):
        project.db.conn.executemany(
            """INSERT INTO source_labels (label_key, a_id, b_id, label, kind, import_id)
            VALUES (?, ?, ?, ?, ?, 1)""",
            rows,
        )
    document = check_project(project.db, [JUDGE]).document
    assert document["people"]["from"] == "data:human"
    assert document["agreement"]["n"] == sum(kind == "human" for *_, kind in rows)
    assert any("no votes of its own" in note for note in document["notes"])
    project.vote({project.pairs[0]: [lower(project.pairs[0])]})
    assert check_project(project.db, [JUDGE]).document["people"]["from"] == "all"


def test_nothing_to_check_is_an_error_that_says_what_to_do(project: Project) -> None:
    with pytest.raises(JudgeCheckError, match="no response has a score"):
        check_project(project.db, [JUDGE])
    project.score(by_id(project))
    with pytest.raises(JudgeCheckError, match="nobody has voted yet"):
        check_project(project.db, [JUDGE])
    project.vote({project.pairs[0]: ["tie"]})
    with pytest.raises(JudgeCheckError, match="none has both a majority"):
        check_project(project.db, [JUDGE])


def test_the_same_seed_gives_the_same_document(project: Project) -> None:
    project.score(by_id(project), variance=1.0)
    project.vote({pair: [higher(pair)] for pair in project.pairs[:9]})
    first, second = (check_project(project.db, [JUDGE], seed=4).document for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)


def test_votes_are_counted_in_the_frame_of_positions() -> None:
    found = PairVotes.of(
        np.array([4, 1, 1, 4, 0]), np.array([1, 4, 4, 1, 2]), np.array([2, 1, 0, -1, -2])
    )
    assert found.a.tolist() == [0, 1]
    assert found.b.tolist() == [2, 4]
    assert found.for_a.tolist() == [0, 2]
    assert found.for_b.tolist() == [1, 1]
    assert found.tied.tolist() == [0, 1]
    assert found.majority.tolist() == [-1, 1]


# Labelled files.


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(
    prompt: str, scores: list[dict[str, float]], labels: list[tuple[int, int, str, str]]
) -> Any:
    return {
        "prompt": prompt,
        "responses": [
            {"id": str(i), "text": "" if i else "one", "scores": s} for i, s in enumerate(scores)
        ],
        "comparisons": [
            {"a": str(a), "b": str(b), "label": label, "kind": kind} for a, b, label, kind in labels
        ],
    }


def test_a_file_of_scores_without_texts(tmp_path: Path) -> None:
    """Which `import` refuses, since there is nothing to show to a person."""
    file = write(
        tmp_path / "set.jsonl",
        [
            row("p", [{"llm:x": 3, "llm:y": 5}, {"llm:x": 1, "llm:y": 4}], [(0, 1, "a", "human")]),
            row(
                "q", [{"llm:x": 1}, {"llm:x": 2}, {}], [(0, 1, "a", "human"), (0, 2, "b", "human")]
            ),
        ],
    )
    document = check_files([file]).document
    assert document["judges"] == ["llm:x", "llm:y"]
    assert document["pairs"] == {
        "right": 1, "wrong": 1, "judge_tied": 0, "people_tied": 0, "both_tied": 0, "unscored": 1,
    }  # fmt: skip
    assert document["length"] is None
    assert document["people"]["dataset"] == "set"
    assert check_files([file], judges=["llm:y"]).document["agreement"]["n"] == 1


def test_refused_rows_are_told(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    good = row("p", [{"llm:x": 3}, {"llm:x": 1}], [(0, 1, "a", "human")])
    write(file, [good, {"prompt": 5, "responses": [{"text": "x"}]}])
    with file.open("a") as handle:
        handle.write("not json\n")
    notes = check_files([file]).document["notes"]
    assert any("2 rows were refused; the first: set.jsonl, line 2" in note for note in notes)


def test_rows_of_one_prompt_are_resampled_together(tmp_path: Path) -> None:
    pair = row("p", [{"llm:x": 3}, {"llm:x": 1}], [(0, 1, "a", "human")])
    document = check_files([write(tmp_path / "set.jsonl", [pair, pair, pair])]).document
    assert (document["agreement"]["n"], document["agreement"]["prompts"]) == (3, 1)


def test_errors_of_files_name_what_is_there(tmp_path: Path) -> None:
    scored = write(
        tmp_path / "set.jsonl", [row("p", [{"grade": 1}, {"grade": 2}], [(0, 1, "a", "llm:z")])]
    )
    with pytest.raises(ScoreError, match="grade"):
        check_files([scored], judges=["rm:*"])
    with pytest.raises(JudgeCheckError, match="llm:z"):
        check_files([scored], judges=["grade"])
    with pytest.raises(ScoreError, match="people:"):
        check_files([scored], judges=["grade"], people="people:*")


def test_a_judge_of_pairs_alone(tmp_path: Path) -> None:
    both = [(0, 1, "a", "human"), (0, 1, "a", "llm:z"), (1, 0, "b", "llm:z")]
    torn = [(0, 1, "a", "human"), (1, 0, "b", "llm:z"), (0, 1, "b", "llm:z")]
    once = [(0, 1, "a", "human"), (1, 0, "a", "llm:z")]
    every = (both, torn, once, both)
    rows = [row(f"p{i}", [{}, {}], labels) for i, labels in enumerate(every)]
    document = check_files([write(tmp_path / "set.jsonl", rows)]).document
    assert document["judges"] == ["llm:z"]
    assert (document["pairs"]["right"], document["pairs"]["wrong"]) == (2, 1)
    assert document["pairs"]["judge_tied"] == 1
    assert document["flips"]["value"] == pytest.approx(1 / 3, abs=1e-4)


def test_two_verdicts_are_both_orders_where_the_file_says_so(tmp_path: Path) -> None:
    """By the field `order`, else by which response each label names first; not by their number."""

    def judged(*labels: tuple[int, int, str, str | None]) -> dict[str, Any]:
        made = row("p", [{}, {}], [(0, 1, "a", "human")])
        for a, b, label, order in labels:
            said = {} if order is None else {"order": order}
            two = {"a": str(a), "b": str(b), "label": label, "kind": "llm:z"}
            made["comparisons"].append(two | said)
        return dict(made)

    def flips(*rows: dict[str, Any]) -> Any:
        rows = tuple(one | {"prompt": f"p{i}"} for i, one in enumerate(rows))
        return check_files([write(tmp_path / "set.jsonl", list(rows))]).document["flips"]

    twice_alike = judged((0, 1, "a", None), (0, 1, "b", None))
    one_order = judged((0, 1, "a", "original"), (0, 1, "b", "original"))
    half_said = judged((0, 1, "a", "original"), (1, 0, "b", None))
    unknown = judged((0, 1, "a", "first"), (0, 1, "b", "second"))
    assert flips(twice_alike, one_order, half_said, unknown) is None
    by_field = judged((0, 1, "a", "original"), (0, 1, "b", "swapped"))
    by_place = judged((0, 1, "a", None), (1, 0, "b", None))
    turned = judged((0, 1, "b", "swapped"), (1, 0, "a", "original"))
    found = flips(twice_alike, by_field, by_place, one_order, turned)
    assert (found["n"], found["value"]) == (3, pytest.approx(1 / 3, abs=1e-4))


def test_a_planted_bias_to_length_is_said(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for i in range(150):
        sizes = draw.integers(5, 400, 2)
        quality = draw.normal(size=2)
        scores = quality + 0.8 * np.log(sizes)
        responses = [
            {"id": str(j), "text": "x" * int(sizes[j]), "scores": {"llm:x": float(scores[j])}}
            for j in range(2)
        ]
        label = "a" if quality[0] > quality[1] else "b"
        comparison = {"a": "0", "b": "1", "label": label, "kind": "human"}
        rows.append({"prompt": f"p{i}", "responses": responses, "comparisons": [comparison]})
    document = check_files([write(tmp_path / "set.jsonl", rows)]).document
    length = document["length"]
    assert length["score"]["pearson"]["low"] > 0.2
    assert length["people_wins"]["pearson"]["low"] < 0 < length["people_wins"]["pearson"]["high"]
    assert length["judge_more_often_by"]["low"] > 0
    assert any("leans to length" in sentence for sentence in sentences(document))
    plain = check_files([tmp_path / "set.jsonl"], seed=1).document["longer"]
    assert plain["judge_better_by"]["low"] > 0


# Words.


@pytest.mark.parametrize(("n_prompts", "enough"), [(1, False), (2, False), (9, False), (10, True)])
def test_few_prompts_allow_no_verdict(tmp_path: Path, n_prompts: int, enough: bool) -> None:
    """A judge that is right wherever its gap is wide, on 20 pairs a prompt."""
    rows = []
    for i in range(n_prompts):
        scores = [{"llm:x": 40.0 - j + (1.5 if j % 2 else 0)} for j in range(21)]
        pairs = [(j, j + 1) if j % 2 else (j, 20 - j // 4) for j in range(0, 20)]
        labels = [(a, b, "a", "human") for a, b in pairs if a != b]
        one = row(f"p{i}", scores, labels)
        for j, response in enumerate(one["responses"]):
            response["text"] = f"{i} {j} " + "x" * (50 * ((i + j) % 3) + j)
        rows.append(one)
    document = check_files([write(tmp_path / "set.jsonl", rows)]).document
    said = " ".join([*sentences(document), *document["notes"]])
    assert document["agreement"]["low"] > (0.5 if enough else 0.0)
    assert document["conclusive"] is enough
    verdicts = ("It beats a coin", "easy pairs from hard ones", "no lean", "leans to length")
    found = [verdict for verdict in verdicts if verdict in said]
    assert len(found) == (3 if enough else 0), found
    assert ("better than one confidence" in said) is enough
    assert (f"Too few prompts for a verdict, {n_prompts} of at least 10" in said) is not enough
    assert ("so none is given" in said) is not enough
    assert json.loads(json.dumps(document, allow_nan=False))["conclusive"] is enough


def test_a_coin_is_called_one(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    rows = [
        row(f"p{i}", [{"llm:x": draw.random()}, {"llm:x": draw.random()}], [(0, 1, w, "human")])
        for i, w in enumerate(draw.choice(["a", "b"], 60))
    ]
    document = check_files([write(tmp_path / "set.jsonl", rows)]).document
    said = "\n".join(lines(document))
    assert "A coin may be as good" in said
    assert "not shown to be better than one confidence" in said


def test_an_injection_is_part_of_the_document() -> None:
    draw = np.random.default_rng(2)
    lured = planted([f"r{i}" for i in range(40)], draw)
    before, after = np.full(40, 2.0), np.where(lured.style < 3, 5.0, 2.0)
    prompt = np.arange(40)
    placebo = np.full(40, 2.0)
    part = injection_document(
        rise(before, after, prompt, draw, placebo=placebo),
        rise_by_style(before, after, lured.style, prompt, draw),
    )
    assert json.loads(json.dumps(part, allow_nan=False)) == part
    assert part["by_style"]["naive"]["value"] == 1.0
    assert part["by_style"]["combined"]["value"] == 0.0
    n = int(np.sum(lured.style < 3))
    assert part["rose"]["value"] == n / 40
    said = {"injection": part}
    sentence, above = list(_injection(said))
    assert f"raised {100 * n / 40:.1f} % of 40 responses by a grade or more" in sentence
    assert f"{3 * n / 40:+.2f}" in above
    assert "A harmless line raised 0.0 %." in above
    assert "can talk this judge into a higher grade" in above
    harmless, *of_styles = _styles(part)[1:]
    assert harmless[:3] == ["a harmless line", "40", "0.0 %"]
    assert [cells[0] for cells in of_styles] == [f"planted: {name}" for name in STYLES]


# The real sets, against the table in their README.


def raw(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        return [json.loads(line) for line in handle]


def quartiles(document: dict[str, Any], key: str) -> list[float]:
    return [one["agreement"]["value"] for one in document[key]["quartiles"]]


def test_hanna_is_as_printed(shared_data: Path) -> None:
    """Printed: .731; .55/.67/.77/.93; .64/.68/.74/.87. Against the mean of the three raters: of
    their majority as votes, which knows more ties, it is .727 on 4,938 pairs."""
    path = shared_data / "hanna_scores.jsonl.gz"
    document = check_files([path], people="human:*").document
    assert document["agreement"]["value"] == pytest.approx(0.731, abs=5e-4)
    assert document["agreement"]["n"] == 5_196
    assert len(document["judges"]) == 20
    assert quartiles(document, "by_gap") == pytest.approx([0.55, 0.67, 0.77, 0.93], abs=5.1e-3)
    assert quartiles(document, "by_spread") == pytest.approx([0.64, 0.68, 0.74, 0.87], abs=5.1e-3)
    votes = check_files([path]).document
    assert votes["agreement"]["value"] == pytest.approx(0.727, abs=5e-4)
    assert (votes["agreement"]["n"], votes["pairs"]["people_tied"]) == (4_938, 342)
    assert votes["people"]["agree"]["value"] == pytest.approx(0.547, abs=5e-4)


def test_llmbar_is_as_printed(shared_data: Path) -> None:
    """Printed, for 419 items: .835; .61/.87/.92/.94; .68/.87/.92/.87.

    They are the subsets Natural and Adversarial, all that carry ratings. The printed quarters cut
    through pairs of one |gap| in the order of the file; ours share them. Cut as printed, ours are
    the printed ones.
    """
    path = shared_data / "llmbar.jsonl.gz"
    document = check_files([path]).document
    proper = [r for r in raw(path) if r["prompt_id"].startswith(("Natural", "Adversarial"))]
    assert len(proper) == 419 == document["agreement"]["n"]
    assert len(document["judges"]) == 7
    assert document["pairs"]["judge_tied"] == 6
    assert document["agreement"]["value"] == pytest.approx(0.835, abs=5e-4)
    assert quartiles(document, "by_gap") == pytest.approx([0.61, 0.87, 0.92, 0.94], abs=0.015)
    assert quartiles(document, "by_spread") == pytest.approx([0.68, 0.87, 0.92, 0.87], abs=0.005)
    printed = [[0.61, 0.87, 0.92, 0.94], [0.68, 0.87, 0.92, 0.87]]
    for found, expected in zip(cut_in_file_order(proper), printed, strict=True):
        assert [round(value, 2) for value in found] == expected


def cut_in_file_order(rows: list[dict[str, Any]]) -> list[list[float]]:
    """Agreement by |mean gap| and by spread, equal values told apart by their place in the file."""
    gaps, people = [], []
    for one in rows:
        scores = {r["id"]: r["scores"] for r in one["responses"]}
        (gold,) = [c for c in one["comparisons"] if c["kind"] == "human"]
        both = [name for name in scores[gold["a"]] if name in scores[gold["b"]]]
        gaps.append([scores[gold["a"]][name] - scores[gold["b"]][name] for name in both])
        people.append({"a": 1, "b": -1}[gold["label"]])
    mean = np.array([np.mean(gap) for gap in gaps])
    spread = np.array([np.std(gap) for gap in gaps])
    of = Verdicts(len(mean), np.arange(len(mean)), np.array(people), mean)
    found = []
    for value in (np.abs(mean), spread):
        weights = np.zeros((4, len(mean)))
        for part, places in zip(
            weights, np.array_split(np.argsort(value, kind="stable"), 4), strict=True
        ):
            part[places] = 1.0
        found.append([one.value for one in shares(of, weights, np.random.default_rng(0))])
    return found


def test_flips_of_llmbar_are_those_of_the_two_orders(shared_data: Path) -> None:
    """Counted from the field `order`, which our reader does not keep."""
    path = shared_data / "llmbar.jsonl.gz"
    verdicts: dict[str, dict[str, str]] = defaultdict(dict)
    name = "llm:ChatGPT/Reference"
    for one in raw(path):
        for c in one["comparisons"]:
            if c["kind"] == name:
                verdicts[one["prompt_id"]][c["order"]] = c["label"] if c["a"] == "1" else "?"
    both = [v for v in verdicts.values() if len(v) == 2]
    flipped = np.mean([len(set(v.values())) == 2 for v in both])
    document = check_files([path], judges=[name]).document
    assert document["flips"]["n"] == len(both) == 419
    assert document["flips"]["value"] == pytest.approx(flipped, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "agree"),
    [("ukpconvarg1", 0.731), ("mt_bench_human", 0.828), ("pandalm_test", 0.947)],
)
def test_people_agree_as_printed(
    shared_data: Path, tmp_path: Path, name: str, agree: float
) -> None:
    """`agree2` of the README, beside a judge that knows nothing."""
    rows = raw(shared_data / f"{name}.jsonl.gz")
    draw = np.random.default_rng(0)
    for one in rows:
        for response in one["responses"]:
            response["scores"] = {"coin": draw.random()}
    document = check_files([write(tmp_path / "set.jsonl", rows)], judges=["coin"]).document
    assert document["people"]["agree"]["value"] == pytest.approx(agree, abs=5e-4)
    assert document["agreement"]["low"] < 0.5 < document["agreement"]["high"]


def test_longer_wins_as_printed(shared_data: Path) -> None:
    """mt_bench_human: .668 in the README, over votes; .676 over the pairs of the judge gpt-4."""
    document = check_files([shared_data / "mt_bench_human.jsonl.gz"]).document
    assert document["judges"] == ["llm:gpt-4"]
    assert document["longer"]["agreement"]["value"] == pytest.approx(0.668, abs=0.015)


def test_scores_of_a_set_by_pattern_from_a_project(shared_data: Path, db: Database) -> None:
    """What `simulate` maps by: the mean of the judges, for the responses that carry them."""
    import_files(db, [shared_data / "llmbar.jsonl.gz"])
    ids = np.array([i for (i,) in db.execute("SELECT id FROM responses ORDER BY id")])
    panel = scores_in_data(db, ["llm:*"], ids)
    assert len(panel.names) == 7
    mean = panel.mean()
    query = "SELECT avg(value) FROM source_scores WHERE response_id = ? AND name LIKE 'llm:%'"
    for place in (0, 57, len(ids) - 1):
        (expected,) = db.execute(query, [int(ids[place])]).fetchone()
        assert mean[place] == pytest.approx(
            expected if expected is not None else np.nan, nan_ok=True
        )
    with pytest.raises(ScoreError, match="llm:GPT-4/Rating"):
        scores_in_data(db, ["rm:*"], ids)


def test_a_project_and_its_file_agree(shared_data: Path, db: Database) -> None:
    """One set by both ways: the same figures, though its pairs are turned round and reordered."""
    path = shared_data / "llmbar.jsonl.gz"
    import_files(db, [path])
    names = check_files([path]).document["judges"]
    document = check_project(db, [f"data:{name}" for name in names]).document
    of_files = check_files([path]).document
    assert document["agreement"]["n"] == of_files["agreement"]["n"]
    assert document["agreement"]["value"] == of_files["agreement"]["value"]
    assert quartiles(document, "by_gap") == pytest.approx(quartiles(of_files, "by_gap"), abs=2e-4)
    assert document["slope"] == of_files["slope"]
