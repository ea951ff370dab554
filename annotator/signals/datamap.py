"""Owner of the tables datamap_builds and datamap: each prompt's place on the map, and the cuts.

A map is derived: it is made anew whenever somebody asks, in one transaction, and says from which
scores, which encoder and which seed. Of each method there is one map; the newest of all is the one
that rounds choose by. The mathematics is in `strategies.datamap`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from annotator.candidates.catalog import Shown, n_candidates, response_table, shown_responses
from annotator.candidates.gold import GOLD_ONLY_RESPONSES
from annotator.candidates.identity import Message
from annotator.errors import ScoreError
from annotator.signals.scores import (
    PEER_AGREEMENT,
    Ids,
    compute_scores,
    count_scores,
    method_in_words,
    record_scores,
    scores_by,
)
from annotator.store import now, writing
from strategies.datamap import (
    HIGH_VARIANCE,
    NO_REGION,
    REGIONS,
    CutOffs,
    DataMap,
    cut_offs,
    map_of_scores,
    regions,
)
from strategies.within_prompt import Bools, Floats, Positions

if TYPE_CHECKING:
    from sqlite_utils import Database

ENTRIES_AT_ONCE = 100


@dataclass(frozen=True)
class MapBuild:
    """One map: what it was made from, and where its cuts fell."""

    id: int
    method: str
    encoder_id: int | None
    encoder: str | None
    seed: int
    cuts: CutOffs
    n_responses: int
    n_scored: int

    @property
    def scores_in_words(self) -> str:
        """What scored the responses, said so that nobody takes it for more."""
        return method_in_words(self.method, self.encoder)

    @property
    def regions_in_words(self) -> dict[str, str]:
        """Where each region lies on this map."""
        high = "empty" if np.isnan(self.cuts.mean) else f"mean at least {self.cuts.mean:.4g}"
        return {
            "high-mean-low-variance": f"lower variance, {high}",
            "high-variance": f"variance at least {self.cuts.variance:.4g}",
            "low-mean": "lower variance, lower mean",
        }


@dataclass(frozen=True, eq=False)
class PlacedPrompts:
    """The prompts of one map, as arrays (n_prompts,) in the order of their ids.

    NaN and NO_REGION where a prompt has no place: fewer than two of its responses have a score.
    """

    prompt_ids: Ids
    mean: Floats
    variance: Floats
    n_scored: Positions
    region: Positions

    @property
    def on_map(self) -> Bools:
        """Which prompts have a place, (n_prompts,)."""
        there: Bools = self.region != NO_REGION
        return there

    @property
    def n_on_map(self) -> int:
        return int(np.count_nonzero(self.on_map))

    @property
    def n_off_map(self) -> int:
        return len(self.region) - self.n_on_map

    @property
    def n_of_two(self) -> int:
        """Prompts with just two scored responses, whose variance is their margin in disguise."""
        return int(np.count_nonzero(self.n_scored == 2))

    @property
    def counts(self) -> dict[str, int]:
        """How many prompts each region holds."""
        prompts = np.bincount(self.region[self.on_map], minlength=len(REGIONS))
        return dict(zip(REGIONS, prompts.tolist(), strict=True))

    @property
    def n_tied(self) -> int:
        """Prompts at the variance cut, where some of equal variance fell on either side by lot."""
        high = self.region == HIGH_VARIANCE
        cut = self.variance[high].min(initial=np.inf)
        at_cut = self.variance == cut
        return int(np.count_nonzero(at_cut)) if np.any(at_cut & ~high) else 0


@dataclass(frozen=True)
class MapEntry:
    """One prompt of the map with its responses; each score None where there is none."""

    prompt_id: int
    messages: list[Message]
    responses: list[tuple[float | None, Shown]]


def build_map(
    db: Database,
    database_path: Path,
    encoder_id: int | None,
    method: str = PEER_AGREEMENT,
    seed: int = 0,
) -> MapBuild:
    """Scores all responses by `method`, places all prompts, and records both.

    `encoder_id` may be None unless the method is PEER_AGREEMENT. `seed` orders prompts that tie
    at a cut. Raises ScoreError, and leaves the former map, if there are no candidates or no
    prompt has two scored responses; EncoderError if a vector is missing.
    """
    check_candidates(db)
    table = response_table(db)
    scores = compute_scores(db, database_path, encoder_id, method, table)
    prompt_ids, prompts = np.unique(table.prompt_ids, return_inverse=True)
    placed = map_of_scores(scores, prompts)
    _refuse_an_empty_map(method, placed)
    tie_break = np.random.default_rng(seed).permutation(len(prompt_ids))
    region = regions(placed.mean, placed.variance, tie_break)
    cuts = cut_offs(placed.mean, placed.variance, region)
    encoder_id = encoder_id if method == PEER_AGREEMENT else None
    n_scored = int(np.count_nonzero(~np.isnan(scores)))
    with writing(db):
        record_scores(db, method, encoder_id, table.response_ids, scores)
        head = (method, encoder_id, seed, len(scores), n_scored)
        build_id = _record_build(db, head, cuts)
        _record_places(db, build_id, prompt_ids, placed, region)
    return _build(db, build_id)


def check_candidates(db: Database) -> None:
    """Raises ScoreError if the database holds no candidate at all."""
    if not n_candidates(db):
        raise ScoreError(
            "the database holds no candidates",
            expected="prompts with two or more responses",
            todo="run `annotator import FILE`",
        )


def ensure_map(db: Database, database_path: Path, encoder_id: int) -> MapBuild:
    """The newest map, made anew by its own method if candidates or scores have come since.

    Where there is no map yet, one by peer agreement. Raises as build_map.
    """
    newest = newest_map(db)
    if newest is None:
        return build_map(db, database_path, encoder_id)
    if _is_current(db, newest, encoder_id):
        return newest
    return build_map(db, database_path, encoder_id, newest.method, newest.seed)


def response_scores(db: Database, response_ids: Ids) -> Floats:
    """What the newest map scored these responses with, in this order; NaN where there is none.

    All NaN where there is no map; see ensure_map.
    """
    newest = newest_map(db)
    if newest is None:
        return np.full(len(response_ids), np.nan)
    return scores_by(db, newest.method, response_ids)


def newest_map(db: Database) -> MapBuild | None:
    """The map that was made last, if there is one."""
    found = db.execute("SELECT max(id) FROM datamap_builds").fetchone()[0]
    return None if found is None else _build(db, found)


def placed_prompts(db: Database, build: MapBuild) -> PlacedPrompts:
    """Every prompt with a response, and its place on that map."""
    rows = db.execute(
        """SELECT prompt_id, mean, variance, n_scored, region FROM datamap
        WHERE build_id = ? ORDER BY prompt_id""",
        [build.id],
    ).fetchall()
    ids, mean, variance, n_scored, region = zip(*rows, strict=True)
    codes = {name: code for code, name in enumerate(REGIONS)} | {None: NO_REGION}
    return PlacedPrompts(
        prompt_ids=np.array(ids, dtype=np.int64),
        mean=np.array(mean, dtype=np.float64),
        variance=np.array(variance, dtype=np.float64),
        n_scored=np.array(n_scored, dtype=np.int64),
        region=np.array([codes[name] for name in region], dtype=np.int64),
    )


def map_entries(db: Database, build: MapBuild, prompt_ids: Sequence[int]) -> Iterator[MapEntry]:
    """The texts of these prompts in this order, read some hundred at a time; best score first."""
    query = f"""SELECT prompt_id, id FROM responses
        WHERE prompt_id IN (SELECT value FROM json_each(?)) AND id NOT IN ({GOLD_ONLY_RESPONSES})
        ORDER BY prompt_id, response_key"""  # noqa: S608
    found = db.execute(query, [json.dumps(prompt_ids)]).fetchall()
    scores = scores_by(db, build.method, np.array([i for _, i in found], dtype=np.int64))
    scored: dict[int, list[tuple[int, float]]] = {}
    for (prompt_id, response_id), score in zip(found, scores.tolist(), strict=True):
        scored.setdefault(prompt_id, []).append((response_id, score))
    for start in range(0, len(prompt_ids), ENTRIES_AT_ONCE):
        block = prompt_ids[start : start + ENTRIES_AT_ONCE]
        shown = shown_responses(db, [i for prompt_id in block for i, _ in scored[prompt_id]])
        for prompt_id in block:
            best_first = sorted(scored[prompt_id], key=_by_score, reverse=True)
            responses = [(None if np.isnan(s) else s, shown[i]) for i, s in best_first]
            yield MapEntry(prompt_id, responses[0][1].messages, responses)


def _by_score(response: tuple[int, float]) -> float:
    return -np.inf if np.isnan(response[1]) else response[1]


def _refuse_an_empty_map(method: str, placed: DataMap) -> None:
    if not np.any(placed.n_scored >= 2):
        raise ScoreError(
            f"none of the {len(placed.n_scored):,} prompts has two responses with a score by "
            f"{method}",
            expected="at least one prompt with two scored responses",
            todo="import more responses to the same prompts, or choose other scores (--scores)",
        )


def _is_current(db: Database, build: MapBuild, encoder_id: int) -> bool:
    if build.method == PEER_AGREEMENT and build.encoder_id != encoder_id:
        return False
    # Candidates, and the scores that came with them, are only ever added.
    n_scored = count_scores(db, build.method)
    return (n_candidates(db), n_scored) == (build.n_responses, build.n_scored)


def _record_build(db: Database, head: tuple[str, int | None, int, int, int], cuts: CutOffs) -> int:
    db.execute("DELETE FROM datamap_builds WHERE method = ?", [head[0]])
    cut_values = [None if np.isnan(cut) else cut for cut in (cuts.variance, cuts.mean)]
    done = db.execute(
        """INSERT INTO datamap_builds (method, encoder_id, seed, n_responses, n_scored,
        variance_cut, mean_cut, built_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
        [*head, *cut_values, now()],
    )
    return int(done.lastrowid or 0)


