"""`annotator diagnose` as a person runs it: a file or a project in; words, JSON, pages out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from annotator.cli import main
from annotator.cli.diagnose import METHOD_NAMES
from annotator.diagnose.account import CLASSES
from annotator.diagnose.methods import METHODS
from annotator.diagnose.suspects import Suspects
from annotator.labels.votes import Vote, record_annotators, record_votes
from annotator.signals import embeddings
from annotator.store import open_db, writing
from tests.fake_encoder import FakeEncoder
from tests.small_world import add_round

WORDS = ("calm", "loud", "short", "long", "kind")
PEOPLE = {7: "ada", 8: "bo", 9: "cy"}


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    """No weights: vectors come out of the texts' hashes."""
    fake = FakeEncoder(name="all-MiniLM-L6-v2")
    monkeypatch.setattr(embeddings, "find_weights", lambda name: fake)
    monkeypatch.setattr(embeddings, "load_weights", lambda weights, precision: fake)
    return fake


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of whoever runs the tests stays as it is; and no project is here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def responses(i: int, k: int) -> list[dict[str, Any]]:
    """Answers of which those further on are longer, and better to everybody."""
    return [
        {
            "id": str(n),
            "text": f"a {WORDS[n]} answer to {i}" + " and so much more than that" * 3 * n,
            "scores": {"llm:j": 1.0 + n, "human:h": 1.0, "odd": 2.0},
        }
        for n in range(k)
    ]


