"""`annotator judge`: what a model thinks of the responses, and what that costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from annotator.cli import judge_report as report
from annotator.cli.base import (
    Project,
    echo_json,
    echo_rows,
    embed_first,
    json_option,
    open_project,
    project_option,
)
from annotator.cli.map import build_and_report, plot_path

if TYPE_CHECKING:
    from annotator.config import JudgeSettings
    from annotator.judge_check.account import JudgeCheck
    from annotator.judge_check.planted import PlantedRoute
    from annotator.signals.datamap import MapBuild
    from annotator.signals.judges.capabilities import Findings
    from annotator.signals.judges.client import ClientSettings
    from annotator.signals.judges.prices import Price
    from annotator.signals.judges.reference_route import Similarity
    from annotator.signals.judges.routes import Judge, Route
    from annotator.signals.judges.runner import RunReport, RunSettings

AnyRoute = TypeVar("AnyRoute", bound="Route")

ROUTES = ("rubric", "reference", "pairwise", "reward-model", "peer", "data")
KEY_VARIABLE = "OPENAI_API_KEY"
OPENAI_HOST = "api.openai.com"


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
    The key comes from OPENAI_API_KEY. Exit status 3: some calls have no answer.

    --check asks nothing: it says how far a judge can be trusted, against people's votes, or with
    FILE against the labels beside its scores. --check --inject N asks it again, to see whether a
    response can talk it into a higher grade; those answers become no scores.
    """
    _refuse_what_has_no_part(click.get_current_context())
    if files:
        _check_files(files, judges, people, seed, plot, as_json)
        return
    with open_project(project_dir) as project:
        given = {name: value for name, value in flags.items() if value is not None}
        settings = project.settings.judge.model_copy(update=given)
        ask = _Ask(project, settings, limit, seed, retry_errors, probe_again, wait, as_json)
        if inject is not None:
            _check_planted(ask, inject, plot, dry_run)
        elif check:
            _check(ask, plot)
        elif settings.route in ("peer", "data"):
            _map_without_a_judge(ask, dry_run)
        elif settings.route == "reward-model":
            _by_reward_model(ask, dry_run)
        elif dry_run:
            _foretell(ask)
        else:
            _judge(ask)


@dataclass(frozen=True)
class _Ask:
    """What the person wants, flags and settings taken together."""

    project: Project
    settings: JudgeSettings
    limit: int | None
    seed: int
    retry_errors: bool
    probe_again: bool
    wait: bool
    as_json: bool

    @property
    def price(self) -> Price | None:
        """The price of a call, live; run_batches takes its own."""
        from annotator.signals.judges.prices import price_of

        table = self.settings.prices
        return price_of(self.model, self.project.folder / table if table else None)

    @property
    def model(self) -> str:
        from annotator.errors import ConfigError

        if self.settings.model:
            return self.settings.model
        raise ConfigError(
            "no judge is configured",
            expected="the name of a model, or a reward model's folder",
            todo="set [judge] model in annotator.toml, or pass --model; without any judge, "
            "`annotator map` goes by peer agreement",
        )

    @property
    def where(self) -> ClientSettings:
        """The server and its key; raises ConfigError where OpenAI's is missing."""
        from annotator.errors import ConfigError
        from annotator.signals.judges.client import ClientSettings

        key = os.environ.get(KEY_VARIABLE) or None
        if key is None and self.host.split("/")[0] == OPENAI_HOST:
            raise ConfigError(
                f"{OPENAI_HOST} wants a key, and {KEY_VARIABLE} is not set",
                expected="your API key in that variable, or a server of your own",
                todo=f"export {KEY_VARIABLE}=..., or set [judge] base_url, for example to "
                "http://localhost:11434/v1",
            )
        return ClientSettings(self.settings.base_url, key)

    @property
    def host(self) -> str:
        from annotator.signals.judges.client import OPENAI_URL, host_of

        return host_of(self.settings.base_url or OPENAI_URL)

    def run_settings(self) -> RunSettings:
        """Raises JudgeBudget where there is a cap and no price to hold against it."""
        from annotator.signals.judges.runner import RunSettings, check_cap

        settings = self.settings
        wanted = RunSettings(
            concurrency=settings.concurrency,
            timeout=settings.timeout,
            retries=settings.retries,
            max_cost=settings.max_cost,
            price=self.price,
            retry_errors=self.retry_errors,
        )
        check_cap(wanted)  # the probe is a request too
        return wanted


# What goes to a server


def _found_judge(ask: _Ask, findings: Findings | None) -> Judge:
    """The judge as it was found; before any probe, as it is hoped to be."""
    from annotator.signals.judges.capabilities import choose_how
    from annotator.signals.judges.routes import Judge

    settings = ask.settings
    wanted = "none" if settings.route == "reference" else settings.uncertainty
    if findings is None:
        how = "integer" if wanted == "none" else wanted
        samples = settings.samples if how == "samples" else 1
        return Judge(ask.model, ask.host, how, samples, seed=ask.seed, thinking=settings.thinking)
    return Judge.found(
        findings,
        choose_how(findings, wanted),
        samples=settings.samples,
        seed=ask.seed,
        thinking=settings.thinking,
    )


