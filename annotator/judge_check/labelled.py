"""The evidence of labelled files: scores and labels that they carry, without a project.

The files are read as `import` reads them and are not imported: a response whose text is not there
still has its scores, and some published sets give scores alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
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


@dataclass
class _Labelled:
    """What the files hold, response by response and label by label, in the order of the files."""

    prompts: dict[str, int] = field(default_factory=dict)
    prompt_of_response: list[int] = field(default_factory=list)
    n_characters: list[int] = field(default_factory=list)
    scores: list[dict[str, float]] = field(default_factory=list)
    labels: dict[str, list[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(list))
    datasets: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)

    def add(self, candidate: Candidate, dataset: str) -> None:
        """One row. Rows of equal prompts are one prompt: its responses are drawn together."""
        prompt = self.prompts.setdefault(prompt_key(candidate.messages), len(self.prompts))
        first = len(self.scores)
        self.datasets.add(candidate.dataset or dataset)
        for response in candidate.responses:
            self.prompt_of_response.append(prompt)
            self.n_characters.append(len(response.text))
            self.scores.append(response.scores)
        for label in candidate.labels:
            self._add_label(label, first)

    def _add_label(self, label: Label, first: int) -> None:
        row = (first + label.a, first + label.b, GRADE[label.label])
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
        table = np.array(self.labels[kind], dtype=np.int64).reshape(-1, 3)
        return table[:, 0], table[:, 1], table[:, 2]


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
                into.add(chosen.read(record.row), dataset_name(path))
            except RejectedRow as refusal:
                into.refused.append(f"{path.name}, line {record.line}: {refusal.found}")


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
        yield PairJudge(name, verdict, _twice(votes, prompts))


def _twice(votes: PairVotes, prompts: Positions) -> SwappedVerdicts | None:
    """The pairs with just two verdicts, which are those of the two orders: one each."""
    two = votes.for_a + votes.for_b + votes.tied == 2
    if not two.any():
        return None
    alike = np.maximum(np.maximum(votes.for_a, votes.for_b), votes.tied) == 2
    return SwappedVerdicts(prompts[votes.a[two]], ~alike[two])


def _refusals(read: _Labelled) -> list[str]:
    if not read.refused:
        return []
    return [f"{len(read.refused):,} rows were refused; the first: {read.refused[0]}."]
