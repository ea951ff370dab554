"""Everything that a project's page shows, gathered into one JSON document.

Each part is asked of its own room, and a part that cannot be had says why in words, so that one
missing piece never costs the page. Parts that take long are kept until what they are made of
changes. `project_report` makes HTML of it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotator.budget import snapshots
from annotator.budget.counts import Work, current_counts, votes_waiting
from annotator.candidates.catalog import shown_responses
from annotator.candidates.gold import GOLD_ONLY_PROMPTS
from annotator.candidates.identity import prompt_text
from annotator.errors import AnnotatorError
from annotator.labels.consensus_store import newest_build, newest_vote
from annotator.report.map_plot import ShownPrompt, ShownResponse, fitting_prompts
from annotator.rounds.picks import round_counts
from annotator.signals.datamap import newest_map, placed_prompts
from annotator.signals.scores import judge_methods, told_method
from annotator.store import now

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.config import Settings
    from annotator.diagnose.account import Diagnosis
    from annotator.signals.datamap import MapBuild, MapEntry

Document = dict[str, Any]

VERSION = 1  # of the documents that are kept; raise it when their form or figures change
NOT_YET = "Not computed yet."
MAP_POINTS = 3_000
START_CHARS = 90  # of a prompt's text where a pointer rests on its point
SUSPECTS_OF_CLASS = {"likely wrong": 40, "contested": 20}
TEXT_CHARS = 400  # of a text beside a suspect
READABLE_PROMPTS = 300  # of the map's points, beside all suspects
READABLE_BYTES = 2_200_000  # of their texts, as they stand in the file
READABLE_RESPONSES = 12  # of a prompt
# Of more a diagnosis fits for minutes and takes gigabytes.
MOST_DIAGNOSED = 50_000  # votes
LEAST_SHARE = 0.7  # of gold, repeats and skill that raises no alarm, as `annotator annotators` has


@dataclass(frozen=True)
class Source:
    """What the parts are asked of."""

    db: Database
    database_path: Path
    settings: Settings


class NotThere(Exception):
    """A part that cannot be had, for a reason that is nobody's fault: said in its place."""


def project_view(
    db: Database,
    database_path: Path,
    settings: Settings,
    parts: Iterable[str] | None = None,
    before: Document | None = None,
    tell: Callable[[str], object] = lambda part: None,
) -> Document:
    """The document of the page: `project`, `made_at`, and a document for each of PARTS.

    `parts` are gathered, all of them by default; the others are taken from `before`, an earlier
    view, and said to be missing without one. QUICK ones take a moment at any size. Each part
    holds `as_of`, when it was gathered; one that cannot be had is {"missing": why, "fault": bool},
    `fault` where that is an error of ours. `tell` hears the name of each part before it is
    gathered. Never raises for a part.
    """
    source = Source(db, database_path, settings)
    wanted = set(PARTS if parts is None else parts)
    view: Document = {"project": settings.project.name, "made_at": now()}
    for name, gather in PARTS.items():
        if name in wanted:
            tell(name)
            view[name] = _guarded(gather, source)
        else:
            view[name] = (before or {}).get(name) or {"missing": NOT_YET, "fault": False}
    return view


def _guarded(gather: Callable[[Source], Document], source: Source) -> Document:
    """The part, or why it is missing."""
    from strategies.pool import StrategyError

    as_of = now()
    try:
        return {**gather(source), "as_of": as_of}
    except NotThere as why:
        return {"missing": str(why), "fault": False, "as_of": as_of}
    except (AnnotatorError, StrategyError) as error:
        found = getattr(error, "found", None) or str(error)
        return {"missing": _sentence(found), "fault": False, "as_of": as_of}
    except sqlite3.Error as error:
        words = f"The database could not be read: {error}."
        return {"missing": words, "fault": True, "as_of": as_of}
    except Exception as error:
        words = f"This part failed, which is a fault of annotator: {type(error).__name__}: {error}"
        return {"missing": words, "fault": True, "as_of": as_of}


