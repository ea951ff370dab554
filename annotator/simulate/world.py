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
from strategies.within_prompt import Bools, Floats, Positions

if TYPE_CHECKING:
    from sqlite_utils import Database

GRADE = {"a": 1, "b": -1, "tie": 0, "both_bad": 0}
OF_JUDGES = ("llm:", "rm:", "judge:")  # how names of scores by judges begin
BLOCK_BYTES = 1 << 20
WAIT_SECONDS = 7 * 86_400.0  # for another process that imports or embeds the same files
NO_TRUTH = -9  # of a pair of which no gold label tells, or gold labels that contradict each other
IMPORT_VERSION = 2  # raise it when `import` reads more of the same files than it did


@dataclass(frozen=True, eq=False)
class World:
    """A labelled set that can be replayed.

    - `pool`: all its responses, and as pairs those that carry a vote. A pair without votes is not
      there rather than not eligible, which would say that it was picked before.
    - `features` of the same responses, for the learner.
    - `vote_pair`, `vote_grade` (n_votes,): which of the pool's pairs each vote is on, and 1 if it
      prefers the pair's a, -1 if b, 0 for a tie. Sorted by pair. How much better is left out: sets
      measure it on scales of their own.
    - `vote_annotator` (n_votes,): a number for whoever cast each vote, from 0. A vote of which the
      files say nobody is an annotator of its own.
    - `vote_left_is_a` (n_votes,): whether the pair's a was shown on the left. Files do not say, so
      of them it is the toss of a coin, and nobody seems to prefer a side.
    - `truth` (n_pairs,): 1 if gold labels prefer the pair's a, -1 if b, 0 for a tie, NO_TRUTH where
      there are none, or where gold labels are the votes.
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
    vote_annotator: Positions
    vote_left_is_a: Bools
    truth: Positions
    n_refused: int = 0
    scores: Mapping[str, Floats] = field(default_factory=dict)
    judge: str | None = None
    taken_for_judges: tuple[str, ...] = ()

    @property
    def n_votes(self) -> int:
        """How many votes there are to draw."""
        return len(self.vote_pair)

    def fingerprint(self) -> str:
        """A hash of what a strategy's replay sees: votes, pairs, and what features are made of.

        Not of annotators and truth, which it does not see.
        """
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

    def fingerprint_of_people(self) -> str:
        """A hash of who cast each vote, how it was shown, and of the truth."""
        digest = hashlib.sha256()
        for part in (self.vote_annotator, self.vote_left_is_a, self.truth):
            digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
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

    `format` as in `import_files`. Human votes count, and labels of the kind `objective` beside them
    are the truth; where there are no human votes, these gold labels are the votes. `scores` names
    judges whose scores the files brought, `llm:*` for the mean of several; `judge` in the same way
    those that the learner is told; a name that does not begin with one of OF_JUDGES has to be given
    exactly. Raises SimulationError if that is not so or the files carry no votes, ScoreError if
    nobody of that name scored, CandidateError, UnknownFormat or EncoderError as `import` and
    `embed` do.
    """
    folder = cache / "sets" / _files_key(paths, format)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "labelled.db"
    with hold_lock(folder / "lock", "preparing a labelled set", wait_seconds=WAIT_SECONDS):
        db = open_db(path, create=True)
        try:
            n_refused = _import_once(db, paths, folder, format)
            labels, gold = _labels(db)
            encoder_id = ensure_embedded(db, path, encoder, precision).encoder_id
            world = _world(db, path, encoder_id, labels, gold, scores, judge)
            return replace(world, n_refused=n_refused)
        finally:
            db.close()


def world_of(
    dataset: str,
    features: ResponseFeatures,
    votes: tuple[Positions, Positions, Positions],
    *,
    annotators: Positions | None = None,
    first_on_left: Bools | None = None,
    gold: tuple[Positions, Positions, Positions] | None = None,
) -> World:
    """The world of these responses and votes: three arrays (n_votes,), positions a and b, grade.

    A vote may name its pair in either order; `grade` is in the vote's own frame. `annotators`
    (n_votes,) numbers of those who voted, -1 where nobody knows; None: nobody does.
    `first_on_left` (n_votes,) whether the response named first was on the left. `gold` labels in
    the same three arrays as votes; those on pairs without votes are passed over. Raises
    SimulationError if there are no votes.
    """
    if not len(votes[2]):
        raise SimulationError(
            "there are no votes", expected="a labelled set", todo="give files that carry labels"
        )
    prompts = features.prompt_of_response
    a, b, grade = _turned(*votes)
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
    if annotators is None:
        annotators = np.full(len(grade), -1, dtype=np.int64)
    if first_on_left is None:
        first_on_left = np.random.default_rng(0).random(len(grade)) < 0.5
    left_is_a = first_on_left == (votes[0] < votes[1])
    return World(
        dataset,
        pool,
        features,
        vote_pair=np.cumsum(starts) - 1,
        vote_grade=grade[order],
        vote_annotator=_numbered(annotators[order]),
        vote_left_is_a=left_is_a[order],
        truth=_truth(code[starts], len(prompts), gold),
    )