def _record_places(
    db: Database, build_id: int, prompt_ids: Ids, placed: DataMap, region: Positions
) -> None:
    names = [*REGIONS, None]  # NO_REGION is the last position
    rows = zip(
        prompt_ids.tolist(),
        placed.mean.tolist(),  # SQLite keeps NaN as NULL
        placed.variance.tolist(),
        placed.n_scored.tolist(),
        region.tolist(),
        strict=True,
    )
    db.conn.executemany(
        "INSERT INTO datamap VALUES (?, ?, ?, ?, ?, ?)",
        ((build_id, *row[:4], names[row[4]]) for row in rows),
    )


def _build(db: Database, build_id: int) -> MapBuild:
    id_, method, encoder_id, encoder, seed, variance_cut, mean_cut, n_responses, n_scored = (
        db.execute(
            """SELECT b.id, b.method, b.encoder_id, n.name, b.seed, b.variance_cut, b.mean_cut,
            b.n_responses, b.n_scored
            FROM datamap_builds b LEFT JOIN encoders n ON n.id = b.encoder_id WHERE b.id = ?""",
            [build_id],
        ).fetchone()
    )
    return MapBuild(
        id=id_,
        method=method,
        encoder_id=encoder_id,
        encoder=encoder,
        seed=seed,
        cuts=CutOffs(_or_nan(variance_cut), _or_nan(mean_cut)),
        n_responses=n_responses,
        n_scored=n_scored,
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
