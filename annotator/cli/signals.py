"""`annotator embed`: what machines say of the texts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from annotator.cli.base import echo_json, echo_rows, json_option, open_project, project_option

if TYPE_CHECKING:
    from annotator.signals.embeddings import EmbedReport


@click.command()
@click.option(
    "--encoder",
    metavar="NAME",
    help="Name or folder of a sentence-transformers model.  [default: annotator.toml]",
)
@click.option("--again", is_flag=True, help="Compute every vector anew.")
@json_option
@project_option
def embed(encoder: str | None, again: bool, as_json: bool, project_dir: Path | None) -> None:
    """Compute the vectors of all texts that have none yet.

    Each distinct text is embedded once. A text longer than the encoder's window is read in
    chunks and averaged, never cut off. An interrupted run goes on where it stopped;
    `annotator next-batch` does all this by itself.
    """
    from annotator.signals.embeddings import ensure_embedded

    with open_project(project_dir) as project:
        settings = project.settings.encoder
        report = ensure_embedded(
            project.db,
            project.database_path,
            encoder or settings.name,
            settings.precision,
            again=again,
        )
    if as_json:
        echo_json(asdict(report) | {"seconds": round(report.seconds, 3)})
    else:
        echo_rows(_rows(report))


def _rows(report: EmbedReport) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("encoder", f"{report.encoder}, {report.dimension} dimensions"),
        ("texts", f"{report.total:,} distinct, of prompts and responses"),
        ("known", f"{report.known:,}"),
        ("added", f"{report.added:,}{_speed(report)}"),
    ]
    if report.chunked:
        rows.append(("chunked", f"{report.chunked:,} longer than the window: {report.chunking}"))
    return rows


def _speed(report: EmbedReport) -> str:
    if not report.added:
        return ""
    rate = report.added / max(report.seconds, 1e-9)
    return f" in {report.seconds:.1f} s ({rate:,.1f} texts/s)"
