"""What a check came to, as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from annotator.judge_check import NobodyVoted
from annotator.judge_check.evidence import Document, Evidence, SwappedVerdicts
from annotator.signals.judges.calibration import (
    LOGISTIC,
    NORMAL,
    Calibration,
    calibration,
    cross_fitted_probability,
    normal_probability,
    slope,
)
from annotator.signals.judges.injection import Rise
from annotator.signals.judges.trust import (
    FEWEST_PROMPTS,
    Estimate,
    Stratum,
    Verdicts,
    agreement,
    better_than,
    by_prompt,
    by_quartile,
    flip_rate,
    people_agree,
    ratios,
    shares,
    signs,
    top_less_bottom,
    win_scores,
    within_prompt_correlation,
)
from strategies.datamap import REGIONS
from strategies.within_prompt import Floats

DIGITS = 4
MOST_POINTS = 1_500  # of a plot


@dataclass(frozen=True, eq=False)
class JudgeCheck:
    """The document, and for a plot a sample of responses: (n,) lengths in characters, scores."""

    document: Document
    length: Floats
    score: Floats


def account(evidence: Evidence, seed: int) -> JudgeCheck:
    """Everything measured. The same evidence and seed give the same document.

    Raises NobodyVoted if there is no pair on which people take a side and the judge has scores.
    """
    rng = np.random.default_rng(seed)
    gap = evidence.mean_gap()
    verdicts = evidence.verdicts(gap)
    if not verdicts.counted.any():
        raise NobodyVoted(
            f"of {len(gap):,} pairs with votes none has both a majority and two scored responses",
            expected="votes of people on pairs whose responses the judge has scored",
            todo="run `annotator judge`, and label pairs of the same prompts",
        )
    spread = evidence.panel.spread(evidence.pair_a, evidence.pair_b)
    document: Document = {
        "judges": evidence.judges,
        "seed": seed,
        "people": _people(evidence, verdicts, rng),
        **(agreed := _agreement(verdicts, rng)),
        "conclusive": agreed["agreement"]["prompts"] >= FEWEST_PROMPTS,
        "longer": _longer(evidence, verdicts, rng),
        "calibration": _calibrations(evidence, verdicts, rng),
        "slope": _rounded(slope(verdicts)),
        "by_gap": _strata(verdicts, np.abs(gap), rng),
        "by_spread": _strata(verdicts, spread, rng) if len(evidence.panel.names) > 1 else None,
        "by_region": _regions(evidence, verdicts, rng),
        "regions_from": evidence.region_from,
        "length": _length(evidence, verdicts, rng),
        "flips": _flips(evidence, evidence.swapped, rng),
        "each_judge": _each_judge(evidence, rng),
        "pair_judges": [_pair_judge(evidence, place, rng) for place in _by_agreement(evidence)],
        "notes": [],
    }
    document["notes"] = [*evidence.notes, *_notes(evidence, document)]
    return JudgeCheck(document, *_points(evidence, rng))


def injection_document(found: Rise, by_style: dict[str, Estimate]) -> Document:
    """What planted lines won, as a part of the document: its key is "injection"."""
    document = {
        key: _estimate(value) if isinstance(value, Estimate) else value
        for key, value in ((name, getattr(found, name)) for name in Rise.__dataclass_fields__)
    }
    return document | {"by_style": {name: _estimate(share) for name, share in by_style.items()}}


def _people(evidence: Evidence, verdicts: Verdicts, rng: np.random.Generator) -> Document:
    document = {
        **evidence.about,
        "pairs": len(evidence.people),
        "prompts": len(np.unique(verdicts.prompt)),
        "votes": None if evidence.votes is None else evidence.votes.n_votes,
        "agree": None,
    }
    if evidence.votes is not None:
        votes = evidence.votes
        found = people_agree(evidence.n_prompts, verdicts.prompt, votes.for_a, votes.for_b, rng)
        document["agree"] = _estimate(found) if found.n else None
    return document


def _agreement(verdicts: Verdicts, rng: np.random.Generator) -> Document:
    found = agreement(verdicts, rng)
    return {
        "agreement": _estimate(found.share),
        "agreement_decided": _estimate(found.decided),
        "pairs": {
            name: getattr(found, name)
            for name in ("right", "wrong", "judge_tied", "people_tied", "both_tied", "unscored")
        },
    }


def _longer(evidence: Evidence, verdicts: Verdicts, rng: np.random.Generator) -> Document | None:
    """Always taking the longer response, on the same pairs: a rival that costs nothing."""
    length = evidence.log_length
    rival = evidence.verdicts(length[evidence.pair_a] - length[evidence.pair_b])
    both = verdicts.counted & rival.counted
    if not both.any():
        return None
    (share,) = shares(rival, both[None].astype(np.float64), rng)
    return {
        "agreement": _estimate(share),
        "judge_better_by": _estimate(better_than(verdicts, rival.gap, rng)),
    }


def _calibrations(
    evidence: Evidence, verdicts: Verdicts, rng: np.random.Generator
) -> list[Document]:
    variance = evidence.gap_variance()
    ways = [(LOGISTIC, cross_fitted_probability(verdicts, rng))]
    if variance is not None:
        ways.append((NORMAL, normal_probability(verdicts.gap, variance)))
    found = (calibration(how, verdicts, p, rng) for how, p in ways)
    return [_calibration(one) for one in found if one is not None]


def _calibration(found: Calibration) -> Document:
    return {
        "how": found.how,
        "brier": _estimate(found.brier),
        "brier_constant": _rounded(found.brier_constant),
        "gain": _estimate(found.gain),
        "log_loss": _estimate(found.log_loss),
        "bins": [
            {"confidence": _rounded(one.confidence), "right": _estimate(one.right)}
            for one in found.bins
        ],
    }


def _strata(verdicts: Verdicts, value: Floats, rng: np.random.Generator) -> Document | None:
    quartiles = by_quartile(verdicts, value, rng)
    if not quartiles:
        return None
    return {
        "quartiles": [_stratum(one) for one in quartiles],
        "top_less_bottom": _estimate(top_less_bottom(verdicts, value, rng)),
    }


def _stratum(found: Stratum) -> Document:
    return {
        "from": _rounded(found.low),
        "to": _rounded(found.high),
        "agreement": _estimate(found.agreement),
    }


def _regions(
    evidence: Evidence, verdicts: Verdicts, rng: np.random.Generator
) -> dict[str, Document]:
    region = evidence.region[verdicts.prompt]
    weights = (region == np.arange(len(REGIONS))[:, None]).astype(np.float64)
    found = zip(REGIONS, shares(verdicts, weights, rng), strict=True)
    return {name: _estimate(one) for name, one in found if one.n}


def _length(evidence: Evidence, verdicts: Verdicts, rng: np.random.Generator) -> Document | None:
    """Score against length; then judge and people on the same pairs, by their verdicts alone."""
    length, prompts = evidence.log_length, evidence.prompt_of_response
    mean = evidence.panel.mean()
    of: dict[str, Floats | None] = {"score": mean, "people": evidence.people_score}
    for name, verdict in (("judge_wins", verdicts.judge), ("people_wins", verdicts.people)):
        pairs = np.flatnonzero(~np.isnan(verdicts.gap))
        ends = evidence.pair_a[pairs], evidence.pair_b[pairs]
        of[name] = win_scores(len(prompts), *ends, verdict[pairs])
    document: Document = {}
    for name, score in of.items():
        if score is not None:
            found = within_prompt_correlation(score, length, prompts, rng)
            if found.pearson.n:
                document[name] = {
                    "pearson": _estimate(found.pearson),
                    "spearman": _estimate(found.spearman),
                }
    return document | _prefers_longer(evidence, verdicts, rng) if document else None


def _prefers_longer(evidence: Evidence, verdicts: Verdicts, rng: np.random.Generator) -> Document:
    """How often judge and people take the longer one, of pairs where both take a side."""
    length = evidence.log_length
    longer = signs(length[evidence.pair_a] - length[evidence.pair_b])
    at = np.flatnonzero(verdicts.counted & (verdicts.judge != 0) & (longer != 0))
    prompt, n = verdicts.prompt[at], verdicts.n_prompts
    judge, people = (
        (side[at] == longer[at]).astype(np.float64) for side in (verdicts.judge, verdicts.people)
    )
    ones = by_prompt(np.ones((2, len(at))), prompt, n)
    both = ratios(by_prompt(np.stack((judge, people)), prompt, n), ones, rng)
    more = ratios(by_prompt((judge - people)[None], prompt, n), ones[:1], rng, bounded=False)
    names = ("judge_takes_longer", "people_take_longer", "judge_more_often_by")
    return {name: _estimate(one) for name, one in zip(names, [*both, *more], strict=True)}


def _flips(
    evidence: Evidence, swapped: SwappedVerdicts | None, rng: np.random.Generator
) -> Document | None:
    if swapped is None:
        return None
    return _estimate(flip_rate(evidence.n_prompts, swapped.prompt, swapped.flipped, rng))


def _each_judge(evidence: Evidence, rng: np.random.Generator) -> list[Document]:
    """The judges of a panel one by one, best first; nothing of a single one."""
    if len(evidence.panel.names) < 2:
        return []
    rows = []
    gaps = evidence.panel.gaps(evidence.pair_a, evidence.pair_b)
    for name, gap in zip(evidence.panel.names, gaps, strict=True):
        found = agreement(evidence.verdicts(gap), rng)
        if found.share.n:
            row = {"name": name, "agreement": _estimate(found.share)}
            rows.append(row | {"judge_tied": found.judge_tied})
    return sorted(rows, key=_share_of, reverse=True)


def _share_of(row: dict[str, Any]) -> float:
    return float(row["agreement"]["value"])


def _by_agreement(evidence: Evidence) -> Sequence[int]:
    """Places of the judges of pairs that have a verdict on a counted pair, best first."""
    judged = [evidence.verdicts(one.verdict) for one in evidence.pair_judges]
    right = [v.right()[v.counted].mean() if v.counted.any() else np.nan for v in judged]
    order = np.argsort(-np.array(right, dtype=np.float64), kind="stable")
    return [int(place) for place in order if not np.isnan(right[place])]


def _pair_judge(evidence: Evidence, place: int, rng: np.random.Generator) -> Document:
    judge = evidence.pair_judges[place]
    found = agreement(evidence.verdicts(judge.verdict), rng)
    return {
        "name": judge.name,
        "agreement": _estimate(found.share),
        "judge_tied": found.judge_tied,
        "flips": _flips(evidence, judge.swapped, rng),
    }


def _notes(evidence: Evidence, document: Document) -> list[str]:
    notes = []
    n_prompts = document["agreement"]["prompts"]
    if n_prompts < FEWEST_PROMPTS:
        notes.append(
            f"The counted pairs are on {n_prompts} prompt{'s' if n_prompts != 1 else ''}: "
            f"intervals from fewer than {FEWEST_PROMPTS} are too narrow for a verdict, so none is "
            "given."
        )
    if document["pairs"]["unscored"]:
        notes.append(
            f"{document['pairs']['unscored']:,} pairs with votes have a response without a score; "
            "they are in no figure."
        )
    unlike = evidence.panel.unlike_scales()
    if unlike is not None:
        notes.append(
            f"The judges' scales differ: {unlike[0]} spreads its scores over more than three times "
            f"the range of {unlike[1]} and rules their mean."
        )
    no_text = int(np.count_nonzero(np.isnan(evidence.log_length)))
    if no_text:
        notes.append(
            f"{no_text:,} of {len(evidence.log_length):,} responses have no text here; what is "
            "said of length is said of the others."
        )
    return notes


def _points(evidence: Evidence, rng: np.random.Generator) -> tuple[Floats, Floats]:
    score = evidence.panel.mean()
    there = np.flatnonzero(~np.isnan(score) & ~np.isnan(evidence.log_length))
    drawn = np.sort(rng.permutation(there)[:MOST_POINTS])
    return np.exp(evidence.log_length[drawn]), score[drawn]


def _estimate(found: Estimate) -> Document:
    return {
        key: _rounded(value) if isinstance(value, float) else value
        for key, value in asdict(found).items()
    }


def _rounded(value: float) -> float | None:
    return round(float(value), DIGITS) if np.isfinite(value) else None
