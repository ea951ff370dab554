"""The commands as people and cron run them: what is printed where, exit codes, running twice."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from annotator.cli import main
from annotator.config import FILE_NAME, SCHEMA_NAME, schema_text
from annotator.studio.client import Studio
from annotator.studio.screen import answer_result
from tests.fake_studio import FakeStudio, fake_studio
from tests.ready_project import (
    N_PAIRS,
    copy_project,
    make_project,
    rows_of,
    table_counts,
    write_candidates,
)

ROOT = Path(__file__).resolve().parents[1]
CANARY = "c0ffee" * 6 + "cafe"
PERSONAL_CANARY = "eyJhbGciOiJIUzI1NiJ9.eyJjYW5hcnkiOiJ5ZWxsb3cifQ.wr0ngs1gnature"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with candidates and vectors; commands find it from the current folder."""
    folder = copy_project(made, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStudio]:
    """A server that the environment names, with the key that it takes."""
    with fake_studio() as studio:
        studio.token = CANARY
        monkeypatch.setenv("LABEL_STUDIO_URL", studio.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", CANARY)
        monkeypatch.setenv("ANNOTATOR_STUDIO_GRACE_SECONDS", "0")
        yield studio


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def done(*arguments: str) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def document(*arguments: str) -> Any:
    """Standard output of a command that is done, which must be one JSON document."""
    return json.loads(done(*arguments, "--json").stdout)


def failure(*arguments: str, code: int = 1) -> str:
    """Standard error of a command that fails as it should: in words."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def answer_all(studio: FakeStudio, grade: str = "left_better") -> int:
    """Everyone who is asked answers every task that has no answer yet."""
    import httpx

    answered = {one["task"] for one in studio.annotations.values()}
    tasks = [task for task in studio.tasks if task not in answered]
    for task in tasks:
        httpx.post(
            f"{studio.url}/api/tasks/{task}/annotations/",
            json={"result": answer_result(grade), "lead_time": 12.5, "completed_by": 2},
            headers={"Authorization": f"Token {studio.token}"},
        ).raise_for_status()
    return len(tasks)


# init, import, embed


def test_init_writes_settings_schema_and_database_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrote" in done("init", "new", "--name", 'Tea "quoted"').stdout
    folder = tmp_path / "new"
    assert {path.name for path in folder.iterdir()} == {FILE_NAME, SCHEMA_NAME, "annotator.db"}
    assert (folder / SCHEMA_NAME).read_text(encoding="utf-8") == schema_text()
    config = folder / FILE_NAME
    config.write_text(config.read_text(encoding="utf-8") + "# mine\n", encoding="utf-8")
    before = table_counts(folder), rows_of(folder, "SELECT * FROM meta")
    assert "kept" in done("init", "new").stdout
    assert (table_counts(folder), rows_of(folder, "SELECT * FROM meta")) == before
    assert config.read_text(encoding="utf-8").endswith("# mine\n")
    assert document("status", "--project", "new")["next"] == "annotator import FILE"


def test_an_import_with_bad_rows_is_incomplete_and_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done("init")
    path = write_candidates(tmp_path / "c.jsonl", (3, 2))
    path.write_text(path.read_text() + '{"prompt": "no responses", "responses": []}\nnot json\n')
    said = failure("import", "c.jsonl", code=3)
    assert "2 of 4 rows rejected" in said
    first = table_counts(tmp_path)
    assert (first["prompts"], first["responses"]) == (2, 5)
    failure("import", "c.jsonl", code=3)
    assert table_counts(tmp_path) | {"imports": 0} == first | {"imports": 0}


def test_import_and_embed_twice_add_nothing(project: Path) -> None:
    before = table_counts(project)
    report = document("import", "candidates.jsonl")
    assert report["nothing_new"] is True
    assert document("embed")["added"] == 0
    assert table_counts(project) | {"imports": 0} == before | {"imports": 0}


# The loop with a server


def test_the_loop_from_batch_to_export(project: Path, server: FakeStudio) -> None:
    sent = document("next-batch", "-n", "12", "--seed", "3")
    assert (sent["round"], sent["n_acquired"], sent["n_control"]) == (1, 10, 2)
    assert (sent["pushed"]["stored"], len(server.tasks)) == (12, 12)
    (link,) = sent["label_at"]
    assert link.startswith(f"{server.url}/projects/")
    assert "annotator sync" in document("status")["next"]
    assert answer_all(server) == 12
    synced = document("sync")
    assert (synced["new"]["votes"], synced["total"]["pairs_voted"]) == (12, 12)
    assert "nothing new" in done("sync").stdout
    status = document("status")
    assert (status["votes"]["votes"], status["next"]) == (12, "annotator next-batch")
    assert status["saving"].startswith("not shown yet: 2 of at least 30")
    assert document("export", "--out", "pairs.jsonl")["rows"] == 12
    assert len((project / "pairs.jsonl").read_text().splitlines()) == 12
    # What people saw on the left is what they preferred, whatever side a and b were on.
    sides = dict(rows_of(project, "SELECT pair_key, side_order FROM picks"))
    votes = rows_of(
        project, "SELECT p.pair_key, v.grade FROM votes v JOIN picks p ON p.id = v.pick_id"
    )
    assert {pair: "a_better" if sides[pair] == "ab" else "b_better" for pair in sides} == dict(
        votes
    )


def test_status_says_where_to_label_and_how_much_is_left(project: Path, server: FakeStudio) -> None:
    assert document("status")["pairs_left"] == N_PAIRS
    (link,) = document("next-batch", "-n", "6", "--seed", "3")["label_at"]
    answer_all(server)
    done("sync")
    done("next-batch", "-n", str(N_PAIRS - 6), "--repeat-share", "0")
    status = document("status")
    assert [one["url"] for one in status["labelling"]] == [link]
    arms = status["arms"]
    assert {name: arm["picks"] for name, arm in arms.items()} == status["picks"]
    assert sum(arm["answered"] for arm in arms.values()) == 6
    assert sum(arm["open"] for arm in arms.values()) == N_PAIRS - 6
    assert status["pairs_left"] == 0
    assert status["next"].startswith("label in")
    answer_all(server)
    done("sync")
    assert "import more" in document("status")["next"]
    shown = done("status").stdout
    assert f"labelling   {link}\n" in shown
    assert "0 of them not chosen yet" in shown
    assert f"acquired {arms['acquired']['picks']} answered, 0 open" in shown
    assert len(shown.splitlines()) <= 24


def test_status_tells_labels_of_the_data_from_votes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done("init")
    lines = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(23)]
    Path("c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done("import", "c.jsonl")
    assert "23 labels came with the data; they are kept" in done("status").stdout
    assert document("status")["votes"]["votes"] == 0


def test_each_step_again_adds_nothing(project: Path, server: FakeStudio) -> None:
    done("next-batch", "-n", "6")
    answer_all(server)
    done("sync")
    done("annotators")  # what is believed is derived once, and then stands
    before = table_counts(project), dict(server.tasks)
    for arguments in (
        ["next-batch", "--resume"],
        ["sync"],
        ["status"],
        ["doctor", "--offline"],
        ["doctor"],
        ["export", "--out", "-"],
        ["annotators"],
        ["diagnose"],
        ["diagnose", "--send", "--dry-run"],
        ["next-batch", "-n", "5", "--dry-run"],
        ["next-batch", "--strategies"],
    ):
        outputs = {done(*arguments).stdout for _ in range(2)}
        assert table_counts(project) == before[0], arguments
        assert server.tasks == before[1], arguments
        assert all(outputs), arguments


def test_two_exports_are_alike(project: Path, server: FakeStudio) -> None:
    done("next-batch", "-n", "6")
    answer_all(server)
    done("sync")
    for name in ("trl", "trl-conversational", "hh", "votes"):
        files = []
        for out in ("one.jsonl", "two.jsonl"):
            done("export", "--format", name, "--out", out)
            files.append((project / out).read_bytes())
        assert files[0] == files[1] != b""
        assert done("export", "--format", name, "--out", "-").stdout_bytes == files[0]


def test_a_dry_run_shows_choice_and_cost(project: Path, server: FakeStudio) -> None:
    before = table_counts(project)
    shown = done("next-batch", "-n", "10", "--overlap", "3", "--dry-run").stdout
    assert "30 votes" in shown
    assert f"of {N_PAIRS} eligible" in shown
    assert "unknown until the first votes are in" in shown
    assert "No pair was recorded or sent." in shown
    seed = shown.split("--seed ")[1].split()[0]
    again = done("next-batch", "-n", "10", "--overlap", "3", "--dry-run", "--seed", seed).stdout
    assert again == shown
    picks = document("next-batch", "-n", "10", "--dry-run")["picks"]
    assert len({pick["pair_key"] for pick in picks}) == 10
    assert (table_counts(project), server.requests) == (before, [])
    done("next-batch", "-n", "4")
    answer_all(server)
    done("sync")
    dry = ("next-batch", "-n", "10", "--repeat-share", "0", "--dry-run")
    assert "at 12 s a vote" in done(*dry).stdout
    assert document(*dry)["annotator_seconds"] == 125


def answer_places(
    server: FakeStudio, project: Path, said: dict[int, dict[int, str]]
) -> dict[int, int]:
    """Person -> place in the first round -> grade on the screen; task ids by place."""
    query = """SELECT p.place, t.studio_id FROM picks p JOIN tasks t ON t.pick_id = p.id
        WHERE p.round_id = 1"""
    tasks = dict(rows_of(project, query))
    for person, answers in said.items():
        with Studio(server.url, server.token_of(person)) as studio:
            for place, grade in answers.items():
                studio.submit(tasks[place], answer_result(grade))
    return tasks


def test_further_votes_from_the_choice_to_the_vote(project: Path, server: FakeStudio) -> None:
    settings = (project / FILE_NAME).read_text(encoding="utf-8")
    settings = settings.replace("overlap = 1\n", 'overlap = "2-4"\n')
    settings = settings.replace('"expected-gain"', '"until-agree"')
    settings = settings.replace("repeats = 0.03", "repeats = 0")
    (project / FILE_NAME).write_text(settings, encoding="utf-8")
    first = document("next-batch", "-n", "8", "--seed", "4")
    assert (first["overlap"], first["overlap_most"], first["overlap_policy"]) == (
        2, 4, "until-agree",
    )  # fmt: skip
    assert (first["votes_asked"], first["further_votes"]) == (16, [])
    (control,) = (p for (p,) in rows_of(project, "SELECT place FROM picks WHERE arm = 'control'"))
    split = min({*range(8)} - {control})
    tasks = answer_places(
        server,
        project,
        {
            2: dict.fromkeys(range(8), "left_better"),
            3: {place: "left_better" for place in range(8)} | {split: "right_better"},
            1: {control: "tie"},
        },
    )
    done("sync")
    shown = done("next-batch", "-n", "6", "--seed", "5", "--dry-run").stdout
    assert "asks for  11 votes: 5 new pairs, 1 further votes on 1 earlier pairs" in shown
    assert "earlier pairs that get a further vote" in shown
    assert "2 + 1" in shown
    before = table_counts(project)
    dry = document("next-batch", "-n", "6", "--seed", "5", "--dry-run")
    assert table_counts(project) == before
    (extra,) = dry["further_votes"]
    assert (extra["n_votes"], extra["n_more"], extra["overlap"]) == (2, 1, 3)
    assert extra["reason"] == "until-agree"

    waiting = document("next-batch", "-n", "6", "--seed", "5", "--no-push")
    assert waiting["further_votes"] == dry["further_votes"]
    assert server.tasks[tasks[split]]["overlap"] == 2
    sent = document("next-batch", "-n", "6")["pushed"]  # what waits goes first
    assert (sent["stored"], sent["raised"]) == (5, 1)
    assert server.tasks[tasks[split]]["overlap"] == 3
    assert "1 earlier tasks" not in done("next-batch", "--resume").stdout
    status = document("status")
    assert status["further_votes"] == {"pairs": 1, "open": 1}
    assert status["votes_per_pair"] == {"2": 7, "3": 1}
    assert status["next"].startswith("label in")
    answer_places(server, project, {1: {split: "left_better"}})
    done("sync")
    assert document("status")["further_votes"] == {"pairs": 1, "open": 0}
    assert "votes a pair: 6 with 2, 2 with 3" in done("status").stdout


def test_raises_alone_go_out_before_another_batch_is_chosen(
    project: Path, server: FakeStudio
) -> None:
    done("next-batch", "-n", "8", "--seed", "4", "--overlap", "1")
    answer_places(server, project, {2: dict.fromkeys(range(8), "tie"), 3: {0: "tie", 1: "tie"}})
    done("sync")
    more = ("--overlap", "2", "--overlap-policy", "fixed", "--control", "0", "--repeat-share", "0")
    waiting = document("next-batch", "-n", "3", *more, "--no-push")
    assert (waiting["n_acquired"], waiting["votes_asked"]) == (0, 3)
    assert document("status")["next"] == "annotator next-batch --resume"
    assert document("next-batch", "-n", "3", *more)["pushed"]["raised"] == 3
    assert document("status")["rounds"] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--overlap", "5-2"), "5 to 2 votes a pair"),
        (("--overlap", "0"), "0 to 0 votes a pair"),
        (("--overlap", "some"), "'some' is no overlap"),
        (("--overlap", "3", "--overlap-policy", "until-agree"), "such as --overlap 3-6"),
        (("--overlap-policy", "majority"), "'until-agree'"),
        (("--gold", FILE_NAME, "--dry-run"), "--dry-run"),
    ],
)
def test_an_overlap_that_makes_no_sense(
    project: Path, server: FakeStudio, arguments: tuple[str, ...], said: str
) -> None:
    assert said in failure("next-batch", *arguments, code=2)


def test_a_range_that_fixed_cannot_have(project: Path, server: FakeStudio) -> None:
    said = failure("next-batch", "--overlap", "2-5", "--overlap-policy", "fixed")
    assert "a fixed overlap of 2-5" in said


def test_a_batch_can_wait_and_be_sent_later(project: Path, server: FakeStudio) -> None:
    assert document("next-batch", "-n", "5", "--no-push")["pushed"] is None
    assert server.requests == []
    assert document("status")["next"] == "annotator next-batch --resume"
    assert document("next-batch", "--resume")["pushed"]["stored"] == 5
    # A waiting batch goes out before another one is chosen.
    done("next-batch", "-n", "5", "--no-push")
    for _ in range(2):
        assert document("next-batch", "-n", "5")["pushed"]["stored"] == 5
    assert (len(server.tasks), len(server.projects)) == (15, 1)


def test_rejected_answers_make_a_sync_incomplete(project: Path, server: FakeStudio) -> None:
    done("next-batch", "-n", "3")
    answer_all(server)
    done("sync")
    one = next(iter(server.annotations.values()))
    one["result"] = [{"from_name": "preference", "type": "choices", "value": {"choices": ["?"]}}]
    one["updated_at"] = server.tasks[one["task"]]["updated_at"] = server.tick()
    said = failure("sync", code=3)
    assert "1 answers cannot be counted" in said
    assert len(document("sync")["rejected_answers"]) == 1


def test_doctor_with_and_without_a_server(project: Path, server: FakeStudio) -> None:
    offline = document("doctor", "--offline")
    assert [finding["what"] for finding in offline] == [
        "database", "invariants", "encoder", "strategy", "judge",
    ]  # fmt: skip
    assert server.requests == []
    online = document("doctor")
    assert [finding["what"] for finding in online[5:]] == ["Label Studio", "token", "push"]
    assert all(finding["ok"] for finding in online)
    assert "legacy, of admin@example.com" in online[6]["detail"]
    assert server.projects == {}


# What goes wrong


def test_without_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["status"], ["sync"], ["next-batch"], ["embed"], ["export", "--out", "-"]):
        assert "annotator init" in failure(*command)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["next-batch", "--control", "0.9"], "0.9 is not in the range"),
        (["next-batch", "-n", "0"], "0 is not in the range"),
        (["import", "no-such-file.jsonl"], "no-such-file.jsonl"),
        (["import"], "FILE"),
        (["export"], "--out"),
        (["export", "--format", "xml", "--out", "-"], "'xml'"),
        (["export", "--out", "x.csv"], ".jsonl, .jsonl.gz, .parquet; - is"),
        (["export", "--out", "pairs"], "'pairs' ends in none of"),
        (["next-bach"], "next-bach"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(project: Path, arguments: list[str], found: str) -> None:
    before = table_counts(project)
    assert found in failure(*arguments, code=2)
    assert table_counts(project) == before


def test_an_unknown_setting_is_named_with_what_was_meant(project: Path) -> None:
    config = project / FILE_NAME
    config.write_text(config.read_text().replace("strategy =", "stategy ="))
    said = failure("status")
    assert "[round] stategy" in said and "did you mean 'strategy'?" in said


def test_an_unknown_strategy_is_answered_with_what_was_meant(project: Path) -> None:
    before = table_counts(project)
    said = failure("next-batch", "--strategy", "real-esy", "--no-push")
    assert "there is no strategy 'real-esy'" in said and "did you mean real-easy" in said
    assert table_counts(project) == before
    bad = run("doctor", "--offline")
    assert bad.exit_code == 0


def test_a_batch_larger_than_the_pool(project: Path) -> None:
    said = failure("next-batch", "-n", "1000", "--no-push")
    assert f"1000 pairs were asked for, and {N_PAIRS} are eligible" in said
    assert table_counts(project)["rounds"] == 0


def test_no_server_at_all_is_found_before_choosing(project: Path) -> None:
    said = failure("next-batch", "-n", "5")
    assert "annotator studio up" in said and "LABEL_STUDIO_URL" in said
    assert table_counts(project)["rounds"] == 0


def test_a_url_without_a_key_is_found_before_choosing(
    project: Path, server: FakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    for command in (["next-batch", "-n", "5"], ["sync"], ["next-batch", "--resume"]):
        assert "LABEL_STUDIO_API_KEY" in failure(*command)
    assert table_counts(project)["rounds"] == 0
    assert server.requests == []


def test_a_server_that_is_down_is_found_before_choosing(
    project: Path, server: FakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Port 9 (discard) is not served here, and cannot be taken by a server that starts meanwhile.
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:9")
    for _ in range(2):
        said = failure("next-batch", "-n", "5")
        assert "gives no answer" in said and "to do:" in said
        assert table_counts(project)["rounds"] == 0
    assert "gives no answer" in failure("next-batch", "--resume")


def test_a_push_that_fails_is_finished_by_the_same_command(
    project: Path, server: FakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNOTATOR_STUDIO_GRACE_SECONDS", "0.1")
    server.faults.cut_before_storing = 1
    said = failure("next-batch", "-n", "5")
    assert "the batch is recorded" in said and "to do:" in said
    assert table_counts(project)["picks"] == 5
    report = document("next-batch", "-n", "5")
    assert report["pushed"]["stored"] == 5
    assert (table_counts(project)["picks"], len(server.tasks)) == (5, 5)
    assert document("next-batch", "-n", "5")["round"] == 2
    assert (table_counts(project)["picks"], len(server.tasks)) == (10, 10)


@pytest.mark.parametrize("other", ["--dry-run", "--no-push"])
def test_resume_goes_with_no_other_wish(project: Path, server: FakeStudio, other: str) -> None:
    done("next-batch", "-n", "3", "--no-push")
    result = run("next-batch", "--resume", other)
    assert result.exit_code == 2
    assert len(server.tasks) == 0


@pytest.mark.parametrize("key", ["0" * 40, PERSONAL_CANARY], ids=["legacy", "personal"])
def test_a_wrong_key_is_refused_and_not_repeated(
    project: Path, server: FakeStudio, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", key)
    for command in (["next-batch", "-n", "5"], ["next-batch", "--resume"], ["doctor"]):
        result = run(*command)
        assert result.exit_code == 1
        assert "to do:" in result.output
        assert key not in result.output and "Traceback" not in result.output
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", CANARY)
    assert table_counts(project)["rounds"] == 0
    assert document("next-batch", "-n", "5")["pushed"]["stored"] == 5


def test_a_damaged_database_is_named(project: Path) -> None:
    path = project / "annotator.db"
    content = bytearray(path.read_bytes())
    content[16384 * 3 : 16384 * 6] = b"\xab" * (16384 * 3)
    path.write_bytes(content)
    said = failure("status")
    assert "annotator.db is damaged" in said and "backup" in said


# The key


def test_the_key_is_nowhere_but_in_the_requests(project: Path, server: FakeStudio) -> None:
    said = [
        run("next-batch", "-n", "6").output,
        run("doctor").output,
        run("doctor", "--json").output,
    ]
    answer_all(server)
    said += [run("sync", "--json").output, run("status").output]
    for name in ("trl", "votes"):
        said.append(run("export", "--format", name, "--out", f"{name}.jsonl").output)
    server.faults.fail_after_storing = 1
    said.append(run("next-batch", "-n", "6").output)
    server.faults.redirect_to = "http://127.0.0.1:9/login"
    said.append(run("sync").output)
    assert "to do:" in said[-1] and "to do:" in said[-2]
    assert not any(CANARY in text for text in said)
    for path in project.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
    assert table_counts(project)["votes"] == 6


# Terminals, colours, Ctrl-C


def on_terminal(
    *arguments: str, stream: str = "stderr", **environment: str
) -> tuple[int, str, str]:
    """Exit status, what a terminal in place of `stream` shows, and the other stream."""
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: follower}
    process = subprocess.Popen(
        [sys.executable, "-m", "annotator", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm"} | environment,
        **streams,
    )
    os.close(follower)
    try:
        out, err = process.communicate(timeout=120)
        return process.returncode, _drained(leader), (out or err or b"").decode()
    finally:
        os.close(leader)


def _drained(leader: int) -> str:
    content = b""
    while select.select([leader], [], [], 0)[0]:
        try:
            content += os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
    return content.decode()


def test_progress_is_on_standard_error_and_only_on_a_terminal(
    project: Path, server: FakeStudio
) -> None:
    batch = ["next-batch", "-n", "5", "--json"]
    code, shown, out = on_terminal(*batch)
    assert code == 0
    assert json.loads(out)["pushed"]["stored"] == 5
    assert re.search(r"push: .*/5 ", shown)
    code, shown, _ = on_terminal(*batch, ANNOTATOR_QUIET="1")
    assert (code, shown) == (0, "")
    assert done(*batch).stderr == ""


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_are_for_terminals_that_want_them(
    project: Path, tmp_path: Path, no_color: str, coloured: bool
) -> None:
    (tmp_path / "no-weights").mkdir()
    environment = {"NO_COLOR": no_color, "ANNOTATOR_ENCODER_NAME": str(tmp_path / "no-weights")}
    for stream, told in (("stdout", "BAD encoder"), ("stderr", "error: 1 of 5 checks failed")):
        code, shown, other = on_terminal("doctor", "--offline", stream=stream, **environment)
        assert code == 1
        assert told in re.sub(r"\x1b\[\d*m", "", shown)
        assert ("\x1b[31m" in shown) is coloured
        assert "\x1b" not in other


# A shell starts what runs in its background with Ctrl-C switched off, and its children inherit
# that; where the tests themselves run so, the command shall listen all the same.
INTERRUPTIBLE = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from annotator.cli import main; main(prog_name='annotator')",
]


def interrupted(wait_for: str, studio: FakeStudio, *arguments: str) -> tuple[int, str, str]:
    """A real process that gets Ctrl-C once it has sent a request that begins so."""
    process = subprocess.Popen(
        [*INTERRUPTIBLE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    while not studio.count(wait_for) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_watching_ends_well_with_ctrl_c(project: Path, server: FakeStudio) -> None:
    done("next-batch", "-n", "4")
    answer_all(server)
    before = table_counts(project)
    code, out, err = interrupted("GET /api/users/", server, "sync", "--watch", "--json")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"\{.*\}\n|", out, re.DOTALL)
    done("sync")
    assert table_counts(project)["votes"] == before["votes"] + 4


def test_ctrl_c_elsewhere_is_130_and_the_command_goes_on_later(
    project: Path, server: FakeStudio
) -> None:
    server.faults.store_delay = 3.0
    code, out, err = interrupted("POST /api/projects/1/import", server, "next-batch", "-n", "4")
    assert (code, out) == (130, "")
    assert "the same command goes on from here" in err and "Traceback" not in err
    assert table_counts(project)["picks"] == 4
    server.faults.store_delay = 0.0


def test_watching_waits_for_a_server_that_is_away(
    project: Path, server: FakeStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so and goes on, and Ctrl-C still ends it well."""
    done("next-batch", "-n", "4")
    away = "http://127.0.0.1:9"
    with sqlite3.connect(project / "annotator.db") as raw:
        raw.execute("UPDATE projects SET server = ?", [away])
    monkeypatch.setenv("LABEL_STUDIO_URL", away)
    watch = subprocess.Popen(
        [*INTERRUPTIBLE, "sync", "--watch", "--every", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watch.stderr is not None
    assert "trying again in 1 s" in watch.stderr.readline()
    watch.send_signal(signal.SIGINT)
    assert watch.wait(timeout=60) == 0
    watch.stderr.close()
