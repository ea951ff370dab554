"""`annotator judge` as a person runs it, against a server; then both ledgers are read."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from annotator.candidates.catalog import response_table
from annotator.candidates.ingest import import_files
from annotator.cli import main
from annotator.config import DEFAULT_ENCODER
from annotator.signals.datamap import newest_map, placed_prompts
from annotator.signals.embeddings import ensure_embedded
from annotator.signals.judges.client import OPENAI_URL, host_of
from annotator.signals.judges.keys import server_key
from annotator.signals.scores import scores_by
from annotator.store import open_db, writing
from strategies.datamap import REGIONS
from tests.openai_server import BatchPlan, Fault, OpenAIServer, Price, brains, faults, serving
from tests.ready_project import SIZES, copy_project, rows_of
from tests.test_reward_model import make_bert

N_RESPONSES = sum(SIZES)
N_PAIRS = sum(k * (k - 1) // 2 for k in SIZES)
KEY = "sk-canary-3f9a1c77"
PRICES = """
[models.judge]
input = 1.0
output = 4.0
as_of = 2026-01-31
"""


def everything(*, bias: float = 0.0) -> brains.Brain:
    """References for bare prompts, verdicts on pairs, grades for the rest."""
    judge, write = brains.everyday(bias=bias), brains.reference_writer()

    def brain(messages: brains.Messages, params: Any) -> Any:
        return (judge if len(messages) > 1 or "Grade the" in str(messages) else write)(
            messages, params
        )

    return brain


WORDS = [
    "the",
    "main",
    "step",
    "is",
    "to",
    "read",
    "it",
    "helps",
    "check",
    "result",
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "j",
    "k",
    "l",
    "m",
    "n",
]


def write_candidates(path: Path) -> Path:
    """Prompts and responses of which no two are equally long, graded or like a reference."""
    rng = np.random.default_rng(4)

    def response(i: int, j: int) -> str:
        words = rng.choice(WORDS, 3 + 4 * j + i)
        return " ".join([*words, f"[[grade {rng.uniform(1.2, 4.8):.2f}]]"])

    rows = [
        {
            "id": f"q{i}",
            "prompt": f"Question {i}: what helps on a trip of {i + 1} days?",
            "responses": [response(i, j) for j in range(k)],
        }
        for i, k in enumerate(SIZES)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on disk with real vectors."""
    folder = tmp_path_factory.mktemp("made") / "project"
    folder.mkdir()
    db = open_db(folder / "annotator.db", create=True)
    import_files(db, [write_candidates(folder / "candidates.jsonl")])
    ensure_embedded(db, folder / "annotator.db", DEFAULT_ENCODER)
    db.close()
    return folder


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with serving(price=Price(1.0, 1.0, 1.0, 4.0), key=KEY, brain=everything()) as running:
        yield running


