"""`annotator budget` on projects whose people vote by known rewards."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sqlite_utils import Database

from annotator.budget import account, evidence, measures, snapshots
from annotator.budget.account import budget_account, measures_of
from annotator.budget.evidence import Evidence, n_newer_pairs, n_pairs_of, sampled_pairs
from annotator.budget.ledger import add_spend
from annotator.budget.words import percent, saving_details, screen
from annotator.candidates.identity import text_hash
from annotator.cli import main
from annotator.config import Settings, load_settings
from annotator.report.project_report import _same_votes
from annotator.signals.embeddings import embed_missing
from annotator.status import project_status
from annotator.store import now, open_db, writing
from tests.fake_encoder import FakeEncoder
from tests.labelled_project import LabelledProject
from tests.small_world import add_prompt

SIZES = [3, 6, 4, 2, 5, 7, 3, 4, 5, 6, 2, 4, 8, 3, 5, 4, 6, 5, 3, 7, 4, 5, 6, 4, 7, 3, 5, 6]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five rounds by hybrid, one vote a pair, a quarter by lot, the last eight tasks open."""
    project = LabelledProject(tmp_path_factory.mktemp("made") / "p", SIZES)
    for number in range(5):
        project.next_batch(36 + number)
        project.answer(leave_open=8 if number == 4 else 0)
    project.close()
    return project.folder