def _route(ask: _Ask, judge: Judge) -> Route:
    from annotator.signals.judges.pairwise_route import PairwiseRoute
    from annotator.signals.judges.reference_route import ReferenceRoute
    from annotator.signals.judges.rubric import (
        DEFAULT_PAIR_RUBRIC,
        DEFAULT_RUBRIC,
        load_pair_rubric,
        load_rubric,
    )
    from annotator.signals.judges.rubric_route import RubricRoute

    settings, db = ask.settings, ask.project.db
    if settings.route == "reference":
        return ReferenceRoute(db, judge, settings.similarity, lambda: _similarity(ask))
    if settings.route == "pairwise":
        name = DEFAULT_PAIR_RUBRIC if settings.rubric == DEFAULT_RUBRIC else settings.rubric
        rubric = load_pair_rubric(_rubric_file(ask, name))
        return PairwiseRoute(db, judge, rubric, opponents=settings.opponents, seed=ask.seed)
    return RubricRoute(db, judge, load_rubric(_rubric_file(ask, settings.rubric)))


def _rubric_file(ask: _Ask, name: str) -> str:
    """A path is one from here, or from the project's folder."""
    beside = ask.project.folder / name
    return str(beside) if beside.is_file() and not Path(name).is_file() else name


def _similarity(ask: _Ask) -> Similarity:
    from annotator.signals.encoder import load_encoder
    from annotator.signals.judges.reference_route import Cosine, RougeL

    if ask.settings.similarity == "rouge-l":
        return RougeL()
    project, encoder = ask.project, ask.project.settings.encoder
    encoder_id = embed_first(project)
    loaded = load_encoder(encoder.name, precision=encoder.precision)
    return Cosine(
        project.db, project.database_path, encoder_id, lambda texts: loaded.encode(texts).vectors
    )


def _foretell(ask: _Ask, route_of: Callable[[_Ask, Judge], Route] = _route) -> None:
    """What a run would do, by what is on record."""
    from annotator.signals.datamap import check_candidates
    from annotator.signals.judges.capabilities import known_findings
    from annotator.signals.judges.forecast import forecast

    db, price = ask.project.db, ask.price
    check_candidates(db)
    findings = known_findings(db, ask.host, ask.model)
    judge = _found_judge(ask, findings)
    route = route_of(ask, judge)
    if price is not None and ask.settings.mode == "batch":
        price = price.for_batch()
    found = forecast(db, judge.host, route.requests(ask.limit), price)
    spent, probed = report.spent_at_most(db), findings is not None
    told = (ask.settings, judge, route, found, price, spent)
    if ask.as_json:
        echo_json(report.forecast_document(*told, probed=probed))
    else:
        echo_rows(report.forecast_rows(*told, probed=probed))


def _judge(ask: _Ask) -> None:
    """Probes, asks, records, maps and reports."""
    judge, route, run = _asked(ask, _route)
    recorded = None if run.interrupted else route.record()
    build = _map(ask, recorded.method) if recorded else None
    db = ask.project.db
    told = (db, ask.settings, judge, route, run, recorded)
    if ask.as_json:
        echo_json(report.run_document(*told) | {"map": report.map_document(db, build)})
    else:
        map_rows = _map_rows(ask, build) if recorded else []
        echo_rows([*report.run_rows(*told), *map_rows])
    _exit_unless_whole(ask, run)


def _asked(
    ask: _Ask, route_of: Callable[[_Ask, Judge], AnyRoute]
) -> tuple[Judge, AnyRoute, RunReport]:
    """Probes and asks: the judge as it was found, what it was asked, what became of that."""
    from annotator.signals.datamap import check_candidates
    from annotator.signals.judges.capabilities import ensure_findings

    project = ask.project
    check_candidates(project.db)
    settings, where = ask.run_settings(), ask.where
    findings = ensure_findings(
        project.db, project.database_path, where, ask.model, settings, again=ask.probe_again
    )
    judge = _found_judge(ask, findings)
    route = route_of(ask, judge)
    return judge, route, _ask_all(ask, route, where, settings)


def _ask_all(ask: _Ask, route: Route, where: ClientSettings, settings: RunSettings) -> RunReport:
    from annotator.progress import progress_bar
    from annotator.signals.judges.batches import run_batches
    from annotator.signals.judges.runner import run_calls

    in_batches = partial(run_batches, wait=ask.wait)
    run: Callable[..., RunReport] = in_batches if ask.settings.mode == "batch" else run_calls
    with progress_bar(route.n_calls(ask.limit), "judge", "calls") as progress:
        return run(
            ask.project.db,
            ask.project.database_path,
            route.requests(ask.limit),
            where,
            settings,
            route.check,
            progress,
            _say_that_another_judges,
        )


def _map_rows(ask: _Ask, build: MapBuild | None) -> report.Rows:
    return report.map_rows(ask.project.db, ask.settings.route, build, ask.limit)


