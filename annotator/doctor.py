"""Checks that a person can act on: database, vectors, encoder, judge, Label Studio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from annotator.errors import AnnotatorError
from annotator.studio.screen import config_xml, task_data

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.config import JudgeSettings, Settings
    from annotator.studio.client import Studio

# What must hold after every kill, full disk and lost connection: a query that finds offenders.
INVARIANTS = {
    "a pair is in two rounds": """SELECT pair_key FROM picks
        WHERE arm IN ('acquired', 'control') GROUP BY pair_key HAVING count(*) > 1""",
    "a pick has no task": """SELECT p.id FROM picks p LEFT JOIN tasks t ON t.pick_id = p.id
        WHERE t.id IS NULL""",
    "a round lacks picks": """SELECT r.id FROM rounds r
        WHERE r.n_acquired + r.n_control + r.n_gold + r.n_repeat <>
        (SELECT count(*) FROM picks WHERE round_id = r.id)""",
    "a gold pick has no answer": """SELECT p.id FROM picks p WHERE p.arm = 'gold'
        AND NOT EXISTS (SELECT 1 FROM gold g WHERE (g.a_id, g.b_id) = (p.a_id, p.b_id))""",
    "a repeat repeats nothing": """SELECT p.id FROM picks p WHERE p.arm = 'repeat' AND NOT EXISTS
        (SELECT 1 FROM picks q WHERE q.pair_key = p.pair_key AND q.round_id < p.round_id)""",
    "a stored task has no id": """SELECT id FROM tasks
        WHERE state IN ('stored', 'swept', 'conflict') AND studio_id IS NULL""",
    "two tasks share an id": """SELECT studio_id FROM tasks
        WHERE studio_id IS NOT NULL GROUP BY project_id, studio_id HAVING count(*) > 1""",
    "a vote that counts has no pick": """SELECT id FROM current_votes WHERE pick_id IS NULL""",
    "a control pick has no propensity": """SELECT id FROM picks
        WHERE arm = 'control' AND propensity IS NULL""",
    "a pair crosses prompts": """SELECT p.id FROM picks p JOIN responses a ON a.id = p.a_id
        JOIN responses b ON b.id = p.b_id WHERE a.prompt_id <> b.prompt_id
        OR a.response_key >= b.response_key""",
    "a further vote was asked of a control pick": """SELECT e.id FROM extra_votes e
        JOIN picks p ON p.id = e.pick_id WHERE p.arm = 'control'""",
    "a further vote was not passed on": """SELECT e.id FROM extra_votes e
        JOIN tasks t ON t.pick_id = e.pick_id WHERE coalesce(t.overlap, 0) < e.overlap""",
    "a judge's answer is not there": """SELECT id FROM judge_calls
        WHERE state = 'ok' AND reply IS NULL""",
    "an attempt is open whose call was not sent": """SELECT a.id FROM judge_attempts a
        JOIN judge_calls c ON c.id = a.call_id WHERE a.status = 'open' AND c.state <> 'sent'""",
}


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, whether it is well, and what to do if not."""

    what: str
    ok: bool
    detail: str
    todo: str = ""


