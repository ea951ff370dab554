"""`annotator diagnose`: labels that look wrong, are contested, or said what was known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from annotator.candidates.formats import FORMATS
from annotator.cli.base import (
    Project,
    echo_json,
    embed_first,
    encoder_settings,
    json_option,
    open_project,
    project_option,
    user_cache,
)
from annotator.cli.map import plot_path

if TYPE_CHECKING:
    from sqlite_utils import Database

    from annotator.diagnose.account import Diagnosis
    from annotator.diagnose.labels_of import Labelled
    from annotator.diagnose.suspects import Suspects

# Named here again so that --help need not import what computes them; a test compares.
METHOD_NAMES = (
    "surprise",
    "confidence",
    "variability",
    "map-cosine",
    "map-pearson",
    "map-covariance",
    "map-cosine-prompt",
    "map-pearson-prompt",
    "map-covariance-prompt",
)
ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Asked:
    """What the command line asked for."""

    files: tuple[Path, ...]
    method: str
    scores: str | None
    top: int
    seed: int
    as_json: bool
    plot: Path | None
    out: Path | None
    send: bool
    dry_run: bool
    no_push: bool
    format: str | None
    cache: Path | None
    project_dir: Path | None


@click.command()
@click.argument(
    "files", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE]..."
)
@click.option(
    "--method",
    type=click.Choice(METHOD_NAMES),
    default=METHOD_NAMES[0],
    show_default=True,
    help="What ranks the labels; see above.",
)
@click.option(
    "--scores",
    metavar="NAME",
    help="A judge's scores, which the model is told and the map- methods go by: of a project as "
    "`map --scores` names them, in FILE llm:NAME or 'llm:*' for their mean.  "
    "[default: the project's judge, else peer agreement]",
)
@click.option(
    "--top", type=click.IntRange(0), default=5, show_default=True, help="Labels listed of a class."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    callback=plot_path,
    help="Draw confidence against variability: .png a picture, .html a page whose points can be "
    "opened.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.jsonl",
    help="Write every label with its rank, class, reason and numbers.",
)
@click.option(
    "--send",
    is_flag=True,
    help="Put all likely wrong ones, not only those listed, before another annotator.",
)
@click.option("--dry-run", is_flag=True, help="With --send: list what would be sent.")
@click.option(
    "--no-push", is_flag=True, help="With --send: record the round; a later next-batch sends it."
)
@click.option("--format", "format_", type=click.Choice(list(FORMATS)), help="As of `import`.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where a file's vectors are kept.  [default: the user's cache folder]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**53 - 1),
    default=0,
    show_default=True,
    help="Draws the refits and the interval.",
)
@json_option
@project_option
def diagnose(files: tuple[Path, ...], format_: str | None, **options: Any) -> None:
    """Rank labels by how suspect they are, with the reason.

    Without FILE the project's votes; FILE is anything that `import` reads, with labels, and needs
    no project. Three kinds are told apart: likely wrong, a lone label against a confident rest;
    contested, where people split or are expected to, which is no error; of low impact, what
    everything else had foretold.

    surprise: how much likelier another verdict is by everything but the label itself, that is the
    preference model, the other votes on the pair, judges' scores if any, and how careful its
    annotator is. confidence, variability: mean and spread of P(label) over refits on resampled
    prompts (dataset cartography). map-cosine, map-pearson, map-covariance: the label against the
    scores of its two responses, the cosine as the Alignment Data Map has it; with -prompt, all
    labels of a prompt at once, as published.
    """
    asked = Asked(files=files, format=format_, **options)
    if asked.dry_run and not asked.send:
        raise click.UsageError("--dry-run goes with --send: it lists what would be sent")
    if asked.no_push and not asked.send:
        raise click.UsageError("--no-push goes with --send: it records and does not send")
    if asked.files:
        _diagnose_files(asked)
        return
    for name in ("format", "cache"):
        if getattr(asked, name):
            raise click.UsageError(f"--{name} goes with FILE: the project has its own")
    with open_project(asked.project_dir) as project:
        from annotator.diagnose.labels_of import labels_of_project

        encoder_id = embed_first(project)
        labelled = labels_of_project(project.db, project.database_path, encoder_id, asked.scores)
        _report(asked, project.db, labelled, project, [])


def _diagnose_files(asked: Asked) -> None:
    from annotator.diagnose.labels_of import labels_of_data
    from annotator.diagnose.prepared import prepared_set

    encoder = encoder_settings(asked.project_dir)
    with (
        _project_to_send_from(asked) as project,
        prepared_set(
            asked.files,
            asked.cache or user_cache("diagnose"),
            encoder=encoder.name,
            precision=encoder.precision,
            format=asked.format,
        ) as prepared,
    ):
        labelled = labels_of_data(prepared.db, prepared.path, prepared.encoder_id, asked.scores)
        n = prepared.n_refused
        notes = [f"{n:,} rows of the files were refused, as `import` would"] if n else []
        _report(asked, prepared.db, labelled, project, notes)


@contextmanager
def _project_to_send_from(asked: Asked) -> Iterator[Project | None]:
    """The project, where --send needs one."""
    if not asked.send:
        yield None
        return
    with open_project(asked.project_dir) as project:
        yield project


def _report(
    asked: Asked, db: Database, labelled: Labelled, project: Project | None, notes: list[str]
) -> None:
    from annotator.diagnose.account import diagnose as diagnose_labels
    from annotator.diagnose.account import document

    found = diagnose_labels(labelled, asked.method, asked.seed)
    report = document(found, asked.top)
    report["notes"] = notes + report["notes"]
    if asked.out is not None:
        report["out"] = {"file": str(asked.out), "labels": _write_all(db, found, asked.out)}
    if asked.plot is not None:
        report["plot"] = {"file": str(asked.plot), "labels": _draw(db, found, report, asked.plot)}
    if asked.send and project is not None:
        report["send"] = _send_or_list(
            project, db, found, dry_run=asked.dry_run, no_push=asked.no_push
        )
    _echo(asked, db, report)


def _echo(asked: Asked, db: Database, report: dict[str, Any]) -> None:
    from annotator.candidates.catalog import shown_responses
    from annotator.candidates.identity import prompt_text
    from annotator.diagnose.account import LISTS
    from annotator.diagnose.words import lines

    rows = [row for name in LISTS for row in report[name]]
    texts = shown_responses(db, [row[end] for row in rows for end in ("a_id", "b_id")])
    if asked.as_json:
        for row in rows:
            row["prompt"] = prompt_text(texts[row["a_id"]].messages)
            row["a"], row["b"] = texts[row["a_id"]].text, texts[row["b_id"]].text
        echo_json(report)
        return
    click.echo("\n".join(lines(report, texts)))
    for name in ("out", "plot"):
        if name in report:
            click.echo(f"\n{name}: {report[name]['file']}, {report[name]['labels']:,} labels")
    if "send" in report:
        click.echo("\n" + "\n".join(_said_of_sending(report["send"])))


def _write_all(db: Database, found: Diagnosis, out: Path) -> int:
    """Writes a line for each label, most suspect first; how many there are."""
    import json

    from annotator.candidates.catalog import shown_responses
    from annotator.diagnose.account import all_rows

    n = 0
    with out.open("w", encoding="utf-8") as file:
        ranked = all_rows(found)
        while rows := list(islice(ranked, ROWS_AT_ONCE)):
            ids = [row[end] for row in rows for end in ("a_id", "b_id")]
            texts = shown_responses(db, ids)
            for row in rows:
                a, b = texts[row["a_id"]], texts[row["b_id"]]
                row |= {"dataset": a.dataset, "prompt_id": a.external_id, "a": a.text, "b": b.text}
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                n += 1
    return n


def _draw(db: Database, found: Diagnosis, report: dict[str, Any], path: Path) -> int:
    """Writes the plot; how many labels it shows."""
    from annotator.diagnose.account import row
    from annotator.report.diagnosis_plot import PAGE_POINTS, diagnosis_page, save_diagnosis_png

    picture = _picture(found, report)
    if path.suffix.lower() == ".png":
        return save_diagnosis_png(picture, path)
    rows = [row(found, place) for place in picture.place[:PAGE_POINTS].tolist()]
    page, n = diagnosis_page(picture, _shown_labels(db, picture.place.tolist(), rows))
    path.write_text(page, encoding="utf-8")
    return n


def _picture(found: Diagnosis, report: dict[str, Any]) -> Any:
    import numpy as np

    from annotator.diagnose.account import CLASSES
    from annotator.diagnose.words import sentence
    from annotator.report.diagnosis_plot import FIRST_OF_CLASS, DiagnosisPicture

    first = np.concatenate([found.of_class(name)[:FIRST_OF_CLASS] for name in CLASSES[:3]])
    others = np.setdiff1d(np.arange(len(found.labels)), first)
    place = np.concatenate((first, np.random.default_rng(found.seed).permutation(others)))
    return DiagnosisPicture(
        place=place,
        confidence=found.confidence[place],
        variability=found.variability[place],
        kind=found.classes[place],
        counts=report["classes"],
        heading=f"{report['labels']:,} {report['source']} on {report['pairs']:,} pairs",
        sentence=sentence(report),
    )


def _shown_labels(db: Database, places: list[int], rows: list[dict[str, Any]]) -> list[Any]:
    from annotator.candidates.catalog import shown_responses
    from annotator.diagnose.words import verdict
    from annotator.report.diagnosis_plot import ShownLabel
    from annotator.report.map_plot import ShownPrompt, ShownResponse

    texts = shown_responses(db, [row[end] for row in rows for end in ("a_id", "b_id")])
    shown = []
    for place, row in zip(places, rows, strict=False):
        ends = [texts[row[end]] for end in ("a_id", "b_id")]
        responses = [
            ShownResponse(row["scores"][name], end.model, end.text)
            for name, end in zip("ab", ends, strict=True)
        ]
        turns = [(turn["role"], turn["content"]) for turn in ends[0].messages]
        prompt = ShownPrompt(place, turns, responses)
        shown.append(ShownLabel(verdict(row), row["reason"], row["class"], prompt))
    return shown


# Sending.


def _send_or_list(
    project: Project, db: Database, found: Diagnosis, *, dry_run: bool, no_push: bool
) -> dict[str, Any]:
    from annotator.cli.rounds import send_waiting
    from annotator.diagnose.suspects import suspects_of

    suspects = suspects_of(project.db, db, found)
    pick_ids = (_sendable if dry_run else _send)(project, suspects)
    if pick_ids and not dry_run and not no_push:
        send_waiting(project)
    return {
        "pairs": len(pick_ids),
        "pick_ids": pick_ids,
        "waiting": len(suspects.pick_ids) - len(pick_ids),
        "outvoted": suspects.n_outvoted,
        "control": suspects.n_control,
        "not_in_project": suspects.n_unknown,
        "dry_run": dry_run,
        "pushed": bool(pick_ids) and not dry_run and not no_push,
    }


def _sendable(project: Project, suspects: Suspects) -> list[int]:
    """The picks that _send would ask one more vote on."""
    from annotator.rounds.further import asked_again

    return [extra.pick_id for extra in asked_again(project.db, suspects.pick_ids, "diagnose")]


def _send(project: Project, suspects: Suspects) -> list[int]:
    """Asks for one more vote on each of these picks; those that were asked for."""
    from annotator.rounds.again import send_again

    asked = send_again(project.db, project.database_path, suspects.pick_ids, reason="diagnose")
    return [extra.pick_id for extra in asked]


def _said_of_sending(send: dict[str, Any]) -> Iterator[str]:
    n = send["pairs"]
    what = "would be put" if send["dry_run"] else "put"
    yield f"send: {n:,} pair{'' if n == 1 else 's'} {what} before another annotator"
    if n and send["dry_run"]:
        yield f"      picks {', '.join(map(str, send['pick_ids']))}"
    elif n and not send["pushed"]:
        yield "      recorded; `annotator next-batch --resume` tells the server"
    if send["waiting"]:
        yield (
            f"      not {send['waiting']:,} on which a vote is still to come, that everybody who "
            "votes has seen, or whose task is on no server"
        )
    if send["outvoted"]:
        yield f"      not {send['outvoted']:,} on which others outvote the suspect label already"
    if send["control"]:
        yield (
            f"      not {send['control']:,} of the control arm: agreement there is measured on "
            "pairs that nobody chose to ask again"
        )
    if send["not_in_project"]:
        yield (
            f"      not {send['not_in_project']:,} that the project never sent: import the file "
            "(annotator import FILE) and have its pairs labelled (annotator next-batch)"
        )
