"""Which key a judge's server is sent: its own, and never one that was meant for another.

OPENAI_API_KEY belongs to the server that the environment names in OPENAI_BASE_URL, or else to
OpenAI. A project's folder may come from anybody, so an address in it, or a typed one, gets a key
only where a variable is named for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from annotator.errors import ConfigError
from annotator.signals.judges.client import OPENAI_URL

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ServerKey:
    """A server's key, from the environment variable `variable`; both None where it gets none.

    `notice` says that OPENAI_API_KEY was withheld, and how to send it; empty where it was not.
    """

    variable: str | None = None
    value: str | None = field(default=None, repr=False)
    notice: str = ""


def server_key(
    base_url: str | None, key_variable: str | None, environment: Mapping[str, str]
) -> ServerKey:
    """The key for the server at `base_url`, OpenAI where that is None.

    `key_variable` is the variable that was named for this server. Servers are the same if scheme,
    host name and port are. Raises ConfigError if the variable that is named is not set, or if
    OpenAI's own key is missing.
    """
    url = base_url or OPENAI_URL
    at_home = _origin(url) == _origin(environment.get(URL_VARIABLE) or OPENAI_URL)
    variable = key_variable or (KEY_VARIABLE if at_home else None)
    if variable is None:
        is_set = (environment.get(KEY_VARIABLE) or "").strip()
        return ServerKey(notice=_withheld(url) if is_set else "")
    value = (environment.get(variable) or "").strip()
    if value:
        return ServerKey(variable, value)
    if key_variable is not None:
        raise ConfigError(
            f"the key of {_name(url)} is to come from {variable}, which is not set",
            expected="that server's key in that variable",
            todo=f"export {variable}=..., or correct [judge] key_variable or --key-variable",
        )
    if _origin(url) == _origin(OPENAI_URL):
        raise ConfigError(
            f"{_name(url)} wants a key, and {variable} is not set",
            expected="your API key in that variable, or a server of your own",
            todo=f"export {variable}=..., or set [judge] base_url, for example to "
            "http://localhost:11434/v1",
        )
    return ServerKey()


def _withheld(url: str) -> str:
    return (
        f"{KEY_VARIABLE} is withheld from {_name(url)}, which {URL_VARIABLE} does not name; to "
        f'send it there, set [judge] key_variable = "{KEY_VARIABLE}" or {URL_VARIABLE}, or pass '
        "--key-variable beside --base-url"
    )


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host name and port; None where the address is not one."""
    try:
        parts = urlsplit(url.strip())
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None


def _name(url: str) -> str:
    """The server without path or user name, which may be secret."""
    origin = _origin(url)
    if origin is None:
        return "that server"
    scheme, host, port = origin
    return f"{host}" if port in (None, _PORTS.get(scheme)) else f"{host}:{port}"
