"""From sound rows to the tables. Nobody else writes prompts, responses and what came with them.

A batch is one transaction: what is known is looked up at once, each row is decided in memory in
the order of the file, and everything new is inserted at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from annotator.candidates.candidate import MAX_RESPONSES, shown
from annotator.candidates.gold import GoldTable
from annotator.candidates.identity import canonical_messages, prompt_text, text_hash
from annotator.candidates.keyed import KeyedRow
from annotator.candidates.known import Known, KnownPrompt, response_names
from annotator.candidates.outcome import Counts, Problem
from annotator.errors import RejectedRow
from annotator.store import now, writing

if TYPE_CHECKING:
    from sqlite_utils import Database


@dataclass(slots=True)
class ImportEntry:
    """The row of `imports` that what is new in a file points to; made with the first of it.

    `purpose` is candidates or gold.
    """

    file: str
    dataset: str
    format: str
    started_at: str
    purpose: str = "candidates"
    id: int | None = None


def store_batch(
    db: Database, rows: Sequence[KeyedRow], entry: ImportEntry
) -> tuple[Counts, list[Problem]]:
    """Writes the rows in one transaction; what came of them, and what was refused and why.

    A refused row leaves nothing behind. A score that contradicts the kept one is a problem of a
    row that is otherwise stored. Rows of gold have been through `gold.as_gold`: their labels are
    gold answers. What was gold only and now comes as a candidate counts as added.
    """
    with writing(db):
        batch = _Batch(db, rows, entry)
        for row in rows:
            batch.take(row)
        import_id = batch.insert()
    entry.id = import_id
    return batch.counts, batch.problems


def finish_import(db: Database, entry: ImportEntry) -> None:
    """Notes that the file was read to its end, if anything of it was new."""
    if entry.id is not None:
        with writing(db):
            db.execute("UPDATE imports SET finished_at = ? WHERE id = ?", [now(), entry.id])


class _Batch:
    """Rows on their way into the tables: what is known, what is new, what came of each."""

    def __init__(self, db: Database, rows: Sequence[KeyedRow], entry: ImportEntry) -> None:
        self.counts = Counts()
        self.problems: list[Problem] = []
        self._db = db
        self._entry = entry
        self._known = Known(db, rows)
        self._gold = GoldTable(db, rows) if entry.purpose == "gold" else None
        self._next_prompt = _next_id(db, "prompts")
        self._next_response = _next_id(db, "responses")
        self._prompts: list[tuple[Any, ...]] = []
        self._responses: list[tuple[Any, ...]] = []
        self._labels: list[tuple[Any, ...]] = []
        self._scores: list[tuple[Any, ...]] = []
        self._promoted_prompts: list[int] = []
        self._promoted_responses: list[int] = []

    def take(self, row: KeyedRow) -> None:
        """Decides one row: everything of it that is new will be inserted, or nothing."""
        prompt = self._known.prompts.get(row.prompt_key)
        names = response_names(row, prompt)
        try:
            self._check_prompt_name(row)
            if prompt is not None:
                self._check_responses(row, prompt, names)
            if self._gold is not None:
                self._gold.check(row)
        except RejectedRow as refusal:
            self.counts.rejected += 1
            self.problems.append(Problem(row.line, refusal.found, row.raw))
        else:
            self._add(row, prompt, names)

    def insert(self) -> int | None:
        """Writes everything that is new; the import that it belongs to, None if there is none."""
        if not self.counts.anything_added:
            return self._entry.id
        import_id = self._entry.id or _insert_entry(self._db, self._entry)
        for query, rows in (
            (_INSERT_PROMPT, self._prompts),
            (_INSERT_RESPONSE, self._responses),
            (_INSERT_LABEL, self._labels),
            (_INSERT_SCORE, self._scores),
        ):
            self._db.conn.executemany(query, ((*values, import_id) for values in rows))
        if self._gold is not None:
            self._gold.insert(import_id)
        for query, promoted in (
            (_PROMOTE_PROMPTS, self._promoted_prompts),
            (_PROMOTE_RESPONSES, self._promoted_responses),
        ):
            self._db.execute(query, [import_id, json.dumps(promoted)])
        return import_id

    def _check_prompt_name(self, row: KeyedRow) -> None:
        name = row.sound.candidate.external_id
        if name is None:
            return
        holder = self._known.prompt_names.get((row.dataset, name), row.prompt_key)
        if holder != row.prompt_key:
            raise RejectedRow(
                f"prompt id {shown(name)} stands for another text in dataset {shown(row.dataset)}"
            )

    def _check_responses(
        self, row: KeyedRow, prompt: KnownPrompt, names: Sequence[str | None]
    ) -> None:
        for key, name in zip(row.response_keys, names, strict=True):
            if name and self._known.response_names.get((prompt.id, name), key) != key:
                raise RejectedRow(f"response id {shown(name)} stands for another text")
        n_new = sum(key not in self._known.responses for key in row.response_keys)
        n_all = self._known.n_responses.get(prompt.id, 0) + n_new
        if n_new and n_all > MAX_RESPONSES:
            raise RejectedRow(
                f"with this row the prompt has {n_all:,} responses; the limit is {MAX_RESPONSES:,}"
            )

    def _add(self, row: KeyedRow, prompt: KnownPrompt | None, names: Sequence[str | None]) -> None:
        if prompt is None:
            prompt = self._add_prompt(row)
        elif self._promoted(prompt.id, self._known.gold_prompts, self._promoted_prompts):
            self.counts.prompts_added += 1
        else:
            self.counts.prompts_known += 1
        self.counts.responses_known += row.sound.n_folded
        ids = [self._add_response(row, n, prompt, name) for n, name in enumerate(names)]
        self._add_scores(row, ids)
        self.counts.labels_void += row.sound.n_void
        if self._gold is None:
            self._add_labels(row, ids)
        else:
            self._add_gold(row, ids, self._gold)

    def _promoted(self, known: int, gold_only: set[int], promoted: list[int]) -> bool:
        """Whether what was gold only becomes a candidate with this row."""
        if self._gold is not None or known not in gold_only:
            return False
        gold_only.remove(known)
        promoted.append(known)
        return True

    def _add_prompt(self, row: KeyedRow) -> KnownPrompt:
        candidate = row.sound.candidate
        prompt = KnownPrompt(self._next_prompt, row.dataset, candidate.external_id)
        self._next_prompt += 1
        messages = canonical_messages(candidate.messages)
        text = text_hash(prompt_text(candidate.messages))
        self._prompts.append((prompt.id, row.prompt_key, messages, text, *prompt[1:]))
        self._known.prompts[row.prompt_key] = prompt
        if prompt.external_id is not None:
            self._known.prompt_names[prompt.dataset, prompt.external_id] = row.prompt_key
        self.counts.prompts_added += 1
        return prompt

    def _add_response(self, row: KeyedRow, n: int, prompt: KnownPrompt, name: str | None) -> int:
        key, response = row.response_keys[n], row.sound.candidate.responses[n]
        known = self._known.responses.get(key)
        if known is not None:
            if self._promoted(known, self._known.gold_responses, self._promoted_responses):
                self.counts.responses_added += 1
            else:
                self.counts.responses_known += 1
            return known
        new = self._known.responses[key] = self._next_response
        self._next_response += 1
        text = text_hash(response.text)
        self._responses.append((new, key, prompt.id, response.text, text, response.model, name))
        self._known.n_responses[prompt.id] = self._known.n_responses.get(prompt.id, 0) + 1
        if name is not None:
            self._known.response_names[prompt.id, name] = key
        self.counts.responses_added += 1
        return new

    def _add_scores(self, row: KeyedRow, ids: Sequence[int]) -> None:
        conflicts = []
        for response_id, response in zip(ids, row.sound.candidate.responses, strict=True):
            for name, value in response.scores.items():
                kept = self._add_score(response_id, name, value)
                if kept != value:
                    conflicts.append(f"{shown(name)} is {value}, kept is {kept}")
        if conflicts:
            self.counts.scores_conflicting += len(conflicts)
            first = f"the rest is stored, but a score is kept as it was: {conflicts[0]}"
            self.problems.append(Problem(row.line, first + _and_more(conflicts), row.raw))

    def _add_score(self, response_id: int, name: str, value: float) -> float:
        """Keeps the score if it is the first of its name; the value that is kept."""
        kept = self._known.scores.get((response_id, name))
        if kept is None:
            self._known.scores[response_id, name] = value
            self._scores.append((response_id, name, value))
            self.counts.scores_added += 1
            return value
        self.counts.scores_known += kept == value
        return kept

    def _add_gold(self, row: KeyedRow, ids: Sequence[int], gold: GoldTable) -> None:
        n_new = gold.add(row, ids)
        self.counts.labels_added += n_new
        self.counts.labels_known += len(row.labels) - n_new

    def _add_labels(self, row: KeyedRow, ids: Sequence[int]) -> None:
        for key, a, b, *verdict in row.labels:
            if key in self._known.labels:
                self.counts.labels_known += 1
                continue
            self._known.labels.add(key)
            self._labels.append((key, ids[a], ids[b], *verdict))
            self.counts.labels_added += 1


def _and_more(items: Sequence[str]) -> str:
    return f", and {len(items) - 1} more" if len(items) > 1 else ""


def _next_id(db: Database, table: str) -> int:
    highest = db.execute(f"SELECT max(id) FROM {table}").fetchone()[0]  # noqa: S608
    return (highest or 0) + 1


def _insert_entry(db: Database, entry: ImportEntry) -> int:
    new = _next_id(db, "imports")
    db.execute(
        """INSERT INTO imports (id, file, dataset, format, started_at, purpose)
        VALUES (?, ?, ?, ?, ?, ?)""",
        [new, entry.file, entry.dataset, entry.format, entry.started_at, entry.purpose],
    )
    return new


_INSERT_PROMPT = """
    INSERT INTO prompts
      (id, prompt_key, messages, text_hash, dataset, external_id, import_id)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
_INSERT_RESPONSE = """
    INSERT INTO responses
      (id, response_key, prompt_id, text, text_hash, model, external_id, import_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_LABEL = """
    INSERT INTO source_labels (label_key, a_id, b_id, label, strength, annotator, kind, import_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_INSERT_SCORE = """
    INSERT INTO source_scores (response_id, name, value, import_id) VALUES (?, ?, ?, ?)"""
_PROMOTE_PROMPTS = """
    UPDATE prompts SET import_id = ? WHERE id IN (SELECT value FROM json_each(?))"""
_PROMOTE_RESPONSES = """
    UPDATE responses SET import_id = ? WHERE id IN (SELECT value FROM json_each(?))"""