def _sentence(words: str) -> str:
    words = words.strip().split("\n")[0]
    return f"{words[:1].upper()}{words[1:]}{'' if words.endswith(('.', '!', '?')) else '.'}"


# Quick parts.


def _pulse(source: Source) -> Document:
    """How many votes there are and are still to come, and how many people gave them."""
    counts = current_counts(source.db)
    total = Work()
    for work in counts.cells.values():
        total.add(work)
    return {
        "votes": total.votes,
        "skips": total.skips,
        "people": len({annotator for _, _, annotator in counts.cells}),
        "waiting": votes_waiting(source.db, counts),
    }


def _rounds(source: Source) -> Document:
    return {"rounds": round_counts(source.db)}


def _budget(source: Source) -> Document:
    from annotator.budget.account import budget_account

    return budget_account(source.db, source.database_path, source.settings)


# The data map.


def _map(source: Source) -> Document:
    """The newest map: its regions, its cuts, and at most MAP_POINTS of its prompts."""
    build = newest_map(source.db)
    if build is None:
        raise NotThere("There is no data map yet: `annotator map` or `annotator judge` makes one.")
    made_of = {"version": VERSION, "map": _identity(build)}
    return snapshots.kept(source.db, "map", made_of, lambda: _map_document(source.db, build))


def _identity(build: MapBuild) -> list[object]:
    """What tells this map from any other; ids of maps are used again."""
    cuts = [build.cuts.variance, build.cuts.mean]
    sizes = [build.n_responses, build.n_scored, build.seed]
    return [build.id, build.method, build.encoder, *sizes, *map(repr, cuts)]


def _map_document(db: Database, build: MapBuild) -> Document:
    import numpy as np

    from strategies.datamap import REGIONS

    placed = placed_prompts(db, build)
    there = np.flatnonzero(placed.on_map)
    drawn = np.random.default_rng(build.seed).permutation(there)[:MAP_POINTS]
    starts = _starts(db, placed.prompt_ids[drawn].tolist())
    points = [
        {
            "id": prompt_id,
            "mean": mean,
            "variance": variance,
            "region": REGIONS[region],
            "start": starts[prompt_id],
        }
        for prompt_id, mean, variance, region in zip(
            placed.prompt_ids[drawn].tolist(),
            placed.mean[drawn].tolist(),
            placed.variance[drawn].tolist(),
            placed.region[drawn].tolist(),
            strict=True,
        )
    ]
    return {
        "scores": build.scores_in_words,
        "seed": build.seed,
        "counts": placed.counts,
        "where": build.regions_in_words,
        "variance_cut": _finite(build.cuts.variance),
        "mean_cut": _finite(build.cuts.mean),
        "n_on_map": placed.n_on_map,
        "n_off_map": placed.n_off_map,
        "points": points,
    }


def _finite(value: float) -> float | None:
    import math

    return float(value) if math.isfinite(value) else None


def _starts(db: Database, prompt_ids: Sequence[int]) -> dict[int, str]:
    """The beginning of what was last said in each of these prompts."""
    query = "SELECT id, messages FROM prompts WHERE id IN (SELECT value FROM json_each(?))"
    rows = db.execute(query, [json.dumps(prompt_ids)])
    return {i: start_of(json.loads(messages)[-1]["content"]) for i, messages in rows}


def start_of(text: str, n_chars: int = START_CHARS) -> str:
    """The beginning of a text on one line, never cut without a sign."""
    flat = " ".join(text[: 8 * n_chars].split())
    return flat if len(flat) <= n_chars else f"{flat[: n_chars - 1]}…"


# People, suspects, the judge.


