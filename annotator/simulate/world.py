"""A labelled set as arrays: its responses, its pairs with votes, and every vote.

The files go through `import` into a database of their own in a cache folder, so whatever `import`
reads can be replayed, equal texts are one response, and every text is embedded once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from annotator.candidates.catalog import ResponseTable, response_table
from annotator.candidates.ingest import import_files, size_of
from annotator.candidates.records import find_files
from annotator.preference.features import ResponseFeatures
from annotator.progress import progress_bar
from annotator.rounds.features import features_of
from annotator.signals.embeddings import ensure_embedded, response_vectors
from annotator.signals.judges.panel import Panel, scores_in_data
from annotator.signals.scores import FROM_DATA
from annotator.simulate import SimulationError
from annotator.store import hold_lock, open_db
from strategies.pool import Pool
from strategies.within_prompt import Floats, Positions

if TYPE_CHECKING:
    from sqlite_utils import Database

GRADE = {"a": 1, "b": -1, "tie": 0, "both_bad": 0}
OF_JUDGES = ("llm:", "rm:", "judge:")  # how names of scores by judges begin
BLOCK_BYTES = 1 << 20
WAIT_SECONDS = 7 * 86_400.0  # for another process that imports or embeds the same files


@dataclass(frozen=True, eq=False)
class World:
    """A labelled set that can be replayed.

    - `pool`: all its responses, and as pairs those that carry a vote. A pair without votes is not
      there rather than not eligible, which would say that it was picked before.
    - `features` of the same responses, for the learner.
    - `vote_pair`, `vote_grade` (n_votes,): which of the pool's pairs each vote is on, and 1 if it
      prefers the pair's a, -1 if b, 0 for a tie. Sorted by pair. How much better is left out: sets
      measure it on scales of their own.
    - `n_refused`: rows of the files that `import` refused.
    - `scores`: by name or pattern those judges' scores of each response that the files brought,
      (n_responses,), NaN where there is none; of several judges their mean. `judge` is the name of
      those that the learner is told as well, and data maps are made of unless another is named.
      `taken_for_judges`: those of these names that do not say that a judge gave the scores.
    """

    dataset: str
    pool: Pool
    features: ResponseFeatures
    vote_pair: Positions
    vote_grade: Positions
    n_refused: int = 0
    scores: Mapping[str, Floats] = field(default_factory=dict)
    judge: str | None = None
    taken_for_judges: tuple[str, ...] = ()

    @property
    def n_votes(self) -> int:
        """How many votes there are to draw."""
        return len(self.vote_pair)

    def fingerprint(self) -> str:
        """A hash of everything that a replay sees: votes, pairs, and what features are made of."""
        digest = hashlib.sha256(self.dataset.encode())
        parts = {field.name: getattr(self.features, field.name) for field in fields(self.features)}
        parts |= {"pair_a": self.pool.pair_a, "pair_b": self.pool.pair_b}
        parts |= {"vote_pair": self.vote_pair, "vote_grade": self.vote_grade}
        for name, part in parts.items():
            array = np.ascontiguousarray(part) if isinstance(part, np.ndarray) else None
            if array is None:
                digest.update(f"{name} {part!r}".encode())
            else:
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(array.data)
        return digest.hexdigest()[:32]

    def fingerprint_of_scores(self, name: str) -> str:
        """A hash of the scores of that name."""
        return hashlib.sha256(np.ascontiguousarray(self.scores[name]).tobytes()).hexdigest()[:32]


def load_world(
    paths: Sequence[Path],
    cache: Path,
    *,
    encoder: str,
    precision: str = "auto",
    format: str | None = None,
    scores: Sequence[str] = (),
    judge: str | None = None,
) -> World:
    """The labelled set in these files, imported and embedded unless `cache` holds it already.

    `format` as in `import_files`. Human votes count; where there are none, those of the kind
    `objective`, gold labels, are the votes. `scores` names judges whose scores the files brought,
    `llm:*` for the mean of several; `judge` in the same way those that the learner is told; a name
    that does not begin with one of OF_JUDGES has to be given exactly. Raises SimulationError if
    that is not so or the files carry no votes, ScoreError if nobody of that name scored,
    CandidateError, UnknownFormat or EncoderError as `import` and `embed` do.
    """
    folder = cache / "sets" / _files_key(paths, format)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labelled.db"
    with hold_lock(folder / "lock", "preparing a labelled set", wait_seconds=WAIT_SECONDS):
        db = open_db(path, create=True)
        try:
            n_refused = _import_once(db, paths, folder, format)
            labels = _labels(db)
            encoder_id = ensure_embedded(db, path, encoder, precision).encoder_id
            world = _world(db, path, encoder_id, labels, scores, judge)
            return replace(world, n_refused=n_refused)
        finally:
            db.close()


def world_of(
    dataset: str,
    features: ResponseFeatures,
    votes: tuple[Positions, Positions, Positions],
) -> World:
    """The world of these responses and votes: three arrays (n_votes,), positions a and b, grade.

    A vote may name its pair in either order; `grade` is in the vote's own frame. Raises
    SimulationError if there are no votes.
    """
    first, second, grade = votes
    if not len(grade):
        raise SimulationError(
            "there are no votes", expected="a labelled set", todo="give files that carry labels"
        )
    a, b = np.minimum(first, second), np.maximum(first, second)
    grade = np.where(first > second, -grade, grade)
    prompts = features.prompt_of_response
    order = np.lexsort((b, a, prompts[a]))  # as the pairs of a pool are sorted
    code = (a * len(prompts) + b)[order]
    starts = np.append(True, code[1:] != code[:-1])
    pool = Pool(
        response_vectors=features.vectors,
        prompt_of_response=prompts,
        pair_a=a[order][starts],
        pair_b=b[order][starts],
        pair_eligible=np.ones(int(starts.sum()), dtype=np.bool_),
    )
    return World(dataset, pool, features, np.cumsum(starts) - 1, grade[order])


def _files_key(paths: Sequence[Path], format: str | None) -> str:
    """A hash of what the files say and how they are read."""
    from annotator import __version__

    digest = hashlib.sha256(f"{__version__} {format}".encode())
    for path in find_files(list(paths)):
        digest.update(path.name.encode())  # rows that name no data set belong to one named so
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()[:32]


def _import_once(db: Database, paths: Sequence[Path], folder: Path, format: str | None) -> int:
    """Imports the files unless that was done; how many of their rows were refused."""
    done = folder / "imported"
    if not done.exists():
        with progress_bar(size_of(paths), "import", "B") as progress:
            report = import_files(db, paths, format=format, progress=progress)
        done.write_text(str(report.total.rejected), encoding="ascii")
    return int(done.read_text(encoding="ascii"))


_LABELS = "SELECT a_id, b_id, label FROM source_labels WHERE kind = ? ORDER BY id"


def _labels(db: Database) -> npt.NDArray[np.int64]:
    """Response a, response b, grade of every vote, (n_votes, 3)."""
    for kind in ("human", "objective"):
        rows = [(a, b, GRADE[label]) for a, b, label in db.execute(_LABELS, [kind])]
        if rows:
            return np.array(rows, dtype=np.int64)
    kinds = [kind for (kind,) in db.execute("SELECT DISTINCT kind FROM source_labels")]
    raise SimulationError(
        f"the files carry no votes of people; labels in them: {', '.join(sorted(kinds)) or 'none'}",
        expected="labels of the kind human, or objective for gold labels",
        todo="give labelled pairs, such as comparisons, chosen and rejected, or a winner",
    )


def _world(
    db: Database,
    path: Path,
    encoder_id: int,
    labels: npt.NDArray[np.int64],
    scores: Sequence[str],
    judge: str | None,
) -> World:
    table = response_table(db)
    by_name, taken = _judges_scores(db, table, (*scores, *([judge] if judge else [])))
    judged = by_name[judge][:, None] if judge else None
    features = _features(db, path, encoder_id, table, judged)
    order = np.argsort(table.response_ids)
    first, second = order[np.searchsorted(table.response_ids, labels[:, :2].T, sorter=order)]
    names = [name for (name,) in db.execute("SELECT DISTINCT dataset FROM prompts ORDER BY 1")]
    world = world_of(" + ".join(names), features, (first, second, labels[:, 2]))
    return replace(world, scores=by_name, judge=judge, taken_for_judges=taken)


def _judges_scores(
    db: Database, table: ResponseTable, names: Sequence[str]
) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """The mean scores under each of these names or patterns, (n_responses,).

    With them the names that do not begin as a judge's do, and were taken because they were given
    exactly. Raises SimulationError for those that only a pattern fits, or that people gave.
    """
    found = {name: scores_in_data(db, [name], table.response_ids) for name in dict.fromkeys(names)}
    for name, panel in found.items():
        if of_people := [n for n in panel.names if n.startswith("human")]:
            raise SimulationError(
                f"{name!r} names scores that people gave: {', '.join(of_people)}",
                expected="scores that can be had before anybody is asked",
                todo="name a judge, such as 'llm:*'",
            )
        if unsaid := [n for n in _not_by_name(panel) if n != name.removeprefix(FROM_DATA)]:
            raise SimulationError(
                f"{name!r} fits scores that may be people's: {', '.join(unsaid)}",
                expected=f"names that begin with {', '.join(OF_JUDGES)}: scores that can be had "
                "before anybody is asked",
                todo="name a score exactly if a judge gave it, or another pattern, such as 'llm:*'",
            )
    taken = {name for panel in found.values() for name in _not_by_name(panel)}
    return {name: panel.mean() for name, panel in found.items()}, tuple(sorted(taken))


def _not_by_name(panel: Panel) -> list[str]:
    return [name for name in panel.names if not name.startswith(OF_JUDGES)]


def _features(
    db: Database, path: Path, encoder_id: int, table: ResponseTable, judged: Floats | None
) -> ResponseFeatures:
    prompt_ids, prompt_of_response = np.unique(table.prompt_ids, return_inverse=True)
    vectors = response_vectors(db, path, encoder_id, table.response_ids)
    prompts = prompt_of_response.astype(np.int64)
    return features_of(
        db, path, encoder_id, table.response_ids, prompt_ids, vectors, prompts, judged
    )