@pytest.fixture
def project(
    made: Path, tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    folder = copy_project(made, tmp_path / "project")
    return configured(folder, model="judge", base_url=server.url, prices="prices.toml", retries=1)


def configured(folder: Path, **settings: Any) -> Path:
    (folder / "prices.toml").write_text(PRICES)
    if "base_url" in settings:
        settings.setdefault("key_variable", "OPENAI_API_KEY")
    kept = {name: value for name, value in settings.items() if value is not None}
    lines = [f"{name} = {json.dumps(value)}" for name, value in kept.items()]
    (folder / "annotator.toml").write_text("\n".join(["[judge]", *lines, ""]))
    return folder


def run(folder: Path, *arguments: str, command: str = "judge") -> Result:
    return CliRunner().invoke(
        main, [command, *arguments, "--project", str(folder)], catch_exceptions=False
    )


def document(folder: Path, *arguments: str, command: str = "judge", code: int = 0) -> Any:
    result = run(folder, *arguments, "--json", command=command)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def doctors_finding(folder: Path, *arguments: str) -> dict[str, Any]:
    """What doctor says of the judge."""
    found = run(folder, "--json", *arguments, command="doctor").stdout
    findings = json.JSONDecoder().raw_decode(found)[0]
    return next(one for one in findings if one["what"] == "judge")


def first_text(folder: Path, place: int = 0) -> str:
    query = "SELECT text FROM responses ORDER BY prompt_id, response_key"
    return str(rows_of(folder, query)[place][0])


class TestDryRun:
    @pytest.mark.parametrize(
        ("route", "n_calls"),
        [("rubric", N_RESPONSES), ("pairwise", 2 * (N_PAIRS - 15 + 12)), ("reference", len(SIZES))],
    )
    def test_it_sends_nothing_and_foretells_the_run(
        self, project: Path, server: OpenAIServer, route: str, n_calls: int
    ) -> None:
        foretold = document(project, "--route", route, "--similarity", "rouge-l", "--dry-run")
        assert server.ledger.arrivals == []
        assert rows_of(project, "SELECT count(*) FROM judge_calls") == [(0,)]
        assert foretold["n_to_ask"] == foretold["n_calls"] == n_calls
        assert foretold["probed"] is False
        done = document(project, "--route", route, "--similarity", "rouge-l")
        probes = server.ledger.count() - n_calls
        assert (done["calls"]["ok"], done["calls"]["sent"], probes) == (n_calls, n_calls, 1)
        cost = done["calls"]["cost_usd"]
        assert 0.8 * foretold["about_cost"] <= cost <= foretold["most_cost"]
        if route != "reference":  # whose answers cost more than its questions
            assert cost <= 1.2 * foretold["about_cost"]
        assert done["spent_in_all"] == server.ledger.billed_microusd / 1e6
        after = document(project, "--route", route, "--similarity", "rouge-l", "--dry-run")
        assert (after["n_to_ask"], after["n_answered"], after["most_cost"]) == (0, n_calls, 0)
        assert after["probed"] is True

    def test_in_words(self, project: Path, server: OpenAIServer) -> None:
        result = run(project, "--dry-run", "--max-cost", "2")
        assert result.exit_code == 0
        host = re.escape(host_of(server.url))
        assert re.search(rf"^route +rubric helpful v1, judge at {host}, mean and", result.stdout)
        assert f"{N_RESPONSES} of {N_RESPONSES} calls; 0 answered before" in result.stdout
        most = r"at most \$0\.\d+ in all if nothing has to be sent twice"
        assert re.search(rf"about \$0\.\d+ for what is sent, {most}", result.stdout)
        assert "prices noted 2026-01-31" in result.stdout
        assert "$2.00, of which $0.00 is spent" in result.stdout
        assert "one small request" in result.stdout

    def test_an_unknown_price_is_said(self, project: Path, server: OpenAIServer) -> None:
        assert "no price table has local" in run(project, "--dry-run", "--model", "local").stdout
        refused = run(project, "--max-cost", "1", "--model", "local")
        assert refused.exit_code == 1 and "no price" in refused.stderr
        assert server.ledger.arrivals == []


class TestARun:
    def test_scores_map_and_bill(self, project: Path, server: OpenAIServer) -> None:
        result = run(project, "--max-cost", "2")
        assert result.exit_code == 0, result.output
        assert f"{N_RESPONSES} now, 0 before" in result.stdout
        assert f"{N_RESPONSES} of {N_RESPONSES} responses, judge:rubric:judge@" in result.stdout
        assert re.search(r"in all runs, of \$2\.00$", result.stdout, re.M)
        assert "high-variance 3" in result.stdout and "next-batch goes by it" in result.stdout
        spent = rows_of(project, "SELECT sum(cost_microusd), count(*) FROM judge_attempts")
        assert spent == [(server.ledger.billed_microusd, server.ledger.count())]
        again = document(project)
        assert again["calls"]["sent"] == 0 and again["calls"]["cached"] == N_RESPONSES

    def test_no_key_is_kept_or_shown(self, project: Path) -> None:
        shown = "".join(run(project, *way).output for way in ((), ("--json",), ("--dry-run",)))
        kept = b"".join(
            path.read_bytes() for path in project.glob("annotator.db*") if path.is_file()
        )
        assert KEY not in shown and KEY.encode() not in kept

    def test_a_part_is_no_map(self, project: Path, server: OpenAIServer) -> None:
        result = run(project, "--limit", "3")
        assert result.exit_code == 0
        assert "not made: this is a part" in result.stdout
        assert rows_of(project, "SELECT count(*) FROM datamap_builds") == [(0,)]
        assert rows_of(project, "SELECT count(*) FROM scores") == [(3,)]
        assert server.ledger.count() == 3 + 1

    def test_failures_are_counted_and_asked_again(
        self, project: Path, server: OpenAIServer
    ) -> None:
        server.always(faults.refusal(), when=first_text(project, 0))
        server.always(faults.html(), when=first_text(project, 5))
        result = run(project)
        assert result.exit_code == 3
        assert re.search(r"answered +27 now, 0 before; 1 refused; 1 unreadable", result.stdout)
        assert "1 refused; 1 unreadable" in result.stderr
        assert "run the same command again" in result.stderr
        assert rows_of(project, "SELECT count(*), min(score) > 1 FROM scores") == [(27, 1)]
        server.clear()
        assert document(project, "--no-retry-errors", code=3)["calls"]["sent"] == 0
        mended = run(project)
        assert mended.exit_code == 3  # what was refused stays so
        assert "1 now, 27 before; 1 refused" in mended.stdout
        assert "is not asked again" in mended.stderr

    def test_what_is_settled_does_not_keep_the_map_back(
        self, project: Path, server: OpenAIServer
    ) -> None:
        server.always(faults.refusal(), when=first_text(project, 0))
        server.always(faults.html(), when=first_text(project, 5))
        assert "next-batch goes by it" in run(project).stdout
        server.clear()
        server.always(faults.error(500), when=first_text(project, 5))
        n_maps = rows_of(project, "SELECT count(*) FROM datamap_builds")
        kept_back = run(project)
        assert re.search(r"^map +not made: 1 call has no answer; ", kept_back.stdout, re.M)
        assert rows_of(project, "SELECT count(*) FROM datamap_builds") == n_maps

    def test_the_map_that_was_not_made_is_named(self, project: Path, server: OpenAIServer) -> None:
        run(project, "--route", "pairwise")  # whose map is now the newest judge's
        server.always(faults.error(500), when=first_text(project, 0))
        (named,) = re.findall(r"`annotator map --scores '(.+)'`", run(project).stdout)
        assert named.startswith("judge:rubric:")
        assert document(project, "--scores", named, command="map")["method"] == named

    def test_the_cap_is_kept(self, project: Path, server: OpenAIServer) -> None:
        cap = document(project, "--dry-run")["about_cost"] / 2
        result = run(project, "--max-cost", f"{cap:.6f}")
        assert result.exit_code == 3
        n_scored = rows_of(project, "SELECT count(*) FROM scores")[0][0]
        said = rf"^map +not made: {N_RESPONSES - n_scored} calls have no answer; `annotator map "
        assert re.search(rf"{said}--scores judge` makes it of what there is$", result.stdout, re.M)
        assert rows_of(project, "SELECT count(*) FROM datamap_builds") == [(0,)]
        assert "could pass the cap" in result.stderr and "raise --max-cost" in result.stderr
        assert "kept back by the cap" in result.stdout
        assert 0 < server.ledger.billed_microusd <= cap * 1e6
        assert document(project)["calls"]["ok"] > 0
        assert rows_of(project, "SELECT count(*) FROM scores") == [(N_RESPONSES,)]

    def test_what_had_no_price_is_told_and_priced_before_a_cap_is_kept(
        self, project: Path, server: OpenAIServer
    ) -> None:
        (project / "prices.toml").write_text(PRICES.replace("models.judge", "models.another"))
        n_sent = N_RESPONSES + 1  # and the probe
        unpriced = f"beside {n_sent} requests without a known price"
        assert f"at most $0.00 in all runs {unpriced}" in run(project).stdout
        (project / "prices.toml").write_text(PRICES)
        assert document(project, "--dry-run")["n_unpriced"] == n_sent
        assert (
            f"of which $0.00 is spent {unpriced}"
            in run(project, "--dry-run", "--max-cost", "2").stdout
        )
        done = document(project, "--max-cost", "2")
        assert done["unpriced_in_all"] == 0
        assert done["spent_in_all"] == server.ledger.billed_microusd / 1e6 > 0

    def test_a_price_that_stays_unknown_is_in_the_document(self, project: Path) -> None:
        (project / "prices.toml").write_text(PRICES.replace("models.judge", "models.another"))
        assert document(project)["unpriced_in_all"] == N_RESPONSES + 1

    def test_another_model_behind_the_name_is_told(
        self, project: Path, server: OpenAIServer
    ) -> None:
        def renamed(answer: dict[str, Any]) -> dict[str, Any]:
            return {**answer, "model": "judge-2"}

        server.always(Fault("renamed", change=renamed), when=first_text(project, 2))
        result = run(project)
        assert result.exit_code == 0, result.output
        assert re.search(r"^models +answers came from judge and judge-2: ", result.stdout, re.M)
        assert document(project, "--seed", "1")["models"] == ["judge", "judge-2"]

    def test_a_model_that_was_another_when_it_was_probed_is_told(
        self, project: Path, server: OpenAIServer
    ) -> None:
        assert not re.search("^models", run(project, "--limit", "3").stdout, re.M)
        server.always(Fault("renamed", change=lambda answer: {**answer, "model": "judge-2"}))
        result = run(project)
        assert "came from judge-2, and from judge when the server was probed" in result.stdout
        assert document(project)["models"] == []  # nothing was asked

    def test_batches(self, project: Path, server: OpenAIServer) -> None:
        server.plan_batches([BatchPlan(by_poll=False)])
        begun = run(project, "--mode", "batch", "--no-wait")
        assert begun.exit_code == 3, begun.output
        assert f"not made: {N_RESPONSES} calls have no answer" in begun.stdout
        assert f"{N_RESPONSES} in a batch that is not back" in begun.stdout
        assert "it fetches what is ready, and sends nothing twice" in begun.stderr
        foretold = document(project, "--dry-run")
        assert (foretold["n_in_batch"], foretold["n_to_ask"]) == (N_RESPONSES, 0)
        assert foretold["most_cost"] == foretold["about_tokens_in"] == 0
        assert f"before, {N_RESPONSES} in a batch that" in run(project, "--dry-run").stdout
        assert document(project, code=3)["calls"]["in_batch"] == N_RESPONSES  # live leaves it alone
        for _ in range(4):
            server.advance()
        done = document(project, "--mode", "batch", "--no-wait")
        assert done["recorded"]["n_scored"] == N_RESPONSES
        assert [end["ok"] for end in done["batches"]] == [N_RESPONSES]


class TestWhoGetsTheKey:
    """The server lets in whoever has the key; by its other name it is another host."""

    @staticmethod
    def elsewhere(server: OpenAIServer) -> str:
        return server.url.replace("127.0.0.1", "localhost")

    @pytest.fixture
    def bare(self, project: Path, server: OpenAIServer) -> Path:
        """The server is named by the file alone."""
        return configured(project, model="judge", base_url=server.url, key_variable=None)

    def test_a_folder_with_an_address_collects_no_key(
        self, bare: Path, server: OpenAIServer
    ) -> None:
        result = run(bare)
        assert result.exit_code == 1
        host = server.url.split("/")[2]
        assert result.stderr.count(f"OPENAI_API_KEY is withheld from {host}") == 1
        assert 'key_variable = "OPENAI_API_KEY" or OPENAI_BASE_URL' in result.stderr
        assert [arrival.status for arrival in server.ledger.arrivals] == [401]
        found = doctors_finding(bare)
        assert not found["ok"] and "is withheld from" in found["todo"]

    def test_what_asks_for_no_key_is_reached_without(
        self, bare: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with serving() as keyless:
            configured(bare, model="judge", base_url=keyless.url, key_variable=None)
            assert run(bare).stderr.count("is withheld") == 1
            assert "reached; OPENAI_API_KEY is withheld" in doctors_finding(bare)["detail"]
            assert "withheld" not in run(bare, "--dry-run").output
            monkeypatch.delenv("OPENAI_API_KEY")
            assert "withheld" not in run(bare).output

    def test_the_environments_own_server_gets_it(
        self, bare: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert document(bare)["calls"]["ok"] == N_RESPONSES
        assert doctors_finding(bare)["ok"]
        away = run(bare, "--base-url", self.elsewhere(server))
        assert away.exit_code == 1 and "is withheld from localhost:" in away.stderr

    @pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OTHER"])
    def test_the_variable_that_is_named(
        self, bare: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
        monkeypatch.setenv(name, KEY)
        typed = ("--base-url", server.url, "--key-variable", name)
        assert document(bare, *typed)["calls"]["ok"] == N_RESPONSES
        missing = run(bare, *typed[:-1], "NOT_THERE")
        assert missing.exit_code == 1 and "NOT_THERE, which is not set" in missing.stderr

    def test_the_files_variable_is_for_the_files_server(
        self, project: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert doctors_finding(project)["ok"]
        typed = run(project, "--base-url", self.elsewhere(server))
        assert typed.exit_code == 1 and "is withheld from localhost:" in typed.stderr
        monkeypatch.setenv("ANNOTATOR_JUDGE_BASE_URL", self.elsewhere(server))
        assert run(project).exit_code == 1
        assert [arrival.status for arrival in server.ledger.chats] == [401, 401]

    @pytest.mark.parametrize(
        ("url", "home", "sent"),
        [
            (None, None, True),
            ("https://api.openai.com/v1/", None, True),
            ("https://API.openai.com:443/v2", None, True),
            ("http://api.openai.com/v1", None, False),
            (OPENAI_URL.replace(".com", ".com.example"), None, False),
            ("https://api.openai.com@evil.example/v1", None, False),
            ("https://api.openai.com:8443/v1", None, False),
            (None, "http://mine/v1", False),
            ("http://mine/other", "http://mine/v1", True),
            ("http://mine:81/v1", "http://mine/v1", False),
            ("https://mine/v1", "http://mine/v1", False),
        ],
    )
    def test_a_server_is_scheme_name_and_port(
        self, url: str | None, home: str | None, sent: bool
    ) -> None:
        found = server_key(url, None, {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": home or ""})
        assert (found.value == KEY, bool(found.notice)) == (sent, not sent)
        assert KEY not in repr(found) + found.notice


class TestWhatStopsIt:
    def test_no_model(self, project: Path, server: OpenAIServer) -> None:
        configured(project, base_url=server.url)
        for arguments in ([], ["--dry-run"]):
            result = run(project, *arguments)
            assert result.exit_code == 1
            assert "no judge is configured" in result.stderr and "[judge] model" in result.stderr

    def test_no_key_for_openai(self, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        configured(project, model="gpt-4.1-mini")
        monkeypatch.delenv("OPENAI_API_KEY")
        result = run(project)
        assert result.exit_code == 1
        assert "api.openai.com wants a key, and OPENAI_API_KEY is not set" in result.stderr
        assert run(project, "--dry-run").exit_code == 0

    def test_a_local_server_needs_no_key(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("OPENAI_API_KEY")
        with serving() as keyless:
            done = document(project, "--base-url", keyless.url)
            assert keyless.ledger.count() == N_RESPONSES + 1
        assert done["host"] == host_of(keyless.url)

    def test_the_environment_goes_before_the_file_and_a_flag_before_both(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, server: OpenAIServer
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://environment.example/v1")
        assert document(project, "--dry-run")["host"] == "environment.example/v1"
        given = document(project, "--dry-run", "--base-url", server.url)
        assert given["host"] == host_of(server.url)

    def test_a_wrong_key(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, server: OpenAIServer
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        result = run(project)
        assert result.exit_code == 1
        assert "check OPENAI_API_KEY" in result.stderr
        assert server.ledger.count() == 1

    def test_money_that_runs_out_on_the_way(self, project: Path, server: OpenAIServer) -> None:
        server.script([None] * 6 + [faults.quota()] * 100)
        result = run(project, "--concurrency", "1")
        assert result.exit_code == 1
        assert "top up the account" in result.stderr
        assert server.ledger.count() == 7
        assert rows_of(project, "SELECT count(*) FROM scores") == [(5,)]
        assert f"not made: {N_RESPONSES - 5} calls have no answer" in result.stdout
        assert rows_of(project, "SELECT count(*) FROM datamap_builds") == [(0,)]

    @pytest.mark.parametrize("model", ["no-logprobs", "forbidden-logprobs", "null-logprobs"])
    def test_without_log_probs_nothing_is_put_in_their_place(
        self, project: Path, server: OpenAIServer, model: str
    ) -> None:
        result = run(project, "--model", model)
        assert result.exit_code == 1
        assert "sends no log-probs" in result.stderr and '"samples"' in result.stderr
        probes = server.ledger.count()
        assert rows_of(project, "SELECT count(*) FROM scores") == [(0,)]
        other = document(project, "--model", model, "--uncertainty", "samples", "--samples", "3")
        assert (other["how"], other["recorded"]["n_scored"]) == ("samples", N_RESPONSES)
        assert server.ledger.count() == probes + N_RESPONSES
        plain = document(project, "--model", model, "--uncertainty", "none")
        assert plain["how"] == "integer"
        doubts = "SELECT count(*), count(judge_variance) FROM scores GROUP BY method ORDER BY 2"
        assert rows_of(project, doubts) == [(N_RESPONSES, 0), (N_RESPONSES, N_RESPONSES)]

    def test_a_model_that_reasons_needs_room(self, project: Path, server: OpenAIServer) -> None:
        cut = run(project, "--model", "reasoner", "--uncertainty", "none")
        assert cut.exit_code == 3
        assert "[judge] thinking" in cut.stderr
        configured(project, model="reasoner", base_url=server.url, thinking=200, uncertainty="none")
        assert document(project)["recorded"]["n_scored"] == N_RESPONSES

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--base-url", "localhost:1/v1"],
            ["--route", "data"],
            ["--plot", "judge.png"],
            ["--samples", "1"],
        ],
    )
    def test_wrong_usage(self, project: Path, arguments: list[str]) -> None:
        assert run(project, *arguments).exit_code == 2

    def test_no_such_rubric(self, project: Path, server: OpenAIServer) -> None:
        result = run(project, "--rubric", "kind", "--dry-run")
        assert result.exit_code == 1
        assert "there is no rubric 'kind'" in result.stderr
        assert server.ledger.arrivals == []

    def test_a_rubric_of_ones_own_lies_beside_the_settings(self, project: Path) -> None:
        from annotator.signals.judges import rubric

        shipped = Path(rubric.__file__).with_name("rubrics") / "helpful.toml"
        text = shipped.read_text().replace('id = "helpful"', 'id = "mine"')
        (project / "mine.toml").write_text(text)
        assert document(project, "--rubric", "mine.toml", "--dry-run")["what"] == "rubric mine v1"


def chosen_prompts(folder: Path, strategy: str, n: int) -> set[int]:
    batch = document(
        folder, "-n", str(n), "--control", "0", "--strategy", strategy, "--seed", "3", "--dry-run",
        command="next-batch",
    )  # fmt: skip
    prompts = dict(rows_of(folder, "SELECT id, prompt_id FROM responses"))
    return {prompts[pick["a_id"]] for pick in batch["picks"]}


def region_of_newest_map(folder: Path) -> tuple[str, dict[str, set[int]]]:
    db = open_db(folder / "annotator.db")
    build = newest_map(db)
    assert build is not None
    placed = placed_prompts(db, build)
    db.close()
    of = {name: set(placed.prompt_ids[placed.region == i]) for i, name in enumerate(REGIONS)}
    return build.method, {name: set(map(int, ids)) for name, ids in of.items()}


def reward_model(folder: Path) -> list[str]:
    make_bert(folder / "rm", heads=2)
    return ["--route", "reward-model", "--model", "rm"]


def graded(folder: Path) -> list[str]:
    db = open_db(folder / "annotator.db")
    with writing(db):
        for i in response_table(db).response_ids.tolist():
            db.execute("INSERT INTO source_scores VALUES (?, 'grade', ?, 1)", [i, i * i % 7])
    db.close()
    return ["--route", "data", "--scores", "grade"]


class TestNextBatchGoesByIt:
    @pytest.mark.parametrize(
        ("way", "method"),
        [
            (lambda _: ["--route", "rubric"], "judge:rubric:judge@"),
            (lambda _: ["--route", "reference"], "judge:reference:judge@"),
            (
                lambda _: ["--route", "reference", "--similarity", "rouge-l"],
                "judge:reference:judge@",
            ),
            (lambda _: ["--route", "pairwise"], "judge:pairwise:judge@"),
            (reward_model, "reward-model:rm:"),
            (lambda _: ["--route", "peer"], "peer-agreement"),
            (graded, "data:grade"),
        ],
        ids=["rubric", "cosine", "rouge-l", "pairwise", "reward-model", "peer", "data"],
    )
    def test_every_route_makes_the_map_that_strategies_choose_by(
        self, project: Path, way: Callable[[Path], list[str]], method: str
    ) -> None:
        arguments = way(project)
        result = run(project, *arguments)
        assert result.exit_code == 0, result.output
        found, regions = region_of_newest_map(project)
        assert found.startswith(method)
        for name in ("high-variance", "low-mean", "high-mean-low-variance"):
            if "pairwise" in arguments and name != "high-variance":
                continue  # the prompts' means are all 0: which is high is drawn anew
            assert chosen_prompts(project, f"datamap-{name}", 1) <= regions[name]

    def test_it_says_which_scores_the_learner_was_told(self, project: Path) -> None:
        dry = ("-n", "2", "--seed", "3", "--strategy", "hybrid", "--dry-run")
        assert not re.search("^told", run(project, *dry, command="next-batch").stdout, re.M)
        run(project, "--uncertainty", "samples", "--samples", "3")
        run(project, command="map")
        said = r"^told +rubric helpful-v1 by judge at \S+, from 3 samples$"
        assert re.search(said, run(project, *dry, command="next-batch").stdout, re.M)

    def test_two_judges_two_maps(self, project: Path) -> None:
        with serving(brain=brains.grader(sd=0.3), key=KEY) as other:
            run(project)
            first = region_of_newest_map(project)
            own = ("--base-url", other.url, "--key-variable", "OPENAI_API_KEY")
            run(project, *own, "--rubric", "aspects")
        second = region_of_newest_map(project)
        assert first[0] != second[0]
        assert rows_of(project, "SELECT count(DISTINCT method) FROM scores") == [(2,)]


class TestOtherCommands:
    def test_map_takes_judges_by_name(self, project: Path) -> None:
        none_yet = run(project, "--scores", "judge", command="map")
        assert none_yet.exit_code == 1 and "annotator judge" in none_yet.stderr
        run(project)
        run(project, "--route", "pairwise")
        newest = document(project, "--scores", "judge", command="map")
        assert newest["method"].startswith("judge:pairwise:")
        older = document(project, "--scores", "judge:r", command="map")
        assert older["method"].startswith("judge:rubric:")
        assert re.fullmatch(r"rubric helpful-v1 by judge at \S+, from log-probs", older["scores"])
        # That map is now the newest.
        assert document(project, "--scores", "judge", command="map") == older
        both = run(project, "--scores", "judge:", command="map")
        assert both.exit_code == 1 and "may be any of judge:pairwise:" in both.stderr
        unknown = run(project, "--scores", "judge:x", command="map")
        assert "no response has a score 'judge:x'" in unknown.stderr

    def test_a_map_keeps_the_judges_variance(self, project: Path) -> None:
        run(project)
        query = "SELECT * FROM scores ORDER BY response_id"
        before = rows_of(project, query)
        assert all(row[3] is not None for row in before)
        document(project, "--scores", "judge", command="map")
        document(project, command="map")
        kept = [row for row in rows_of(project, query) if row[0] != "peer-agreement"]
        assert kept == before

    def test_status_says_who_judged_and_what_it_cost(
        self, project: Path, server: OpenAIServer
    ) -> None:
        assert not re.search("^judg", run(project, command="status").stdout, re.M)
        server.always(faults.refusal(), when=first_text(project))
        run(project)
        shown = run(project, command="status").stdout
        assert "28 of 29 responses, rubric helpful-v1 by judge at" in shown
        assert re.search(r"judging +at most \$0\.\d\d for 30 requests$", shown, re.M)
        judging = document(project, command="status")["judging"]
        assert judging["usd_at_most"] == server.ledger.billed_microusd / 1e6

    def test_doctor_looks_at_the_judge(
        self, project: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finding = partial(doctors_finding, project)
        assert "reached; not probed yet" in finding()["detail"]
        assert "not looked at" in finding("--offline")["detail"]
        assert server.ledger.count() == 0
        run(project)
        assert "has logprobs, n, json_schema, usage" in finding()["detail"]
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
        assert (finding()["ok"], finding()["todo"]) == (False, "check the key")
        configured(project, model="judge", base_url="http://127.0.0.1:9/v1")
        assert "cannot be reached" in finding()["detail"]
        configured(project)
        assert finding()["ok"] and "peer agreement" in finding()["detail"]
        configured(project, model="gone", route="reward-model")
        assert not finding("--offline")["ok"]

    def test_check_holds_the_judge_against_votes(self, project: Path) -> None:
        run(project)
        nobody = run(project, "--check")
        assert nobody.exit_code == 1
        db = open_db(project / "annotator.db")
        scores = scores_by(db, newest_map(db).method, response_table(db).response_ids)  # type: ignore[union-attr]
        of = dict(zip(response_table(db).response_ids.tolist(), scores.tolist(), strict=True))
        with writing(db):
            pairs = db.execute(
                """SELECT a.id, b.id FROM responses a JOIN responses b
                ON b.prompt_id = a.prompt_id AND b.response_key > a.response_key"""
            ).fetchall()
            for a, b in pairs:
                label = "a" if of[a] > of[b] else "b"
                db.execute(
                    """INSERT INTO source_labels (label_key, a_id, b_id, label, kind, import_id)
                    VALUES (?, ?, ?, ?, 'human', 1)""",
                    [f"{a}-{b}", a, b, label],
                )
        db.close()
        found = document(project, "--check")
        assert found["people"]["pairs"] == N_PAIRS
        plot = project / "judge.html"
        assert run(project, "--check", "--plot", str(plot)).exit_code == 0
        assert "<svg" in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_came_and_the_next_run_asks_the_rest(
    project: Path, server: OpenAIServer, number: signal.Signals
) -> None:
    document(project, "--limit", "1")  # the probe, and one answer
    server.ledger.clear()
    server.hold()
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "annotator",
            "judge",
            "--concurrency",
            "4",
            "--project",
            str(project),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    deadline = time.monotonic() + 60
    while server.held < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(number)
    time.sleep(0.3)
    server.release()
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "the same command goes on from here" in err
    assert re.search(r"answered +4 now, 1 before", out)
    assert rows_of(project, "SELECT count(*) FROM scores") == [(1,)]
    assert server.ledger.count() == 4
    done = document(project)
    assert (done["calls"]["cached"], done["calls"]["ok"]) == (5, N_RESPONSES - 5)
    assert server.ledger.repeated() == 0
