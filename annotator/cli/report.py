"""`annotator report`: where the project stands, as one HTML file that needs no network."""

from __future__ import annotations

import os
from pathlib import Path

import click

from annotator.cli.base import Project, open_project, project_option


def _page_path(_: click.Context, __: click.Parameter, path: Path) -> Path:
    """Refuses, before anything is computed, a path that no page could be written to."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(f"{path} does not end in .html, and a page is what is written")
    if not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}")
    return path


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE.html",
    callback=_page_path,
    help="Where the page is written.",
)
@click.option("--open", "open_", is_flag=True, help="Show it in the browser when it is done.")
@project_option
def report(out: Path, open_: bool, project_dir: Path | None) -> None:
    """Write where the project stands as one HTML file.

    What was spent and what was saved, the savings curve, the budget, the data map with prompts to
    read, agreement and annotators, suspect labels, the judge against people, rounds. The file needs
    no network and no script, prints, and follows the reader's light or dark.

    Texts of some prompts stand in the file: those with suspect labels and a sample of the map's.
    Whoever gets the file can read them, and the annotators' names.

    A part that cannot be had says why in its place. Exit status 3: a part failed that should not
    have.
    """
    with open_project(project_dir) as project:
        html, faults = _page(project)
    _write_whole(html, out)
    click.echo(f"{out}, {out.stat().st_size / 1e6:.1f} MB")
    if open_:
        click.launch(out.absolute().as_uri())
    if faults:
        from annotator.errors import Incomplete

        raise Incomplete(
            f"the page is written, but a part failed: {'; '.join(faults)}",
            todo="run `annotator doctor`; if it finds nothing, please report this",
        )


def _page(project: Project) -> tuple[str, list[str]]:
    """The page, and the parts that failed."""
    from annotator.progress import progress_bar
    from annotator.report.project_report import report_html
    from annotator.report.project_view import PARTS, project_view, readable_prompts

    with progress_bar(len(PARTS) + 2, "report", "parts") as advance:
        _believe(project)
        advance(1)
        view = project_view(
            project.db, project.database_path, project.settings, tell=lambda _: advance(1)
        )
        view["readable"] = readable_prompts(project.db, view)
        advance(1)
    faults = [f"{name}: {view[name]['missing']}" for name in PARTS if view[name].get("fault")]
    return report_html(view), faults


def _believe(project: Project) -> None:
    """The newest consensus, whose skills the page shows; without one it says so itself."""
    from annotator.errors import AnnotatorError
    from annotator.rounds.believe import current_consensus

    try:
        current_consensus(project.db, project.database_path)
    except AnnotatorError as error:
        click.echo(f"note: no new consensus: {error.found}", err=True)


def _write_whole(html: str, out: Path) -> None:
    """Puts the page in its place in one step: nobody ever sees half of it, nor is it lost."""
    from annotator.errors import AnnotatorError

    half = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        # A lone half of a surrogate pair, which JSON may hold, is no text that a file can hold.
        half.write_bytes(html.encode("utf-8", "replace"))
        half.replace(out)
    except OSError as error:
        raise AnnotatorError(
            f"{out} cannot be written: {error.strerror or error}",
            expected="a folder that may be written to, with room in it",
            todo="name another file with --out",
        ) from error
    finally:
        half.unlink(missing_ok=True)
