"""annotator studio: a Label Studio on this machine, for people who have none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from annotator.cli.base import echo_json, echo_rows, json_option

if TYPE_CHECKING:
    from annotator.studio.local import RunningStudio, StudioStatus
    from annotator.studio.local_people import Person


@click.group()
def studio() -> None:
    """A local Label Studio in its own environment, on loopback, for people who have none.

    Its folder is ANNOTATOR_STUDIO_HOME (default: annotator/studio in your data folder). The
    server's Python is ANNOTATOR_STUDIO_ENV (default: environment in that folder).
    """


@studio.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port on 127.0.0.1.  [default: the last one, else 8642, else any free one]",
)
@click.option(
    "--loopback-webhooks",
    is_flag=True,
    help="Let the server call webhooks on this machine; counts for the start it is given at.",
)
@json_option
def up(port: int | None, loopback_webhooks: bool, as_json: bool) -> None:
    """Start it; the first time, install it.

    The first time this installs about 1 GB, makes the database and the accounts of an admin and
    of two annotators, and prints their passwords once; they are kept in credentials.json. A
    server that already runs is only reported.
    """
    from annotator.studio.local import LocalStudio

    local = LocalStudio(loopback_webhooks=loopback_webhooks)
    running = local.up(port, _progress)
    if as_json:
        echo_json(_up_document(running))
    else:
        _echo_up(running, port, loopback_webhooks)


@studio.command()
@json_option
def down(as_json: bool) -> None:
    """Stop it; projects, labels and accounts stay."""
    from annotator.studio.local import LocalStudio

    stopped = LocalStudio().down(_progress)
    if as_json:
        echo_json({"stopped": stopped})
    else:
        click.echo("Label Studio is stopped." if stopped else "Label Studio was not running.")


@studio.command()
@json_option
def status(as_json: bool) -> None:
    """Whether it runs, where, and what it takes up."""
    from annotator.studio.local import LocalStudio

    found = LocalStudio().status()
    if as_json:
        echo_json(found.as_dict())
    else:
        _echo_status(found)


@studio.command()
@click.option("--add", "names", multiple=True, metavar="NAME", help="Add an annotator; repeatable.")
@click.option("--show-secrets", is_flag=True, help="With everyone's password and API token.")
@json_option
def users(names: tuple[str, ...], show_secrets: bool, as_json: bool) -> None:
    """Who can log in; adds annotators.

    A name that is there already is left as it is.
    """
    from annotator.studio.local import LocalStudio

    local = LocalStudio()
    added = local.add_people(list(names), _progress) if names else ()
    people = local.people()
    if as_json:
        echo_json([_person_document(person, show_secrets) for person in people])
        return
    if not people:
        click.echo("Nobody yet. `annotator studio up` makes an admin and two annotators.")
    new = {person.email for person in added}
    for person in people:
        _echo_person(person, password=show_secrets or person.email in new, token=show_secrets)


def _progress(message: str) -> None:
    if sys.stderr.isatty():
        click.echo(message, err=True)


def _up_document(running: RunningStudio) -> dict[str, Any]:
    return {
        "url": running.url,
        "version": running.version,
        "pid": running.pid,
        "started": running.started,
        "home": str(running.home),
        "credentials": str(running.home / "credentials.json"),
        "people": [_person_document(person, secrets=False) for person in running.people],
    }


def _person_document(person: Person, secrets: bool) -> dict[str, Any]:
    from annotator.studio.local import public

    hidden = {"password": person.password, "token": person.token} if secrets else {}
    return public(person) | hidden


def _echo_up(running: RunningStudio, port: int | None, loopback_webhooks: bool) -> None:
    is_running = "is running" if running.started else "was already running"
    click.echo(f"Label Studio {running.version} {is_running} at {running.url} (in {running.home})")
    for person in running.people:
        _echo_person(person, password=running.new_people)
    if not running.new_people:
        click.echo("  passwords: annotator studio users --show-secrets")
    elsewhere = port is not None and not running.url.endswith(f":{port}")
    if not running.started and (elsewhere or loopback_webhooks):
        click.echo("note: options count at a start; run `annotator studio down` first", err=True)


def _echo_person(person: Person, *, password: bool, token: bool = False) -> None:
    line = f"  {person.role:<10} {person.email:<28}"
    line += f"  password {person.password}" if password else ""
    line += f"  token {person.token}" if token else ""
    click.echo(line.rstrip())


def _echo_status(found: StudioStatus) -> None:
    rows: list[tuple[str, object]] = [("state", found.state)]
    rows += [
        (name, value)
        for name, value in (("url", found.url), ("version", found.version), ("process", found.pid))
        if value is not None
    ]
    if found.memory_bytes:
        rows.append(("memory", f"{found.memory_bytes / 2**20:.0f} MiB"))
    rows.append(("data", f"{found.data} ({found.data_bytes / 2**20:.1f} MiB)"))
    rows.append(("people", ", ".join(person.email for person in found.people) or "none"))
    echo_rows(rows)
