"""`annotator map`: where each prompt lies by what machines think of its responses."""

from __future__ import annotations

from collections.abc import Iterator
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

if TYPE_CHECKING:
    from annotator.report.map_plot import MapPicture, ShownPrompt
    from annotator.signals.datamap import MapBuild, PlacedPrompts

PLOT_SUFFIXES = (".png", ".html")


def plot_path(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Refuses, before anything is computed, a path that nothing could be drawn at."""
    if path is not None and path.suffix.lower() not in PLOT_SUFFIXES:
        raise click.BadParameter(
            f"{path} ends neither in .png nor in .html, which say what to draw"
        )
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {path.parent}")
    return path


@click.command("map")
@click.option(
    "--scores",
    metavar="NAME",
    help="Map by a score that came with the data, or by a judge: the beginning of its name, or "
    "`judge` for the newest.  [default: peer agreement]",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    callback=plot_path,
    help="Draw the map: .png a picture, .html a page whose points lead to the prompts.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**53 - 1),
    default=0,
    show_default=True,
    help="Orders prompts that tie at a cut, and draws the points of a large map.",
)
@json_option
@project_option
def map_(
    scores: str | None,
    plot: Path | None,
    seed: int,
    as_json: bool,
    project_dir: Path | None,
) -> None:
    """Place every prompt by mean and variance of its responses' scores.

    The Alignment Data Map (arXiv 2505.23114). The third of the prompts with the largest variance
    is the region high-variance; of the rest, the half with the higher mean is
    high-mean-low-variance and the other low-mean. The strategies datamap-... choose by the scores
    of the map that was made last; which of equal prompts fall on which side they draw anew.

    Without --scores a response's score is its peer agreement: the mean cosine of its vector to
    the prompt's other responses. That tells how typical an answer is; no judge has read it.
    `annotator judge` has one read it, and makes the map of what it says by itself.
    Prompts with fewer than two scored responses have no place on the map.

    A map can be made anew at any time. Texts that have no vector yet are embedded first.
    """
    with open_project(project_dir) as project:
        build_and_report(project, scores, plot, seed, as_json)


def build_and_report(
    project: Project, scores: str | None, plot: Path | None, seed: int, as_json: bool
) -> None:
    """Makes the map by these scores, draws it if `plot` says where, and prints what it is."""
    from annotator.signals.datamap import build_map, check_candidates, placed_prompts
    from annotator.signals.scores import PEER_AGREEMENT, method_named

    check_candidates(project.db)
    method = method_named(project.db, scores)
    encoder_id = embed_first(project) if method == PEER_AGREEMENT else None
    build = build_map(project.db, project.database_path, encoder_id, method, seed)
    placed = placed_prompts(project.db, build)
    n_drawn = 0 if plot is None else _draw(project, build, placed, plot)
    if as_json:
        echo_json(_document(build, placed, plot, n_drawn))
    else:
        echo_rows(_rows(build, placed, plot, n_drawn))


def _draw(project: Project, build: MapBuild, placed: PlacedPrompts, path: Path) -> int:
    """Writes the plot; how many prompts it shows."""
    from annotator.report.map_plot import PAGE_POINTS, map_page, save_map_png

    picture = _picture(build, placed)
    if path.suffix.lower() == ".png":
        return save_map_png(picture, path)
    picture = picture.sample(PAGE_POINTS)
    page = map_page(picture, _shown(project, build, picture.prompt_ids.tolist()))
    path.write_text(page.html, encoding="utf-8")
    return page.n_points


def _picture(build: MapBuild, placed: PlacedPrompts) -> MapPicture:
    from annotator.report.map_plot import MapPicture

    on_map = placed.on_map
    return MapPicture(
        prompt_ids=placed.prompt_ids[on_map],
        mean=placed.mean[on_map],
        variance=placed.variance[on_map],
        region=placed.region[on_map],
        counts=placed.counts,
        where=build.regions_in_words,
        n_off_map=placed.n_off_map,
        variance_cut=build.cuts.variance,
        mean_cut=build.cuts.mean,
        scores=build.scores_in_words,
        seed=build.seed,
    )


def _shown(project: Project, build: MapBuild, prompt_ids: list[int]) -> Iterator[ShownPrompt]:
    from annotator.report.map_plot import ShownPrompt, ShownResponse
    from annotator.signals.datamap import map_entries

    for entry in map_entries(project.db, build, prompt_ids):
        turns = [(turn["role"], turn["content"]) for turn in entry.messages]
        responses = [ShownResponse(score, r.model, r.text) for score, r in entry.responses]
        yield ShownPrompt(entry.prompt_id, turns, responses)


def _document(
    build: MapBuild, placed: PlacedPrompts, plot: Path | None, n_drawn: int
) -> dict[str, Any]:
    import math

    cuts = {"variance": build.cuts.variance, "mean": build.cuts.mean}
    return {
        "method": build.method,
        "scores": build.scores_in_words,
        "encoder": build.encoder,
        "seed": build.seed,
        "responses": build.n_responses,
        "responses_scored": build.n_scored,
        "prompts_on_map": placed.n_on_map,
        "prompts_off_map": placed.n_off_map,
        "prompts_of_two": placed.n_of_two,
        "prompts_tied_at_variance_cut": placed.n_tied,
        "regions": placed.counts,
        "cut_offs": {name: None if math.isnan(cut) else cut for name, cut in cuts.items()},
        "plot": None if plot is None else {"file": str(plot), "prompts": n_drawn},
    }


def _rows(
    build: MapBuild, placed: PlacedPrompts, plot: Path | None, n_drawn: int
) -> list[tuple[str, object]]:
    where = build.regions_in_words
    rows: list[tuple[str, object]] = [
        ("scores", build.scores_in_words),
        ("prompts", f"{placed.n_on_map:,} on the map"),
    ]
    rows += [(name, f"{n:,}, {where[name]}") for name, n in placed.counts.items()]
    if placed.n_off_map:
        rows.append(
            ("no place", f"{placed.n_off_map:,} prompts with fewer than two scored responses")
        )
    rows += [("note", note) for note in _notes(build, placed)]
    if plot is not None:
        rows.append(("plot", f"{plot}, {n_drawn:,} of {placed.n_on_map:,} prompts drawn"))
    return rows


def _notes(build: MapBuild, placed: PlacedPrompts) -> Iterator[str]:
    """What a reader of the map would else get wrong."""
    from annotator.signals.scores import PEER_AGREEMENT

    if placed.n_of_two and build.method == PEER_AGREEMENT:
        yield (
            f"{placed.n_of_two:,} prompts have two responses: each is the other's only peer, so "
            "their agreement is the same and its variance 0"
        )
    elif placed.n_of_two:
        yield (
            f"{placed.n_of_two:,} prompts have two scored responses: their variance is just "
            "(margin / 2) squared"
        )
    if placed.n_tied:
        yield (
            f"{placed.n_tied:,} prompts have the variance of the cut itself: which of them are in "
            f"high-variance was drawn (seed {build.seed})"
        )
