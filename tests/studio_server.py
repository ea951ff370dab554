"""A real Label Studio for the test session: one server, one start.

`conftest.py` re-exports the fixture `real_studio`. The server is the one that
ANNOTATOR_TEST_STUDIO_URL and ANNOTATOR_TEST_STUDIO_TOKEN name, else one of our own, started in a
temporary folder from the environment in ANNOTATOR_STUDIO_ENV (default: the one that
`annotator studio up` installed). Tests share it, so each makes its own project.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

import httpx
import pytest

from annotator.studio.local import LocalStudio, default_environment, default_home
from annotator.studio.local_environment import is_ready


class Account(NamedTuple):
    """Someone who can log in; `user_id` is the `completed_by` of the annotations they make."""

    email: str
    password: str
    token: str
    user_id: int


class RealStudio(NamedTuple):
    """A server that answers. `admin` and `home` are None when it is not ours."""

    url: str
    token: str
    admin: Account | None
    annotators: tuple[Account, ...]
    home: Path | None
    environment: Path | None


@pytest.fixture(scope="session")
def real_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealStudio]:
    """A running server with an admin and two annotators; its end is the end of the session."""
    url = os.environ.get("ANNOTATOR_TEST_STUDIO_URL", "").rstrip("/")
    token = os.environ.get("ANNOTATOR_TEST_STUDIO_TOKEN", "")
    if url and token:
        people = tuple(invited(url, token, name) for name in ("anna", "ben"))
        yield RealStudio(url, token, None, people, None, None)
        return
    environment = installed_environment()
    local = LocalStudio(tmp_path_factory.mktemp("studio"), environment)
    try:
        running = local.up()
        admin, *annotators = (
            Account(person.email, person.password, person.token, person.user_id or 0)
            for person in running.people
        )
        yield RealStudio(
            running.url, running.token, admin, tuple(annotators), local.home, environment
        )
    finally:
        local.down()


def installed_environment() -> Path:
    """The environment to start a server from; skips the test without one, fails it under CI."""
    environment = default_environment(default_home())
    if not is_ready(environment):
        _missing(f"no Label Studio in {environment}: run `annotator studio up` once")
    return environment


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def invited(url: str, token: str, name: str) -> Account:
    """A new annotator who came through the organisation's invitation, as people do."""
    email = f"{name}-{secrets.token_hex(4)}@example.com"
    password = secrets.token_urlsafe(12)
    with httpx.Client(base_url=url, timeout=30, trust_env=False, follow_redirects=False) as person:
        invite = person.get("/api/invite", headers={"Authorization": f"Token {token}"})
        link = urlsplit(invite.raise_for_status().json()["invite_url"])
        place = f"{link.path}?{link.query}"
        answer = person.post(
            place,
            data={
                "email": email,
                "password": password,
                "csrfmiddlewaretoken": form_token(person, place),
            },
            headers={"Referer": url},
        )
        assert answer.status_code == 302, answer.text[:300]
        me = person.get("/api/current-user/whoami").raise_for_status().json()
        key = person.get("/api/current-user/token").raise_for_status().json()
    return Account(email, password, key["token"], me["id"])


def logs_in(url: str, email: str, password: str) -> bool:
    """Whether the login form lets this person in."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False, follow_redirects=False) as person:
        answer = person.post(
            "/user/login/",
            data={
                "email": email,
                "password": password,
                "csrfmiddlewaretoken": form_token(person, "/user/login/"),
            },
            headers={"Referer": url},
        )
        # A refused login shows the form again, with 200.
        assert answer.status_code in (200, 302), answer.status_code
        return answer.status_code == 302


def form_token(person: httpx.Client, place: str) -> str:
    """The token against forged requests, as the form at `place` holds it."""
    page = person.get(place).raise_for_status().text
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found, f"no form at {place}"
    return found.group(1)
