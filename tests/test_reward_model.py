"""Scores by reward models: tiny random ones, made here, against a direct pass through each."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from sqlite_utils import Database
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from annotator.candidates.catalog import response_table
from annotator.candidates.identity import Message
from annotator.errors import ScoreError, StoreBusy
from annotator.signals.datamap import build_map
from annotator.signals.judges import reward_model
from annotator.signals.judges.ledger import judging_lock
from annotator.signals.judges.reward_model import (
    RewardModel,
    RewardReport,
    score_responses,
    without_beginning,
)
from annotator.signals.scores import judge_counts, method_in_words, method_named, scores_by
from annotator.store import open_db
from tests.small_world import add_prompt

WINDOW = 40
WORDS = [*"abcdefghijklmnopqrstuvwxyz", "user", "assistant", "system", ":", "?", "."]
SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "<end>"]
CHATML = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} <end>{% endfor %}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
)


def make_tokenizer(*, template: str | None = None, pad: bool = True) -> PreTrainedTokenizerFast:
    """One token for each of WORDS, the rest unknown; [CLS] text [SEP] as BERT has it."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template is None:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="[UNK]",
        additional_special_tokens=["<end>"],
        **({"pad_token": "[PAD]"} if pad else {}),
    )
    tokenizer.chat_template = template
    return tokenizer


def sizes() -> dict[str, Any]:
    return {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": WINDOW,
        "initializer_range": 0.6,  # so that texts differ by more than rounding
    }


