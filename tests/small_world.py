"""Candidates and rounds straight into a database, for tests of what comes after."""

from __future__ import annotations

from sqlite_utils import Database

from annotator.candidates.identity import (
    Message,
    canonical_messages,
    pair_key,
    prompt_key,
    prompt_text,
    response_key,
    text_hash,
)
from annotator.rounds.picks import Pick, Round, record_round
from annotator.store import writing
from annotator.studio.outbox import queue_tasks


def add_prompt(db: Database, messages: list[Message], texts: list[str]) -> list[int]:
    """Response ids in the order of their keys."""
    key = prompt_key(messages)
    with writing(db):
        db.execute(
            "INSERT OR IGNORE INTO imports (id, file, dataset, format, started_at) "
            "VALUES (1, 'world', 'w', 'native', '')"
        )
        prompt_id = db.execute(
            """INSERT INTO prompts (prompt_key, messages, text_hash, dataset, external_id,
            import_id) VALUES (?, ?, ?, 'w', ?, 1)""",
            [key, canonical_messages(messages), text_hash(prompt_text(messages)), key[:6]],
        ).lastrowid
        rows = sorted((response_key(key, text), text) for text in texts)
        return [
            db.execute(
                """INSERT INTO responses (response_key, prompt_id, text, text_hash, model,
                import_id) VALUES (?, ?, ?, ?, ?, 1)""",
                [rkey, prompt_id, text, text_hash(text), f"model of {text}"],
            ).lastrowid
            for rkey, text in rows
        ]


def add_prompts(db: Database, sizes: list[int]) -> list[list[int]]:
    """One prompt per number, with that many responses; response ids by key."""
    return [
        add_prompt(
            db,
            [{"role": "user", "content": f"question {i}"}],
            [f"answer {j} to question {i}" for j in range(k)],
        )
        for i, k in enumerate(sizes)
    ]


def add_round(db: Database, pairs: list[tuple[int, int]], *, overlap: int = 1) -> list[int]:
    """A round with these (a_id, b_id), every second one turned round; pick ids."""
    keys = dict(db.execute("SELECT id, response_key FROM responses").fetchall())
    picks = [
        Pick(
            place=place,
            pair_key=pair_key(keys[a], keys[b]),
            a_id=a,
            b_id=b,
            arm="control" if place % 5 == 4 else "acquired",
            draw=place,
            side_order="ab" if place % 2 == 0 else "ba",
            strategy="random" if place % 5 == 4 else "real-easy",
            score=0.5,
            propensity=0.25 if place % 5 == 4 else None,
        )
        for place, (a, b) in enumerate(pairs)
    ]
    n_control = sum(pick.arm == "control" for pick in picks)
    head = Round("real-easy", 7, len(picks) - n_control, n_control, overlap, None, {})
    with writing(db):
        _, ids = record_round(db, head, picks)
        queue_tasks(db, [(i, pick.pair_key) for i, pick in zip(ids, picks, strict=True)])
    return ids