def _people(source: Source) -> Document:
    from annotator.annotators.project import people_of_project

    build, mapped = newest_build(source.db), newest_map(source.db)
    made_of = {
        "version": VERSION,
        "vote": newest_vote(source.db),
        "consensus": None if build is None else [build.id, build.built_at],
        "map": None if mapped is None else _identity(mapped),
        "gold": source.db["gold"].count,
    }
    if not made_of["vote"]:
        raise NotThere("Nobody has voted yet.")
    return snapshots.kept(
        source.db, "people", made_of, lambda: people_of_project(source.db, LEAST_SHARE)
    )


def _suspects(source: Source) -> Document:
    """The labels that look wrong or are contested, with their texts."""
    db = source.db
    n_votes = _pulse(source)["votes"]
    if not n_votes:
        raise NotThere("Nobody has voted yet.")
    if n_votes > MOST_DIAGNOSED:
        raise NotThere(
            f"With more than {MOST_DIAGNOSED:,} votes this is not computed for a page; "
            "`annotator diagnose` does it."
        )
    made_of = {
        "version": VERSION,
        "vote": newest_vote(db),
        "told": told_method(db),
        "encoder": _newest_encoder(db),
    }
    return snapshots.kept(db, "suspects", made_of, lambda: _suspects_document(source))