def labelled(path: Path, *, n: int = 40, wrong: tuple[int, ...] = (3, 11), people: int = 1) -> Path:
    """Prompts whose last answer is the best; in those of `wrong` one label says otherwise."""
    rows = []
    for i in range(n):
        k = 2 + i % 3
        comparisons = []
        for a in range(k):
            for b in range(a + 1, k):
                for who in range(people):
                    slip = i in wrong and (a, b, who) == (0, k - 1, 0)
                    label = {"a": str(a), "b": str(b), "label": "a" if slip else "b"}
                    turned = {"a": str(b), "b": str(a), "label": "b" if slip else "a"}
                    said = label if (i + a + b) % 2 else turned
                    comparisons.append(said | {"kind": "human", "annotator": f"v{who}"})
        rows.append(
            {
                "id": f"p{i}",
                "prompt": f"question {i}",
                "responses": responses(i, k),
                "comparisons": comparisons,
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["diagnose", *map(str, arguments)])


def document(*arguments: object) -> dict[str, Any]:
    found = run(*arguments, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)  # type: ignore[no-any-return]


def test_the_names_on_the_command_line_are_the_methods() -> None:
    assert METHOD_NAMES == METHODS


def test_a_file_says_which_labels_look_wrong_and_why(home: Path) -> None:
    found = run(labelled(home / "set.jsonl"), "--top", 2)
    assert found.exit_code == 0, found.output
    assert "labels of the kind human on 131 pairs of 40 prompts" in found.stdout
    assert re.search(r"Everything else foretells 9\d\.\d %", found.stdout)
    wrong = found.stdout.split("likely wrong:")[1].split("contested:")[0]
    assert wrong.startswith(" 2 labels")
    assert {"question 3", "question 11"} == set(re.findall(r"question \d+", wrong))
    assert "everything else gives this verdict" in wrong
    assert not (home / "annotator.db").exists()


def test_every_label_is_written_with_texts_and_reasons(home: Path) -> None:
    report = document(labelled(home / "set.jsonl"), "--out", "all.jsonl", "--top", 1)
    rows = [json.loads(line) for line in (home / "all.jsonl").read_text("utf-8").splitlines()]
    assert report["out"] == {"file": "all.jsonl", "labels": 131}
    assert [row["rank"] for row in rows] == list(range(1, 132))
    suspicion = [row["suspicion"] for row in rows]
    assert suspicion == sorted(suspicion, reverse=True)
    assert {row["prompt_id"] for row in rows[:2]} == {"p3", "p11"}
    assert all(row["reason"] and row["class"] in CLASSES for row in rows)
    for row in rows[:2]:  # the worse answer, which the shorter one is, was preferred
        worse = row["a"] if row["label"] == "a" else row["b"]
        better = row["b"] if row["label"] == "a" else row["a"]
        assert "calm" in worse and len(worse) < len(better)
    counts = {name: sum(row["class"] == name for row in rows) for name in CLASSES}
    assert counts == report["classes"]
    assert report["likely wrong"][0]["prompt"] in {"question 3", "question 11"}


def test_a_judge_is_told_and_named(home: Path) -> None:
    path = labelled(home / "set.jsonl")
    report = document(path, "--scores", "llm:*", "--method", "map-covariance", "--top", 2)
    assert report["scores"] == "llm:j, scores that came with the data"
    first = report["ranked"][0]
    assert first["prompt"] in {"question 3", "question 11"}
    assert "the judge scores the preferred response 1 against" in first["reason"]
    document(path, "--scores", "llm:*", "--out", "all.jsonl")
    rows = [json.loads(line) for line in (home / "all.jsonl").read_text("utf-8").splitlines()]
    assert {row["label"] for row in rows} == {"a", "b"}
    for row in rows:
        mine, its = row["scores"][row["label"]], row["scores"]["b" if row["label"] == "a" else "a"]
        assert row["reason"].endswith(f"preferred response {mine:g} against {its:g}")


@pytest.mark.parametrize(
    ("scores", "said"),
    [("human:h", "people gave the scores"), ("llm:nobody", "no response has a score named")],
)
def test_scores_that_cannot_be_used_are_refused(home: Path, scores: str, said: str) -> None:
    found = run(labelled(home / "set.jsonl"), "--scores", scores)
    assert found.exit_code == 1
    assert said in found.stderr


def test_a_method_that_cannot_tell_says_so(home: Path) -> None:
    """Of two responses each is the other's only peer."""
    path = home / "two.jsonl"
    rows = [
        {"prompt": f"q {i}", "chosen": f"good {i} " * 5, "rejected": f"bad {i}"} for i in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = document(path, "--method", "map-covariance")
    assert any("says the same of every label" in note for note in report["notes"])


def test_files_without_labels_of_people_are_refused(home: Path) -> None:
    path = home / "bare.jsonl"
    row = {"prompt": "q", "responses": responses(0, 3)}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    found = run(path)
    assert found.exit_code == 1
    assert "carry no labels of people" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry-run"], "goes with --send"),
        (["--format", "native"], "goes with FILE"),
        (["--plot", "x.pdf"], "ends neither in .png nor in .html"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments: list[str], said: str) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert said in found.stderr


def test_the_page_opens_every_point_and_needs_no_network(home: Path) -> None:
    path = labelled(home / "set.jsonl")
    report = document(path, "--plot", "found.html")
    page = (home / "found.html").read_text("utf-8")
    assert report["plot"] == {"file": "found.html", "labels": 131}
    targets = set(re.findall(r'href="#(p\d+)"', page))
    assert targets == set(re.findall(r'<article id="(p\d+)"', page)) and len(targets) == 131
    assert not re.search(r'(?:src|href)="https?:', page)
    assert "likely wrong (2)" in page
    assert "question 11" in page


def test_the_page_escapes_texts(home: Path) -> None:
    path = labelled(home / "set.jsonl")
    path.write_text(path.read_text("utf-8").replace("question 3", "<script>x</script>"), "utf-8")
    assert run(path, "--plot", "found.html").exit_code == 0
    assert "<script>" not in (home / "found.html").read_text("utf-8")


def test_a_picture_of_some_labels_has_the_first_of_each_class_and_a_fair_sample(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("annotator.report.diagnosis_plot.FIRST_OF_CLASS", 1)
    monkeypatch.setattr("annotator.report.diagnosis_plot.PAGE_POINTS", 40)
    report = document(labelled(home / "set.jsonl"), "--plot", "found.html", "--top", 1)
    page = (home / "found.html").read_text("utf-8")
    assert report["plot"]["labels"] == 40
    assert "40 of 131 labels: the first 1 of each class, others at random" in page
    kinds = re.findall(r'<article id="p\d+">\s*<p><b>([^<]*)</b>', page)
    assert len(kinds) == 40
    for name in ("likely wrong", "of low impact"):
        assert report["classes"][name] and name in kinds
    assert kinds.count("unremarkable") > 5
    assert report["likely wrong"][0]["reason"] in page


def test_a_picture_is_written(home: Path) -> None:
    assert run(labelled(home / "set.jsonl"), "--plot", "found.png").exit_code == 0
    assert (home / "found.png").read_bytes().startswith(b"\x89PNG")


def test_the_second_run_reads_nothing_again(
    home: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = labelled(home / "set.jsonl")
    first = document(path)
    asked = len(encoder.asked)
    monkeypatch.delattr("annotator.diagnose.prepared.import_files")
    assert document(path) == first
    assert len(encoder.asked) == asked


# Projects.


class VotedProject:
    """A project whose pairs were sent and voted on by three people."""

    def __init__(self, folder: Path, *, n: int = 30) -> None:
        self.folder = folder
        runner = CliRunner()
        assert runner.invoke(main, ["init", str(folder)]).exit_code == 0
        rows = [{"prompt": f"question {i}", "responses": responses(i, 3)} for i in range(n)]
        source = folder / "candidates.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        done = runner.invoke(main, ["import", str(source), "--project", str(folder)])
        assert done.exit_code == 0, done.output
        db = open_db(folder / "annotator.db")
        self.length = dict(db.execute("SELECT id, length(text) FROM responses").fetchall())
        keys = "SELECT id, prompt_id FROM responses ORDER BY prompt_id, response_key"
        by_prompt: dict[int, list[int]] = {}
        for response, prompt in db.execute(keys):
            by_prompt.setdefault(prompt, []).append(response)
        self.pairs = [
            (ids[x], ids[y]) for ids in by_prompt.values() for x, y in ((0, 1), (0, 2), (1, 2))
        ]
        self.picks = add_round(db, self.pairs)
        with writing(db):
            db.execute(
                """INSERT INTO projects (id, server, mark, studio_id, title, screen, overlap,
                created_at) VALUES (1, 'http://s', 'm', 1, 't', 's', 1, '')"""
            )
            record_annotators(db, "http://s", PEOPLE)
        db.close()
        self.n_votes = 0

    def vote(self, place: int, who: int, *, longer: bool = True) -> None:
        """One vote on a pair, for the longer response or the other."""
        a, b = self.pairs[place]
        for_a = (self.length[a] > self.length[b]) == longer
        self.n_votes += 1
        db = open_db(self.folder / "annotator.db")
        vote = Vote(
            self.n_votes, self.picks[place], "vote", str(self.n_votes), {}, self.picks[place], who,
            "a_better" if for_a else "b_better",
        )  # fmt: skip
        with writing(db):
            record_votes(db, 1, [vote], {})
        db.close()

    def clear(self, place: int) -> bool:
        """Whether a pair is the shortest and the longest response of its prompt."""
        lengths = sorted(self.length[i] for pair in self.pairs[place // 3 * 3 :][:3] for i in pair)
        return {self.length[i] for i in self.pairs[place]} == {lengths[0], lengths[-1]}


@pytest.fixture
def project(home: Path, monkeypatch: pytest.MonkeyPatch) -> VotedProject:
    made = VotedProject(home / "project")
    monkeypatch.chdir(made.folder)
    return made


def test_a_project_without_votes_says_what_to_do(project: VotedProject) -> None:
    found = run()
    assert found.exit_code == 1
    assert "nobody has voted yet" in found.stderr


def voted(project: VotedProject) -> dict[str, int]:
    """One vote on each pair, three of them wrong: one of each fate."""
    clear = [place for place in range(len(project.pairs)) if project.clear(place)]
    lone, outvoted = [place for place in clear if place % 5 != 4][3:5]
    control = next(place for place in clear[5:] if place % 5 == 4)
    fates = {"lone": lone, "outvoted": outvoted, "control": control}
    for place in range(len(project.pairs)):
        wrong = place in fates.values()
        project.vote(place, 1 + place % 3, longer=not wrong)
    for who in {1, 2, 3} - {1 + outvoted % 3}:
        project.vote(outvoted, who)
    return fates


def test_suspects_of_a_project_are_sent_but_for_control_and_outvoted_ones(
    project: VotedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    fates = voted(project)
    sent: list[list[int]] = []

    def send(_: object, suspects: Suspects) -> list[int]:
        sent.append(suspects.pick_ids)
        return suspects.pick_ids

    command = sys.modules["annotator.cli.diagnose"]
    monkeypatch.setattr(command, "_send", send)
    monkeypatch.setattr(command, "_sendable", lambda _, suspects: suspects.pick_ids)
    listed = document("--send", "--dry-run", "--top", 9)
    wrong = {row["label_id"] for row in listed["likely wrong"]}
    assert wrong == {project.picks[place] for place in fates.values()}
    assert listed["send"] == {
        "pairs": 1, "pick_ids": [project.picks[fates["lone"]]], "outvoted": 1, "control": 1,
        "not_in_project": 0, "waiting": 0, "dry_run": True, "pushed": False,
    }  # fmt: skip
    assert sent == []
    assert {row["annotator"] for row in listed["likely wrong"]} <= set(PEOPLE.values())
    done = run("--send", "--no-push")
    assert done.exit_code == 0, done.output
    assert sent == [[project.picks[fates["lone"]]]]
    assert "1 pair put before another annotator" in done.stdout
    assert "not 1 of the control arm" in done.stdout


def test_pairs_whose_tasks_are_on_no_server_are_not_sent(project: VotedProject) -> None:
    voted(project)
    report = document("--send", "--no-push")
    assert (report["send"]["pairs"], report["send"]["waiting"]) == (0, 1)
    assert (
        "not 1 on which a vote is still to come, that everybody who votes has seen, or whose "
        "task is on no server" in run("--send", "--no-push").stdout
    )


def test_a_suspect_gets_one_more_place_on_the_server(project: VotedProject) -> None:
    fates = voted(project)
    db = open_db(project.folder / "annotator.db")
    with writing(db):
        db.execute(
            """UPDATE tasks SET studio_id = pick_id, project_id = 1, state = 'swept',
            overlap = 1, overlap_told = 1"""
        )
    report = document("--send", "--no-push")
    pick = project.picks[fates["lone"]]
    assert report["send"]["pick_ids"] == [pick]
    rows = db.execute("SELECT pick_id, n_votes, overlap, reason FROM extra_votes").fetchall()
    db.close()
    assert rows == [(pick, 1, 2, "diagnose")]
    assert document("--send", "--no-push")["send"]["pairs"] == 0  # that vote is still to come


def test_a_file_is_diagnosed_for_a_project_that_has_its_pairs(project: VotedProject) -> None:
    """The pairs of a file are the project's where the texts are; of others that is said."""
    path = project.folder / "labels.jsonl"
    rows = []
    for i in range(45):
        given = responses(i, 3)
        comparisons = [
            {"a": str(x), "b": str(y), "kind": "human", "label": "a" if i in (4, 40) else "b"}
            for x, y in ((0, 2),)
        ]
        others = [
            {"a": str(x), "b": str(y), "kind": "human", "label": "b"} for x, y in ((0, 1), (1, 2))
        ]
        rows.append(
            {"prompt": f"question {i}", "responses": given, "comparisons": comparisons + others}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = document(path, "--send", "--dry-run", "--top", 9)
    wrong = {row["prompt"] for row in report["likely wrong"]}
    assert wrong == {"question 4", "question 40"}  # the project has prompts 0 to 29
    send = report["send"]
    assert send["not_in_project"] == 1
    assert send["pairs"] + send["control"] + send["waiting"] == 1  # its tasks are on no server


def test_votes_of_the_project_are_turned_into_the_pairs_frame(project: VotedProject) -> None:
    """By whichever id a pick has first, the label is the response that was preferred."""
    fates = voted(project)
    rows = Path("all.jsonl")
    assert run("--out", rows).exit_code == 0
    read = [json.loads(line) for line in rows.read_text("utf-8").splitlines()]
    for row in read:
        place = project.picks.index(row["label_id"])
        if place != fates["outvoted"]:  # where everybody voted
            assert row["annotator"] == list(PEOPLE.values())[place % 3]
    shorter = [
        row["label_id"] for row in read if (len(row["a"]) > len(row["b"])) != (row["label"] == "a")
    ]
    assert sorted(shorter) == sorted(project.picks[place] for place in fates.values())


def test_few_prompts_are_no_ground_for_an_interval(home: Path) -> None:
    report = document(labelled(home / "few.jsonl", n=4, wrong=()))
    assert any("too narrow" in note for note in report["notes"])
    assert np.isfinite(report["foretold"]["share"])
