"""`annotator demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from annotator.cli.base import echo_rows

if TYPE_CHECKING:
    from annotator.demo.tour import Tour


@click.command()
@click.argument(
    "folder",
    metavar="[DIR]",
    default="annotator-demo",
    type=click.Path(path_type=Path, file_okay=False),
)
@click.option(
    "--play",
    is_flag=True,
    help="Simulated annotators answer two rounds; the third is left for you.",
)
def demo(folder: Path, play: bool) -> None:
    """Try all of it: the shipped sample, a local Label Studio, a batch to label.

    The project lies in DIR (default: annotator-demo) and is yours to go on with. Simulated
    answers are marked as such in Label Studio and in every export.
    """
    from annotator.demo.tour import run_tour

    tour = run_tour(folder, play=play, say=lambda line: click.echo(line, err=True))
    _tell(tour)


def _tell(tour: Tour) -> None:
    click.echo()
    echo_rows(
        [
            ("waiting", f"{tour.waiting} pairs of round {tour.rounds} wait for you"),
            ("label at", tour.label_at),
            *[
                ("log in as", f"{p.email}  password {p.password}")
                for p in tour.running.people
                if p.role == "annotator" and not p.name.startswith("robot")
            ],
            ("keys", "1-6 to grade, Ctrl+Enter to submit, Ctrl+Space to skip"),
            ("then", f"cd {tour.folder}; annotator sync; annotator next-batch -n 20"),
            ("stop", "annotator studio down"),
        ]
    )
