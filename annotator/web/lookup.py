"""One prompt or one pair out of the database, for a page: a few rows by index, never a scan."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from annotator.studio.screen import ROLES, spell_out

if TYPE_CHECKING:
    from sqlite_utils import Database

TEXT_CHARS = 20_000
NAME_CHARS = 200
RESPONSES = 200
PAIRS = 200

GRADE_WORDS = {
    "a_much_better": "A much better",
    "a_better": "A better",
    "tie": "tie",
    "both_bad": "both bad",
    "b_better": "B better",
    "b_much_better": "B much better",
}
ARM_WORDS = {
    "acquired": "chosen by the strategy",
    "control": "drawn at random",
    "gold": "answer known",
    "repeat": "asked again",
}


def prompt_document(db: Database, prompt_id: int) -> dict[str, Any] | None:
    """The prompt, its responses with scores, its place on the map and the pairs asked about it;
    None where there is no such prompt."""
    found = _prompt(db, prompt_id)
    if found is None:
        return None
    query = f"""{_RESPONSE} WHERE r.prompt_id = ? ORDER BY r.response_key LIMIT ?"""
    responses = _responses(db, query, [prompt_id, RESPONSES])
    n_responses = db.execute("SELECT count(*) FROM responses WHERE prompt_id = ?", [prompt_id])
    return found | {
        "responses": responses,
        "n_responses": n_responses.fetchone()[0],
        "place": _place_on_map(db, prompt_id),
        "pairs": _pairs_of(db, [response["id"] for response in responses]),
    }


def pair_document(db: Database, a_id: int, b_id: int) -> dict[str, Any] | None:
    """Two responses to one prompt, when they were asked about, and every answer in its newest
    state; None where they are no pair."""
    query = f"{_RESPONSE} WHERE r.id IN (?, ?)"
    by_id = {response["id"]: response for response in _responses(db, query, [a_id, b_id])}
    if a_id == b_id or len(by_id) < 2 or by_id[a_id]["prompt_id"] != by_id[b_id]["prompt_id"]:
        return None
    picks = _picks(db, a_id, b_id)
    if not picks and _picks(db, b_id, a_id):
        return pair_document(db, b_id, a_id)
    found = _prompt(db, by_id[a_id]["prompt_id"])
    assert found is not None
    return found | {
        "a": by_id[a_id],
        "b": by_id[b_id],
        "picks": picks,
        "answers": _answers(db, [pick["id"] for pick in picks]),
        "belief": _belief(db, a_id, b_id),
        "gold": _gold(db, a_id, b_id),
        "machine": _machine(db, a_id, b_id),
    }


def _prompt(db: Database, prompt_id: int) -> dict[str, Any] | None:
    query = "SELECT messages, dataset, external_id FROM prompts WHERE id = ?"
    row = db.execute(query, [prompt_id]).fetchone()
    if row is None:
        return None
    messages = [
        {"role": _role(message.get("role")), **_shown(str(message.get("content") or ""))}
        for message in json.loads(row[0])
    ]
    return {
        "prompt_id": prompt_id,
        "messages": messages,
        "dataset": short_name(row[1]),
        "external_id": short_name(row[2]),
    }


def _role(role: object) -> str:
    name = str(role or "")
    return ROLES.get(name.lower(), spell_out(name)) or "Prompt"


def short_name(name: str | None) -> str | None:
    """A name out of a file or from a server, its hidden marks spelt out, not too long to show."""
    if name is None:
        return None
    cut = name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"
    return spell_out(cut)


def _shown(text: str, n_chars: int | None = None) -> dict[str, Any]:
    """The beginning of a text with its hidden marks spelt out, and how much was left out."""
    total = len(text) if n_chars is None else n_chars
    return {"text": spell_out(text[:TEXT_CHARS]), "n_left_out": max(total - TEXT_CHARS, 0)}


_RESPONSE = f"""SELECT r.id, r.prompt_id, r.model, substr(r.text, 1, {TEXT_CHARS}), length(r.text)
    FROM responses r"""  # noqa: S608


def _responses(db: Database, query: str, values: list[int]) -> list[dict[str, Any]]:
    rows = db.execute(query, values).fetchall()
    scores = _scores(db, [row[0] for row in rows])
    return [
        {
            "id": row[0],
            "prompt_id": row[1],
            "model": short_name(row[2]),
            "scores": scores.get(row[0], []),
        }
        | _shown(row[3], row[4])
        for row in rows
    ]


# The methods by jumps over the key (method, response_id); DISTINCT would read every score. CROSS
# keeps the order of the joins: otherwise all scores of a method are read for each of them.
_SCORES = """WITH RECURSIVE methods(method) AS (
      SELECT min(method) FROM scores
      UNION ALL
      SELECT (SELECT min(method) FROM scores s WHERE s.method > m.method)
      FROM methods m WHERE m.method IS NOT NULL
    )
    SELECT s.response_id, s.method, s.score
    FROM methods m CROSS JOIN json_each(?) wanted
    CROSS JOIN scores s ON s.method = m.method AND s.response_id = wanted.value
    ORDER BY s.method"""


def _scores(db: Database, response_ids: list[int]) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for response_id, method, score in db.execute(_SCORES, [json.dumps(response_ids)]):
        found.setdefault(response_id, []).append({"method": short_name(method), "score": score})
    return found


def _place_on_map(db: Database, prompt_id: int) -> dict[str, Any] | None:
    query = """SELECT b.method, d.mean, d.variance, d.region, d.n_scored FROM datamap d
        JOIN datamap_builds b ON b.id = d.build_id
        WHERE d.prompt_id = ? AND d.build_id = (SELECT max(id) FROM datamap_builds)"""
    row = db.execute(query, [prompt_id]).fetchone()
    if row is None or row[1] is None:
        return None
    method, mean, variance, region, n_scored = row
    return {
        "method": short_name(method),
        "mean": mean,
        "variance": variance,
        "region": region,
        "n_scored": n_scored,
    }


def _pairs_of(db: Database, response_ids: list[int]) -> list[dict[str, Any]]:
    query = """SELECT p.a_id, p.b_id, p.arm, p.round_id,
          (SELECT count(DISTINCT v.annotator_id) FROM votes v
           WHERE v.pick_id = p.id AND v.status = 'vote') AS n_people
        FROM json_each(?) wanted CROSS JOIN picks p ON p.a_id = wanted.value
        ORDER BY p.id LIMIT ?"""
    rows = db.execute(query, [json.dumps(response_ids), PAIRS]).fetchall()
    return [
        {"a_id": a, "b_id": b, "arm": ARM_WORDS[arm], "round": number, "n_people": n}
        for a, b, arm, number, n in rows
    ]


def _picks(db: Database, a_id: int, b_id: int) -> list[dict[str, Any]]:
    query = """SELECT p.id, p.round_id, p.arm, p.side_order, p.strategy, t.state
        FROM picks p LEFT JOIN tasks t ON t.pick_id = p.id
        WHERE p.a_id = ? AND p.b_id = ? ORDER BY p.id"""
    return [
        {
            "id": row[0],
            "round": row[1],
            "arm": ARM_WORDS[row[2]],
            "left": "A" if row[3] == "ab" else "B",
            "strategy": row[4],
            "state": row[5],
        }
        for row in db.execute(query, [a_id, b_id])
    ]


_ANSWERS = """SELECT v.pick_id, coalesce(a.name, ''), v.annotator_id, v.status, v.grade,
      v.confidence, v.rationale, v.seconds, v.prefilled, v.updated_at, v.reason,
      v.project_id, v.annotation_id
    FROM json_each(?) wanted CROSS JOIN votes v ON v.pick_id = wanted.value
    LEFT JOIN annotators a ON a.id = v.annotator_id ORDER BY v.id"""


def _answers(db: Database, pick_ids: list[int]) -> list[dict[str, Any]]:
    """The newest state of each annotation; `counts` marks what the view current_votes has."""
    newest = {row[11:13]: row for row in db.execute(_ANSWERS, [json.dumps(pick_ids)])}
    alive = sorted(
        (row for row in newest.values() if row[3] in ("vote", "skip")), key=lambda row: row[9]
    )
    counting = {(row[0], row[2]): row[11:13] for row in alive}
    return [
        {
            "annotator": short_name(row[1]),
            "status": row[3],
            "said": GRADE_WORDS.get(row[4] or "", row[3]),
            "confidence": row[5],
            "rationale": _shown(row[6])["text"] if row[6] else None,
            "seconds": row[7],
            "prefilled": bool(row[8]),
            "at": row[9],
            "reason": short_name(row[10]),
            "counts": counting.get((row[0], row[2])) == key,
        }
        for key, row in newest.items()
    ]


def _belief(db: Database, a_id: int, b_id: int) -> dict[str, Any] | None:
    query = """SELECT n_votes, preferred, tie, verdict FROM consensus
        WHERE build_id = (SELECT max(id) FROM consensus_builds) AND a_id = ? AND b_id = ?"""
    row = db.execute(query, [a_id, b_id]).fetchone()
    names = ("votes", "preferred", "tie", "verdict")
    return None if row is None else dict(zip(names, row, strict=True))


def _gold(db: Database, a_id: int, b_id: int) -> str | None:
    query = "SELECT label FROM gold WHERE a_id = ? AND b_id = ?"
    row = db.execute(query, [a_id, b_id]).fetchone()
    return None if row is None else str(row[0])


def _machine(db: Database, a_id: int, b_id: int) -> dict[str, Any] | None:
    """The label that a certified source gave the pair; None where a person's label goes before it.

    Of the certificate in force, else of the newest of those that are void.
    """
    answers = _answers(db, [pick["id"] for pick in _picks(db, a_id, b_id)])
    voted = any(
        one["counts"] and one["status"] == "vote" and not one["prefilled"] for one in answers
    )
    if voted or _gold(db, a_id, b_id) is not None:
        return None
    query = """SELECT r.label, r.probability, c.source, c.id, c.agree, c.void_at FROM routed r
        JOIN certificates c ON c.id = r.certificate_id
        WHERE r.a_id = ? AND r.b_id = ?
        ORDER BY c.void_at IS NOT NULL, c.id DESC LIMIT 1"""
    row = db.execute(query, [a_id, b_id]).fetchone()
    names = ("label", "probability", "source", "certificate", "agree", "void_at")
    return None if row is None else dict(zip(names, row, strict=True))
