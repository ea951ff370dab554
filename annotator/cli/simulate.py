"""`annotator simulate`: the loop on labels that are there already, before money is spent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from annotator.candidates.formats import FORMATS
from annotator.cli.base import echo_json, encoder_settings, project_option, user_cache

if TYPE_CHECKING:
    from annotator.labels.overlap import Overlap
    from annotator.simulate.overlap_simulation import OverlapRequest

# Named here again so that --help need not import what computes them; a test compares.
METRIC_NAMES = ("pair-accuracy", "heldout-accuracy", "reserved-accuracy", "rank-correlation")
TRUTH_NAMES = ("gold", "votes")
NOT_OF_OVERLAP = ("strategies", "budgets", "metric", "judge", "target", "control", "batch")
OF_OVERLAP = ("pairs", "truth")
ENDINGS = (".html", ".png")
DEFAULT_STRATEGIES = "random,real-easy,hybrid"


def _names(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise click.BadParameter("it names nothing.")
    return names


def _numbers(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[int, ...]:
    if value is None:
        return ()
    try:
        numbers = tuple(int(part.strip().replace("_", "")) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of whole numbers, as 200,400.") from None
    if min(numbers) < 1:
        raise click.BadParameter(f"{min(numbers)} is no number of votes.")
    return numbers


def _known_ending(_context: click.Context, _option: click.Parameter, out: Path | None) -> Any:
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise click.BadParameter(f"{str(out)!r} ends in none of {', '.join(ENDINGS)}.")
    return out


def _overlaps(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[Overlap, ...]:
    if value is None:
        return ()
    from annotator.labels.overlap import Overlap, OverlapError

    try:
        return tuple(dict.fromkeys(Overlap.parse(spec) for spec in _names(context, option, value)))
    except OverlapError as error:
        said = (error.found, error.expected and f"expected: {error.expected}", error.todo)
        raise click.BadParameter("; ".join(filter(None, said)) + ".") from None


def _refuse_what_does_not_apply(context: click.Context, *, overlap: bool) -> None:
    """Raises UsageError for an option that was given and would do nothing."""
    from click.core import ParameterSource

    names = NOT_OF_OVERLAP if overlap else OF_OVERLAP
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if parameter.name in names and given:
            said = "does not go with" if overlap else "goes only with"
            raise click.UsageError(f"{parameter.opts[0]} {said} --overlap.")


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE...",
)
@click.option(
    "--strategies",
    default=DEFAULT_STRATEGIES,
    show_default=True,
    metavar="NAME,...",
    callback=_names,
    help="What to compare; random is always among them. Those that choose by the data map take "
    "NAME@SCORES too, the map then being made of scores in the files: datamap-high-variance@llm:*.",
)
@click.option(
    "--budgets",
    metavar="N,...",
    callback=_numbers,
    help="Votes at which the learner is measured.  [default: doubling up to half of the pairs]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=10,
    show_default=True,
    help="Replays of every strategy; with one the interval lacks the luck of the draw.",
)
@click.option(
    "--metric",
    type=click.Choice(METRIC_NAMES),
    default=METRIC_NAMES[0],
    show_default=True,
    help="What quality is; see above.",
)
@click.option(
    "--scores",
    "judge",
    metavar="NAME",
    help="Judges' scores in the files, as llm:NAME or 'llm:*' for their mean: the learner is told "
    "them, and data maps are made of them.  [default: none]",
)
@click.option(
    "--target",
    type=float,
    help="Quality at which votes are compared.  [default: what random reaches with the most votes]",
)
@click.option(
    "--control",
    type=click.FloatRange(0, 0.5),
    default=0.15,
    show_default=True,
    help="Share of each batch drawn uniformly, and charged.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Pairs in a batch.  [default: half the first budget, at most 100]",
)
@click.option(
    "--overlap",
    "overlaps",
    metavar="SPEC,...",
    callback=_overlaps,
    help="Compare how many votes a pair is given, in place of strategies: POLICY:RANGE, such as "
    "fixed:3,fixed:5,until-agree:2-5,expected-gain:1-5.",
)
@click.option(
    "--pairs",
    type=click.IntRange(1),
    help="With --overlap: so many pairs, drawn by the seed.  [default: all that have a truth]",
)
@click.option(
    "--truth",
    type=click.Choice(TRUTH_NAMES),
    help="With --overlap: gold labels, or the majority of votes set aside.  [default: gold labels "
    "where the set has them]",
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes."
)
@click.option("--format", "format_", type=click.Choice(list(FORMATS)), help="As of `import`.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where vectors and finished runs are kept.  [default: the user's cache folder]",
)
@click.option(
    "--json", "json_out", type=click.Path(dir_okay=False, allow_dash=True), metavar="OUT",
    help="Write the whole document there; - is standard output, in place of the report.",
)  # fmt: skip
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_known_ending,
    metavar="OUT.html|OUT.png",
    help="Draw the curves.",
)
@project_option
@click.pass_context
def simulate(
    context: click.Context,
    files: tuple[Path, ...],
    strategies: tuple[str, ...],
    budgets: tuple[int, ...],
    seeds: int,
    metric: str,
    judge: str | None,
    target: float | None,
    control: float,
    batch: int | None,
    overlaps: tuple[Overlap, ...],
    pairs: int | None,
    truth: str | None,
    jobs: int,
    format_: str | None,
    cache: Path | None,
    json_out: str | None,
    plot: Path | None,
    project_dir: Path | None,
) -> None:
    """Replay a labelled set: what would each strategy have saved?

    FILE is anything that `import` reads, with labels. Each vote asked for is one real vote of the
    set, drawn without replacement; control votes are charged like all others; the learner is the
    same for all strategies. No project is needed: inside one, its encoder is used.

    pair-accuracy: share of all pairs with a human majority that the learner orders right, those
    that were asked included; heldout-accuracy: the same on prompts that were never shown;
    reserved-accuracy: share of the votes foretold of a fifth that is set aside before anything is
    asked, which the noise in the votes drawn cannot flatter; rank-correlation: Kendall's tau-b with
    people's scores, mean over prompts. An interrupted simulation goes on where it stopped.

    With --overlap the pairs are fixed, all need a consensus, and policies are compared by the votes
    they spend: fixed:3 asks three of each; until-agree:2-5 asks two, then more until one side leads
    by two; expected-gain:1-5 asks one of each, then where one more vote is expected to correct
    most. Quality is the share of pairs whose consensus has the side of the truth.
    """
    _refuse_what_does_not_apply(context, overlap=bool(overlaps))
    if overlaps:
        from annotator.simulate.overlap_simulation import OverlapRequest

        asked = OverlapRequest(overlaps, seeds, pairs, truth, jobs)
        _compare_overlaps(files, asked, format_, cache, json_out, plot, project_dir)
        return
    from annotator.simulate.account import account
    from annotator.simulate.simulation import Request, checked, scores_named
    from annotator.simulate.simulation import simulate as replay_all
    from annotator.simulate.words import lines
    from annotator.simulate.world import load_world

    request = checked(Request(strategies, budgets, seeds, metric, control, batch, target, jobs))
    encoder, cache = encoder_settings(project_dir), cache or user_cache("simulate")
    world = load_world(
        files,
        cache,
        encoder=encoder.name,
        precision=encoder.precision,
        format=format_,
        scores=scores_named(request),
        judge=judge,
    )
    document = account(replay_all(world, request, cache))
    _write(document, json_out, plot)
    if json_out == "-":
        echo_json(document)
    else:
        click.echo("\n".join(lines(document)))


def _compare_overlaps(
    files: tuple[Path, ...],
    request: OverlapRequest,
    format_: str | None,
    cache: Path | None,
    json_out: str | None,
    plot: Path | None,
    project_dir: Path | None,
) -> None:
    from annotator.simulate.overlap_account import overlap_account
    from annotator.simulate.overlap_simulation import simulate_overlap
    from annotator.simulate.overlap_words import overlap_lines
    from annotator.simulate.world import load_world

    encoder, cache = encoder_settings(project_dir), cache or user_cache("simulate")
    world = load_world(
        files, cache, encoder=encoder.name, precision=encoder.precision, format=format_
    )
    document = overlap_account(simulate_overlap(world, request, cache))
    _write_json(document, json_out)
    _draw_overlaps(document, plot)
    if json_out == "-":
        echo_json(document)
    else:
        click.echo("\n".join(overlap_lines(document)))


def _draw_overlaps(document: dict[str, Any], plot: Path | None) -> None:
    if plot is None:
        return
    from annotator.report.overlap_plot import overlap_page, save_overlap_picture
    from annotator.simulate.overlap_words import overlap_tables

    if plot.suffix.lower() == ".png":
        save_overlap_picture(document, plot)
    else:
        plot.write_text(overlap_page(document, **overlap_tables(document)), encoding="utf-8")


def _write_json(document: dict[str, Any], json_out: str | None) -> None:
    import json

    if json_out and json_out != "-":
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        Path(json_out).write_text(text + "\n", encoding="utf-8")


def _write(document: dict[str, Any], json_out: str | None, plot: Path | None) -> None:
    _write_json(document, json_out)
    if plot:
        from annotator.report.savings_plot import save_picture, savings_page
        from annotator.simulate.words import tables

        if plot.suffix.lower() == ".png":
            save_picture(document, plot)
        else:
            plot.write_text(savings_page(document, **tables(document)), encoding="utf-8")
