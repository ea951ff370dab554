"""The command line: parse, open, one call, echo. One file per family of verbs."""

from __future__ import annotations

import click

from annotator import __version__
from annotator.cli.annotators import annotators
from annotator.cli.base import AnnotatorGroup
from annotator.cli.budget import budget
from annotator.cli.candidates import import_
from annotator.cli.demo import demo
from annotator.cli.diagnose import diagnose
from annotator.cli.export import export
from annotator.cli.judge import judge
from annotator.cli.map import map_
from annotator.cli.project import doctor, init, status
from annotator.cli.report import report
from annotator.cli.rounds import next_batch, sync
from annotator.cli.route import route
from annotator.cli.serve import serve
from annotator.cli.signals import embed
from annotator.cli.simulate import simulate
from annotator.cli.studio import studio


@click.group(
    cls=AnnotatorGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="annotator")
def main() -> None:
    """Choose the preference pairs worth a person's time, have them labelled in Label Studio,
    take the votes back, and go round again.

    A project is a folder with annotator.toml and a database. Progress goes to standard error,
    reports to standard output. Exit status: 0 done, 1 something is wrong (the message says what
    to do), 2 wrong usage, 3 finished but some rows failed.
    """


for command in (
    init, doctor, import_, embed, judge, map_, next_batch, sync, status, annotators, diagnose,
    budget, export, route, report, serve, simulate, studio, demo,
):  # fmt: skip
    main.add_command(command)
