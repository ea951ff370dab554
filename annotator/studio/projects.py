"""Owner of the table projects: which project on which server belongs to this database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from annotator.errors import StudioNotFound
from annotator.store import now, writing
from annotator.studio.screen import config_xml, screen_version

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.studio.client import ProjectInfo, Studio


@dataclass(frozen=True)
class StudioProject:
    """A project on a server. `id` is ours, `studio_id` the server's."""

    id: int
    server: str
    studio_id: int
    mark: str
    title: str
    overlap: int
    cursor: str | None


_COLUMNS = "id, server, studio_id, mark, title, overlap, cursor"


def living_projects(db: Database) -> list[StudioProject]:
    """The projects that this database has made anywhere, but for those that were let go."""
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM projects WHERE server NOT LIKE 'gone:%' ORDER BY id"  # noqa: S608
    )
    return [StudioProject(*row) for row in rows]


def projects_on(db: Database, server: str) -> list[StudioProject]:
    """The projects that this database has made on that server."""
    return [project for project in living_projects(db) if project.server == server]


def projects_elsewhere(db: Database, server: str) -> list[StudioProject]:
    """The projects that this database has made on servers of other addresses."""
    return [project for project in living_projects(db) if project.server != server]


def ensure_project(db: Database, studio: Studio, name: str, overlap: int) -> StudioProject:
    """The project for this screen and overlap; made on the server when there is none.

    The caller holds the server's lock. A creation whose answer was lost is found again by the
    mark in the project's description. Raises StudioNotFound when the project was deleted on
    the server or the server's data were wiped.
    """
    mark = _mark(db, overlap)
    known = [project for project in projects_on(db, studio.url) if project.mark == mark]
    if known:
        check_present(studio, known[0])
        return known[0]
    title = name if overlap == 1 else f"{name} ({overlap} votes a pair)"
    made = studio.find_project(mark) or studio.create_project(
        title=title, mark=mark, config_xml=config_xml(), overlap=overlap
    )
    with writing(db):
        db.execute(
            """INSERT INTO projects (server, mark, studio_id, title, screen, overlap, created_at)
            VALUES (?, ?, ?, ?, ?, ?, ?)""",
            [studio.url, mark, made.id, title, screen_version(), overlap, now()],
        )
    return next(project for project in projects_on(db, studio.url) if project.mark == mark)


def _mark(db: Database, overlap: int) -> str:
    database_id = db.execute("SELECT value FROM meta WHERE key = 'database_id'").fetchone()[0]
    return f"annotator:{database_id}:{screen_version()}:{overlap}"


def check_present(studio: Studio, project: StudioProject) -> ProjectInfo:
    """The project as the server has it; raises StudioNotFound when it is gone.

    Project ids start again after a wipe, so the mark in the description is compared as well.
    """
    try:
        found = studio.project(project.studio_id)
    except StudioNotFound:
        found = None
    if found is None or project.mark not in found.description:
        raise StudioNotFound(
            f"project {project.studio_id} ({project.title}) is gone from {project.server}",
            expected="the project that this database made there",
            todo="restore the server's data; or, if it was deleted on purpose, let it go with "
            f"`annotator sync --forget {project.studio_id}` (votes that were synced stay)",
        )
    return found


def advance_cursor(db: Database, project_id: int, cursor: str) -> None:
    """Remembers up to which `updated_at` votes were taken in; in the caller's transaction."""
    db.execute("UPDATE projects SET cursor = ? WHERE id = ?", [cursor, project_id])


def record_foreign(db: Database, project_id: int, n: int) -> None:
    """Remembers how many tasks of the project are not ours; in the caller's transaction."""
    db.execute("UPDATE projects SET n_foreign = ? WHERE id = ?", [max(n, 0), project_id])


def is_same_server(studio: Studio, project: StudioProject) -> bool:
    """Whether this server is the one that has the project, under an address we did not know."""
    try:
        return project.mark in studio.project(project.studio_id).description
    except StudioNotFound:
        return False


def move_project(db: Database, project_id: int, server: str) -> None:
    """Records the address under which the project's server is known now."""
    db.execute("UPDATE projects SET server = ? WHERE id = ?", [server, project_id])


def retire_project(db: Database, project: StudioProject) -> None:
    """Lets a project go that was deleted on purpose: the next push makes another one.

    Its tasks must have been marked gone before. In the caller's transaction.
    """
    db.execute(
        "UPDATE projects SET server = ?, mark = ? WHERE id = ?",
        [f"gone:{project.server}", f"gone:{project.id}:{project.mark}", project.id],
    )
