"""`annotator judge`: what a model thinks of the responses, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from annotator.cli import judge_report as report
from annotator.cli.base import (
    echo_json,
    echo_rows,
    json_option,
    open_project,
    project_option,
)
from annotator.cli.judge_asking import Ask, asked, exit_unless_whole, foretell, route_of_settings
from annotator.cli.judge_check import check_files, check_judge, check_planted
from annotator.cli.map import build_and_report, plot_path

if TYPE_CHECKING:
    from annotator.signals.datamap import MapBuild
    from annotator.signals.judges.routes import Route
    from annotator.signals.judges.runner import RunReport

ROUTES = ("rubric", "reference", "pairwise", "reward-model", "peer", "data")


def _url(_: click.Context, __: click.Parameter, url: str | None) -> str | None:
    if url is not None and not url.startswith(("http://", "https://")):
        raise click.BadParameter("the address begins with http:// or https://")
    return url


# What may stand beside what. Whatever is given and has no part in a form of the command is refused,
# so that nobody takes a report for the answer to another question.
_CHECKED = {"check", "plot", "seed", "as_json"}
_ONLY_FILES = {"files", "judges", "people"}
_ONLY_CHECKED = {"plot", "inject", "files"}


def _refuse_what_has_no_part(context: click.Context) -> None:
    by_hand = ParameterSource.COMMANDLINE
    given = {p for p in context.params if context.get_parameter_source(p) is by_hand}
    if not context.params["check"]:
        _refuse(context, given & _ONLY_CHECKED, "goes with --check")
        _refuse(context, given & {"judges", "people"}, "goes with --check FILE")
    elif context.params["files"]:
        beside = given - _CHECKED - _ONLY_FILES
        _refuse(context, beside, "has no part in --check FILE, which takes all from the files")
    elif context.params["inject"]:
        _refuse(context, given & _ONLY_FILES, "goes with --check FILE, and --inject with a project")
        _refuse(context, given & {"scores", "limit"}, _NOT_INJECTED)
        _refuse(context, given & {"plot"} if context.params["dry_run"] else set(), _NOT_DRAWN)
    else:
        _refuse(context, given & _ONLY_FILES, "goes with --check FILE; here --scores names a judge")
        asking = given - _CHECKED - {"scores", "project_dir"}
        _refuse(context, asking, "has no part in --check, which asks nothing; --inject does")


_NOT_INJECTED = "does not go with --inject: it asks the judge that the other options name"
_NOT_DRAWN = "has nothing to draw with --dry-run"


def _refuse(context: click.Context, given: set[str], why: str) -> None:
    for parameter in context.command.params:
        if parameter.name in given:
            is_option = isinstance(parameter, click.Option)
            shown = max(parameter.opts, key=len) if is_option else "FILE"
            raise click.UsageError(f"{shown} {why}")


def _patterns(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    patterns = [one for one in map(str.strip, (value or "").split(",")) if one]
    if value is not None and not patterns:
        raise click.BadParameter("it names no score")
    return patterns or None


@click.command()
@click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE]..."
)
@click.option("--route", type=click.Choice(ROUTES), help="Who scores.  [default: annotator.toml]")
@click.option(
    "--model",
    metavar="NAME",
    help="The judge's name at its server, or a reward model's folder.  [default: annotator.toml]",
)
@click.option(
    "--base-url",
    metavar="URL",
    callback=_url,
    help="A server that speaks the OpenAI API.  [default: OPENAI_BASE_URL, annotator.toml, OpenAI]",
)
@click.option(
    "--key-variable",
    metavar="NAME",
    help="The environment variable with the key for --base-url.  [default: annotator.toml]",
)
@click.option(
    "--rubric", metavar="NAME", help="A rubric's name or file.  [default: annotator.toml]"
)
@click.option(
    "--uncertainty",
    type=click.Choice(("logprobs", "samples", "none")),
    help="Where a grade's mean and variance come from.  [default: annotator.toml]",
)
@click.option(
    "--samples",
    type=click.IntRange(2, 64),
    help="Answers for each grade, with samples.  [default: annotator.toml]",
)
@click.option(
    "--similarity",
    type=click.Choice(("cosine", "rouge-l")),
    help="With reference: what responses are compared by.  [default: annotator.toml]",
)
@click.option(
    "--scores",
    metavar="NAME",
    help="With data: the score that came with the data. With --check: whose scores.",
)
@click.option(
    "--mode",
    type=click.Choice(("live", "batch")),
    help="batch: by the Batch API, cheaper and within a day.  [default: annotator.toml]",
)
@click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="With batch: wait for the answers, or fetch them with a later run.",
)
@click.option(
    "--max-cost",
    type=click.FloatRange(0, min_open=True),
    metavar="USD",
    help="Never spend more on judging, earlier runs included.  [default: annotator.toml]",
)
@click.option("--concurrency", type=click.IntRange(1, 1024), help="Calls under way at most.")
@click.option(
    "--timeout", type=click.FloatRange(0, 3600, min_open=True), help="Seconds for one call."
)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="Only the first N responses, to try it."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Sent to the server, and draws the pairs of many responses.",
)
@click.option(
    "--retry-errors/--no-retry-errors",
    default=True,
    show_default=True,
    help="Ask again what an earlier run got no answer to.",
)
@click.option(
    "--probe-again", is_flag=True, help="Find out anew what the server can do, then judge."
)
@click.option("--dry-run", is_flag=True, help="Say what would be asked and cost; send nothing.")
@click.option(
    "--check",
    is_flag=True,
    help="Ask nothing: hold the newest judge, or --scores, against people's votes; with FILE, the "
    "judges' scores in labelled files against their labels, without a project.",
)
@click.option(
    "--judges",
    metavar="PATTERN,...",
    callback=_patterns,
    help="With --check FILE: names of the judges' scores or labels.  [default: llm:*]",
)
@click.option(
    "--people",
    metavar="PATTERN",
    help="With --check FILE: scores that people gave, such as 'human:*'.  [default: their labels]",
)
@click.option(
    "--inject",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="With --check: ask a rubric's judge about N of its responses again, with a line that asks "
    "for the highest grade and with a harmless one: 2 N judgements.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    callback=plot_path,
    help="With --check: draw it, .png a picture, .html a page.",
)
@json_option
@project_option
def judge(
    files: tuple[Path, ...],
    judges: list[str] | None,
    people: str | None,
    inject: int | None,
    limit: int | None,
    seed: int,
    retry_errors: bool,
    probe_again: bool,
    wait: bool,
    dry_run: bool,
    check: bool,
    plot: Path | None,
    as_json: bool,
    project_dir: Path | None,
    **flags: Any,
) -> None:
    """Have a model score the responses, and map the prompts by that.

    \b
    rubric        a judge grades each response by a rubric's criteria
    reference     a strong model answers each prompt; responses are compared with that
    pairwise      a judge compares two responses, always in both orders
    reward-model  a sequence classifier in a local folder
    peer, data    no judge: the maps of `annotator map`, with and without --scores

    A grade is the mean of the judge's own distribution over the scale, read from log-probs, and
    its variance is the judge's doubt. Where a server gives no log-probs nothing else is put in
    their place: choose --uncertainty samples (several answers for each grade) or none.

    Every answer is kept, so nothing is paid for twice: the same command goes on where it
    stopped, and asks again what was not answered. A response without an answer has no score.
    Exit status 3: some calls have no answer.

    The key in OPENAI_API_KEY goes to OpenAI, or to the server of OPENAI_BASE_URL, and to no other.
    A server that annotator.toml or --base-url names gets the key in the variable that key_variable
    or --key-variable names, or none.

    --check asks nothing: it says how far a judge can be trusted, against people's votes, or with
    FILE against the labels beside its scores. --check --inject N asks it again, to see whether a
    response can talk it into a higher grade; those answers become no scores.
    """
    _refuse_what_has_no_part(click.get_current_context())
    if files:
        check_files(files, judges, people, seed, plot, as_json)
        return
    with open_project(project_dir) as project:
        given = {name: value for name, value in flags.items() if value is not None}
        if "base_url" in given:
            given.setdefault("key_variable", None)  # the file's is for the file's server
        settings = project.settings.judge.model_copy(update=given)
        ask = Ask(project, settings, limit, seed, retry_errors, probe_again, wait, as_json)
        if inject is not None:
            check_planted(ask, inject, plot, dry_run)
        elif check:
            check_judge(ask, plot)
        elif settings.route in ("peer", "data"):
            _map_without_a_judge(ask, dry_run)
        elif settings.route == "reward-model":
            _by_reward_model(ask, dry_run)
        elif dry_run:
            foretell(ask)
        else:
            _judge(ask)


def _judge(ask: Ask) -> None:
    """Probes, asks, records, maps and reports."""
    judge, route, run = asked(ask, route_of_settings)
    recorded = None if run.interrupted else route.record()
    n_open = _n_open(ask, route, run)
    build = _map(ask, recorded.method) if recorded and not n_open else None
    db = ask.project.db
    told = (db, ask.settings, judge, route, run, recorded)
    if ask.as_json:
        echo_json(report.run_document(*told) | {"map": report.map_document(db, build)})
    else:
        rows = report.run_rows(*told)
        if recorded and n_open and ask.limit is None:
            rows.append(("map", _not_made(ask, recorded.method, n_open)))
        elif recorded:
            rows += _map_rows(ask, build)
        echo_rows(rows)
    exit_unless_whole(ask, run)


def _n_open(ask: Ask, route: Route, run: RunReport) -> int:
    """Calls without an answer that a later run can get one to; at least 1 of a stopped run.

    What was refused, and what could not be read however often it was asked, is settled.
    """
    settled = run.ok + run.cached + run.repeated + run.refused + run.parse_error
    return max(route.n_calls(ask.limit) - settled, run.stopped is not None)


def _not_made(ask: Ask, method: str, n_open: int) -> str:
    from annotator.errors import ScoreError
    from annotator.signals.scores import NEWEST_JUDGE, method_named

    try:
        is_newest = method_named(ask.project.db, NEWEST_JUDGE) == method
    except ScoreError:
        is_newest = False
    name = NEWEST_JUDGE if is_newest else f"'{method}'"
    have = "call has" if n_open == 1 else "calls have"
    return (
        f"not made: {n_open:,} {have} no answer; `annotator map --scores {name}` makes it of what "
        "there is"
    )


def _map_rows(ask: Ask, build: MapBuild | None) -> report.Rows:
    return report.map_rows(ask.project.db, ask.settings.route, build, ask.limit)


def _map(ask: Ask, method: str) -> MapBuild | None:
    """The map of the new scores; None of a part, or where too few prompts have two scores."""
    from annotator.errors import ScoreError
    from annotator.signals.datamap import build_map

    if ask.limit is not None:
        return None
    try:
        return build_map(ask.project.db, ask.project.database_path, None, method, ask.seed)
    except ScoreError:
        return None


# What needs no server


def _map_without_a_judge(ask: Ask, dry_run: bool) -> None:
    from annotator.signals.scores import PEER_AGREEMENT

    wanted = PEER_AGREEMENT if ask.settings.route == "peer" else ask.settings.scores
    if wanted is None:
        raise click.UsageError("--route data needs --scores NAME, or [judge] scores")
    if dry_run:
        echo_rows([("route", f"{wanted}: no call is made, and nothing is paid for")])
    else:
        build_and_report(ask.project, wanted, None, ask.seed, ask.as_json)


def _by_reward_model(ask: Ask, dry_run: bool) -> None:
    from annotator.errors import Incomplete
    from annotator.signals.datamap import check_candidates
    from annotator.signals.judges.reward_model import RewardModel, score_responses

    db = ask.project.db
    check_candidates(db)
    model = RewardModel(_model_folder(ask))
    if dry_run:
        echo_rows([("route", f"{model.method}, on this machine"), ("price", "nothing")])
        return
    scored = score_responses(db, model, limit=ask.limit)
    build = _map(ask, scored.method)
    if ask.as_json:
        mapped = report.map_document(db, build)
        echo_json({"route": "reward-model", **scored.__dict__, "map": mapped})
    else:
        echo_rows([*report.reward_rows(scored), *_map_rows(ask, build)])
    if scored.n_too_long:
        raise Incomplete(
            f"{scored.n_too_long:,} responses are by themselves longer than the model's window",
            expected=f"at most {scored.window:,} tokens",
            todo="they have no score; a model with a longer window could give them one",
        )


def _model_folder(ask: Ask) -> Path:
    here = Path(ask.model).expanduser()
    return here if here.is_dir() else ask.project.folder / here
