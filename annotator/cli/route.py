"""`annotator route`: which pairs need no person, with a promise how often people would agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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

Document = dict[str, Any]


@click.command()
@click.option(
    "--agree",
    type=click.FloatRange(0.5, 0.995),
    metavar="SHARE",
    help="Share of people's votes that must agree with the machine's labels, such as 0.85.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.999),
    default=0.9,
    show_default=True,
    metavar="SHARE",
    help="How sure that must be.",
)
@click.option(
    "--source",
    metavar="NAME",
    default="posterior",
    show_default=True,
    help="Who labels: posterior, what has been learned from the votes; judge, the one whose map "
    "was made last; or the name of a judge, or of a score that came with the data.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would be tested; look at no vote and record nothing.",
)
@click.option("--void", type=int, metavar="ID", help="End certificate ID and do nothing else.")
@json_option
@project_option
def route(
    agree: float | None,
    confidence: float,
    source: str,
    dry_run: bool,
    void: int | None,
    as_json: bool,
    project_dir: Path | None,
) -> None:
    """Certify from which confidence on a machine's label may stand for a person's.

    Without --agree it lists the certificates. With it, control votes are looked at: the judge, or
    the posterior with each pair's own votes taken out, is held against what the first person said
    of each control pair; a tie agrees with nobody. If they bear it out, the pairs above that
    confidence are labelled by the machine: `next-batch` no longer has the strategy choose them, and
    `export --machine-labels` writes them, each with its source and certificate. The control arm is
    still drawn from all pairs, and a person's vote goes before a machine's label.

    Votes are looked at when there are 100 control pairs, 200, 400 and so on, not in between: a test
    that is repeated until it passes passes in the end. Every look, and every other source or share
    that is tried, takes a part of the chance of being wrong, so that --confidence holds for all of
    them together. It holds for sources and shares named without looking at how the control votes
    agree with them: who picks the best of several judges by `judge --check` has tried them all, and
    only one is counted. For the posterior, which is learned from the same votes, it is shown by
    simulation and not exactly.

    A new certificate ends those that share a pair with it, since a promise is about all its pairs.

    A certificate ends by itself when the encoder, the judge, its rubric or the model changes, or
    when later control votes no longer bear it out; that is looked at before each batch and export.
    """
    context = click.get_current_context()
    if void is not None:
        _refuse_beside(context, {"void", "as_json", "project_dir"}, "goes with nothing else")
        _void(void, as_json, project_dir)
        return
    if agree is None:
        _refuse_beside(context, {"as_json", "project_dir"}, "needs --agree beside it")
        _list(as_json, project_dir)
        return
    _certify(agree, confidence, source, dry_run, as_json, project_dir)


def _refuse_beside(context: click.Context, allowed: set[str], why: str) -> None:
    from click.core import ParameterSource

    by_hand = ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is by_hand
        if given and parameter.name not in allowed:
            flag = "--void" if "void" in allowed else parameter.opts[0]
            raise click.UsageError(f"{flag} {why}")


def _void(certificate_id: int, as_json: bool, project_dir: Path | None) -> None:
    from annotator.budget.certificates import void_by_hand

    with open_project(project_dir) as project:
        ended = void_by_hand(project.db, certificate_id)
    if as_json:
        echo_json({"void": ended.id, "pairs": ended.n_pairs})
    else:
        click.echo(f"certificate {ended.id} is void: its {ended.n_pairs:,} pairs need people again")


def _list(as_json: bool, project_dir: Path | None) -> None:
    from annotator.budget.route import listed

    with open_project(project_dir) as project:
        check_before_use(project)
        found = listed(project.db)
    if as_json:
        echo_json({"certificates": found})
    elif not found:
        click.echo("no certificate yet: `annotator route --agree 0.85` looks whether one is due")
    else:
        echo_certificates(found)


def _certify(
    agree: float,
    confidence: float,
    source: str,
    dry_run: bool,
    as_json: bool,
    project_dir: Path | None,
) -> None:
    from annotator.budget import route as routes

    with open_project(project_dir) as project:
        request = routes.RouteRequest(
            agree,
            confidence,
            routes.source_named(project.db, source),
            project.settings.round.near_duplicates,
        )
        encoder_id = embed_first(project)
        if not dry_run:
            check_before_use(project, encoder_id)
        document = routes.route(
            project.db, project.database_path, encoder_id, request, dry_run=dry_run
        )
        document["certificates"] = routes.listed(project.db)
    if as_json:
        echo_json(document)
        return
    echo_rows(_rows(document))
    if document["certificates"]:
        click.echo()
        echo_certificates(document["certificates"])


def check_before_use(project: Project, encoder_id: int | None = None) -> None:
    """Ends the certificates whose ground is gone, and says so on standard error.

    `encoder_id` None: that of the newest round.
    """
    from annotator.budget.certificates import check_certificates, newest_encoder

    if encoder_id is None:
        encoder_id = newest_encoder(project.db)
    for ended, because in check_certificates(project.db, encoder_id):
        click.echo(
            f"certificate {ended.id} is void, and its {ended.n_pairs:,} pairs need people again: "
            f"{because}",
            err=True,
        )


def _rows(document: Document) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("asked", f"{document['source_words']}: {document['guarantee']}"),
        ("pool", _pool_in_words(document)),
        ("control", f"{document['control_votes']:,} control pairs with a vote and its opinion"),
    ]
    if document["source"] != "posterior":
        rows.append(
            (
                "holds if",
                "this judge and share were named without looking at how control votes agree with "
                "it, as `judge --check` shows",
            )
        )
    rows += _LINES[document["outcome"]](document)
    if (newer := document["newer_pairs"]) and document["outcome"] != "looked-before":
        rows.append(("left out", f"{newer:,} pairs imported since the control pairs were drawn"))
    return rows


def _pool_in_words(document: Document) -> str:
    silent = document["pool"] - document["pool_with_opinion"]
    words = f"{document['pool']:,} pairs that nobody has been asked about"
    return f"{words}, on {silent:,} of which it takes no side" if silent else words


def _certified(document: Document) -> list[tuple[str, object]]:
    passed = [test for test in document["tests"] if test["passed"]]
    covered, share = document["covered"], document["covered"] / document["pool"]
    test = next(one for one in passed if one["covered"] == covered)
    rows: list[tuple[str, object]] = [
        ("looked", _look_in_words(document)),
        (
            "certified",
            f"{covered:,} pairs ({_percent(share)} of the pool) need no person: certificate "
            f"{document['certificate']}",
        ),
        (
            "seen",
            f"of {test['n']:,} control pairs as sure as these people agreed on {test['agreed']:,}; "
            f"that shows {_percent(test['lower'])} at least",
        ),
    ]
    if document["replaced"]:
        ended = ", ".join(str(one) for one in document["replaced"])
        rows.append(
            (
                "in place of",
                f"certificate {ended}, void now; what only it covered needs people again",
            )
        )
    return rows


def _not_certified(document: Document) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("looked", _look_in_words(document))]
    if document["tests"]:
        last = document["tests"][0]
        rows.append(
            (
                "seen",
                f"of the {last['n']:,} control pairs that it is surest of people agreed on "
                f"{last['agreed']:,}; that shows {_percent(last['lower'])}, not "
                f"{_percent(last['required'])}",
            )
        )
    return [*rows, ("not yet", _needed_in_words(document)), *_standing(document)]


def _too_few(document: Document) -> list[tuple[str, object]]:
    return [("not yet", _needed_in_words(document)), *_standing(document)]


def _looked_before(document: Document) -> list[tuple[str, object]]:
    look = document["looks"][-1]
    said = "certified" if look["certificate_id"] else "not certified"
    rows: list[tuple[str, object]] = [
        (
            "looked",
            f"at {look['n_calibration']:,} control pairs already, on {look['looked_at'][:10]}: "
            f"{said}; the next look is at {document['next_look']:,}",
        )
    ]
    if document["certificate"] is None:  # what a later look may add to one is not foretold
        rows.append(("not yet", _needed_in_words(document)))
    return [*rows, *_standing(document)]


def _dry_run(document: Document) -> list[tuple[str, object]]:
    look = document["look"]
    if look is None:
        return [("not yet", f"the first look is at {document['next_look']:,} control pairs")]
    grid = document["grid"]
    return [
        (
            "would look",
            f"at the first {look['size']:,} control pairs, with a chance of being wrong of "
            f"{_percent(look['level'])}",
        ),
        (
            "would test",
            f"{len(grid)} thresholds, covering {grid[0]['covered']:,} to {grid[-1]['covered']:,} "
            "pairs" if grid else "nothing",
        ),
        ("recorded", "nothing, and no vote was looked at"),
    ]  # fmt: skip


_LINES = {
    "certified": _certified,
    "not-certified": _not_certified,
    "too-few": _too_few,
    "looked-before": _looked_before,
    "dry-run": _dry_run,
}


def _look_in_words(document: Document) -> str:
    look = document["look"]
    words = f"at the first {look['size']:,} control pairs"
    if document["promise"] > 1:
        words += f", as promise {document['promise']} that was tried"
    return f"{words}; this look may be wrong with probability {_percent(look['level'])}"


def _percent(share: float) -> str:
    """As 77.7 %, and 0.75 % where it is below one."""
    return f"{100 * share:.{1 if share >= 0.01 else 2}f} %"


def _needed_in_words(document: Document) -> str:
    needed, more = document["needed"], document["next_look"] - document["control_votes"]
    if needed is None:
        if document["control_votes"]:
            return (
                f"the next look is {more:,} control votes away; as the votes are, no number of "
                "them is likely to show this: ask for less, or take another source"
            )
        return f"needs {more:,} more control votes for a first look"
    return (
        f"needs about {needed['more']:,} more control votes; then about "
        f"{_percent(needed['share'])} of the pool is likely to be certified"
    )


def _standing(document: Document) -> list[tuple[str, object]]:
    if document["certificate"] is None:
        return []
    return [("in force", f"certificate {document['certificate']}, {document['covered']:,} pairs")]


def echo_certificates(found: list[Document]) -> None:
    """A line for every certificate, and one below it on where it stands."""
    click.echo("  id  made        pairs  promise")
    for one in found:
        click.echo(
            f"{one['id']:>4}  {one['made_at'][:10]}  {one['pairs']:>5,}  {_source(one)}: "
            f"{one['guarantee']}"
        )
        click.echo(f"{'':>25}{_now(one)}")


def _source(one: Document) -> str:
    from annotator.budget.route import source_in_words

    return source_in_words(one["source"])


def _now(one: Document) -> str:
    if one["void_at"]:
        return f"void since {one['void_at'][:10]}: {one['void_because']}"
    now = one["now"]
    return (
        f"in force: people agree on {now['agreed']:,} of {now['n']:,} control pairs such as these"
    )
