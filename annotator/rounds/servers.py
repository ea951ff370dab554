"""The same server under another address, and projects that are gone for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from annotator.errors import StudioNotFound
from annotator.labels.votes import move_annotators
from annotator.store import writing
from annotator.studio.outbox import give_up_project
from annotator.studio.projects import (
    is_same_server,
    move_project,
    projects_elsewhere,
    projects_on,
    retire_project,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.studio.client import Studio


def recognise_server(db: Database, studio: Studio) -> None:
    """Finds our projects again on a server whose address changed (localhost for 127.0.0.1,
    https, another port), so that its votes are not read a second time as somebody else's."""
    for project in projects_elsewhere(db, studio.url):
        if is_same_server(studio, project):
            with writing(db):
                move_project(db, project.id, studio.url)
                move_annotators(db, project.server, studio.url)


def forget_project(db: Database, studio: Studio, studio_id: int) -> int:
    """Lets a project go that was deleted on the server on purpose; how many tasks go with it.

    Votes that were synced stay and count. Raises StudioNotFound when it is no project of ours.
    """
    ours = [project for project in projects_on(db, studio.url) if project.studio_id == studio_id]
    if not ours:
        raise StudioNotFound(
            f"this database has made no project {studio_id} on {studio.url}",
            expected="one of " + ", ".join(str(p.studio_id) for p in projects_on(db, studio.url)),
            todo="see `annotator status`",
        )
    if is_same_server(studio, ours[0]):
        raise StudioNotFound(
            f"project {studio_id} is still there",
            expected="a project that was deleted in Label Studio",
            todo="delete it there first, if that is what you want",
        )
    with writing(db):
        n = give_up_project(db, ours[0])
        retire_project(db, ours[0])
    return n
