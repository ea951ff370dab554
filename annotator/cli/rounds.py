"""`annotator next-batch` and `annotator sync`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from annotator.cli.base import (
    Project,
    echo_json,
    echo_rows,
    embed_first,
    json_option,
    open_project,
    project_option,
)
from annotator.cli.route import check_before_use

if TYPE_CHECKING:
    from annotator.candidates.catalog import Shown
    from annotator.config import RoundSettings
    from annotator.labels.overlap import OverlapRange
    from annotator.rounds.batch import Batch, BatchRequest
    from annotator.rounds.picks import ExtraVote, Round
    from annotator.rounds.sync import SyncReport
    from annotator.studio.client import Studio
    from annotator.studio.outbox import PushReport

PREVIEW_PAIRS = 8
PREVIEW_WIDTH = 60


def _strategies_help(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from strategies import strategy_names, strategy_summary

    echo_rows([(name, strategy_summary(name)) for name in strategy_names()])
    ctx.exit()


def _overlap(_: click.Context, __: click.Parameter, value: str | None) -> OverlapRange | None:
    if value is None:
        return None
    from annotator.labels.overlap import OverlapError, OverlapRange

    try:
        return OverlapRange.parse(value)
    except OverlapError as error:
        raise click.BadParameter(f"{error.found}; {error.expected}") from error


@click.command("next-batch")
@click.option(
    "-n",
    "--size",
    type=click.IntRange(1, 100_000),
    help="Pairs in the batch, control arm included.  [default: annotator.toml]",
)
@click.option(
    "--strategy", help="Who chooses; --strategies lists the names.  [default: annotator.toml]"
)
@click.option(
    "--control",
    type=click.FloatRange(0, 0.5),
    help="Share drawn uniformly and mixed in.  [default: annotator.toml]",
)
@click.option(
    "--overlap",
    metavar="N|N-M",
    callback=_overlap,
    help="People asked about each pair. 2-5: at least 2, and up to 5 where it helps.  "
    "[default: annotator.toml]",
)
@click.option(
    "--overlap-policy",
    type=click.Choice(["fixed", "until-agree", "expected-gain"]),
    help="Which earlier pairs get a further vote: none but to reach the number, those where no "
    "side leads by two, or those where it brings more than a new pair.  [default: annotator.toml]",
)
@click.option(
    "--gold",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Take in pairs whose answer is known first.  [default: annotator.toml, gold_file]",
)
@click.option(
    "--gold-share",
    type=click.FloatRange(0, 0.5),
    help="Share of such pairs, on top of the batch.  [default: annotator.toml]",
)
@click.option(
    "--repeat-share",
    type=click.FloatRange(0, 0.5),
    help="Share of pairs asked again, sides swapped, on top of it.  [default: annotator.toml]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**53 - 1),
    help="The same seed on the same pool chooses the same batch.  [default: drawn]",
)
@click.option(
    "--dry-run", is_flag=True, help="Show the choice and its cost; record and send nothing."
)
@click.option("--no-push", is_flag=True, help="Record the batch; a later run sends it.")
@click.option("--resume", is_flag=True, help="Choose nothing; only send what is waiting.")
@click.option(
    "--strategies",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_strategies_help,
    help="List the strategies and exit.",
)
@json_option
@project_option
def next_batch(
    size: int | None,
    strategy: str | None,
    control: float | None,
    overlap: OverlapRange | None,
    overlap_policy: str | None,
    gold: Path | None,
    gold_share: float | None,
    repeat_share: float | None,
    seed: int | None,
    dry_run: bool,
    no_push: bool,
    resume: bool,
    as_json: bool,
    project_dir: Path | None,
) -> None:
    """Choose the next pairs, record why, and send them to Label Studio.

    A share of every batch, the control arm, is drawn uniformly from all pairs and mixed in, so
    that what the strategy saves can be measured and not just claimed. Texts that have no vector
    yet are embedded first. Where an earlier batch could not be sent, it is sent and nothing new
    is chosen.

    With a range such as --overlap 2-5 a part of the batch may go to further votes on pairs of
    earlier batches: the same task is offered to one person more, who has not seen it. Control
    pairs get the least number and never more.
    """
    from annotator.cli.candidates import complain, take_in_gold
    from annotator.rounds.batch import BatchRequest

    if resume and (dry_run or no_push):
        raise click.UsageError(
            "--resume sends what is waiting: it goes with neither --dry-run nor --no-push"
        )
    if gold and (dry_run or resume):
        raise click.UsageError(
            "--gold takes in a file: it goes with neither --dry-run nor --resume"
        )
    from strategies import strategy_named

    with open_project(project_dir) as project:
        defaults = project.settings.round
        asked = overlap or _configured_overlap(defaults)
        if overlap_policy in ("until-agree", "expected-gain") and asked.is_fixed:
            raise click.UsageError(
                f"--overlap-policy {overlap_policy} needs a range to decide in, such as "
                f"--overlap {asked.least}-{asked.least + 3}"
            )
        request = BatchRequest(
            n=size or defaults.size,
            strategy=strategy or defaults.strategy,
            control=defaults.control if control is None else control,
            overlap=asked.least,
            overlap_most=asked.most,
            overlap_policy=overlap_policy or defaults.overlap_policy,
            gold=defaults.gold if gold_share is None else gold_share,
            repeats=defaults.repeats if repeat_share is None else repeat_share,
            seed=seed,
            near_duplicates=defaults.near_duplicates,
        )
        request.asked_overlap()
        strategy_named(request.strategy)  # a misspelt name is found before anything is embedded
        taken_in = None if dry_run or resume else take_in_gold(project, gold)
        if dry_run:
            _report_dry_run(project, _choose(project, request, dry_run=True), as_json)
        elif no_push:
            _push_and_report(project, _choose(project, request), None, as_json)
        else:
            _send(project, request, resume, as_json)
        if taken_in is not None:
            complain(taken_in)


def _configured_overlap(defaults: RoundSettings) -> OverlapRange:
    from annotator.labels.overlap import OverlapRange

    return OverlapRange.parse(str(defaults.overlap))


def _choose(project: Project, request: BatchRequest, *, dry_run: bool = False) -> Batch:
    from annotator.rounds.batch import choose_and_record

    encoder_id = embed_first(project)
    if not dry_run:
        check_before_use(project, encoder_id)
    return choose_and_record(
        project.db, project.database_path, encoder_id, request, dry_run=dry_run
    )


def _send(project: Project, request: BatchRequest, resume: bool, as_json: bool) -> None:
    """What an earlier run left is sent, and that is all; else a new batch is chosen and sent.

    So a run that was interrupted, or that cron repeats, goes on with its batch and does not
    choose a second one.
    """
    with _connected(project) as studio:
        studio.whoami()  # a server that is away, or a wrong key, is found before choosing
        waiting = _n_waiting(project, studio)
        batch = None if resume or waiting else _choose(project, request)
        if waiting and not resume:
            click.echo(
                "an earlier batch is not sent yet: sending it; run the command again for the next",
                err=True,
            )
        _push_and_report(project, batch, studio, as_json)


def send_waiting(project: Project) -> PushReport:
    """Sends what is recorded and not sent yet. Raises StudioError, and says how to go on."""
    with _connected(project) as studio:
        return _push(project, studio)


def _connected(project: Project) -> Studio:
    from annotator.studio.connect import connect

    return connect(project.settings.studio.url)


def _push(project: Project, studio: Studio) -> PushReport:
    from annotator.errors import StudioError
    from annotator.progress import progress_bar
    from annotator.rounds.batch import push_waiting

    try:
        waiting = _n_waiting(project, studio)
        with progress_bar(total=waiting, what="push", unit="tasks") as advance:
            return push_waiting(
                project.db,
                studio,
                project.settings.project.name,
                grace_seconds=project.settings.studio.grace_seconds,
                on_stored=advance,
                on_wait=_waiting_notice(),
            )
    except StudioError as error:
        error.todo = f"{error.todo}; {_RECORDED}" if error.todo else _RECORDED
        raise


def _n_waiting(project: Project, studio: Studio) -> int:
    """Tasks that are not known to be on the server, and those that it shall get more votes on."""
    from annotator.studio.outbox import unsent_picks, untold_raises

    unsent = sum(len(picks) for picks in unsent_picks(project.db).values())
    return unsent + untold_raises(project.db, studio.url)


_RECORDED = "the batch is recorded, and `annotator next-batch --resume` sends what is left of it"


def _waiting_notice() -> Any:
    told: list[bool] = []

    def notice(seconds: float) -> None:
        if not told:
            told.append(True)
            click.echo(
                f"an earlier push was never answered and may still arrive; looking again for up "
                f"to {seconds:.0f} s before its tasks are sent once more",
                err=True,
            )

    return notice


def _head(batch: Batch) -> dict[str, Any]:
    head = batch.head
    return {
        "round": batch.round_id,
        "strategy": head.strategy,
        "seed": head.seed,
        "n_acquired": head.n_acquired,
        "n_control": head.n_control,
        "n_gold": head.n_gold,
        "n_repeat": head.n_repeat,
        "overlap": head.overlap,
        "overlap_most": head.overlap_most,
        "overlap_policy": head.overlap_policy,
        "votes_asked": batch.n_votes,
        "further_votes": [extra.__dict__ for extra in batch.extra],
        "notes": batch.notes,
        "pool": head.pool,
    }


def _batch_rows(batch: Batch) -> list[tuple[str, object]]:
    from annotator.signals.scores import method_in_words

    head = batch.head
    name = "round" if batch.round_id else "dry run"
    rows: list[tuple[str, object]] = [
        (name, f"{batch.round_id or ''} {head.strategy}, seed {head.seed}".strip()),
        ("pairs", _size_in_words(head)),
        ("asks for", _votes_in_words(batch)),
    ]
    if routed := head.pool.get("n_routed"):
        rows.append(("routed", f"{routed:,} pairs left to a machine; control pairs may be of them"))
    if redundant := head.pool["n_redundant"]:
        rows.append(("left out", f"{redundant:,} pairs that read like another or alike"))
    if "n_votes" in head.pool:
        learned = f"from {head.pool['n_votes']:,} votes" if head.pool["n_votes"] else "no votes yet"
        rows.append(("learned", f"{learned}; looked at {head.pool['n_looked_at']:,} pairs"))
    if told := head.pool.get("scores"):
        rows.append(("told", method_in_words(str(told), None)))
    return rows + [("note", note) for note in batch.notes]


def _votes_in_words(batch: Batch) -> str:
    if not batch.extra:
        return f"{batch.n_votes:,} votes"
    new = batch.head.n_acquired + batch.head.n_control
    return (
        f"{batch.n_votes:,} votes: {new:,} new pairs, {batch.n_further:,} further votes on "
        f"{len(batch.extra):,} earlier pairs"
    )


def _size_in_words(head: Round) -> str:
    arms = [f"{head.n_acquired:,} acquired", f"{head.n_control:,} control"]
    arms += [f"{n:,} {arm}" for n, arm in ((head.n_gold, "gold"), (head.n_repeat, "repeats")) if n]
    n_picks = head.n_acquired + head.n_control + head.n_gold + head.n_repeat
    return f"{n_picks:,} ({', '.join(arms)}) of {head.pool['n_eligible']:,} eligible"


def _warn_of_waiting(project: Project) -> None:
    from annotator.studio.outbox import unsent_picks, untold_raises

    n_tasks = sum(len(picks) for picks in unsent_picks(project.db).values())
    n_votes = untold_raises(project.db)
    if n_tasks or n_votes:
        click.echo(
            f"{n_tasks:,} tasks and {n_votes:,} further votes of earlier rounds wait to be sent: "
            "without --dry-run they are, and nothing is chosen",
            err=True,
        )


def _report_dry_run(project: Project, batch: Batch, as_json: bool) -> None:
    from annotator.labels.votes import median_seconds

    _warn_of_waiting(project)
    seconds = median_seconds(project.db)
    cost = None if seconds is None else round(seconds * batch.n_votes)
    if as_json:
        picks = [pick.__dict__ for pick in batch.picks]
        echo_json({**_head(batch), "annotator_seconds": cost, "picks": picks})
        return
    rows = _batch_rows(batch)
    if seconds is None:
        rows.append(("time", "unknown until the first votes are in"))
    else:
        rows.append(
            (
                "time",
                f"about {_duration(seconds * batch.n_votes)} of annotators' time at "
                f"{seconds:.0f} s a vote so far",
            )
        )
    echo_rows(rows)
    click.echo()
    _preview(project, batch)
    click.echo(
        "\nNo pair was recorded or sent. To send exactly this batch, run the command again "
        f"with --seed {batch.head.seed} and without --dry-run."
    )


def _preview(project: Project, batch: Batch) -> None:
    from annotator.candidates.catalog import shown_responses

    pairs = [(pick.a_id, pick.b_id) for pick in batch.picks[:PREVIEW_PAIRS]]
    pairs += [(extra.a_id, extra.b_id) for extra in batch.extra[:PREVIEW_PAIRS]]
    shown = shown_responses(project.db, [i for pair in pairs for i in pair])
    if batch.picks:
        click.echo("  arm        score  prompt, and the two responses")
        for pick in batch.picks[:PREVIEW_PAIRS]:
            score = "     -" if pick.score is None else f"{pick.score:6.3f}"
            _preview_pair(f"{pick.arm:<8} {score}", shown[pick.a_id], shown[pick.b_id])
        _preview_rest(len(batch.picks))
        click.echo(
            f"  score: what {batch.head.strategy} went by, higher being better; control pairs are "
            "drawn"
        )
    if batch.extra:
        click.echo("\n  votes       gain  earlier pairs that get a further vote")
        for extra in batch.extra[:PREVIEW_PAIRS]:
            _preview_pair(_extra_in_words(extra), shown[extra.a_id], shown[extra.b_id])
        _preview_rest(len(batch.extra))


def _extra_in_words(extra: ExtraVote) -> str:
    votes = f"{extra.n_votes} + {extra.n_more}"
    return f"{votes:<8} {'     -' if extra.gain is None else f'{extra.gain:6.3f}'}"


def _preview_pair(head: str, one: Shown, other: Shown) -> None:
    click.echo(f"  {head}  {_start(one.messages[-1]['content'], PREVIEW_WIDTH)}")
    half = PREVIEW_WIDTH // 2 - 2
    click.echo(f"{'':19}{_named_start(one, half)} | {_named_start(other, half)}")


def _preview_rest(n: int) -> None:
    if n > PREVIEW_PAIRS:
        click.echo(f"  … and {n - PREVIEW_PAIRS:,} more")


def _named_start(response: Shown, width: int) -> str:
    """The beginning of a response, behind the model that wrote it if that is known."""
    return _start(f"{response.model}: {response.text}" if response.model else response.text, width)


def _start(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _push_and_report(
    project: Project, batch: Batch | None, studio: Studio | None, as_json: bool
) -> None:
    report = None if studio is None else _push(project, studio)
    pushed = (
        None
        if report is None
        else {
            "stored": report.stored,
            "found": report.found,
            "removed": report.removed,
            "conflicts": report.conflicts,
            "gone": report.gone,
            "raised": report.raised,
            "seconds": round(report.seconds, 3),
        }
    )
    links = [] if studio is None else _links(project, studio)
    if as_json:
        echo_json({**(_head(batch) if batch else {}), "pushed": pushed, "label_at": links})
        return
    rows = _batch_rows(batch) if batch else []
    if report is None:
        rows.append(("pushed", "not yet; `annotator next-batch --resume` sends the batch"))
    else:
        rows += _push_rows(report) + [("label at", link) for link in links]
    echo_rows(rows)


def _push_rows(report: PushReport) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("pushed", f"{report.stored:,} tasks in {report.seconds:.1f} s")
    ]
    if report.raised:
        rows.append(("", f"{report.raised:,} earlier tasks open for further votes"))
    if report.found:
        rows.append(("", f"{report.found:,} of an interrupted push had arrived already"))
    if report.removed:
        rows.append(("", f"{report.removed:,} doubled tasks removed"))
    if report.gone:
        rows.append(("", f"{report.gone:,} tasks were deleted on the server"))
    if report.conflicts:
        rows.append(("", f"{len(report.conflicts):,} doubled tasks both have answers: see status"))
    return rows


def _links(project: Project, studio: Studio) -> list[str]:
    from annotator.studio.projects import projects_on

    return [
        f"{studio.url}/projects/{p.studio_id}/data?labeling=1"
        for p in projects_on(project.db, studio.url)
    ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


@click.command()
@click.option("--watch", is_flag=True, help="Keep going until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(1, 3600),
    default=10,
    show_default=True,
    help="Seconds between two looks with --watch.",
)
@click.option(
    "--forget",
    type=int,
    metavar="ID",
    help="Let project ID go that was deleted in Label Studio on purpose; its votes stay.",
)
@json_option
@project_option
def sync(
    watch: bool, every: float, forget: int | None, as_json: bool, project_dir: Path | None
) -> None:
    """Take in new, edited, skipped and deleted annotations since last time.

    Answers that cannot be counted (unknown task, broken result) are kept as they came, listed,
    and never counted; the exit status is then 3.
    """
    with open_project(project_dir) as project, _connected(project) as studio:
        if forget is not None:
            _forget(project, studio, forget)
        if watch:
            _keep_syncing(project, studio, every, as_json)
        else:
            report = _sync_once(project, studio)
            _report_sync(project, report, as_json)
            _refuse_incomplete(report)


def _forget(project: Project, studio: Studio, studio_id: int) -> None:
    from annotator.rounds.servers import forget_project

    n = forget_project(project.db, studio, studio_id)
    click.echo(f"project {studio_id} and its {n:,} tasks are let go", err=True)


def _keep_syncing(project: Project, studio: Studio, every: float, as_json: bool) -> None:
    """Until Ctrl-C, which is how it is meant to end; a server that restarts is waited for."""
    from annotator.errors import StoreBusy, StudioFailed, StudioUnreachable

    with suppress(KeyboardInterrupt):
        while True:
            try:
                report = _sync_once(project, studio)
            except (StudioUnreachable, StudioFailed, StoreBusy) as error:
                click.echo(f"{error.found}; trying again in {every:.0f} s", err=True)
            else:
                if report.counts.total:
                    _report_sync(project, report, as_json)
            time.sleep(every)


def _sync_once(project: Project, studio: Studio) -> SyncReport:
    from annotator.rounds.sync import sync as sync_once

    with _counting() as on_tasks:
        return sync_once(project.db, studio, on_tasks=on_tasks)


@contextmanager
def _counting() -> Iterator[Any]:
    from annotator.progress import progress_bar

    with progress_bar(total=None, what="sync", unit="tasks") as advance:
        yield advance


def _report_sync(project: Project, report: SyncReport, as_json: bool) -> None:
    from annotator.labels.votes import rejected_answers, vote_counts

    totals = vote_counts(project.db)
    if as_json:
        new = {**report.counts.__dict__, "tasks_changed": report.tasks_changed}
        rejected = rejected_answers(project.db)
        echo_json(
            {
                "new": new,
                "total": totals,
                "tasks_gone": report.tasks_gone,
                "conflicts": report.conflicts,
                "rejected_answers": rejected,
            }
        )
        return
    echo_rows(_sync_rows(report, totals))
    if report.counts.rejected:
        for answer in rejected_answers(project.db)[-5:]:
            click.echo(f"  rejected: task {answer['studio_task_id']}: {answer['reason']}")


def _sync_rows(report: SyncReport, totals: dict[str, int]) -> list[tuple[str, object]]:
    counts = report.counts
    new = [
        f"{n:,} {what}"
        for n, what in (
            (counts.votes, "votes"),
            (counts.edits, "edited"),
            (counts.skips, "skipped"),
            (counts.deletions, "deleted"),
            (counts.rejected, "rejected"),
        )
        if n
    ]
    rows: list[tuple[str, object]] = [
        ("new", ", ".join(new) or "nothing new"),
        (
            "total",
            f"{totals['votes']:,} votes on {totals['pairs_voted']:,} pairs by "
            f"{totals['annotators']:,} annotators, {totals['skips']:,} skipped",
        ),
    ]
    if report.tasks_gone:
        rows.append(("gone", f"{report.tasks_gone:,} tasks were deleted on the server"))
    return rows


def _refuse_incomplete(report: SyncReport) -> None:
    from annotator.errors import Incomplete

    if report.missing:
        first = report.missing[0]
        raise Incomplete(first.found, expected=first.expected, todo=first.todo)
    if report.counts.rejected:
        raise Incomplete(
            f"{report.counts.rejected:,} answers cannot be counted",
            expected="answers given on the labelling screen",
            todo="see `annotator sync --json` (rejected_answers); they are kept as they came",
        )
