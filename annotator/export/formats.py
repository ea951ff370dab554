"""One row of each export format out of one labelled pair. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from annotator.candidates.catalog import Shown
from annotator.candidates.identity import Message, prompt_text
from annotator.export.labelled import LabelledPair
from annotator.export.machine import MachineLabel, guarantee
from annotator.labels.consensus import Consensus

Row = dict[str, Any]


def _provenance(pair: LabelledPair, consensus: Consensus) -> Row:
    """Where the row is from: who chose the pair and why, and how far its votes agree."""
    pick = min(pair.votes, key=lambda vote: vote.pick_id)  # later ones repeat it
    return {
        "pair_key": pair.pair_key,
        "dataset": pair.a.dataset,
        "prompt_id": pair.a.external_id,
        "prompt_key": pair.a.prompt_key,
        "label_source": "human",
        "n_votes": consensus.n_votes,
        "agreement": consensus.agreement,
        "annotators": sorted({vote.annotator_id for vote in pair.votes}),
        "round": pick.round_id,
        "arm": pick.arm,
        "strategy": pick.strategy,
        "score": pick.score,
        "propensity": pick.propensity,
        "seed": pick.seed,
    }


# From the chosen response's point of view, and how much each is worth in the margin.
_STRENGTH = {
    "chosen_much_better": 2,
    "chosen_better": 1,
    "tie": 0,
    "both_bad": 0,
    "rejected_better": -1,
    "rejected_much_better": -2,
}


def _strength(pair: LabelledPair, consensus: Consensus) -> Row:
    """What each vote says of the chosen response, in the order of the votes, and their mean."""
    sides = ("chosen", "rejected") if consensus.verdict == "a" else ("rejected", "chosen")
    turned = {
        f"{side}{degree}": f"{now}{degree}"
        for side, now in zip("ab", sides, strict=True)
        for degree in ("_better", "_much_better")
    }
    grades = [turned.get(vote.grade, vote.grade) for vote in pair.votes]
    return {
        "grades": grades,
        "margin": sum(_STRENGTH[grade] for grade in grades) / len(grades),
    }


def _chosen(pair: LabelledPair) -> tuple[Shown, Shown] | None:
    """(preferred, other); None where the votes prefer neither."""
    verdict = pair.consensus and pair.consensus.verdict
    if verdict == "a":
        return pair.a, pair.b
    if verdict == "b":
        return pair.b, pair.a
    return None


def _preference(pair: LabelledPair, form: Callable[[Shown, Shown], Row]) -> list[Row]:
    ordered, consensus = _chosen(pair), pair.consensus
    if ordered is None or consensus is None:
        return []
    chosen, rejected = ordered
    models = {"chosen_model": chosen.model, "rejected_model": rejected.model}
    believed: Row = {"probability": _probability(pair, consensus)}
    strength, provenance = _strength(pair, consensus), _provenance(pair, consensus)
    return [{**form(chosen, rejected), **models, **believed, **strength, **provenance}]


def _probability(pair: LabelledPair, consensus: Consensus) -> float | None:
    """That most people who take a side prefer the chosen response, as the crowd's votes say."""
    if pair.preferred is None:
        return None
    return pair.preferred if consensus.verdict == "a" else 1.0 - pair.preferred


def _texts(chosen: Shown, rejected: Shown) -> Row:
    return {
        "prompt": prompt_text(chosen.messages),
        "chosen": chosen.text,
        "rejected": rejected.text,
    }


def _messages(chosen: Shown, rejected: Shown) -> Row:
    def answer(shown: Shown) -> list[Message]:
        return [{"role": "assistant", "content": shown.text}]

    return {
        "prompt": chosen.messages,
        "chosen": answer(chosen),
        "rejected": answer(rejected),
    }


_HH_ROLE = {"user": "Human", "assistant": "Assistant", "system": "System"}


