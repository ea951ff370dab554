"""What the commands about a judge share: what a person wants, the server, and the asking."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from annotator.cli import judge_report as report
from annotator.cli.base import Project, echo_json, echo_rows, embed_first

if TYPE_CHECKING:
    from annotator.config import JudgeSettings
    from annotator.signals.judges.capabilities import Findings
    from annotator.signals.judges.client import ClientSettings
    from annotator.signals.judges.keys import ServerKey
    from annotator.signals.judges.prices import Price
    from annotator.signals.judges.reference_route import Similarity
    from annotator.signals.judges.routes import Judge, Route
    from annotator.signals.judges.runner import RunReport, RunSettings

AnyRoute = TypeVar("AnyRoute", bound="Route")


@dataclass(frozen=True)
class Ask:
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
    def key(self) -> ServerKey:
        """The server's key; raises ConfigError where one is missing."""
        from annotator.signals.judges.keys import server_key

        return server_key(self.settings.base_url, self.settings.key_variable, os.environ)

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


def found_judge(ask: Ask, findings: Findings | None) -> Judge:
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


def route_of_settings(ask: Ask, judge: Judge) -> Route:
    """The route that settings and flags name."""
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
        rubric = load_pair_rubric(rubric_file(ask, name))
        return PairwiseRoute(db, judge, rubric, opponents=settings.opponents, seed=ask.seed)
    return RubricRoute(db, judge, load_rubric(rubric_file(ask, settings.rubric)))


def rubric_file(ask: Ask, name: str) -> str:
    """A path is one from here, or from the project's folder."""
    beside = ask.project.folder / name
    return str(beside) if beside.is_file() and not Path(name).is_file() else name


def _similarity(ask: Ask) -> Similarity:
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


def foretell(ask: Ask, route_of: Callable[[Ask, Judge], Route] = route_of_settings) -> None:
    """What a run would do, by what is on record."""
    from annotator.signals.datamap import check_candidates
    from annotator.signals.judges.capabilities import known_findings
    from annotator.signals.judges.forecast import forecast

    db, price = ask.project.db, ask.price
    check_candidates(db)
    findings = known_findings(db, ask.host, ask.model)
    judge = found_judge(ask, findings)
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


def asked(
    ask: Ask, route_of: Callable[[Ask, Judge], AnyRoute]
) -> tuple[Judge, AnyRoute, RunReport]:
    """Probes and asks: the judge as it was found, what it was asked, what became of that."""
    from annotator.signals.datamap import check_candidates
    from annotator.signals.judges.capabilities import ensure_findings

    project = ask.project
    check_candidates(project.db)
    settings, where = ask.run_settings(), _where(ask)
    findings = ensure_findings(
        project.db, project.database_path, where, ask.model, settings, again=ask.probe_again
    )
    judge = found_judge(ask, findings)
    route = route_of(ask, judge)
    return judge, route, _ask_all(ask, route, where, settings)


def _where(ask: Ask) -> ClientSettings:
    """The server and its key, or a word on the key that it does not get."""
    from annotator.signals.judges.client import ClientSettings

    key = ask.key
    if key.notice:
        click.echo(key.notice, err=True)
    return ClientSettings(ask.settings.base_url, key.value)


def _ask_all(ask: Ask, route: Route, where: ClientSettings, settings: RunSettings) -> RunReport:
    from annotator.progress import progress_bar
    from annotator.signals.judges.batches import run_batches
    from annotator.signals.judges.runner import run_calls

    in_batches = partial(run_batches, purpose=route.purpose, wait=ask.wait)
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


def _say_that_another_judges() -> None:
    click.echo("another process judges this project; waiting for it to end", err=True)


def exit_unless_whole(ask: Ask, run: RunReport) -> None:
    """Ends the command with what is wrong, if anything is: not all answered, stopped, or Ctrl-C."""
    from annotator.errors import Incomplete, JudgeBudget

    if run.interrupted:
        raise KeyboardInterrupt
    if run.problem is not None and not isinstance(run.problem, JudgeBudget):
        raise run.problem
    failed = report.failures(run)
    if failed or run.stopped:
        raise Incomplete(
            run.stopped or f"some calls have no answer yet: {failed}",
            expected="an answer to every call",
            todo=run.problem.todo if run.problem else _todo(ask, run),
        )


def _todo(ask: Ask, run: RunReport) -> str:
    if run.in_batch and not run.incomplete:
        return "run the same command again: it fetches what is ready, and sends nothing twice"
    if report.only_refused(run):
        return "nothing: what was refused has no score, and is not asked again"
    again = "run the same command again: it asks what has no answer"
    if run.parse_error and not ask.settings.thinking:
        return f"{again}; where a model that reasons was cut off, set [judge] thinking first"
    return again