def _turned(
    first: Positions, second: Positions, grade: Positions
) -> tuple[Positions, Positions, Positions]:
    """The same labels with a < b."""
    return (
        np.minimum(first, second),
        np.maximum(first, second),
        np.where(first > second, -grade, grade),
    )


def _numbered(annotators: Positions) -> Positions:
    """Annotators from 0 without gaps; each -1 is somebody else."""
    known, number = np.unique(annotators, return_inverse=True)
    unknown = annotators < 0
    number = number.astype(np.int64) - int(np.count_nonzero(known < 0))
    number[unknown] = int(np.count_nonzero(known >= 0)) + np.arange(int(unknown.sum()))
    return number


def _truth(
    codes: Positions, n_responses: int, gold: tuple[Positions, Positions, Positions] | None
) -> Positions:
    """What the gold labels say of the pairs with these codes, a times n_responses plus b."""
    truth = np.full(len(codes), NO_TRUTH, dtype=np.int64)
    if gold is None or not len(gold[2]):
        return truth
    a, b, grade = _turned(*gold)
    order = np.argsort(codes)  # sorted by prompt first, and prompts may lie across one another
    found = np.minimum(np.searchsorted(codes, a * n_responses + b, sorter=order), len(codes) - 1)
    pair = order[found]
    on_pair = codes[pair] == a * n_responses + b
    pair, grade = pair[on_pair], grade[on_pair]
    least, most = np.full(len(codes), 2), np.full(len(codes), -2)
    np.minimum.at(least, pair, grade)
    np.maximum.at(most, pair, grade)
    agreed = least == most
    truth[agreed] = least[agreed]
    return truth


def _files_key(paths: Sequence[Path], format: str | None) -> str:
    """A hash of what the files say and how they are read."""
    from annotator import __version__

    digest = hashlib.sha256(f"{__version__} {IMPORT_VERSION} {format}".encode())
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


_LABELS = "SELECT a_id, b_id, label, annotator FROM source_labels WHERE kind = ? ORDER BY id"


@dataclass(frozen=True, eq=False)
class _Labels:
    """Response ids a and b, grade, and a number for the annotator or -1, of n labels (n, 4)."""

    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def on(self, response_ids: Positions) -> tuple[Positions, Positions, Positions]:
        """Positions of a and b among these responses, and the grade."""
        order = np.argsort(response_ids)
        a, b = order[np.searchsorted(response_ids, self.rows[:, :2].T, sorter=order)]
        return a, b, self.rows[:, 2]


def _labels(db: Database) -> tuple[_Labels, _Labels]:
    """The votes, and the gold labels beside them; gold labels alone are the votes."""
    human, objective = (_labels_of_kind(db, kind) for kind in ("human", "objective"))
    if len(human):
        return human, objective
    if len(objective):
        return objective, human
    kinds = [kind for (kind,) in db.execute("SELECT DISTINCT kind FROM source_labels")]
    raise SimulationError(
        f"the files carry no votes of people; labels in them: {', '.join(sorted(kinds)) or 'none'}",
        expected="labels of the kind human, or objective for gold labels",
        todo="give labelled pairs, such as comparisons, chosen and rejected, or a winner",
    )


def _labels_of_kind(db: Database, kind: str) -> _Labels:
    numbers: dict[str | None, int] = {None: -1}
    rows = [
        (a, b, GRADE[label], numbers.setdefault(annotator, len(numbers) - 1))
        for a, b, label, annotator in db.execute(_LABELS, [kind])
    ]
    return _Labels(np.array(rows, dtype=np.int64).reshape(-1, 4))


def _world(
    db: Database,
    path: Path,
    encoder_id: int,
    labels: _Labels,
    gold: _Labels,
    scores: Sequence[str],
    judge: str | None,
) -> World:
    table = response_table(db)
    by_name, taken = _judges_scores(db, table, (*scores, *([judge] if judge else [])))
    judged = by_name[judge][:, None] if judge else None
    features = _features(db, path, encoder_id, table, judged)
    names = [name for (name,) in db.execute("SELECT DISTINCT dataset FROM prompts ORDER BY 1")]
    world = world_of(
        " + ".join(names),
        features,
        labels.on(table.response_ids),
        annotators=labels.rows[:, 3],
        gold=gold.on(table.response_ids),
    )
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
