"""`annotator annotators`: who labels, how far they agree, and who needs a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from annotator.cli.base import echo_json, json_option, open_project, project_option
from annotator.cli.map import plot_path


@click.command()
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    callback=plot_path,
    help="Draw it: .png a picture, .html a page.",
)
@click.option(
    "--minimum",
    type=click.FloatRange(0, 1),
    default=0.7,
    show_default=True,
    metavar="SHARE",
    help="Raise an alarm where the whole interval of somebody's gold answers, repeats or skill "
    "lies below.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="Draws the bootstrap.",
)
@json_option
@project_option
def annotators(
    plot: Path | None, minimum: float, seed: int, as_json: bool, project_dir: Path | None
) -> None:
    """List the people who label: votes, pace, agreement, skill, left bias, gold, repeats.

    All shares and alphas come with 95 % intervals, and an alarm is raised only where an interval's
    end crosses the line, never its value. Nobody with fewer than 20 votes is judged.

    agrees: how often one of their votes takes the side that another's takes on the same pair (with
    --json also alpha: the same against chance, 0 for chance, 1 for always). skill: the share of
    votes that follow the pair, from the newest consensus. left: of their votes that take a side;
    sides are drawn by lot, so it should be half, and an exact test says when it is not. gold: right
    answers, a tie where a side is right being wrong. again: the same side when shown the pair a
    second time.

    Agreement is measured on control pairs once 30 of them have two votes, and on first votes only:
    those that were asked for because people differed would bias it.
    """
    from annotator.annotators.project import people_of_project
    from annotator.annotators.words import lines
    from annotator.rounds.believe import current_consensus

    with open_project(project_dir) as project:
        current_consensus(project.db, project.database_path)
        document = people_of_project(project.db, minimum, seed=seed)
    if plot is not None:
        _draw(document, plot)
    if as_json:
        echo_json(document)
        return
    for line in lines(document):
        click.echo(_wrapped(line))
    if plot is not None:
        click.echo(f"\nplot  {plot}")


def _wrapped(line: str) -> str:
    """A long sentence in lines that fit a terminal, where there is one; tables as they are."""
    import shutil
    import sys
    import textwrap

    if not sys.stdout.isatty() or "  " in line:
        return line
    return "\n".join(textwrap.wrap(line, shutil.get_terminal_size().columns)) or line


def _draw(document: dict[str, Any], path: Path) -> None:
    from annotator.annotators import words
    from annotator.errors import AnnotatorError
    from annotator.report.annotators_plot import annotators_page, save_annotators_png

    if not document["people"]:
        raise AnnotatorError(
            "there is nothing to draw: nobody has voted yet",
            expected="votes of people",
            todo="label a batch, then run `annotator sync`",
        )
    if path.suffix.lower() == ".png":
        save_annotators_png(document, path)
        return
    page = annotators_page(document, words.sentences(document), words.tables(document))
    path.write_text(page, encoding="utf-8")
