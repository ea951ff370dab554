"""`annotator import`: candidates out of files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from annotator.candidates.formats import FORMATS
from annotator.cli.base import (
    Project,
    echo_json,
    json_option,
    open_project,
    project_option,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.candidates.outcome import Counts, ImportReport


def _columns(_context: click.Context, _option: click.Parameter, value: str | None) -> list[str]:
    """The names in a list with commas; one that holds a comma itself stands in quotes."""
    names = next(csv.reader([value or ""], skipinitialspace=True), [])
    return [name for name in map(str.strip, names) if name]


@click.command("import")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE...",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(list(FORMATS)),
    help="What the rows are.  [default: found file by file]",
)
@click.option(
    "--prompt",
    metavar="COL",
    help="Column that holds the prompts of a table.  [default: found by its name]",
)
@click.option(
    "--responses",
    metavar="COL,COL,...",
    callback=_columns,
    help="Columns that hold responses.  [default: those of text that are no known metadata]",
)
@click.option(
    "--dataset", metavar="NAME", help="Data set of rows that name none.  [default: the file's name]"
)
@click.option(
    "--gold",
    is_flag=True,
    help="The labels are known to be right: mix these pairs in among the others to see how often "
    "people are right. They are no candidates.",
)
@click.option("--dry-run", is_flag=True, help="Say what would come of it, write nothing.")
@json_option
@project_option
def import_(
    files: tuple[Path, ...],
    format_: str | None,
    prompt: str | None,
    responses: list[str],
    dataset: str | None,
    gold: bool,
    dry_run: bool,
    as_json: bool,
    project_dir: Path | None,
) -> None:
    """Take in prompts and responses, with the labels and scores that come along.

    FILE is JSON lines, CSV (both may be gzipped) or parquet, or a folder of such files. Known
    rows are recognised by their text, so importing a file twice adds nothing. Refused rows are
    listed, with their line and the reason, in a file beside the database; the exit status is
    then 3.

    In a table with one column per model, --prompt and --responses say which columns are meant;
    without them the rule is that of the README, and what it came to is printed.

    With --gold a row needs a label, of a person or of the kind objective; one that contradicts an
    earlier gold answer is refused.
    """
    if (prompt or responses) and format_ not in (None, "columns"):
        raise click.UsageError(f"--prompt and --responses are for columns, not for {format_}")
    from annotator.candidates.ingest import import_files, size_of
    from annotator.progress import progress_bar

    with (
        open_project(project_dir) as project,
        _target(project.db, dry_run) as db,
        progress_bar(size_of(files), "import", "B") as progress,
    ):
        report = import_files(
            db,
            files,
            format=format_,
            prompt=prompt,
            responses=responses,
            dataset=dataset,
            gold=gold,
            progress=progress,
        )
    if dry_run:
        report.rejects = None  # it went with the copy
    if as_json:
        echo_json(report.as_json() | {"dry_run": dry_run})
    else:
        _echo(report, dry_run)
    complain(report)


def take_in_gold(project: Project, file: Path | None) -> ImportReport | None:
    """Imports gold from `file`, else from the configured gold_file; None without either.

    Says on standard error what was new, and what was refused. Rows that were refused stop nothing,
    `complain` of them when the work is done; unless all were. Raises Incomplete then.
    """
    from annotator.candidates.ingest import import_files

    configured = project.settings.round.gold_file
    if file is None and configured is None:
        return None
    path = file or project.folder / str(configured)
    report = import_files(project.db, [path], gold=True)
    if report.total.anything_added:
        click.echo(f"took in {report.total.labels_added:,} gold answers from {path}", err=True)
    if report.total.rejected and not report.total.accepted:
        complain(report)
    if report.total.rejected:
        click.echo(f"{report.total.rejected:,} rows of {path} were refused; see below", err=True)
    return report


@contextmanager
def _target(db: Database, dry_run: bool) -> Iterator[Database]:
    """The database, or for a dry run a copy of it that is thrown away."""
    if not dry_run:
        yield db
        return
    from annotator.store import open_db

    with TemporaryDirectory(prefix="annotator-dry-run-") as folder:
        copy = Path(folder) / "copy.db"
        db.execute("VACUUM INTO ?", [str(copy)])
        scratch = open_db(copy)
        try:
            yield scratch
        finally:
            scratch.close()


def _echo(report: ImportReport, dry_run: bool) -> None:
    what = "gold" if report.purpose == "gold" else "labels"
    rows: list[tuple[str, ...]] = [("file", *(name.format(labels=what) for name in _COLUMNS))]
    rows += [(Path(r.file).name, *_cells(r.format, r.counts)) for r in report.files]
    if len(report.files) > 1:
        rows.append(("total", *_cells("", report.total)))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        left = [f"{cell:<{width}}" for cell, width in zip(row[:2], widths, strict=False)]
        right = [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        click.echo("  ".join(left + right))
    for line in _remarks(report, dry_run):
        click.echo(line)


_COLUMNS = ("format", "rows", "rejected", "prompts", "responses", "{labels}", "scores")


def _cells(format_: str, counts: Counts) -> tuple[str, ...]:
    new = (counts.prompts_added, counts.responses_added, counts.labels_added, counts.scores_added)
    return (format_, f"{counts.rows:,}", f"{counts.rejected:,}", *(f"+{n:,}" for n in new))


def _remarks(report: ImportReport, dry_run: bool) -> Iterator[str]:
    total = report.total
    known = total.responses_known
    yield from _column_remarks(report)
    if not total.anything_added:
        yield "nothing new"
    elif known:
        yield f"{known:,} responses were known already, or repeat another one of their row"
    if total.labels_void:
        yield f"{total.labels_void:,} labels compare two identical texts and were left out"
    if dry_run:
        yield "dry run: nothing was written"


def _column_remarks(report: ImportReport) -> Iterator[str]:
    for file in report.files:
        if file.columns_said:
            which = f"{Path(file.file).name}: " if len(report.files) > 1 else ""
            yield which + file.columns_said


def complain(report: ImportReport) -> None:
    """Raises Incomplete if anything that was read is not in the database."""
    from annotator.errors import Incomplete

    total = report.total
    if total.complete:
        return
    found = [f"{total.rejected:,} of {total.rows:,} rows rejected"]
    if total.scores_conflicting:
        found.append(f"{total.scores_conflicting:,} scores contradict the kept ones")
    raise Incomplete(
        "\n".join(["; ".join(found), *report.first_problems]),
        todo=f"all are listed in {report.rejects}" if report.rejects else "mend them or go on",
    )
