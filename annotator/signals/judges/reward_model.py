"""Scores by a reward model in a local folder. All that knows transformers' classifiers is here.

A reward model reads a prompt and one response and gives a number, its logit, on a scale of its
own. Where it has several heads they are read as an ensemble: the score is their mean, the judge's
variance the variance between them (ddof 0). With one head there is no such variance.

The model reads the dialogue in its own chat template where its tokenizer has one; else the prompt
as one text, two newlines, and the response. A text longer than the model's window loses the
beginning of its prompt, which is counted; the response is never cut. A response that does not fit
by itself has no score.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotator.candidates.catalog import response_table, shown_responses
from annotator.candidates.identity import Message, prompt_text
from annotator.errors import ScoreError
from annotator.progress import progress_bar
from annotator.signals.chunking import batches
from annotator.signals.encoder import Weights
from annotator.signals.judges.ledger import judging_lock
from annotator.signals.scores import BY_REWARD_MODEL, Ids, record_judged, scores_by
from annotator.store import writing
from strategies.within_prompt import Floats

if TYPE_CHECKING:
    from sqlite_utils import Database

BLOCK_RESPONSES = 256  # what a kill can cost
LOCK_SECONDS = 5.0
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 16_384
# Part of a method's name: another way of putting a text together is another method.
READING = "reading-1"
# Tokenizers that know no limit say an astronomical one.
NO_WINDOW = 10**9


@dataclass(frozen=True)
class Rewards:
    """What a reward model says of some responses, in their order."""

    score: Floats  # (n,), NaN where the response alone is longer than the window
    variance: Floats  # (n,), between the heads; NaN where there is one head
    n_cut: int  # how many lost the beginning of their prompt
    n_too_long: int  # how many have no score


@dataclass(frozen=True)
class RewardReport:
    """What a run found and did."""

    method: str
    n_heads: int
    window: int | None
    n_known: int  # had a score before
    n_scored: int
    n_cut: int
    n_too_long: int


class RewardModel:
    """A sequence classifier of transformers, read from a folder; see the module."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer, self._model = _load(folder)
        self.name = folder.resolve().name
        self.method = f"{BY_REWARD_MODEL}{self.name}:{_fingerprint(folder)[:8]}"
        self.n_heads = int(self._model.config.num_labels)
        self.window = _window(self._tokenizer, self._model.config)

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> Rewards:
        """The rewards of the responses, each to the prompt at its place.

        Raises ScoreError if a text that fits the window has a logit that is not finite.
        """
        read = [self._fitted(*pair) for pair in zip(prompts, responses, strict=True)]
        texts = [ids for ids, _ in read if ids is not None]
        fits = np.array([ids is not None for ids, _ in read], dtype=np.bool_)
        logits = np.full((len(read), self.n_heads), np.nan)
        logits[fits] = self._finite(self._forward(texts))
        variance = logits.var(axis=1) if self.n_heads > 1 else np.full(len(read), np.nan)
        n_cut, n_too_long = sum(cut for _, cut in read), len(read) - len(texts)
        return Rewards(logits.mean(axis=1), variance, n_cut, n_too_long)

    def token_ids(self, prompt: Sequence[Message], response: str) -> list[int]:
        """The tokens of the whole text, whatever their number."""
        if not self._tokenizer.chat_template:
            text = f"{prompt_text(prompt)}\n\n{response}"
            return self._tokens(text, add_special_tokens=True)
        turns: list[Message] = [*prompt, {"role": "assistant", "content": response}]
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        # The template is a program of the model's author, and raises as it likes.
        except Exception as error:
            raise ScoreError(
                f"the chat template of {self.name} refuses a dialogue of the roles "
                f"{', '.join(turn['role'] for turn in turns)}: {str(error).splitlines()[0]}",
                expected="a template for such dialogues",
                todo="choose another reward model, or correct its chat template",
            ) from error
        return self._tokens(text, add_special_tokens=False)

    def _tokens(self, text: str, *, add_special_tokens: bool) -> list[int]:
        found = self._tokenizer(
            text, add_special_tokens=add_special_tokens, truncation=False, verbose=False
        )
        ids: list[int] = found["input_ids"]
        return ids

    def _fitted(self, prompt: Sequence[Message], response: str) -> tuple[list[int] | None, bool]:
        """Tokens that fit the window, and whether the prompt lost its beginning for that."""
        ids = self.token_ids(prompt, response)
        if self.window is None or len(ids) <= self.window:
            return ids, False
        n_chars = sum(len(turn["content"]) for turn in prompt)
        if len(self.token_ids(without_beginning(prompt, n_chars), response)) > self.window:
            return None, False
        too_few, enough = 0, n_chars
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if len(self.token_ids(without_beginning(prompt, middle), response)) > self.window:
                too_few = middle
            else:
                enough = middle
        return self.token_ids(without_beginning(prompt, enough), response), True

    def _finite(self, logits: Floats) -> Floats:
        wrong = ~np.isfinite(logits).all(axis=1)
        if wrong.any():
            raise ScoreError(
                f"{self.name} gives {np.count_nonzero(wrong):,} of {len(logits):,} responses a "
                f"reward that is no number, the first one {logits[wrong][0].tolist()}",
                expected="finite logits",
                todo="check the model's weights; of a model that was trained in bfloat16, "
                "float16 can overflow",
            )
        return logits

    def _forward(self, texts: list[list[int]]) -> Floats:
        """The logits (n, heads) of the texts, given as token ids."""
        import torch

        lengths = np.array([len(ids) for ids in texts], dtype=np.int64)
        padding = self._model.config.get_text_config().pad_token_id
        on_cpu = self._model.device.type == "cpu"
        # Without a padding token the model cannot tell where a text ends: one at a time.
        n_tokens = 1 if padding is None else CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS
        logits = np.empty((len(texts), self.n_heads))
        for batch in batches(lengths, n_tokens):
            rows, mask = _padded([texts[i] for i in batch], padding or 0)
            with torch.inference_mode():
                found = self._model(
                    input_ids=torch.from_numpy(rows).to(self._model.device),
                    attention_mask=torch.from_numpy(mask).to(self._model.device),
                ).logits
            logits[batch] = found.float().cpu().numpy()
        return logits


