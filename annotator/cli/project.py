"""`annotator init`, `doctor` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from annotator.cli.base import (
    Project,
    echo_json,
    echo_rows,
    json_option,
    open_project,
    project_option,
)


@click.command()
@click.argument(
    "folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path, file_okay=False)
)
@click.option("--name", help="Shown to annotators in Label Studio.  [default: the folder's name]")
def init(folder: Path, name: str | None) -> None:
    """Make a project: annotator.toml, its JSON Schema and an empty database."""
    from annotator.config import FILE_NAME, SCHEMA_NAME, load_settings, schema_text, template
    from annotator.store import open_db

    folder.mkdir(parents=True, exist_ok=True)
    config = folder / FILE_NAME
    existed = config.exists()
    if not existed:
        config.write_text(template(name or folder.resolve().name[:40]), encoding="utf-8")
    (folder / SCHEMA_NAME).write_text(schema_text(), encoding="utf-8")
    settings = load_settings(folder)
    open_db(folder / settings.project.database, create=True).close()
    click.echo(
        f"{'kept' if existed else 'wrote'} {config}, the database is {settings.project.database}"
    )
    click.echo("next: annotator import FILE")


@click.command()
@json_option
@project_option
def status(as_json: bool, project_dir: Path | None) -> None:
    """What stands where, in one screen, and what to do next."""
    from annotator.status import project_status

    with open_project(project_dir) as project:
        report = project_status(project.db)
        if as_json:
            echo_json(report)
        else:
            echo_rows(_status_rows(project, report))


def _status_rows(project: Project, report: dict[str, Any]) -> list[tuple[str, object]]:
    candidates, picks = report["candidates"], report["picks"]
    rows: list[tuple[str, object]] = [
        ("project", f"{project.settings.project.name} ({project.folder.resolve()})"),
        (
            "candidates",
            f"{candidates['prompts']:,} prompts, {candidates['responses']:,} responses, "
            f"{candidates['pairs']:,} pairs, {report['pairs_left']:,} of them not chosen yet",
        ),
        *_label_rows(candidates["source_labels"]),
        *[
            ("vectors", f"{v['texts']:,} of {v['of']:,} texts, {v['encoder']}")
            for v in report["vectors"]
        ],
        *_judge_rows(report),
        (
            "rounds",
            f"{report['rounds']:,}: {picks.get('acquired', 0):,} pairs acquired, "
            f"{picks.get('control', 0):,} control",
        ),
        *_answer_rows(report),
        *[("labelling", project["url"]) for project in report["labelling"]],
        ("saving", report["saving"]),
    ]
    rows += [("conflict", f"task {key}: {problem}") for key, problem in report["conflicts"]]
    return [*rows, ("next", report["next"])]


def _judge_rows(report: dict[str, Any]) -> list[tuple[str, object]]:
    of, judging = report["candidates"]["responses"], report["judging"]
    rows: list[tuple[str, object]] = [
        ("judged", f"{judge['responses']:,} of {of:,} responses, {judge['scores']}")
        for judge in report["judges"]
    ]
    if judging["requests"]:
        cost = f"at most ${judging['usd_at_most']:,.2f} for {judging['requests']:,} requests"
        unpriced = judging["requests_unpriced"]
        more = f", and what {unpriced:,} of unknown price cost" if unpriced else ""
        rows.append(("judging", cost + more))
    return rows


def _label_rows(n: int) -> list[tuple[str, object]]:
    if not n:
        return []
    if n == 1:
        return [("labels", "1 label came with the data; it is kept, not counted as a vote")]
    return [("labels", f"{n:,} labels came with the data; they are kept, not counted as votes")]


def _answer_rows(report: dict[str, Any]) -> list[tuple[str, object]]:
    tasks, votes = report["tasks"], report["votes"]
    on_server = sum(tasks.get(state, 0) for state in ("stored", "swept", "conflict"))
    waiting = sum(tasks.get(state, 0) for state in ("pending", "sent"))
    rows: list[tuple[str, object]] = [
        (
            "tasks",
            f"{on_server:,} on Label Studio, {waiting:,} waiting to be sent"
            + (f", {tasks['gone']:,} deleted there" if tasks.get("gone") else ""),
        ),
        (
            "votes",
            f"{votes['votes']:,} on {votes['pairs_voted']:,} pairs by {votes['annotators']:,} "
            f"annotators; {votes['skips']:,} skipped, {votes['rejected']:,} rejected",
        ),
    ]
    arms = [
        f"{name} {arm['answered']:,} answered, {arm['open']:,} open"
        for name, arm in report["arms"].items()
    ]
    if arms:
        rows.append(("pairs", "; ".join(arms)))
    if len(per_pair := report["votes_per_pair"]) > 1:
        told = [f"{pairs:,} with {n}" for n, pairs in per_pair.items()]
        rows.append(("overlap", f"votes a pair: {', '.join(told)}"))
    if (further := report["further_votes"])["pairs"]:
        said = f"asked on {further['pairs']:,} pairs, {further['open']:,} of them open"
        rows.append(("further", said))
    return rows


@click.command()
@click.option("--offline", is_flag=True, help="Leave Label Studio alone.")
@json_option
@project_option
def doctor(offline: bool, as_json: bool, project_dir: Path | None) -> None:
    """Check database, encoder and Label Studio, and say what to do."""
    from annotator.doctor import examine
    from annotator.errors import AnnotatorError

    with open_project(project_dir) as project:
        findings = examine(project.db, project.database_path, project.settings, offline=offline)
    if as_json:
        echo_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            sign = click.style("ok  ", fg="green") if finding.ok else click.style("BAD ", fg="red")
            click.echo(f"{sign}{finding.what:<14}{finding.detail}")
            if finding.todo:
                click.echo(f"    {'':<14}to do: {finding.todo}")
    bad = [finding.what for finding in findings if not finding.ok]
    if bad:
        raise AnnotatorError(f"{len(bad)} of {len(findings)} checks failed: {', '.join(bad)}")