def _say_that_another_judges() -> None:
    click.echo("another process judges this project; waiting for it to end", err=True)


def _map(ask: _Ask, method: str) -> MapBuild | None:
    """The map of the new scores; None of a part, or where too few prompts have two scores."""
    from annotator.errors import ScoreError
    from annotator.signals.datamap import build_map

    if ask.limit is not None:
        return None
    try:
        return build_map(ask.project.db, ask.project.database_path, None, method, ask.seed)
    except ScoreError:
        return None


def _exit_unless_whole(ask: _Ask, run: RunReport) -> None:
    from annotator.errors import Incomplete, JudgeBudget

    if run.interrupted:
        raise KeyboardInterrupt
    if run.problem is not None and not isinstance(run.problem, JudgeBudget):
        raise run.problem
    failed = report.failures(run)
    if failed or run.stopped:
        raise Incomplete(
            run.stopped or f"some calls have no answer: {failed}",
            expected="an answer to every call",
            todo=run.problem.todo if run.problem else _todo(ask, run),
        )


def _todo(ask: _Ask, run: RunReport) -> str:
    if report.only_refused(run):
        return "nothing: what was refused has no score, and is not asked again"
    again = "run the same command again: it asks what has no answer"
    if run.parse_error and not ask.settings.thinking:
        return f"{again}; where a model that reasons was cut off, set [judge] thinking first"
    return again


# What needs no server


def _map_without_a_judge(ask: _Ask, dry_run: bool) -> None:
    from annotator.signals.scores import PEER_AGREEMENT

    wanted = PEER_AGREEMENT if ask.settings.route == "peer" else ask.settings.scores
    if wanted is None:
        raise click.UsageError("--route data needs --scores NAME, or [judge] scores")
    if dry_run:
        echo_rows([("route", f"{wanted}: no call is made, and nothing is paid for")])
    else:
        build_and_report(ask.project, wanted, None, ask.seed, ask.as_json)


def _by_reward_model(ask: _Ask, dry_run: bool) -> None:
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


def _model_folder(ask: _Ask) -> Path:
    here = Path(ask.model).expanduser()
    return here if here.is_dir() else ask.project.folder / here


# How far it can be trusted


def _check(ask: _Ask, plot: Path | None) -> None:
    from annotator.judge_check.project import check_project
    from annotator.signals.scores import NEWEST_JUDGE, method_named

    method = method_named(ask.project.db, ask.settings.scores or NEWEST_JUDGE)
    _show_check(check_project(ask.project.db, [method], seed=ask.seed), plot, ask.as_json)


def _check_files(
    files: tuple[Path, ...],
    judges: list[str] | None,
    people: str | None,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    from annotator.judge_check.labelled import JUDGES, check_files

    found = check_files(files, judges=judges or JUDGES, people=people, seed=seed)
    _show_check(found, plot, as_json)


def _check_planted(ask: _Ask, n: int, plot: Path | None, dry_run: bool) -> None:
    """Asks about planted lines, and shows what they won beside the rest of the check."""
    if ask.settings.route != "rubric":
        raise click.UsageError(
            f"--inject is for judges that grade each response: it needs --route rubric, and the "
            f"route is {ask.settings.route}"
        )
    if dry_run:
        _foretell(ask, partial(_planted_route, n=n))
        return
    from annotator.judge_check.planted import check_planted

    judge, route, run = _asked(ask, partial(_planted_route, n=n))
    told = (ask.project.db, ask.settings, judge, route, run, None)
    found = check_planted(ask.project.db, route, seed=ask.seed)
    found.document["asked"] = report.run_document(*told)
    _show_check(found, plot, ask.as_json, report.run_rows(*told))
    _exit_unless_whole(ask, run)


def _planted_route(ask: _Ask, judge: Judge, n: int) -> PlantedRoute:
    from annotator.judge_check.planted import PlantedRoute
    from annotator.signals.judges.rubric import load_rubric

    rubric = load_rubric(_rubric_file(ask, ask.settings.rubric))
    return PlantedRoute(ask.project.db, judge, rubric, n, ask.seed)


def _show_check(
    found: JudgeCheck, plot: Path | None, as_json: bool, asked: report.Rows | None = None
) -> None:
    """Draws and prints a check; `asked` is what was asked for it, in rows."""
    from annotator.judge_check.words import lines

    if plot is not None:
        _draw_check(found, plot)
    if as_json:
        echo_json(found.document)
        return
    if asked:
        echo_rows([*asked, ("", "")])
    for line in lines(found.document):
        click.echo(line)


def _draw_check(found: JudgeCheck, path: Path) -> None:
    from annotator.judge_check import words
    from annotator.report.judge_plot import judge_page, save_judge_png

    if path.suffix.lower() == ".png":
        save_judge_png(found.document, found.length, found.score, path)
        return
    page = judge_page(
        found.document,
        found.length,
        found.score,
        judge=words.judge_in_words(found.document),
        people=words.people_in_words(found.document),
        sentences=words.sentences(found.document),
        tables=words.tables(found.document),
    )
    path.write_text(page, encoding="utf-8")
