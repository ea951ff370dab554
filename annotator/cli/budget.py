"""`annotator budget`: what was spent, what is saved, and what the next votes would buy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from annotator.cli.base import echo_json, json_option, open_project, project_option


def _picture_path(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Refuses, before anything is computed, a path that no picture could be drawn at."""
    if path is not None and path.suffix.lower() != ".png":
        raise click.BadParameter(
            f"{path} does not end in .png; a page is what `annotator report --out FILE.html` makes"
        )
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}")
    return path


@click.command()
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.png",
    callback=_picture_path,
    help="Draw the savings curve and what was spent over time.",
)
@click.option(
    "--add",
    "amount",
    type=float,
    metavar="AMOUNT",
    help="Record money that was spent otherwise, in the project's currency; a correction is "
    "negative.",
)
@click.option("--note", metavar="TEXT", help="What --add was for; goes with it.")
@json_option
@project_option
def budget(
    plot: Path | None,
    amount: float | None,
    note: str | None,
    as_json: bool,
    project_dir: Path | None,
) -> None:
    """Say what was spent, what is saved, how good the model is, and what 100 votes more would buy.

    Spent: votes, hours that tasks were open, money for people by the rates under [budget] and for
    judges, by round and arm. An edited vote costs once, a skip costs time.

    Saved: votes that a uniform choice would have needed, measured on the control arm; and apart
    from that, votes spared by adaptive overlap, by inference and by certified routing.

    Every figure that is estimated has a 95 % interval. Advice to stop is given and never acted on.
    With --add the amount is recorded and nothing else is done.
    """
    if (amount is None) != (note is None):
        raise click.UsageError("--add AMOUNT and --note TEXT go together")
    with open_project(project_dir) as project:
        if amount is not None and note is not None:
            _add(project.db, amount, note, project.settings.budget.currency, as_json)
            return
        from annotator.budget.account import budget_account

        document = budget_account(project.db, project.database_path, project.settings)
    if plot is not None:
        from annotator.report.budget_plot import save_budget_png

        save_budget_png(document, plot)
    if as_json:
        echo_json(document)
        return
    from annotator.budget.words import screen

    for line in screen(document):
        click.echo(line)
    if plot is not None:
        click.echo(f"\nplot  {plot}")


def _add(db: Any, amount: float, note: str, currency: str, as_json: bool) -> None:
    from annotator.budget.ledger import add_spend, other_spend
    from annotator.budget.words import money

    add_spend(db, amount, note)
    other = other_spend(db)
    if as_json:
        echo_json({"added": amount, "note": note.strip(), "other": other})
        return
    click.echo(f"recorded  {money(amount, currency)}: {note.strip()}")
    click.echo(f"in all    {money(other['amount'], currency)} beside votes and judges")
