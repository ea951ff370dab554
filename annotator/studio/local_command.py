"""What Label Studio is told: its command lines and its environment, closed and quiet."""

from __future__ import annotations

from pathlib import Path

from annotator.studio.local_environment import bare_environ
from annotator.studio.local_people import Person
from annotator.studio.local_process import HOST


def init_command(environment: Path, data: Path) -> list[str]:
    """Makes the database and the admin's account in the folder `data`, then ends."""
    return [_program(environment), "init", "--quiet", "--data-dir", str(data)]


def start_command(environment: Path, data: Path, port: int) -> list[str]:
    """Serves `data` until it is stopped; without --internal-host it would serve the whole network.

    The data folder comes last, where `find_server` looks for it.
    """
    return [
        _program(environment), "start", "--no-browser", "--internal-host", HOST,
        "--port", str(port), "--data-dir", str(data),
    ]  # fmt: skip


def server_environ(
    data: Path, admin: Person | None = None, *, loopback_webhooks: bool = False
) -> dict[str, str]:
    """All that the process may know. Secrets are here, since a command line can be read by all.

    Password and token count only when the account is made. LABEL_STUDIO_HOST is left out on
    purpose: without it every link is relative, and holds through a tunnel and after a change of
    port.
    """
    environ = bare_environ() | {
        "PYTHONUNBUFFERED": "1",
        # The database's place, also for the moment before --data-dir is read.
        "LABEL_STUDIO_BASE_DATA_DIR": str(data),
        # A flag of the organisation, fixed when it is made.
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        # Against web pages that rebind their own name to 127.0.0.1.
        "LABEL_STUDIO_ALLOWED_HOSTS": "127.0.0.1,localhost",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        # One page fetches a tip from outside and has no switch: a proxy that nobody serves.
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    if loopback_webhooks:
        environ["SSRF_PROTECTION_ENABLED"] = "false"
    if admin:
        environ["LABEL_STUDIO_USERNAME"] = admin.email
        environ["LABEL_STUDIO_PASSWORD"] = admin.password
        environ["LABEL_STUDIO_USER_TOKEN"] = admin.token
    return environ


def _program(environment: Path) -> str:
    return str(environment / "bin" / "label-studio")
