"""`annotator export`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from annotator.cli.base import echo_json, echo_rows, json_option, open_project, project_option

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
@json_option
@project_option
def export(
    name: str,
    out: Path,
    hash_annotators: bool,
    consensus: str,
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

    Annotators are named by their ids alone. --hash-annotators hides these as well from people who
    do not have the database; it does not hide what a rationale, or the time of a vote, gives away.
    """
    from annotator.export.write import export_file, export_stream
    from annotator.rounds.believe import current_consensus

    how = {"hash_annotators": hash_annotators, "by_crowd": consensus == "crowd"}
    with open_project(project_dir) as project:
        if name != "votes":
            current_consensus(project.db, project.database_path)
        if str(out) == "-":
            report = export_stream(project.db, name, sys.stdout, **how)
        else:
            report = export_file(project.db, name, out, **how)
    left_out = dict(sorted(report.left_out.items()))
    summary = {
        "format": name,
        "out": str(out),
        "rows": report.rows,
        "pairs": report.pairs,
        "left_out": left_out,
    }
    if as_json and str(out) != "-":
        echo_json(summary)
    elif str(out) != "-":
        echo_rows(_lines(summary, left_out))


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