def examine(db: Database, path: Path, settings: Settings, *, offline: bool) -> list[Finding]:
    """Every check; only a test project on the server is made, and removed again."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("database", lambda: _database(db, path)),
        ("invariants", lambda: _invariants(db)),
        ("encoder", lambda: _encoder(settings)),
        ("strategy", lambda: _strategy(settings)),
        ("judge", lambda: _judge(db, path, settings.judge, offline=offline)),
    ]
    findings = [_run(what, check) for what, check in checks]
    return findings if offline else [*findings, *_studio(settings)]


def _run(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, check())
    except AnnotatorError as error:
        return Finding(what, False, error.found, error.todo)


def _database(db: Database, path: Path) -> str:
    from annotator.store.database import check_integrity

    check_integrity(db, path, thorough=True)
    version = db.execute("SELECT sqlite_version()").fetchone()[0]
    return f"{path.name}, {path.stat().st_size / 1e6:.1f} MB, whole (SQLite {version})"


def broken_invariants(db: Database) -> list[str]:
    """Which of INVARIANTS do not hold, with the first offender of each."""
    offenders = ((name, db.execute(query).fetchone()) for name, query in INVARIANTS.items())
    return [f"{name} (first: {row[0]})" for name, row in offenders if row]


def _invariants(db: Database) -> str:
    broken = broken_invariants(db)
    if broken:
        raise AnnotatorError("; ".join(broken), todo="please report this with a copy of the file")
    return f"{len(INVARIANTS)} hold"


def _encoder(settings: Settings) -> str:
    from annotator.signals.encoder import load_encoder

    encoder = load_encoder(settings.encoder.name, precision=settings.encoder.precision)
    return f"{encoder.name}, {encoder.dimension} dimensions, {encoder.precision}"


def _strategy(settings: Settings) -> str:
    from strategies import strategy_named
    from strategies.pool import StrategyError

    try:
        strategy_named(settings.round.strategy)
    except StrategyError as error:
        raise AnnotatorError(error.found, todo=error.todo) from error
    return settings.round.strategy


def _judge(db: Database, path: Path, judge: JudgeSettings, *, offline: bool) -> str:
    """What is known of the configured judge; nothing is asked that could be billed.

    Raises AnnotatorError where it cannot be reached, or its key or folder is missing.
    """
    if judge.route in ("peer", "data") or judge.model is None:
        return f"no model judges: {judge.scores if judge.route == 'data' else 'peer agreement'}"
    if judge.route == "reward-model":
        return _reward_model_folder(path.parent, judge.model)
    from annotator.signals.judges.capabilities import known_findings
    from annotator.signals.judges.client import OPENAI_URL, host_of

    url = (judge.base_url or OPENAI_URL).rstrip("/")
    host = host_of(url)
    reached = "not looked at (offline)" if offline else _server_in_order(url, host, judge)
    findings = known_findings(db, host, judge.model)
    if findings is None:
        return f"{judge.model} at {host}: {reached}; not probed yet, `annotator judge` does that"
    there = [n for n in ("logprobs", "n", "json_schema", "usage") if getattr(findings, n)]
    return (
        f"{judge.model} at {host}: {reached}; has {', '.join(there) or 'plain answers'} "
        f"(probed {findings.probed_at[:10]})"
    )


def _reward_model_folder(project: Path, model: str) -> str:
    for folder in (Path(model).expanduser(), project / model):
        if (folder / "config.json").is_file():
            return f"reward model in {folder}"
    raise AnnotatorError(
        f"there is no reward model in {model}", todo="set [judge] model to its folder"
    )


def _server_in_order(url: str, host: str, judge: JudgeSettings) -> str:
    """Asks for the list of models, which every such server gives for nothing."""
    import os

    import httpx

    from annotator.signals.judges.keys import server_key

    key = server_key(judge.base_url, judge.key_variable, os.environ)
    headers = {"Authorization": f"Bearer {key.value}"} if key.value else {}
    try:
        answer = httpx.get(f"{url}/models", headers=headers, timeout=10)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise AnnotatorError(
            f"{host} cannot be reached: {type(error).__name__}",
            todo="start that server, or correct [judge] base_url or OPENAI_BASE_URL",
        ) from None
    if answer.status_code in (401, 403):
        if key.variable is None:
            raise AnnotatorError(
                f"the judge's server wants a key ({answer.status_code})",
                todo=key.notice or "name the variable that holds it: [judge] key_variable",
            )
        raise AnnotatorError(
            f"the judge's server does not accept {key.variable} ({answer.status_code})",
            todo="check the key",
        )
    return f"reached; {key.notice}" if key.notice else "reached"


def _studio(settings: Settings) -> Iterator[Finding]:
    from annotator.studio.connect import connect

    try:
        with connect(settings.studio.url) as studio:
            server = studio.server()
            person = studio.whoami()
            pushing = _run("push", lambda: _can_push(studio))
    except AnnotatorError as error:
        yield Finding("Label Studio", False, error.found, error.todo)
        return
    yield Finding("Label Studio", True, f"{server.version} ({server.edition}) at {studio.url}")
    yield Finding("token", True, f"{server.token_kind}, of {person.email or person.name}")
    yield pushing


def _can_push(studio: Studio) -> str:
    """Does it once, in a project of its own that is removed again."""
    mark = f"annotator:doctor:{uuid4().hex}"
    project = studio.create_project("annotator doctor", mark, config_xml(), overlap=1)
    try:
        studio.import_tasks(project.id, [task_data("doctor", [], "left", "right")])
        n_tasks = studio.project(project.id).n_tasks
    finally:
        studio.delete_project(project.id)
    if n_tasks != 1:
        raise AnnotatorError(
            f"one task was sent to a test project, and it holds {n_tasks}",
            todo="look at the server's log",
        )
    return "a test project took a task, and was removed"
