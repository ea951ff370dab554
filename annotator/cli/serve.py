"""`annotator serve`: the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from annotator.cli.base import project_option

if TYPE_CHECKING:
    from annotator.web.server import Serving


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; any but a loopback one asks visitors for a token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port; 0: any that is free.  [default: annotator.toml, 8765]",
)
@click.option(
    "--webhook/--no-webhook",
    default=None,
    help="Ask Label Studio to call when somebody has answered.  [default: annotator.toml]",
)
@click.option(
    "--webhook-url",
    metavar="URL",
    help="Where Label Studio reaches this server's /webhook, where that is another address.",
)
@click.option(
    "--send-when-below",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Send the next batch when fewer than N tasks wait.  [default: annotator.toml, never]",
)
@click.option(
    "--poll",
    "poll_seconds",
    type=click.FloatRange(1, 3600),
    metavar="SECONDS",
    help="Time between two looks at Label Studio.  [default: 30 where it calls, else 2 to 15]",
)
@click.option("--open", "open_browser", is_flag=True, help="Open the dashboard in a browser.")
@project_option
def serve(
    host: str,
    port: int | None,
    webhook: bool | None,
    webhook_url: str | None,
    send_when_below: int | None,
    poll_seconds: float | None,
    open_browser: bool,
    project_dir: Path | None,
) -> None:
    """The report, live: votes show within seconds, on pages that only read.

    It syncs by itself, when Label Studio calls and all the time anyway, so `annotator sync` need
    not run beside it. Without a database, or with Label Studio away, the page says so and waits.

    Whoever can reach a loopback address may look. On any other address visitors log in with a
    token, taken from ANNOTATOR_DASHBOARD_TOKEN or made and printed at the start; the connection is
    not encrypted, so put a proxy with TLS before it. Ctrl-C ends it.

    Behind a proxy set ANNOTATOR_DASHBOARD_TOKEN, on a loopback address too. Without it requests
    that carry Forwarded or X-Forwarded-* are refused, but a proxy that adds neither goes unnoticed.
    """
    from annotator.config import find_project, load_settings
    from annotator.studio.connect import connect
    from annotator.web.server import ServeRequest, serve_project

    folder = find_project(project_dir or Path.cwd())
    settings = load_settings(folder)
    defaults = settings.serve
    request = ServeRequest(
        host=host,
        port=defaults.port if port is None else port,
        webhook=defaults.webhook if webhook is None else webhook,
        webhook_url=webhook_url,
        poll_seconds=poll_seconds or defaults.poll_seconds,
        send_when_below=send_when_below or defaults.send_when_below,
    )
    serve_project(
        folder,
        settings,
        request,
        lambda: connect(settings.studio.url),
        lambda serving: _greet(serving, open_browser),
    )
    click.echo("stopped", err=True)


def _greet(serving: Serving, open_browser: bool) -> None:
    click.echo(f"Dashboard at {serving.url} (Ctrl-C ends it)")
    if serving.new_token:
        click.echo(f"Log in with this token, which is not shown again: {serving.new_token}")
    if open_browser:
        import threading
        import webbrowser

        # A text browser would hold up the server.
        threading.Thread(target=webbrowser.open, args=(serving.url,), daemon=True).start()
