"""`budget_account`: what was spent, what is saved, and what comes next, as one JSON document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.budget import advice, snapshots
from annotator.budget.certificates import certificates, newest_encoder, without_ground
from annotator.budget.ledger import ledger
from annotator.budget.words import (
    gain_sentence,
    quality_sentence,
    spared_sentence,
    spent_sentence,
    standing_sentence,
    stop_sentence,
)
from annotator.export.machine import guarantee
from annotator.labels.intervals import Estimate
from annotator.store import now

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.config import BudgetSettings, Settings

Document = dict[str, Any]

KIND = "measures"


def budget_account(db: Database, database_path: Path, settings: Settings) -> Document:
    """Everything `annotator budget` tells, as one document.

    The ledger is of this moment. What takes a model is kept as a snapshot until votes, rounds or
    certificates change. Raises PreferenceError, StoreError.
    """
    from annotator.budget.measured import project_saving

    books = ledger(db, settings.budget)
    saving = project_saving(db, database_path)
    found = measures_of(db, database_path)
    quality, gain = _quality(found), _gain(found)
    spared = _spared(db, found)
    stop = _stop(found, books, gain, settings.budget)
    return {
        "made_at": now(),
        "project": settings.project.name,
        "sentences": [
            spent_sentence(books),
            standing_sentence(saving, quality),
        ],
        "ledger": books,
        "saving": saving,
        "quality": quality,
        "spared": spared,
        "next": gain,
        "stop": stop,
        "certificates": _certificates(db),
    }


def measures_of(db: Database, database_path: Path) -> Document:
    """Quality, gain, kappas and votes spared, out of the snapshot if nothing has changed since."""
    return snapshots.kept(db, KIND, _made_of(db), lambda: _measured(db, database_path))


def _measured(db: Database, database_path: Path) -> Document:
    from annotator.budget.evidence import Evidence
    from annotator.budget.measures import measures
    from annotator.progress import progress_bar

    with progress_bar(None, "budget", "fits") as advance:
        found = measures(Evidence(db, database_path))
        advance(1)
    return found


def _made_of(db: Database) -> Document:
    """What the measures depend on: votes, picks, candidates, gold, scores and certificates."""
    from annotator.budget.measures import VERSION
    from annotator.rounds.believe import VERSION as OF_BELIEF
    from annotator.signals.scores import told_method

    rows = db.execute(
        """SELECT (SELECT coalesce(max(id), 0) FROM votes),
        (SELECT coalesce(max(id), 0) FROM picks),
        (SELECT coalesce(max(id), 0) FROM extra_votes),
        (SELECT coalesce(max(id), 0) FROM responses), (SELECT count(*) FROM gold),
        (SELECT count(*) FROM tasks WHERE state = 'gone'),
        (SELECT max(row) FROM embeddings WHERE encoder_id = (SELECT encoder_id FROM rounds
          WHERE encoder_id IS NOT NULL ORDER BY id DESC LIMIT 1)),
        (SELECT coalesce(group_concat(id), '') FROM certificates WHERE void_at IS NULL)"""
    ).fetchone()
    names = ("vote", "pick", "further", "response", "gold", "gone", "vector", "certificates")
    return {
        **dict(zip(names, rows, strict=True)),
        "version": [VERSION, OF_BELIEF],
        "told": told_method(db),
    }


def _quality(found: Document) -> Document:
    measured = found["quality"]
    document: Document = {
        "answer": "none" if measured is None else "shown",
        "votes_control": found["votes_control"],
        "accuracy": None,
        "plain": None,
        "worth": None,
        "power": None,
        "cross_check": None,
        "cross_check_why": None,
        "agree": None,
        "why_not": found["why_not"],
    }
    document |= measured or {}
    check, accuracy = document["cross_check"], document["accuracy"]
    if check is not None:
        document["agree"] = check["low"] <= accuracy["high"] and accuracy["low"] <= check["high"]
    document["sentence"] = quality_sentence(document)
    return document


def _gain(found: Document) -> Document:
    gain, quality = found["gain"], found["quality"]
    document: Document = {
        "votes": advice.AHEAD,
        "gain": None if gain is None else gain["next"],
        "now": None if quality is None else quality["accuracy"]["value"],
        "then": None,
        "how": None,
    }
    if document["gain"] is not None and document["gain"]["value"] is None:
        document["gain"] = None
    if gain is not None and document["gain"] is not None and document["now"] is not None:
        document["then"] = min(1.0, document["now"] + document["gain"]["value"])
        document["how"] = (
            f"the votes from number {gain['votes_before']:,} to {gain['votes_now']:,} brought "
            f"{_points(gain['past'])} points on control votes; carried on by a power law"
        )
    document["why_not"] = found["why_not"]
    document["sentence"] = gain_sentence(document)
    return document


def _points(found: Document) -> str:
    value, low, high = (100.0 * found[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _spared(db: Database, found: Document) -> Document:
    document: Document = {
        "overlap": found["overlap"],
        "inference": found["inference"],
        "routing": _routing(db),
    }
    document["sentence"] = spared_sentence(document)
    return document


def _routing(db: Database) -> Document | None:
    """Pairs that certificates answer that are in force and would stay so if used now; or None."""
    gone = {one.id for one, _ in without_ground(db, newest_encoder(db))}
    in_force = [one for one in certificates(db, in_force=True) if one.id not in gone]
    if not in_force:
        return None
    pairs = db.execute(
        """SELECT count(*) FROM (SELECT DISTINCT r.a_id, r.b_id FROM routed r
          JOIN json_each(?) c ON c.value = r.certificate_id
          WHERE NOT EXISTS (SELECT 1 FROM picks p WHERE p.a_id = r.a_id AND p.b_id = r.b_id
            AND p.arm IN ('acquired', 'control')))""",
        [json.dumps([one.id for one in in_force])],
    ).fetchone()[0]
    row = db.execute("SELECT overlap FROM rounds ORDER BY id DESC LIMIT 1").fetchone()
    weakest = min(in_force, key=lambda one: (one.agree, one.confidence))
    confidence = min(one.confidence for one in in_force)
    return {
        "pairs": pairs,
        "votes": pairs * (1 if row is None else int(row[0])),
        "error": round(1.0 - weakest.agree, 6),
        "confidence": confidence,
        "certificate": weakest.id,
        "guarantee": guarantee(weakest.agree, confidence),
    }


def _certificates(db: Database) -> list[Document]:
    """Every certificate there ever was; of one that the next use will end, why."""
    gone = {one.id: because for one, because in without_ground(db, newest_encoder(db))}
    return [
        {
            "id": one.id,
            "source": one.source,
            "agree": one.agree,
            "confidence": one.confidence,
            "n_calibration": one.n_calibration,
            "pairs": one.n_pairs,
            "made_at": one.made_at,
            "void_because": one.void_because or gone.get(one.id),
        }
        for one in certificates(db)
    ]


def _stop(found: Document, books: Document, gain: Document, settings: BudgetSettings) -> Document:
    """Which rules for stopping fire; nothing is stopped."""
    known = gain["gain"]
    nan = float("nan")
    estimate = Estimate(nan, nan, nan) if known is None else Estimate(**known)
    rules = [
        advice.stabilised(found["kappas"], found["stop_pairs"]),
        advice.too_little_gain(estimate, settings.minimum_gain),
        *_budget_rules(books),
    ]
    document: Document = {
        "advised": any(rule.fires for rule in rules),
        "reasons": [rule.name for rule in rules if rule.fires],
        "rules": [vars(rule) | {"rule": rule.name} for rule in rules],
    }
    for rule in document["rules"]:
        del rule["name"]
    document["sentence"] = stop_sentence(document, gain["now"])
    return document


def _budget_rules(books: Document) -> list[advice.Rule]:
    cap = books["cap"]
    if cap is None:
        return []
    found = [
        advice.budget_reached(cap["votes_spent"], cap["votes_reserved"], cap["votes"], "votes"),
        advice.budget_reached(
            cap["cost_spent"], cap["cost_reserved"], cap["cost"], cap["currency"]
        ),
    ]
    return [rule for rule in found if rule is not None]