@pytest.fixture
def project(labelled: Path, tmp_path: Path) -> Iterator[LabelledProject]:
    """The same, one's own, open."""
    folder = Path(shutil.copytree(labelled, tmp_path / "p"))
    opened = LabelledProject.__new__(LabelledProject)
    rewards = LabelledProject(tmp_path / "again", SIZES)
    vars(opened).update(vars(rewards))
    rewards.close()
    opened.folder, opened.path = folder, folder / "annotator.db"
    opened.db = open_db(opened.path)
    opened.n_votes = 10_000
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def quick_saving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saving takes many fits and has tests of its own; here one test measures it."""
    if "real_saving" not in request.node.name:
        saving = {"answer": "too-few", "sentence": "No saving is shown yet.", "curve": None}
        monkeypatch.setattr("annotator.budget.measured.project_saving", lambda *_: saving)


def account_of(project: LabelledProject, **budget: Any) -> dict[str, Any]:
    settings = Settings.model_validate({"budget": budget})
    return budget_account(project.db, project.path, settings)


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["budget", "--project", str(folder), *arguments])


def test_the_document_has_every_part_with_the_real_saving_and_no_nan(
    project: LabelledProject,
) -> None:
    document = account_of(project, rate_vote=0.2, cap_votes=500)
    json.dumps(document, allow_nan=False)
    assert set(document) == {
        "made_at", "project", "sentences", "ledger", "saving", "quality", "spared", "next",
        "stop", "certificates",
    }  # fmt: skip
    assert document["ledger"]["votes"] == 182
    assert document["ledger"]["cap"]["votes_reserved"] == 8
    assert document["sentences"][0].startswith("Spent: 182 votes of 3 people,")
    assert document["sentences"][0].endswith(" 36.40 USD.")
    assert document["saving"]["control_votes"] == document["quality"]["votes_control"]
    assert document["saving"]["sentence"] in document["sentences"][1]


def test_the_quality_holds_the_truth(project: LabelledProject) -> None:
    """What the model foretells of all pairs, as the rewards have it."""
    found = account_of(project)["quality"]
    held = Evidence(project.db, project.path)
    assert held.posterior is not None
    right = sided = 0.0
    a_ids, b_ids = sampled_pairs(project.db, 10**9, held.rng)
    mean, _ = held.posterior.before_votes(*held.places(a_ids, b_ids))
    for a, b, decides in zip(a_ids.tolist(), b_ids.tolist(), mean > 0, strict=True):
        for_a, for_b = project.probabilities(a, b)
        right += for_a if decides else for_b
        sided += for_a + for_b
    truth = right / sided
    assert found["answer"] == "shown"
    assert found["accuracy"]["low"] <= truth <= found["accuracy"]["high"]
    assert found["plain"]["low"] <= truth <= found["plain"]["high"]
    assert truth > 0.6  # the model has learned something
    assert found["votes_control"] == pytest.approx(46, abs=3)
    assert found["cross_check"] is None
    assert "too few to check anything by" in found["cross_check_why"]


def test_a_strategy_that_draws_is_checked_by_its_own_picks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = LabelledProject(tmp_path / "p", SIZES, seed=3)
    for number in range(4):
        project.next_batch(40 + number, strategy="random")
        project.answer()
    # It had taken a third of the pairs: what it drew last stands for another pool.
    found = account_of(project)["quality"]
    assert found["cross_check"] is None
    assert "strategies had taken 33 % of the pool" in found["sentence"]
    with writing(project.db):
        project.db.execute("DELETE FROM snapshots")
    monkeypatch.setattr("annotator.budget.measures.MOST_TAKEN", 0.4)  # these went by lot
    found = account_of(project)["quality"]
    assert found["cross_check"]["votes"] == 125  # what is not drawn for control
    assert found["agree"] is True
    low, high = found["cross_check"]["low"], found["cross_check"]["high"]
    assert low < found["accuracy"]["value"] < high
    project.next_batch(40, strategy="real-easy")
    project.answer()
    found = account_of(project)["quality"]
    assert found["cross_check"]["votes"] == 125  # a round that does not draw says nothing
    project.close()


def test_pairs_that_came_in_after_the_control_arm_are_not_spoken_for(
    project: LabelledProject,
) -> None:
    assert account_of(project)["quality"]["newer_pairs"] == 0
    assert "does not speak for" not in account_of(project)["quality"]["sentence"]
    before = len(project.pairs())
    assert n_pairs_of(project.db) == before
    texts = [f"a late answer {j}" for j in range(5)]
    add_prompt(project.db, [{"role": "user", "content": "a late question"}], texts)
    add_late_response(project.db, project.responses[0][0])  # a pair with each early answer
    embed_missing(project.db, FakeEncoder(), project.path)
    n = 10 + len(project.responses[0])
    assert n_pairs_of(project.db) == before + n
    quality = account_of(project)["quality"]
    assert quality["newer_pairs"] == n
    assert f"It does not speak for {n} pairs that came in after" in quality["sentence"]
    assert n_newer_pairs(project.db, 10**6) == 0  # no such round


def add_late_response(db: Database, beside: int) -> None:
    """One more response to the prompt of that one."""
    text = "a late answer to an early question"
    with writing(db):
        db.execute(
            """INSERT INTO responses (response_key, prompt_id, text, text_hash, model, import_id)
            SELECT 'late', prompt_id, ?, ?, model, import_id FROM responses WHERE id = ?""",
            [text, text_hash(text), beside],
        )


def test_intervals_that_do_not_meet_are_said_so(
    project: LabelledProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measures_of(project.db, project.path)
    far = {"value": 0.2, "low": 0.1, "high": 0.3, "votes": 100}
    found["quality"] |= {"cross_check": far, "cross_check_why": None}
    monkeypatch.setattr(account, "measures_of", lambda *_: found)
    quality = account_of(project)["quality"]
    assert quality["agree"] is False
    assert "trust neither" in quality["sentence"]


def test_nothing_is_measured_again_until_something_changes(
    project: LabelledProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = account_of(project)
    made: list[int] = []
    real = measures.measures

    def watched(held: Evidence) -> dict[str, Any]:
        made.append(1)
        return real(held)

    monkeypatch.setattr(measures, "measures", watched)
    add_spend(project.db, 10.0, "biscuits")
    again = account_of(project)
    assert made == []
    assert again["quality"] == first["quality"]
    assert again["ledger"]["other"]["amount"] == 10.0
    project.answer(leave_open=7)
    assert account_of(project)["ledger"]["votes"] == first["ledger"]["votes"] + 1
    assert made == [1]


def test_before_the_first_control_votes_nothing_is_claimed(tmp_path: Path) -> None:
    project = LabelledProject(tmp_path / "p", [4, 3, 5])
    document = account_of(project)
    assert document["sentences"][0] == "Spent: 0 votes."
    assert document["quality"]["answer"] == "none"
    assert document["next"]["gain"] is None
    assert document["stop"]["advised"] is False
    project.next_batch(8)
    project.answer()
    document = account_of(project)
    assert document["quality"]["accuracy"] is None
    assert "2 of at least 30 control votes" in document["quality"]["sentence"]
    assert "2 of at least 30 control votes" in document["next"]["sentence"]
    json.dumps(document, allow_nan=False)
    project.close()


def test_stop_is_advised_with_its_reason_and_nothing_is_stopped(project: LabelledProject) -> None:
    def reasons(**budget: Any) -> list[str]:
        stop = account_of(project, **budget)["stop"]
        assert stop["reasons"] == [rule["rule"] for rule in stop["rules"] if rule["fires"]]
        assert stop["advised"] is bool(stop["reasons"])
        assert stop["sentence"].startswith("You may stop: " if stop["advised"] else "Nothing ")
        return [one for one in stop["reasons"] if one != "stabilised predictions"]

    assert reasons(minimum_gain=0.0) == []
    assert reasons(minimum_gain=0.0, cap_votes=190) == ["budget in votes"]
    assert reasons(minimum_gain=0.0, cap_votes=191) == []
    assert reasons(minimum_gain=100.0) == ["small gain"]
    assert reasons(minimum_gain=0.0, cap_cost=18.0, rate_vote=0.1) == ["budget in USD"]
    assert project.next_batch(20) == 6


def test_successive_models_are_compared_on_pairs_without_votes(project: LabelledProject) -> None:
    found = measures_of(project.db, project.path)
    n_pairs, n_asked = len(project.pairs()), 36 + 37 + 38 + 39 + 40
    assert found["stop_pairs"] == n_pairs - n_asked
    assert len(found["kappas"]) == 3  # of four models: the last round lacks a fifth of its votes
    assert all(-1.0 <= one <= 1.0 for one in found["kappas"])


def test_inferred_pairs_are_neither_asked_nor_routed(project: LabelledProject) -> None:
    held = Evidence(project.db, project.path)
    posterior = held.posterior
    assert posterior is not None
    a, b = held.places(held.picks.a_ids, held.picks.b_ids)
    voted = held.pick_of_vote
    of_a, of_b = measures._unasked_pairs(held, posterior, a[voted], b[voted])
    asked = {frozenset(pair) for pair in zip(a.tolist(), b.tolist(), strict=True)}
    inferred = {frozenset(pair) for pair in zip(of_a.tolist(), of_b.tolist(), strict=True)}
    assert inferred
    assert not asked & inferred
    known = account_of(project)["spared"]["inference"]
    assert 0 < known["pairs"] <= len(inferred)
    assert known["votes"] == known["pairs"]
    ids = posterior and held.belief.response_ids  # type: ignore[union-attr]
    everything = [(int(ids[x]), int(ids[y])) for x, y in zip(of_a, of_b, strict=True)]
    _certify(project, everything)
    spared = account_of(project)["spared"]
    assert spared["inference"] is None
    assert spared["routing"]["pairs"] == spared["routing"]["votes"] == len(everything)
    assert "under certificate 1" in spared["sentence"]


def _certify(project: LabelledProject, pairs: list[tuple[int, int]]) -> None:
    """A certificate in force on these pairs."""
    table = project.db["certificates"]
    row = {name: 0 for name in table.columns_dict} | {
        "source": "posterior", "agree": 0.85, "confidence": 0.9, "calibration": "[]",
        "depends": "{}", "made_at": now(), "n_pairs": len(pairs), "id": 1,
        "void_at": None, "void_because": None,
    }  # fmt: skip
    table.insert(row)
    with writing(project.db):
        project.db.conn.executemany("INSERT INTO routed VALUES (1, ?, ?, 'a', 0.9)", pairs)


def test_a_void_certificate_spares_nothing(project: LabelledProject) -> None:
    _certify(project, project.pairs()[:3])
    assert account_of(project)["spared"]["routing"] is not None
    with writing(project.db):
        project.db.execute("UPDATE certificates SET void_at = 'now', void_because = 'new model'")
    document = account_of(project)
    assert document["spared"]["routing"] is None
    assert document["certificates"][0]["void_because"] == "new model"


def test_votes_spared_by_overlap_are_counted_on_closed_pairs(tmp_path: Path) -> None:
    project = LabelledProject(tmp_path / "p", SIZES, seed=2)
    for _ in range(3):
        project.next_batch(30, strategy="random", overlap=2, most=5)
        project.answer()
    found = account_of(project)["spared"]["overlap"]
    rows = project.db.execute(
        """SELECT count(*), min(coalesce(t.overlap, r.overlap)) FROM current_votes v
        JOIN picks p ON p.id = v.pick_id JOIN tasks t ON t.pick_id = p.id
        JOIN rounds r ON r.id = p.round_id WHERE p.arm = 'acquired' GROUP BY p.id"""
    ).fetchall()
    few = [n for n, _ in rows if n < 5]
    assert 0 < found["pairs"] <= len(few)
    assert 0 < found["votes"] <= sum(5 - n for n in few)
    assert found["against"] == "5 votes on each pair"
    assert 0.0 <= found["error"]["low"] < found["error"]["value"] < found["error"]["high"] < 0.4
    before = found["pairs"]
    project.next_batch(30, strategy="random", overlap=2, most=5)  # asked, and nobody has answered
    assert account_of(project)["spared"]["overlap"]["pairs"] <= before
    project.close()


def test_every_pair_of_the_pool_can_be_drawn_and_none_twice(project: LabelledProject) -> None:
    rng = Evidence(project.db, project.path).rng
    a, b = sampled_pairs(project.db, 10**9, rng)
    found = sorted(tuple(sorted(pair)) for pair in zip(a.tolist(), b.tolist(), strict=True))
    assert found == sorted(tuple(sorted(pair)) for pair in project.pairs())
    a, b = sampled_pairs(project.db, 50, rng)
    assert len({frozenset(pair) for pair in zip(a.tolist(), b.tolist(), strict=True)}) == 50
    prompt = dict(project.db.execute("SELECT id, prompt_id FROM responses").fetchall())
    assert all(prompt[x] == prompt[y] for x, y in zip(a.tolist(), b.tolist(), strict=True))


def test_without_vectors_it_says_why(project: LabelledProject) -> None:
    with writing(project.db):
        project.db.execute("DELETE FROM embeddings")
    document = account_of(project)
    assert document["quality"]["answer"] == "none"
    assert "no vectors" in document["quality"]["sentence"]
    assert document["ledger"]["votes"] == 182


def test_a_control_arm_without_vectors_tells_nothing(project: LabelledProject) -> None:
    with writing(project.db):
        project.db.execute(
            """DELETE FROM embeddings WHERE text_hash IN (SELECT text_hash FROM responses WHERE
            prompt_id IN (SELECT r.prompt_id FROM picks p JOIN responses r ON r.id = p.a_id
              WHERE p.arm = 'control'))"""
        )
    document = account_of(project)
    assert document["quality"]["answer"] == "none"
    assert "control arm's responses have no vectors" in document["quality"]["sentence"]
    assert document["next"]["gain"] is None
    json.dumps(document, allow_nan=False)


# The command.


def test_the_screen_has_everything_a_lead_reads(
    project: LabelledProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNOTATOR_BUDGET_RATE_VOTE", "0.5")
    monkeypatch.setenv("ANNOTATOR_BUDGET_CURRENCY", "EUR")
    monkeypatch.setenv("ANNOTATOR_BUDGET_CAP_VOTES", "400")
    result = run(project.folder)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for said in (
        "Spent: 182 votes of 3 people", "91.00 EUR", "1 hybrid acquired", "anna", "182 spent, 8 "
        "reserved", "On a random pair of the pool the model foretells", "next 100 votes",
        "stabilised predictions:", "budget in votes: 182 spent and "
        "8 reserved of 400 votes",
    ):  # fmt: skip
        assert said in text, said
    assert all(len(line) <= 100 for line in result.stdout.splitlines())


def test_json_is_the_document(project: LabelledProject) -> None:
    result = run(project.folder, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    settings = load_settings(project.folder, {})
    expected = budget_account(project.db, project.path, settings)
    assert {**document, "made_at": ""} == {**expected, "made_at": ""}
    assert screen(document) == screen(expected)


def test_money_is_recorded_and_put_right(project: LabelledProject) -> None:
    assert run(project.folder, "--add", "250", "--note", "workshop").exit_code == 0
    result = run(project.folder, "--add", "-50", "--note", "one was free", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["other"]["amount"] == 200.0
    entries = account_of(project)["ledger"]["other"]["entries"]
    assert [(one["amount"], one["note"]) for one in entries] == [
        (250.0, "workshop"),
        (-50.0, "one was free"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--add", "3"], "--note TEXT go together", 2),
        (["--note", "x"], "--note TEXT go together", 2),
        (["--add", "0", "--note", "x"], "an amount of 0", 1),
        (["--plot", "page.html"], "annotator report", 2),
        (["--plot", "nowhere/x.png"], "there is no folder", 2),
    ],
)
def test_what_makes_no_sense_is_refused(
    project: LabelledProject, arguments: list[str], said: str, code: int
) -> None:
    result = run(project.folder, *arguments)
    assert result.exit_code == code
    assert said in result.output
    assert project.db["spend"].count == 0


def test_the_plot_is_a_picture(project: LabelledProject, tmp_path: Path) -> None:
    result = run(project.folder, "--plot", str(tmp_path / "budget.png"))
    assert result.exit_code == 0, result.output
    with Image.open(io.BytesIO((tmp_path / "budget.png").read_bytes())) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1_000


def test_status_points_to_it(project: LabelledProject) -> None:
    assert project_status(project.db)["saving"].startswith("see `annotator budget`; ")


def test_names_in_rates_that_nobody_has_are_told(project: LabelledProject) -> None:
    (project.folder / "annotator.toml").write_text("[budget.rates.zoe]\nhour = 30\n")
    result = run(project.folder)
    assert "Rates for zoe under [budget], and nobody of that name has voted." in " ".join(
        result.stdout.split()
    )


def test_rates_of_one_person_are_read_from_the_file(project: LabelledProject) -> None:
    (project.folder / "annotator.toml").write_text("[budget.rates.ben]\nhour = 36.0\n")
    books = budget_account(project.db, project.path, load_settings(project.folder, {}))["ledger"]
    ben = next(one for one in books["annotators"] if one["name"] == "ben")
    assert ben["amount"] == pytest.approx(ben["seconds"] * 0.01, abs=1e-3)


def test_an_estimate_in_words() -> None:
    assert percent({"value": 0.1234, "low": 0.1, "high": 0.2}) == "12.3 % (10.0 to 20.0)"
    assert percent({"value": None, "low": None, "high": None}) == "n/a"


def test_evidence_of_an_empty_project(tmp_path: Path) -> None:
    project = LabelledProject(tmp_path / "p", [3])
    held = evidence.Evidence(project.db, project.path)
    assert held.belief is None
    assert held.posterior is None
    assert snapshots.newest(project.db, account.KIND) is None
    assert measures_of(project.db, project.path)["why_not"] == "0 of at least 30 control votes"
    project.close()


def test_the_difference_at_the_same_votes_says_what_its_interval_leaves_out() -> None:
    same = {"value": 0.021, "low": 0.006, "high": 0.036, "votes": 1240}
    saving = {"same_votes": same}
    (said,) = saving_details(saving)
    assert "+2.1 points (+0.6 to +3.6)" in said
    assert "leaves out the luck of the votes that taught" in said
    shown = _same_votes(saving)
    assert shown is not None
    assert "leaves out the luck of the votes that taught" in shown
    assert "better" not in shown
