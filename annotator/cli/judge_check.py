"""`annotator judge --check`: how far a judge can be trusted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from annotator.cli import judge_report as report
from annotator.cli.base import echo_json, echo_rows
from annotator.cli.judge_asking import Ask, asked, exit_unless_whole, foretell, rubric_file

if TYPE_CHECKING:
    from annotator.judge_check.account import JudgeCheck
    from annotator.judge_check.planted import PlantedRoute
    from annotator.signals.judges.routes import Judge


def check_judge(ask: Ask, plot: Path | None) -> None:
    """Holds a judge that has scored the project's responses against people's votes."""
    from annotator.judge_check.project import check_project
    from annotator.signals.scores import NEWEST_JUDGE, method_named

    method = method_named(ask.project.db, ask.settings.scores or NEWEST_JUDGE)
    _show_check(check_project(ask.project.db, [method], seed=ask.seed), plot, ask.as_json)


def check_files(
    files: tuple[Path, ...],
    judges: list[str] | None,
    people: str | None,
    seed: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Holds the scores that came with labelled files against the labels in them."""
    from annotator.judge_check.labelled import JUDGES, check_files

    found = check_files(files, judges=judges or JUDGES, people=people, seed=seed)
    _show_check(found, plot, as_json)


def check_planted(ask: Ask, n: int, plot: Path | None, dry_run: bool) -> None:
    """Asks about planted lines, and shows what they won beside the rest of the check."""
    if ask.settings.route != "rubric":
        raise click.UsageError(
            f"--inject is for judges that grade each response: it needs --route rubric, and the "
            f"route is {ask.settings.route}"
        )
    if dry_run:
        foretell(ask, partial(_planted_route, n=n))
        return
    from annotator.judge_check.planted import check_planted

    judge, route, run = asked(ask, partial(_planted_route, n=n))
    told = (ask.project.db, ask.settings, judge, route, run, None)
    found = check_planted(ask.project.db, route, seed=ask.seed)
    found.document["asked"] = report.run_document(*told)
    _show_check(found, plot, ask.as_json, report.run_rows(*told))
    exit_unless_whole(ask, run)


def _planted_route(ask: Ask, judge: Judge, n: int) -> PlantedRoute:
    from annotator.judge_check.planted import PlantedRoute
    from annotator.signals.judges.rubric import load_rubric

    rubric = load_rubric(rubric_file(ask, ask.settings.rubric))
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
    if plot is not None:
        click.echo(f"\nplot  {plot}")


def _draw_check(found: JudgeCheck, path: Path) -> None:
    from annotator.judge_check import words
    from annotator.report.judge_plot import judge_page, save_judge_png

    judge = words.judge_in_words(found.document)
    people = words.people_in_words(found.document)
    drawn = (found.document, found.length, found.score)
    if path.suffix.lower() == ".png":
        save_judge_png(*drawn, path, judge=judge, people=people)
        return
    page = judge_page(
        *drawn,
        judge=judge,
        people=people,
        sentences=words.sentences(found.document),
        tables=words.tables(found.document),
    )
    path.write_text(page, encoding="utf-8")