def _transcripts(chosen: Shown, rejected: Shown) -> Row:
    def transcript(shown: Shown) -> str:
        answer: Message = {"role": "assistant", "content": shown.text}
        turns = [*shown.messages, answer]
        return "".join(
            f"\n\n{_HH_ROLE.get(turn['role'], turn['role'].capitalize())}: {turn['content']}"
            for turn in turns
        )

    return {"chosen": transcript(chosen), "rejected": transcript(rejected)}


# What the formats that hold one preference a row say of its texts.
FORMS: dict[str, Callable[[Shown, Shown], Row]] = {
    "trl": _texts,
    "trl-conversational": _messages,
    "hh": _transcripts,
}


def trl(pair: LabelledPair) -> list[Row]:
    """TRL's standard preference format: prompt, chosen and rejected as texts."""
    return _preference(pair, _texts)


def trl_conversational(pair: LabelledPair) -> list[Row]:
    """TRL's conversational preference format: prompt, chosen and rejected as messages."""
    return _preference(pair, _messages)


def hh(pair: LabelledPair) -> list[Row]:
    """HH-RLHF's format: chosen and rejected as whole transcripts."""
    return _preference(pair, _transcripts)


def by_person(row: Row) -> Row:
    """A person's row beside which machines' stand: with their columns, which say nothing of it."""
    return row | dict.fromkeys(_OF_CERTIFICATE)


_OF_CERTIFICATE = (
    "certificate", "certified_at", "certified_agree", "certified_confidence", "guarantee",
)  # fmt: skip


def by_machine(name: str, label: MachineLabel) -> Row:
    """A machine's label as a row of that format, with the columns of a person's.

    No vote, no round and no person stands behind it; its source, its certificate and what that
    promises do.
    """
    chosen, rejected = (label.a, label.b) if label.label == "a" else (label.b, label.a)
    certificate = (
        label.certificate,
        label.certified_at,
        label.agree,
        label.confidence,
        guarantee(label.agree, label.confidence),
    )
    return {
        **FORMS[name](chosen, rejected),
        "chosen_model": chosen.model,
        "rejected_model": rejected.model,
        "probability": label.probability,
        "grades": [],
        "margin": None,
        "pair_key": label.pair_key,
        "dataset": label.a.dataset,
        "prompt_id": label.a.external_id,
        "prompt_key": label.a.prompt_key,
        "label_source": label.source,
        "n_votes": 0,
        "agreement": None,
        "annotators": [],
        **dict.fromkeys(("round", "arm", "strategy", "score", "propensity", "seed")),
        **dict(zip(_OF_CERTIFICATE, certificate, strict=True)),
    }


def votes(pair: LabelledPair) -> list[Row]:
    """Every vote as it was given, one row each: ties, both-bad, those on gold and repeats too."""
    shared = {
        "pair_key": pair.pair_key,
        "dataset": pair.a.dataset,
        "prompt_id": pair.a.external_id,
        "prompt_key": pair.a.prompt_key,
        "prompt": pair.a.messages,
        "response_a": pair.a.text,
        "response_b": pair.b.text,
        "response_a_key": pair.a.response_key,
        "response_b_key": pair.b.response_key,
        "model_a": pair.a.model,
        "model_b": pair.b.model,
    }
    return [
        {
            **shared,
            "grade": vote.grade,
            "annotator": vote.annotator_id,
            "left": vote.side_order[0],
            "confidence": vote.confidence,
            "rationale": vote.rationale,
            "seconds": vote.seconds,
            "prefilled": bool(vote.prefilled),
            "voted_at": vote.updated_at,
            "vote": vote.vote_id,
            "round": vote.round_id,
            "arm": vote.arm,
            "strategy": vote.strategy,
            "score": vote.score,
            "propensity": vote.propensity,
            "seed": vote.seed,
        }
        for vote in sorted([*pair.votes, *pair.checks], key=lambda vote: vote.vote_id)
    ]


FORMATS: dict[str, Callable[[LabelledPair], list[Row]]] = {
    "trl": trl,
    "trl-conversational": trl_conversational,
    "hh": hh,
    "votes": votes,
}
