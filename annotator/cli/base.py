"""What every command shares: finding the project, the common options, errors for people."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from annotator.errors import AnnotatorError

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.config import EncoderSettings, Settings

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Project:
    """An open project: its folder, its settings and its database."""

    folder: Path
    settings: Settings
    db: Database

    @property
    def database_path(self) -> Path:
        return self.folder / self.settings.project.database


def project_option(command: Command) -> Command:
    """Adds --project DIR (or ANNOTATOR_PROJECT); the default is found from here upwards."""
    return click.option(
        "--project",
        "project_dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar="ANNOTATOR_PROJECT",
        help="Project folder.  [default: found from here upwards]",
    )(command)


def json_option(command: Command) -> Command:
    """Adds --json: the report as one JSON document on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@contextmanager
def open_project(project_dir: Path | None) -> Iterator[Project]:
    """The project at or above `project_dir` (default: here), its database open."""
    from annotator.config import find_project, load_settings
    from annotator.store import open_db

    folder = find_project(project_dir or Path.cwd())
    settings = load_settings(folder)
    db = open_db(folder / settings.project.database)
    try:
        yield Project(folder, settings, db)
    finally:
        db.close()


def encoder_settings(project_dir: Path | None) -> EncoderSettings:
    """The settings of the project's encoder; outside a project the default ones."""
    from annotator.config import EncoderSettings, find_project, load_settings
    from annotator.errors import ConfigError

    try:
        folder = find_project(project_dir or Path.cwd())
    except ConfigError:
        if project_dir:
            raise
        return EncoderSettings()
    return load_settings(folder).encoder


def user_cache(command: str) -> Path:
    """The folder in the user's cache where a command keeps what it may compute again."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "annotator" / command


def embed_first(project: Project) -> int:
    """The id of the project's encoder, every text having its vector; shows a progress bar."""
    from annotator.signals.embeddings import ensure_embedded

    settings = project.settings.encoder
    return ensure_embedded(
        project.db, project.database_path, settings.name, settings.precision
    ).encoder_id


def echo_json(document: Any) -> None:
    """Prints `document` as indented JSON on standard output."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def echo_rows(rows: list[tuple[str, object]]) -> None:
    """Prints name and value in two aligned columns."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}".rstrip())


class _Failure(click.ClickException):
    """An error for people: what was found, expected, to do; no traceback."""

    def __init__(self, error: Exception, exit_code: int) -> None:
        super().__init__(str(error))
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        first, *rest = self.message.split("\n")
        # The context, which says whether to colour, is closed by now.
        click.echo(click.style("error: ", fg="red") + first, err=True, color=_colour())
        for line in rest:
            click.echo(f"  {line}", err=True)


def _colour() -> bool | None:
    """False where NO_COLOR asks for none, which click leaves to us; None: a terminal decides."""
    return False if os.environ.get("NO_COLOR") else None


class AnnotatorGroup(click.Group):
    """The command group that turns our errors and Ctrl-C into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        ctx.color = _colour()
        try:
            return super().invoke(ctx)
        except AnnotatorError as error:
            raise _Failure(error, error.exit_code) from error
        except sqlite3.Error as error:
            from annotator.store.database import as_store_error

            raise _Failure(as_store_error(error), 1) from error
        except KeyboardInterrupt:
            click.echo("\nstopped; the same command goes on from here", err=True)
            raise click.exceptions.Exit(130) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from strategies.pool import StrategyError

            if isinstance(error, StrategyError):
                raise _Failure(error, 1) from error
            raise