def make_bert(folder: Path, *, heads: int = 1, seed: int = 0, **more: Any) -> Path:
    torch.manual_seed(seed)
    config = BertConfig(**sizes(), num_labels=heads, pad_token_id=1, **more)
    BertForSequenceClassification(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_llama(folder: Path, *, pad: bool, template: str = CHATML) -> Path:
    torch.manual_seed(1)
    config = LlamaConfig(
        **sizes(),
        num_labels=1,
        num_key_value_heads=2,
        bos_token_id=2,
        eos_token_id=4,
        pad_token_id=1 if pad else None,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    make_tokenizer(template=template, pad=pad).save_pretrained(folder)
    return folder


def broken(folder: Path, wrong: float) -> Path:
    """The model of `folder`, one of whose heads gives that whatever it reads."""
    model = BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias[-1] = wrong
    model.save_pretrained(folder)
    return folder


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


PROMPTS = [
    [said("user", "a b c ?")],
    [said("user", "d ?"), said("assistant", "e ."), said("user", "f g h i j ?")],
    [said("user", "k")],
    [said("user", "a b c ?")],
]
RESPONSES = ["l m n .", "o", "p q r s t u v w x y z .", "z z z"]


def direct(model: Any, ids: list[int]) -> np.ndarray:
    """The logits of one text by itself."""
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits[0].numpy().astype(np.float64)


class TestScore:
    def test_a_plain_model_reads_prompt_two_newlines_response(self, tmp_path: Path) -> None:
        folder = make_bert(tmp_path / "rm")
        rewards = RewardModel(folder).score(PROMPTS, RESPONSES)
        texts = [
            "a b c ?\n\nl m n .",
            "user: d ?\nassistant: e .\nuser: f g h i j ?\n\no",
            "k\n\np q r s t u v w x y z .",
            "a b c ?\n\nz z z",
        ]
        model = BertForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = make_tokenizer()
        expected = [direct(model, tokenizer(text)["input_ids"])[0] for text in texts]
        np.testing.assert_allclose(rewards.score, expected, atol=1e-5)
        assert np.ptp(expected) > 0.05
        assert np.isnan(rewards.variance).all()
        assert rewards.n_cut == 0

    @pytest.mark.parametrize("pad", [True, False])
    def test_the_models_own_chat_template_is_used(self, tmp_path: Path, pad: bool) -> None:
        folder = make_llama(tmp_path / "rm", pad=pad)
        rewards = RewardModel(folder).score(PROMPTS, RESPONSES)
        model = LlamaForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = make_tokenizer(template=CHATML)
        expected = []
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            turns = [*prompt, said("assistant", response)]
            text = "".join(f"{turn['role']} : {turn['content']} <end>" for turn in turns)
            expected.append(direct(model, tokenizer(text)["input_ids"])[0])
        np.testing.assert_allclose(rewards.score, expected, atol=1e-5)
        assert np.ptp(expected) > 0.05

    def test_several_heads_give_mean_and_variance(self, tmp_path: Path) -> None:
        folder = make_bert(tmp_path / "rm", heads=5)
        rewards = RewardModel(folder).score(PROMPTS[:1], RESPONSES[:1])
        model = BertForSequenceClassification.from_pretrained(folder).eval()
        heads = direct(model, make_tokenizer()("a b c ?\n\nl m n .")["input_ids"])
        assert len(heads) == 5
        assert rewards.score[0] == pytest.approx(heads.sum() / 5, abs=1e-5)
        spread = sum((head - heads.sum() / 5) ** 2 for head in heads) / 5
        assert rewards.variance[0] == pytest.approx(spread, abs=1e-5)

    def test_the_company_of_a_text_does_not_matter(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = RewardModel(make_bert(tmp_path / "rm"))
        together = model.score(PROMPTS, RESPONSES).score
        monkeypatch.setattr(reward_model, "CPU_BATCH_TOKENS", 1)
        np.testing.assert_allclose(model.score(PROMPTS, RESPONSES).score, together, atol=1e-5)


class TestLongTexts:
    def test_the_prompt_loses_its_beginning_and_no_more_than_it_must(self, tmp_path: Path) -> None:
        model = RewardModel(make_bert(tmp_path / "rm"))
        assert model.window == WINDOW
        early, late = said("user", "a " * 30), said("user", " ".join("bcdefghij" * 3))
        response = "x y z"
        rewards = model.score([[early, late]], [response])
        assert rewards.n_cut == 1
        # 40 tokens: [CLS] and [SEP], two roles, 27 words of the late turn and 3 of the response.
        kept = [said("user", " ".join("a" * 6)), late]
        assert len(model.token_ids(kept, response)) == WINDOW
        whole = model.score([kept], [response])
        assert whole.n_cut == 0
        assert rewards.score[0] == pytest.approx(whole.score[0], abs=1e-6)

    def test_a_response_that_does_not_fit_by_itself_has_no_score(self, tmp_path: Path) -> None:
        model = RewardModel(make_bert(tmp_path / "rm"))
        prompts = [[said("user", "a b")]] * 2
        rewards = model.score(prompts, ["c " * WINDOW, "c"])
        assert np.isnan(rewards.score).tolist() == [True, False]
        assert (rewards.n_cut, rewards.n_too_long) == (0, 1)

    def test_dropping_the_beginning_goes_through_the_turns(self) -> None:
        prompt = [said("system", "abc"), said("user", "defg")]
        assert without_beginning(prompt, 0) == prompt
        assert without_beginning(prompt, 2)[0]["content"] == "c"
        assert [turn["content"] for turn in without_beginning(prompt, 5)] == ["", "fg"]
        assert prompt[0]["content"] == "abc"

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    def test_a_logit_that_is_no_number_is_not_taken_for_a_long_text(
        self, tmp_path: Path, wrong: float
    ) -> None:
        model = RewardModel(broken(make_bert(tmp_path / "rm", heads=2), wrong))
        with pytest.raises(ScoreError, match="gives 2 of 2 responses a reward that is no number"):
            model.score(PROMPTS[:3], ["a", "c " * WINDOW, "b"])
        # A text that is too long by itself meets no weight.
        rewards = model.score(PROMPTS[:1], ["c " * WINDOW])
        assert rewards.n_too_long == 1 and np.isnan(rewards.score).all()

    def test_a_model_without_a_window_cuts_nothing(self, tmp_path: Path) -> None:
        model = RewardModel(make_llama(tmp_path / "rm", pad=True))
        model.window = None
        rewards = model.score(PROMPTS[:2], ["c " * 2 * WINDOW, "c"])
        assert np.isfinite(rewards.score).all()
        assert (rewards.n_cut, rewards.n_too_long) == (0, 0)


class TestWhatIsRefused:
    def test_a_folder_that_holds_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(ScoreError, match=r"holds no config\.json"):
            RewardModel(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
        with pytest.raises(ScoreError, match="cannot be loaded"):
            RewardModel(tmp_path)

    def test_a_language_model_whose_head_would_be_drawn_at_random(self, tmp_path: Path) -> None:
        BertForMaskedLM(BertConfig(**sizes())).save_pretrained(tmp_path)
        make_tokenizer().save_pretrained(tmp_path)
        with pytest.raises(ScoreError, match="drawn at random"):
            RewardModel(tmp_path)

    def test_a_classifier(self, tmp_path: Path) -> None:
        make_bert(tmp_path, heads=3, problem_type="single_label_classification")
        with pytest.raises(ScoreError, match="sorts texts into 3 classes"):
            RewardModel(tmp_path)

    def test_a_dialogue_that_the_template_refuses(self, tmp_path: Path) -> None:
        model = RewardModel(make_llama(tmp_path / "rm", pad=True))
        with pytest.raises(ScoreError, match="refuses a dialogue of the roles system, user, ass"):
            model.score([[said("system", "a"), said("user", "b")]], ["c"])


@pytest.fixture
def world(db: Database) -> Database:
    for prompt, letters in zip(PROMPTS[:3], ("abc", "defg", "hi"), strict=True):
        add_prompt(db, prompt, [f"{letter} x ." for letter in letters])
    return db


def by_hand(db: Database, model: RewardModel) -> list[float]:
    rows = db.execute(
        """SELECT p.messages, r.text FROM responses r JOIN prompts p ON p.id = r.prompt_id
        ORDER BY r.prompt_id, r.response_key"""
    ).fetchall()
    return [float(model.score([json.loads(m)], [text]).score[0]) for m, text in rows]


def recorded(db: Database, report: RewardReport) -> list[float]:
    return scores_by(db, report.method, response_table(db).response_ids).tolist()


class TestScoreResponses:
    def test_every_response_gets_its_own_score(self, world: Database, tmp_path: Path) -> None:
        model = RewardModel(make_bert(tmp_path / "rm", heads=2))
        report = score_responses(world, model)
        assert (report.n_known, report.n_scored, report.n_too_long) == (0, 9, 0)
        assert recorded(world, report) == pytest.approx(by_hand(world, model), abs=1e-5)
        doubts = world.execute("SELECT judge_variance FROM scores").fetchall()
        assert all(doubt > 0 for (doubt,) in doubts)
        assert method_in_words(report.method, None) == "reward model rm"

    def test_a_second_run_scores_what_came_since(
        self, world: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reward_model, "BLOCK_RESPONSES", 2)
        model = RewardModel(make_bert(tmp_path / "rm"))
        assert score_responses(world, model, limit=5).n_scored == 5
        assert np.isnan(recorded(world, score_responses(world, model, limit=5))).sum() == 4
        again = score_responses(world, model)
        assert (again.n_known, again.n_scored) == (5, 4)
        add_prompt(world, [said("user", "new ?")], ["a", "b b " * WINDOW])
        last = score_responses(world, model)
        assert (last.n_known, last.n_scored, last.n_too_long) == (9, 1, 1)
        assert recorded(world, last) == pytest.approx(by_hand(world, model), abs=1e-5, nan_ok=True)
        assert judge_counts(world) == {model.method: 10}

    def test_a_run_that_dies_keeps_its_blocks(
        self, world: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reward_model, "BLOCK_RESPONSES", 4)
        model = RewardModel(make_bert(tmp_path / "rm"))
        score = model.score
        calls: list[int] = []

        def dying(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return score(*arguments)

        monkeypatch.setattr(model, "score", dying)
        with pytest.raises(KeyboardInterrupt):
            score_responses(world, model)
        assert judge_counts(world) == {model.method: 8}

    @pytest.mark.parametrize("window", [WINDOW, None])
    def test_a_broken_model_records_nothing(
        self, world: Database, tmp_path: Path, window: int | None
    ) -> None:
        model = RewardModel(broken(make_bert(tmp_path / "rm"), np.nan))
        model.window = window
        with pytest.raises(ScoreError, match="9 of 9 responses a reward that is no number"):
            score_responses(world, model)
        assert judge_counts(world) == {}

    def test_of_two_at_once_one_waits_and_scores_what_is_left(
        self, world: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = RewardModel(make_bert(tmp_path / "rm"))
        monkeypatch.setattr(reward_model, "LOCK_SECONDS", 60.0)
        score, waiting = model.score, Event()
        late: list[Future[RewardReport]] = []

        def second() -> RewardReport:
            db = open_db(tmp_path / "annotator.db")
            try:
                return score_responses(db, model, on_wait=waiting.set)
            finally:
                db.close()

        with ThreadPoolExecutor(1) as pool:

            def begin_second(*arguments: Any) -> Any:
                late.append(pool.submit(second))
                assert waiting.wait(60)
                return score(*arguments)

            monkeypatch.setattr(model, "score", begin_second)
            first = score_responses(world, model)
            other = late[0].result(60)
        assert len(late) == 1  # the second run had nothing to score
        assert (first.n_known, first.n_scored) == (0, 9)
        assert (other.n_known, other.n_scored) == (9, 0)
        assert judge_counts(world) == {model.method: 9}

    def test_another_that_goes_on_is_told_of(
        self, world: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = RewardModel(make_bert(tmp_path / "rm"))
        monkeypatch.setattr(reward_model, "LOCK_SECONDS", 0.1)
        path = tmp_path / "annotator.db"
        with judging_lock(path, wait_seconds=1), pytest.raises(StoreBusy, match="judging"):
            score_responses(world, model)
        assert judge_counts(world) == {}

    def test_a_map_leaves_the_scores_and_their_variance(
        self, world: Database, tmp_path: Path
    ) -> None:
        model = RewardModel(make_bert(tmp_path / "rm", heads=2))
        score_responses(world, model)
        before = world.execute("SELECT * FROM scores").fetchall()
        build = build_map(world, tmp_path / "annotator.db", None, method_named(world, "reward"))
        assert (build.method, build.n_scored) == (model.method, 9)
        assert world.execute("SELECT * FROM scores").fetchall() == before

    def test_other_weights_or_another_template_are_another_method(self, tmp_path: Path) -> None:
        folders = [
            make_bert(tmp_path / "a" / "rm"),
            make_bert(tmp_path / "b" / "rm", seed=1),
            make_llama(tmp_path / "c" / "rm", pad=True),
            make_llama(tmp_path / "d" / "rm", pad=True, template=CHATML.replace(" :", ":")),
        ]
        methods = {RewardModel(folder).method for folder in folders}
        assert len(methods) == 4
        assert all(method.startswith("reward-model:rm:") for method in methods)
        same = make_bert(tmp_path / "e" / "rm")
        assert RewardModel(same).method == RewardModel(folders[0]).method