def without_beginning(prompt: Sequence[Message], n_chars: int) -> list[Message]:
    """The prompt without its first `n_chars` characters; a turn that loses all stays, empty."""
    kept: list[Message] = []
    for turn in prompt:
        dropped = min(n_chars, len(turn["content"]))
        kept.append({"role": turn["role"], "content": turn["content"][dropped:]})
        n_chars -= dropped
    return kept


def _padded(
    texts: list[list[int]], padding: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Token ids, padded at the right, and which of them are no padding; both (n, longest)."""
    longest = max(map(len, texts))
    rows = np.full((len(texts), longest), padding, dtype=np.int64)
    mask = np.zeros((len(texts), longest), dtype=np.int64)
    for i, ids in enumerate(texts):
        rows[i, : len(ids)] = ids
        mask[i, : len(ids)] = 1
    return rows, mask


def score_responses(
    db: Database,
    model: RewardModel,
    *,
    limit: int | None = None,
    on_wait: Callable[[], object] = lambda: None,
) -> RewardReport:
    """Scores and records the responses, of the first `limit`, that the model has not scored yet.

    Shows a progress bar. A run that is stopped keeps what it has recorded, block by block. Calls
    `on_wait` once if another process judges this project; raises StoreBusy where that goes on,
    ScoreError where a logit is not finite.
    """
    path = Path(db.execute("PRAGMA database_list").fetchone()[2])
    with judging_lock(path, wait_seconds=LOCK_SECONDS, on_wait=on_wait):
        return _score_missing(db, model, response_table(db).response_ids[:limit])


def _score_missing(db: Database, model: RewardModel, ids: Ids) -> RewardReport:
    missing = ids[np.isnan(scores_by(db, model.method, ids))]
    n_cut = n_too_long = 0
    with progress_bar(len(missing), "judge", "responses") as progress:
        for block in _blocks(missing):
            shown = shown_responses(db, block.tolist())
            texts = [shown[i] for i in block.tolist()]
            rewards = model.score([t.messages for t in texts], [t.text for t in texts])
            with writing(db):
                record_judged(db, model.method, block, rewards.score, rewards.variance, beside=True)
            n_cut += rewards.n_cut
            n_too_long += rewards.n_too_long
            progress(len(block))
    return RewardReport(
        method=model.method,
        n_heads=model.n_heads,
        window=model.window,
        n_known=len(ids) - len(missing),
        n_scored=len(missing) - n_too_long,
        n_cut=n_cut,
        n_too_long=n_too_long,
    )


def _blocks(ids: Ids) -> Iterator[Ids]:
    for start in range(0, len(ids), BLOCK_RESPONSES):
        yield ids[start : start + BLOCK_RESPONSES]


def _load(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model. Raises ScoreError unless the folder holds a trained reward model."""
    if not (folder / "config.json").is_file():
        raise ScoreError(
            f"{folder} holds no config.json",
            expected="the folder of a sequence-classification model of transformers",
            todo="set [judge] model, or --model, to that folder",
        )
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    load: Callable[..., Any] = AutoModelForSequenceClassification.from_pretrained
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, found = load(
            folder,
            local_files_only=True,
            output_loading_info=True,
            dtype="auto" if device == "cuda" else torch.float32,
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ScoreError(
            f"the reward model in {folder} cannot be loaded: {str(error).strip().splitlines()[0]}",
            expected="a sequence-classification model of transformers with its tokenizer",
            todo="check [judge] model",
        ) from error
    _refuse_what_is_no_reward_model(folder, model, found["missing_keys"])
    return tokenizer, model.to(device).eval()


def _refuse_what_is_no_reward_model(folder: Path, model: Any, missing: Any) -> None:
    if missing:
        raise ScoreError(
            f"the weights in {folder} lack {', '.join(sorted(missing)[:3])}, which would be drawn "
            "at random",
            expected="a model that was trained as a reward model",
            todo="choose the reward model, not the language model that it was made from",
        )
    if model.config.problem_type in ("single_label_classification", "multi_label_classification"):
        raise ScoreError(
            f"the model in {folder} sorts texts into {model.config.num_labels} classes",
            expected="logits that are rewards",
            todo="choose a reward model",
        )


def _window(tokenizer: Any, config: Any) -> int | None:
    """How many tokens the model reads at most; None where it knows no limit."""
    limits = [
        tokenizer.model_max_length,
        getattr(config.get_text_config(), "max_position_embeddings", None),
    ]
    known = [int(limit) for limit in limits if limit and 0 < limit < NO_WINDOW]
    return min(known, default=None)


def _fingerprint(folder: Path) -> str:
    """SHA-256 in hexadecimal over what decides the scores: weights, settings, template, reading."""
    templates = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))]
    parts = [READING, Weights(folder.name, folder).fingerprint, *templates]
    return sha256(json.dumps(parts).encode()).hexdigest()
