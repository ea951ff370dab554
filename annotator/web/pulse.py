"""The part of the page that follows every vote at once: counts, the last answers, notices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from annotator.report.page import render_template
from annotator.studio.screen import spell_out
from annotator.web.lookup import GRADE_WORDS, short_name

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.web.live import Notice

LAST_ANSWERS = 8

# What can change that a page shows. Tables that the pages' own making fills (the newest consensus,
# snapshots) are left out, or each look would call for another one.
_KEY = """SELECT (SELECT max(id) FROM votes), (SELECT max(id) FROM picks),
    (SELECT max(id) FROM rounds), (SELECT max(id) FROM extra_votes), (SELECT max(id) FROM imports),
    (SELECT max(id) FROM responses), (SELECT max(id) FROM spend),
    (SELECT max(id) FROM certificates), (SELECT count(void_at) FROM certificates),
    (SELECT max(id) FROM judge_attempts), (SELECT max(id) FROM datamap_builds),
    (SELECT max(id) FROM projects), (SELECT max(id) FROM annotators)"""
_TASK_STATES = "SELECT state, count(*) FROM tasks GROUP BY state ORDER BY state"

Key = tuple[Any, ...]


def change_key(db: Database) -> Key:
    """Equal for two looks between which nothing came in that the dashboard shows."""
    states = tuple(db.execute(_TASK_STATES).fetchall())
    return (*db.execute(_KEY).fetchone(), states)


# What the view current_votes counts, four times as fast: the newest state of every annotation, by
# an index, then each person's newest on each pick. With max(), SQLite takes the other columns from
# the row that has it; the separator keeps a time before any longer one that begins with it.
_COUNTS = """WITH newest AS (
      SELECT max(id) AS id FROM votes GROUP BY project_id, annotation_id
    ), alive AS (
      SELECT v.pick_id, v.annotator_id, v.status,
        max(v.updated_at || char(1) || printf('%019d', v.id))
      FROM newest n CROSS JOIN votes v ON v.id = n.id
      WHERE v.status IN ('vote', 'skip') GROUP BY v.pick_id, v.annotator_id
    )
    SELECT coalesce(sum(status = 'vote'), 0), coalesce(sum(status = 'skip'), 0),
      count(DISTINCT iif(status = 'vote', pick_id, NULL)), count(DISTINCT annotator_id)
    FROM alive"""

_LAST = """SELECT v.status, v.grade, v.seen_at, coalesce(a.name, ''), p.a_id, p.b_id, v.reason
    FROM votes v LEFT JOIN annotators a ON a.id = v.annotator_id
    LEFT JOIN picks p ON p.id = v.pick_id ORDER BY v.id DESC LIMIT ?"""

_STATUS_WORDS = {"skip": "skipped", "deleted": "took an answer back", "rejected": "not countable"}


def pulse(db: Database) -> dict[str, Any]:
    """Counts of votes, skips, tasks answered, people, tasks in each state; the last answers."""
    votes, skips, answered, people = db.execute(_COUNTS).fetchone()
    return {
        "votes": votes,
        "skips": skips,
        "answered": answered,
        "people": people,
        "tasks": dict(db.execute(_TASK_STATES).fetchall()),
        "last": [
            {
                "who": short_name(name),
                "said": GRADE_WORDS.get(grade or "") or _STATUS_WORDS.get(status, status),
                "at": seen_at,
                "pair": None if a_id is None else (a_id, b_id),
                "reason": short_name(reason),
            }
            for status, grade, seen_at, name, a_id, b_id, reason in db.execute(
                _LAST, [LAST_ANSWERS]
            )
        ],
    }


def render_pulse(found: dict[str, Any] | None, notices: dict[str, Notice]) -> str:
    """The part's markup; `found` None where the database cannot be read, which a notice says."""
    said = [{"text": spell_out(one.text), "since": one.since} for one in notices.values()]
    return render_template("annotator.web", "pulse.html", pulse=found, notices=said)
