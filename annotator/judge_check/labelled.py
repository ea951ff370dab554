"""The evidence of labelled files: scores and labels that they carry, without a project.

The files are read as `import` reads them and are not imported: a response whose text is not there
still has its scores, and some published sets give scores alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from annotator.candidates.candidate import Candidate, Label
from annotator.candidates.formats import FORMATS, SAMPLE, Format, find_format
from annotator.candidates.identity import prompt_key
from annotator.candidates.records import RecordFile, dataset_name, find_files
from annotator.errors import RejectedRow
from annotator.judge_check import JudgeCheckError
from annotator.judge_check.account import JudgeCheck, account
from annotator.judge_check.evidence import (
    Document,
    Evidence,
    PairJudge,
    PairVotes,
    SwappedVerdicts,
    log_lengths,
    own_regions,
)
from annotator.judge_check.project import GRADE, KINDS
from annotator.signals.judges.panel import Panel, matching, no_such_scores
from annotator.signals.judges.trust import signs
from strategies.within_prompt import Floats, Positions, all_pairs

JUDGES = ("llm:*",)
ORDERS = {"original": 1, "swapped": -1}  # a comparison's field `order`


@dataclass
class _Labelled:
    """What the files hold, response by response and label by label, in the order of the files."""

    prompts: dict[str, int] = field(default_factory=dict)
    prompt_of_response: list[int] = field(default_factory=list)
    n_characters: list[int] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    labels: dict[str, list[tuple[int, int, int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    datasets: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)

    def add(self, candidate: Candidate, dataset: str, orders: Sequence[int]) -> None:
        """One row, and the order that each of its labels was given in (see `_orders`).

        Rows of equal prompts are one prompt: its responses are drawn together.
        """
        prompt = self.prompts.setdefault(prompt_key(candidate.messages), len(self.prompts))
        first = len(self.scores)
        self.datasets.add(candidate.dataset or dataset)
        for response in candidate.responses:
            self.prompt_of_response.append(prompt)
            self.n_characters.append(len(response.text))
            self.scores.append(response.scores)
        for label, order in zip(candidate.labels, orders, strict=True):
            self._add_label(label, first, order)

    def _add_label(self, label: Label, first: int, order: int) -> None:
        row = (first + label.a, first + label.b, GRADE[label.label], order)
        self.labels[label.kind].append(row)

    def score_names(self) -> set[str]:
        return {name for scores in self.scores for name in scores}

    def panel(self, names: Sequence[str]) -> Panel:
        """The scores of these names."""
        rows = [[scores.get(name, np.nan) for scores in self.scores] for name in names]
        return Panel(
            tuple(names), np.array(rows, dtype=np.float64).reshape(len(names), len(self.scores))
        )

    def votes(self, kind: str) -> tuple[Positions, Positions, Positions]:
        """Labels of a kind as arrays (n,): positions of both responses, grade."""
        table = np.array(self.labels[kind], dtype=np.int64).reshape(-1, 4)
        return table[:, 0], table[:, 1], table[:, 2]

    def orders(self, kind: str) -> Positions:
        """The order that each of these labels was given in, (n,).

        1 and -1 where the file says original and swapped, else 2 and -2 by which of the two
        responses the label names first: only opposite numbers are both orders.
        """
        table = np.array(self.labels[kind], dtype=np.int64).reshape(-1, 4)
        named: Positions = 2 * np.sign(table[:, 1] - table[:, 0])
        return np.where(table[:, 3] != 0, table[:, 3], named)


def check_files(
    paths: Sequence[Path],
    *,
    judges: Sequence[str] = JUDGES,
    people: str | None = None,
    format: str | None = None,
    seed: int = 0,
) -> JudgeCheck:
    """What the judges' scores in these files are worth: the mean of those whose names fit.

    `judges` are names of scores, or patterns of them; judges of pairs, which left labels of such a
    kind, are measured beside them, and alone where no score fits. People's verdict on a pair is
    the majority of the labels of the kind human (objective, gold labels, where there are none);
    with `people`, a pattern of scores that people gave such as 'human:*', it is the sign of the
    difference of their means, on all pairs of a prompt. `format` as in `import_files`.

    Raises CandidateError or UnknownFormat as `import` does, ScoreError if no name fits,
    JudgeCheckError if nobody labelled a pair with two scored responses.
    """
    read = _Labelled()
    for path in find_files(list(paths)):
        _read(path, format, read)
    known = read.score_names()
    names = matching(judges, known)
    if not names and not matching(judges, read.labels):
        raise no_such_scores(judges, known)
    return account(_evidence(read, names, judges, people, seed), seed)


def _read(path: Path, format: str | None, into: _Labelled) -> None:
    records = RecordFile(path)
    chosen = _format(records, format)
    with closing(records.read()) as rows:
        for record in rows:
            if record.blank:
                continue
            try:
                if record.row is None:
                    raise RejectedRow(record.problem or "")
                candidate = chosen.read(record.row)
                orders = _orders(record.row, len(candidate.labels))
                into.add(candidate, dataset_name(path), orders)
            except RejectedRow as refusal:
                into.refused.append(f"{path.name}, line {record.line}: {refusal.found}")


def _orders(row: Mapping[str, object], n_labels: int) -> list[int]:
    """What the row's comparisons say of the order they were judged in: ORDERS, 0 for nothing.

    Import has no use for it, so the formats leave it out.
    """
    comparisons = row.get("comparisons")
    if not isinstance(comparisons, list) or len(comparisons) != n_labels:
        return [0] * n_labels
    said = (one.get("order") if isinstance(one, dict) else None for one in comparisons)
    return [ORDERS.get(order, 0) if isinstance(order, str) else 0 for order in said]


def _format(records: RecordFile, format: str | None) -> Format:
    if format is not None:
        return FORMATS[format]
    rows = [record.row for record in records.sample(SAMPLE) if record.row is not None]
    return find_format(rows, table=records.is_table, where=records.path)


def _evidence(
    read: _Labelled, names: list[str], judges: Sequence[str], people: str | None, seed: int
) -> Evidence:
    panel = read.panel(names)
    prompts = np.array(read.prompt_of_response, dtype=np.int64)
    said = _labels(read) if people is None else _people_scores(read, people, prompts)
    pair_judges = list(_pair_judges(read, judges, said.a, said.b, prompts))
    alone = len(pair_judges) == 1 and not names
    return Evidence(
        panel=panel,
        prompt_of_response=prompts,
        log_length=log_lengths(np.array(read.n_characters, dtype=np.float64)),
        pair_a=said.a,
        pair_b=said.b,
        people=said.verdict,
        votes=said.votes,
        people_score=said.score,
        about={"dataset": " + ".join(sorted(read.datasets)), **said.about},
        region=own_regions(panel.mean(), prompts, seed),
        region_from="the same scores",
        swapped=pair_judges[0].swapped if alone else None,
        pair_judges=pair_judges,
        notes=_refusals(read),
    )


@dataclass(frozen=True, eq=False)
class _Said:
    """People's verdicts on pairs, (n_pairs,), and where they come from."""

    a: Positions
    b: Positions
    verdict: Positions
    about: Document
    votes: PairVotes | None = None
    score: Floats | None = None


