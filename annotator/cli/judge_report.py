"""What `annotator judge` says: before anything is sent, and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.config import JudgeSettings
    from annotator.signals.datamap import MapBuild
    from annotator.signals.judges.batches import BatchEnd
    from annotator.signals.judges.forecast import Forecast
    from annotator.signals.judges.prices import Price
    from annotator.signals.judges.reward_model import RewardReport
    from annotator.signals.judges.routes import Judge, Recorded, Route
    from annotator.signals.judges.runner import RunReport

Rows = list[tuple[str, object]]


def forecast_rows(
    settings: JudgeSettings,
    judge: Judge,
    route: Route,
    found: Forecast,
    price: Price | None,
    spent: float,
    *,
    probed: bool,
) -> Rows:
    """What a run would ask and cost. `spent` is what judging has cost at most so far."""
    asked = f"{found.n_to_ask:,} of {found.n_calls:,} calls; {found.n_answered:,} answered before"
    if found.n_in_batch:
        asked += f", {found.n_in_batch:,} in a batch that is not back"
    rows: Rows = [
        ("route", in_words(judge, route)),
        ("to ask", asked + (f", {found.n_refused:,} refused" if found.n_refused else "")),
        ("tokens", f"about {found.about_tokens_in:,} in, at most {found.most_tokens_out:,} out"),
        ("price", _price_in_words(judge, found, price)),
    ]
    if not probed:
        rows.append(
            (
                "first",
                "one small request, and one more for each parameter that is refused, to find out "
                "what the server can do",
            )
        )
    if settings.max_cost is not None:
        unpriced = _besides(found.n_unpriced)
        rows.append(("cap", f"{usd(settings.max_cost)}, of which {usd(spent)} is spent{unpriced}"))
    return rows


def _price_in_words(judge: Judge, found: Forecast, price: Price | None) -> str:
    if price is None or found.about_cost is None or found.most_cost is None:
        return f"not known: no price table has {judge.model}"
    return (
        f"about {usd(found.about_cost)} for what is sent, at most {usd(found.most_cost)} in all "
        f"if nothing has to be sent twice (prices noted {price.as_of})"
    )


def forecast_document(
    settings: JudgeSettings,
    judge: Judge,
    route: Route,
    found: Forecast,
    price: Price | None,
    spent: float,
    *,
    probed: bool,
) -> dict[str, Any]:
    """The same as JSON. `most_cost` holds if nothing has to be sent twice."""
    return {
        **_asked(settings, judge, route),
        "probed": probed,
        **found.__dict__,
        "prices_as_of": None if price is None else price.as_of.isoformat(),
        "max_cost": settings.max_cost,
        "spent_before": spent,
    }


def run_rows(
    db: Database,
    settings: JudgeSettings,
    judge: Judge,
    route: Route,
    report: RunReport,
    recorded: Recorded | None,
) -> Rows:
    """What a run asked, got, spent and recorded."""
    answered = f"{report.ok:,} now, {report.cached:,} before"
    failed = failures(report)
    rows: Rows = [
        ("route", in_words(judge, route)),
        ("answered", f"{answered}; {failed}" if failed else answered),
        ("spent", _spent_in_words(db, settings, judge, report)),
        *(("batch", end.words) for end in _ends(report) if not end.is_plain),
        *(("waiting", words) for words in [getattr(report, "others_in_words", None)] if words),
    ]
    if changed := _change_of_model(report):
        rows.append(("models", changed))
    if recorded is None:
        return rows
    n_responses = recorded.n_scored + recorded.n_unscored
    rows.append(
        ("scores", f"{recorded.n_scored:,} of {n_responses:,} responses, {recorded.method}")
    )
    if recorded.n_judged:
        rows.append(
            (
                "orders",
                f"{recorded.n_flipped:,} of {recorded.n_judged:,} pairs have another winner the "
                "other way round: no winner, and doubt",
            )
        )
    if recorded.n_cut:
        rows.append(("note", f"{recorded.n_cut:,} reference answers end at their limit of tokens"))
    return rows


def _change_of_model(report: RunReport) -> str:
    """Under what names the server answered, where that is not one; else empty."""
    if len(report.models | report.probed_as) < 2 or not report.models:
        return ""
    words = f"answers came from {' and '.join(sorted(report.models))}"
    if before := report.probed_as - report.models:
        words += f", and from {' and '.join(sorted(before))} when the server was probed"
    return f"{words}: another model may stand behind the name, and scores of both under one method"


def _ends(report: RunReport) -> list[BatchEnd]:
    """What the run's batches came to; a live run has none."""
    return list(getattr(report, "ends", []))