def _newest_encoder(db: Database) -> int:
    """The encoder of the newest round that has one."""
    row = db.execute(
        "SELECT encoder_id FROM rounds WHERE encoder_id IS NOT NULL ORDER BY id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        raise NotThere("No round was chosen with vectors, so nothing foretells the votes.")
    return int(row[0])


def _suspects_document(source: Source) -> Document:
    from annotator.diagnose.account import diagnose, document
    from annotator.diagnose.labels_of import labels_of_project

    encoder_id = _newest_encoder(source.db)
    labelled = labels_of_project(source.db, source.database_path, encoder_id)
    found = diagnose(labelled)
    report = document(found, 0)
    rows = {
        name: _suspect_rows(source.db, found, name, top) for name, top in SUSPECTS_OF_CLASS.items()
    }
    return {**report, **rows}


def _suspect_rows(db: Database, found: Diagnosis, name: str, top: int) -> list[Document]:
    from annotator.diagnose.account import places, row
    from annotator.diagnose.words import verdict

    rows = [row(found, place) for place in places(found, name, top)]
    texts = shown_responses(db, [row[end] for row in rows for end in ("a_id", "b_id")])
    prompts = _prompts_of(db, texts)
    for one in rows:
        a, b = texts[one["a_id"]], texts[one["b_id"]]
        one["verdict"] = verdict(one)
        one["prompt_id"] = prompts[one["a_id"]]
        one["prompt"] = start_of(prompt_text(a.messages), TEXT_CHARS)
        one["a"], one["b"] = (start_of(end.text, TEXT_CHARS) for end in (a, b))
    return rows


def _prompts_of(db: Database, response_ids: Iterable[int]) -> dict[int, int]:
    query = "SELECT id, prompt_id FROM responses WHERE id IN (SELECT value FROM json_each(?))"
    return dict(db.execute(query, [json.dumps(list(response_ids))]).fetchall())


def _judge(source: Source) -> Document:
    from annotator.judge_check.project import check_project
    from annotator.judge_check.words import judge_in_words, people_in_words, sentences, tables

    db = source.db
    methods = _judged_by(db)
    if not methods:
        raise NotThere("No judge has scored a response; `annotator judge` asks one.")
    mapped = newest_map(db)
    query = "SELECT count(*) FROM scores WHERE method IN (SELECT value FROM json_each(?))"
    made_of = {
        "version": VERSION,
        "vote": newest_vote(db),
        "methods": methods,
        "scores": db.execute(query, [json.dumps(methods)]).fetchone()[0],
        "labels": db["source_labels"].count,
        "map": None if mapped is None else _identity(mapped),
    }

    def make() -> Document:
        found = check_project(db, methods).document
        words = {
            "judge": judge_in_words(found),
            "held_against": people_in_words(found),
            "sentences": sentences(found),
            "tables": list(tables(found).values()),
        }
        return {**found, "words": words}

    return snapshots.kept(db, "judge", made_of, make)


def _judged_by(db: Database) -> list[str]:
    """The judge that the model is told of, or else all that there are."""
    told = told_method(db)
    return [told] if told else judge_methods(db)


PARTS: dict[str, Callable[[Source], Document]] = {
    "pulse": _pulse,
    "rounds": _rounds,
    "budget": _budget,
    "map": _map,
    "people": _people,
    "suspects": _suspects,
    "judge": _judge,
}
QUICK = ("pulse", "rounds")


# Texts to read in a file that stands alone.


def readable_prompts(db: Database, view: Document) -> Document:
    """The prompts that a report can show whole: `prompts`, and `n_chars` that texts are cut to.

    Those of all suspects shown, then a sample of READABLE_PROMPTS of the map's points; as many as
    fit into READABLE_BYTES. `of_map` is how many of the map's points are among them.
    """
    suspects = [
        row["prompt_id"] for name in SUSPECTS_OF_CLASS for row in view["suspects"].get(name, [])
    ]
    sample = [point["id"] for point in view["map"].get("points", [])[:READABLE_PROMPTS]]
    wanted = list(dict.fromkeys([*suspects, *sample]))
    taken, n_chars = fitting_prompts(_shown(db, wanted), READABLE_BYTES)
    ids = {prompt.prompt_id for prompt in taken}
    return {
        "prompts": [_as_document(prompt) for prompt in taken],
        "n_chars": n_chars,
        "of_map": len(ids.intersection(sample)),
        "suspects": len(ids.intersection(suspects)),
    }


def _shown(db: Database, prompt_ids: Sequence[int]) -> Iterable[ShownPrompt]:
    from annotator.signals.datamap import map_entries

    build = newest_map(db)
    if build is None:
        return [_without_scores(db, prompt_id) for prompt_id in prompt_ids]
    gold_only = {i for (i,) in db.execute(GOLD_ONLY_PROMPTS)}
    mapped = map_entries(db, build, [i for i in prompt_ids if i not in gold_only])
    shown = {entry.prompt_id: _from_entry(entry) for entry in mapped}
    return [shown.get(i) or _without_scores(db, i) for i in prompt_ids]


def _from_entry(entry: MapEntry) -> ShownPrompt:
    turns = [(turn["role"], turn["content"]) for turn in entry.messages]
    responses = [ShownResponse(score, one.model, one.text) for score, one in entry.responses]
    return _of_bounded(entry.prompt_id, turns, responses)


def _without_scores(db: Database, prompt_id: int) -> ShownPrompt:
    query = "SELECT id FROM responses WHERE prompt_id = ? ORDER BY response_key"
    shown = list(shown_responses(db, [i for (i,) in db.execute(query, [prompt_id])]).values())
    turns = [(turn["role"], turn["content"]) for turn in shown[0].messages]
    return _of_bounded(prompt_id, turns, [ShownResponse(None, r.model, r.text) for r in shown])


def _of_bounded(
    prompt_id: int, turns: list[tuple[str, str]], responses: list[ShownResponse]
) -> ShownPrompt:
    """With at most READABLE_RESPONSES responses: the first, which have the highest scores."""
    more = len(responses) - READABLE_RESPONSES
    kept = responses[:READABLE_RESPONSES]
    if more > 0:
        kept.append(ShownResponse(None, None, f"({more:,} more responses)"))
    return ShownPrompt(prompt_id, turns, kept)


def _as_document(prompt: ShownPrompt) -> Document:
    return {
        "id": prompt.prompt_id,
        "turns": [{"role": role, "text": text} for role, text in prompt.turns],
        "responses": [
            {"score": one.score, "model": one.model, "text": one.text} for one in prompt.responses
        ],
    }
