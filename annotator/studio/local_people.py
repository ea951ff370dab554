"""Who can log in to the local server: kept in one private file, put into the server by a script.

The file is what is true. Passwords and tokens are drawn and written to it *before* the server
hears of them, so no interruption can leave an account that nobody has the password of.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path

from annotator.errors import LocalStudioError
from annotator.studio.local_environment import python_command

ADMIN = "admin"
ANNOTATOR = "annotator"
FIRST_PEOPLE = ((ADMIN, "admin"), (ANNOTATOR, "anna"), (ANNOTATOR, "ben"))

_DOMAIN = "annotator.local"
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_SCRIPT_SECONDS = 300


@dataclass(frozen=True)
class Person:
    """An account of the local server. `user_id` is what annotations carry as `completed_by`.

    `role` is "admin" or "annotator". Password and token stay out of repr, and so out of logs.
    """

    role: str
    name: str
    email: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    user_id: int | None = None


def new_person(role: str, name: str) -> Person:
    """A person with a fresh password and token; raises LocalStudioError for an unfit name."""
    name = name.strip().lower()
    if not _NAME.fullmatch(name) or ".." in name:
        raise LocalStudioError(
            f"{name!r} cannot be the name of an account",
            expected="up to 64 letters a-z, digits, dots, dashes and underscores, as in an address",
            todo="choose such a name; people can enter their full name once logged in",
        )
    return Person(role, name, f"{name}@{_DOMAIN}", secrets.token_urlsafe(12), secrets.token_hex(20))


def load(path: Path) -> tuple[Person, ...]:
    """The people in the file, admin first; none when there is no file.

    Raises LocalStudioError when the file is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    path.chmod(0o600)
    try:
        people = tuple(Person(**entry) for entry in json.loads(text)["people"])
        if not people or people[0].role != ADMIN:
            raise ValueError("no admin")
    except (ValueError, TypeError, KeyError) as error:
        raise LocalStudioError(
            f"{path} is damaged: {type(error).__name__}",
            expected="the accounts as this program wrote them",
            todo="remove the file; the next `annotator studio up` gives new passwords to admin, "
            "anna and ben",
        ) from error
    return people


def save(path: Path, people: Sequence[Person]) -> None:
    """Writes the people to `path`, readable by the owner alone, whole or not at all."""
    entries = [asdict(person) for person in people]
    for entry in entries:
        del entry["user_id"]  # the server's to say
    write_private(path, json.dumps({"people": entries}, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replaces the file in one step; mode 0600."""
    scratch = path.with_name(f"{path.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def settle(
    people: Sequence[Person], environment: Path, environ: Mapping[str, str], log: Path, lock: int
) -> tuple[Person, ...]:
    """The same people with their user ids, after the server has them as the file says.

    Runs people_script.py in the server's `environment`; a running server does not mind. The script
    inherits the descriptor `lock`, so that nobody interferes even when we are killed. Raises
    LocalStudioError, and keeps the script's output in `log`, when it fails.
    """
    request = {"people": [asdict(person) | {"is_admin": person.role == ADMIN} for person in people]}
    with resources.as_file(resources.files("annotator.studio") / "people_script.py") as script:
        try:
            done = subprocess.run(
                python_command(environment, script), input=json.dumps(request), text=True,
                capture_output=True, env=dict(environ), cwd=log.parent, timeout=_SCRIPT_SECONDS,
                check=False, pass_fds=(lock,),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _not_settled(type(error).__name__, log) from error
    if done.returncode != 0:
        write_private(log, done.stdout + done.stderr)
        raise _not_settled(f"the script ended with {done.returncode}", log)
    ids = json.loads(done.stdout.splitlines()[-1])["ids"]
    return tuple(replace(person, user_id=ids[person.email]) for person in people)


def _not_settled(reason: str, log: Path) -> LocalStudioError:
    return LocalStudioError(
        f"the accounts could not be made: {reason}",
        expected="an idle local Label Studio whose first start was finished",
        todo=f"run `annotator studio up`; if it fails again, read {log}",
    )