def _labels(read: _Labelled) -> _Said:
    for kind in KINDS:
        if read.labels.get(kind):
            votes = PairVotes.of(*read.votes(kind))
            about = {"from": f"data:{kind}", "words": f"labels of the kind {kind}"}
            return _Said(votes.a, votes.b, votes.majority, about, votes)
    raise JudgeCheckError(
        "the files carry no labels by people",
        expected=f"labels of the kind {' or '.join(KINDS)}; "
        f"they carry {', '.join(sorted(read.labels)) or 'none'}",
        todo="name the scores that people gave, if there are any, such as 'human:*'",
    )


def _people_scores(read: _Labelled, pattern: str, prompts: Positions) -> _Said:
    names = matching([pattern], read.score_names())
    if not names:
        raise no_such_scores([pattern], read.score_names())
    score = read.panel(names).mean()
    a, b = all_pairs(prompts)
    both = ~np.isnan(score[a]) & ~np.isnan(score[b])
    a, b = a[both], b[both]
    words = f"scores {names[0]}" if len(names) == 1 else f"mean of {len(names)} scores {pattern}"
    about = {"from": f"scores:{pattern}", "words": words}
    return _Said(a, b, signs(score[a] - score[b]), about, score=score)


def _pair_judges(
    read: _Labelled, patterns: Sequence[str], a: Positions, b: Positions, prompts: Positions
) -> Iterator[PairJudge]:
    """Judges that left labels, with their mean verdict on the pairs that people spoke on."""
    place = {pair: at for at, pair in enumerate(zip(a.tolist(), b.tolist(), strict=True))}
    for name in matching(patterns, read.labels):
        verdict = np.full(len(a), np.nan)
        votes = PairVotes.of(*read.votes(name))
        net, n = votes.for_a - votes.for_b, votes.for_a + votes.for_b + votes.tied
        for at, pair in enumerate(zip(votes.a.tolist(), votes.b.tolist(), strict=True)):
            if pair in place:
                verdict[place[pair]] = net[at] / n[at]
        yield PairJudge(name, verdict, _twice(votes, _sum_of_orders(read, name), prompts))


def _sum_of_orders(read: _Labelled, kind: str) -> Positions:
    """The orders of each pair's labels added up, in the order of PairVotes, (n_pairs,)."""
    first, second, _ = read.votes(kind)
    ends = np.stack((np.minimum(first, second), np.maximum(first, second)))
    _, which = np.unique(ends, axis=1, return_inverse=True)
    sums: Positions = np.bincount(which.reshape(-1), weights=read.orders(kind)).astype(np.int64)
    return sums


def _twice(
    votes: PairVotes, sum_of_orders: Positions, prompts: Positions
) -> SwappedVerdicts | None:
    """The pairs with just two verdicts, one in each order; None where no pair is known to be one.

    Two verdicts in one order differ by chance alone, and say nothing of flips.
    """
    two = (votes.for_a + votes.for_b + votes.tied == 2) & (sum_of_orders == 0)
    if not two.any():
        return None
    alike = np.maximum(np.maximum(votes.for_a, votes.for_b), votes.tied) == 2
    return SwappedVerdicts(prompts[votes.a[two]], ~alike[two])


def _refusals(read: _Labelled) -> list[str]:
    if not read.refused:
        return []
    return [f"{len(read.refused):,} rows were refused; the first: {read.refused[0]}."]
