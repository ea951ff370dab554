"""The two questions we put to the local server over HTTP: are you up, and whose token is this."""

from __future__ import annotations

from typing import Any

_SECONDS = 10.0


def release(url: str) -> str | None:
    """The server's version, such as "1.23.2", once it is ready; None while it is not."""
    health = _get(f"{url}/health")
    if not isinstance(health, dict) or health.get("status") != "UP":
        return None
    version = _get(f"{url}/api/version")
    found = version.get("release") if isinstance(version, dict) else None
    return str(found) if found else None


def user_id(url: str, token: str, email: str) -> int | None:
    """The id of the account `email` when `token` is accepted as that account's; else None."""
    person = _get(f"{url}/api/current-user/whoami", token)
    if not isinstance(person, dict) or person.get("email") != email:
        return None
    if not person.get("active_organization"):
        return None
    return int(person["id"])


def _get(url: str, token: str | None = None) -> Any:
    """The JSON that `url` answers with 200; None for anything else, no answer included."""
    import httpx

    headers = {"Authorization": f"Token {token}"} if token else {}
    try:
        # Never through the caller's proxy: the server is on this machine.
        answer = httpx.get(url, headers=headers, timeout=_SECONDS, trust_env=False)
        return answer.json() if answer.status_code == httpx.codes.OK else None
    except (httpx.TransportError, ValueError):
        return None
