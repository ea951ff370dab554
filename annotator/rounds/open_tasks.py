"""How much work lies on the server: tasks that still want an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

# The newest state of each annotation, by an index: several times as fast as the view.
_OPEN = """WITH newest AS (
      SELECT max(id) AS id FROM votes GROUP BY project_id, annotation_id
    ), answered AS (
      SELECT v.pick_id, count(DISTINCT v.annotator_id) AS n
      FROM newest CROSS JOIN votes v ON v.id = newest.id
      WHERE v.status = 'vote' GROUP BY v.pick_id
    )
    SELECT count(*) FROM tasks t
    JOIN picks p ON p.id = t.pick_id
    JOIN rounds r ON r.id = p.round_id
    LEFT JOIN answered a ON a.pick_id = t.pick_id
    WHERE t.state IN ('stored', 'swept', 'conflict')
      AND coalesce(a.n, 0) < coalesce(t.overlap, r.overlap)"""


def open_tasks(db: Database) -> int:
    """How many tasks on the server have fewer votes than people were asked; skips count as none.

    Tasks that are not sent yet, or were deleted there, are not among them: nobody can answer those.
    """
    return int(db.execute(_OPEN).fetchone()[0])