def run_document(
    db: Database,
    settings: JudgeSettings,
    judge: Judge,
    route: Route,
    report: RunReport,
    recorded: Recorded | None,
) -> dict[str, Any]:
    """The same as JSON."""
    left_out = ("models", "probed_as", "problem", "seconds", "ends")
    return {
        **_asked(settings, judge, route),
        "calls": {name: n for name, n in report.__dict__.items() if name not in left_out},
        "models": sorted(report.models),
        "batches": [end.__dict__ for end in _ends(report)],
        "seconds": round(report.seconds, 3),
        "spent_in_all": spent_at_most(db),
        "unpriced_in_all": _unpriced(db),
        "max_cost": settings.max_cost,
        "recorded": None if recorded is None else recorded.__dict__,
    }


def in_words(judge: Judge, route: Route) -> str:
    """What is asked, of whom, and how its answers are read."""
    grades = {
        "logprobs": ", mean and variance from log-probs",
        "samples": f", mean and variance of {judge.samples} samples",
        "integer": "",
    }[judge.how]
    return f"{route.words}, {judge.model} at {judge.host}{grades}"


def _asked(settings: JudgeSettings, judge: Judge, route: Route) -> dict[str, Any]:
    return {
        "route": settings.route,
        "what": route.words,
        "model": judge.model,
        "host": judge.host,
        "how": judge.how,
    }


def failures(report: RunReport) -> str:
    """What has no answer, and why, with counts; empty where all is answered."""
    kinds = (
        (report.refused, "refused"),
        (report.parse_error, "unreadable"),
        (report.api_error, "not answered"),
        (getattr(report, "unanswered", 0), "not answered in their batch"),
        (report.parked, "put off by the server"),
        (report.budget, "kept back by the cap"),
        (report.in_batch, "in a batch that is not back"),
    )
    return "; ".join(f"{n:,} {what}" for n, what in kinds if n)


def only_refused(report: RunReport) -> bool:
    """Whether what has no answer was declined, which is final."""
    return report.stopped is None and failures(report) == f"{report.refused:,} refused"


def _spent_in_words(db: Database, settings: JudgeSettings, judge: Judge, report: RunReport) -> str:
    unpriced = _besides(_unpriced(db))
    if report.cost_usd is None:
        return (
            f"not known: no price table has {judge.model}; {report.sent:,} requests sent; "
            f"at most {usd(spent_at_most(db))} in all runs{unpriced}"
        )
    words = f"{usd(report.cost_usd)} for {report.sent:,} requests"
    if report.unknown_cost:
        words += f", {report.unknown_cost:,} of unknown cost not counted"
    words += f"; at most {usd(spent_at_most(db))} in all runs{unpriced}"
    return words if settings.max_cost is None else f"{words}, of {usd(settings.max_cost)}"


def _besides(n_unpriced: int) -> str:
    return f" beside {n_unpriced:,} requests without a known price" if n_unpriced else ""


def _unpriced(db: Database) -> int:
    from annotator.signals.judges.ledger import spending

    return spending(db).unpriced


def spent_at_most(db: Database) -> float:
    """US dollars that judging has cost so far, unknown costs at their reservation."""
    from annotator.signals.judges.ledger import MICROUSD, spending

    spent = spending(db)
    return (spent.known + spent.reserved) / MICROUSD


def usd(amount: float) -> str:
    """Dollars; of little ones enough digits to see something."""
    return f"${amount:,.2f}" if amount == 0 or amount >= 1 else f"${amount:.4f}"


def reward_rows(report: RewardReport) -> Rows:
    """What a reward model scored."""
    heads = f", {report.n_heads} heads: their variance is the judge's" if report.n_heads > 1 else ""
    rows: Rows = [
        ("route", f"reward model {report.method}{heads}"),
        ("scored", f"{report.n_scored:,} responses now, {report.n_known:,} before"),
    ]
    if report.n_cut:
        rows.append(
            (
                "cut",
                f"{report.n_cut:,} prompts lost their beginning: the model reads "
                f"{report.window:,} tokens",
            )
        )
    return rows


def map_rows(db: Database, route: str, build: MapBuild | None, limit: int | None) -> Rows:
    """Where the prompts lie by the new scores; `build` None: no map was made."""
    from annotator.signals.datamap import placed_prompts

    if build is None:
        why = "no prompt has two scores" if limit is None else "this is a part (--limit)"
        return [("map", f"not made: {why}")]
    counts = ", ".join(f"{name} {n:,}" for name, n in placed_prompts(db, build).counts.items())
    rows: Rows = [("map", f"{counts}; next-batch goes by it")]
    if route == "pairwise":
        rows.append(
            (
                "note",
                "comparisons place responses within their prompt: every prompt's mean is 0, and "
                "only its variance tells prompts apart",
            )
        )
    return rows


def map_document(db: Database, build: MapBuild | None) -> dict[str, Any] | None:
    """The same as JSON."""
    from annotator.signals.datamap import placed_prompts

    if build is None:
        return None
    placed = placed_prompts(db, build)
    return {
        "method": build.method,
        "regions": placed.counts,
        "prompts_on_map": placed.n_on_map,
        "prompts_off_map": placed.n_off_map,
    }
