"""`annotator export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from annotator.cli.base import (
    Project,
    echo_json,
    echo_rows,
    json_option,
    open_project,
    project_option,
)
from annotator.cli.route import check_before_use

if TYPE_CHECKING:
    from annotator.export.write import ExportReport

# Named here again so that --help need not import what writes them; a test compares.
FORMAT_NAMES = ("trl", "trl-conversational", "hh", "votes")
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


def _known_ending(_context: click.Context, _option: click.Parameter, out: Path) -> Path:
    if str(out) != "-" and not out.name.lower().endswith(ENDINGS):
        raise click.BadParameter(
            f"{str(out)!r} ends in none of {', '.join(ENDINGS)}; - is standard output."
        )
    return out


@click.command()
@click.option(
    "--format",
    "name",
    type=click.Choice(FORMAT_NAMES),
    default="trl",
    show_default=True,
    help="trl: prompt, chosen, rejected as texts; trl-conversational: as messages; hh: "
    "transcripts; votes: every vote as it was given.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    callback=_known_ending,
    help="FILE.jsonl, FILE.jsonl.gz or FILE.parquet; - for JSON lines on standard output.",
)
@click.option(
    "--hash-annotators",
    is_flag=True,
    help="Keyed hashes in place of annotators' ids, the same in every export of this database. "
    "Whoever has the database can undo it.",
)
@click.option(
    "--consensus",
    type=click.Choice(["votes", "crowd"]),
    default="votes",
    show_default=True,
    help="What makes a response the chosen one: most of the pair's votes; or the crowd, which "
    "weighs people by their skill and knows the other pairs, where it is 80 % sure.",
)
@click.option(
    "--machine-labels",
    is_flag=True,
    help="Also the pairs that a certificate of `annotator route` leaves to a machine.",
)
@json_option
@project_option
def export(
    name: str,
    out: Path,
    hash_annotators: bool,
    consensus: str,
    machine_labels: bool,
    as_json: bool,
    project_dir: Path | None,
) -> None:
    """Write the labelled pairs, each row with where it is from.

    Every row carries round, arm, strategy, score, propensity and seed. Propensity is the chance
    with which the pair was drawn; null where the pick was not drawn at random.

    Rows with a chosen response carry `grades`, what each vote says of it (chosen_much_better to
    rejected_much_better), and `margin`, their mean with 2 for much better, 1 for better, 0 for
    tie and both-bad, negative for the rejected; and `probability`, how sure the crowd is that most
    people who take a side prefer the chosen one. Ties, both-bad and disputed pairs have no
    preferred response: they are left out of all formats but `votes`, and counted. So are gold
    pairs, and what somebody says when shown a pair again.

    With --machine-labels the rows of machines come after those of people, and never for a pair that
    a person has voted on. `label_source` names the judge, or the posterior, instead of human;
    `certificate`, `guarantee` and the columns beside them say what is promised of all rows of that
    certificate together, `probability` what the source says of the pair. Labels of a certificate
    that is void are left out, and counted.

    Annotators are named by their ids alone. --hash-annotators hides these as well from people who
    do not have the database; it does not hide what a rationale, or the time of a vote, gives away.
    """
    from annotator.export.write import export_file, export_stream
    from annotator.rounds.believe import current_consensus

    if machine_labels and name == "votes":
        raise click.UsageError("--machine-labels are no votes: choose another --format")
    how = {
        "hash_annotators": hash_annotators,
        "by_crowd": consensus == "crowd",
        "by_machines": machine_labels,
    }
    with open_project(project_dir) as project:
        if name != "votes":
            current_consensus(project.db, project.database_path)
        if machine_labels:
            check_before_use(project)
        if str(out) == "-":
            report = export_stream(project.db, name, sys.stdout, **how)
        else:
            report = export_file(project.db, name, out, **how)
        words = _of_machines(project, report) if machine_labels else None
    left_out = dict(sorted(report.left_out.items()))
    summary = {
        "format": name,
        "out": str(out),
        "rows": report.rows,
        "pairs": report.pairs,
        "left_out": left_out,
    }
    if machine_labels:
        summary["machine_labels"] = {"rows": dict(report.machine), "void": dict(report.void)}
    if as_json and str(out) != "-":
        echo_json(summary)
    elif str(out) != "-":
        echo_rows(_lines(summary, left_out) + (words or []))


def _of_machines(project: Project, report: ExportReport) -> list[tuple[str, object]]:
    """Which rows are machines', on what promise, and which labels have none any more."""
    from annotator.budget.certificates import certificates
    from annotator.budget.route import source_in_words

    known = {one.id: one for one in certificates(project.db)}
    lines: list[tuple[str, object]] = [
        (
            "machines",
            f"{n:,} of these rows are by {source_in_words(known[i].source)}, certificate {i}: "
            f"{known[i].guarantee}",
        )
        for i, n in sorted(report.machine.items())
    ]
    lines += [
        ("left out", f"{n:,} labels of certificate {i}, which is void: {known[i].void_because}")
        for i, n in sorted(report.void.items())
    ]
    return lines or [("machines", "no certificate leaves a pair to a machine")]


def _lines(summary: dict[str, object], left_out: dict[str, int]) -> list[tuple[str, object]]:
    lines = [
        (
            "wrote",
            f"{summary['rows']:,} rows of {summary['pairs']:,} labelled pairs to {summary['out']}",
        )
    ]
    if left_out:
        lines.append(
            (
                "left out",
                ", ".join(f"{n:,} {verdict.replace('_', ' ')}" for verdict, n in left_out.items()),
            )
        )
    return list(lines)
