"""Makes accounts that can log in. Runs in the *server's* environment, beside a running server.

Reads {"people": [{"email", "name", "password", "token", "is_admin"}, ...]} from standard input
and prints {"ids": {email: id}} as its last line. Afterwards each person exists, is active, belongs
to the organisation, and has exactly this password and token; running it twice changes nothing.

The server's own API cannot do this: it ignores the password and leaves the account outside any
organisation. The folder of the data and everything else comes through the environment.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_LOCK_SECONDS = 60


def set_up() -> None:
    """Starts Django as the server does, but waits for the server's writes instead of failing."""
    spec = find_spec("label_studio")
    if spec is None or spec.origin is None:
        raise SystemExit("label_studio is not installed in this environment")
    sys.path.insert(0, str(Path(spec.origin).parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "label_studio.core.settings.label_studio")
    settings = import_module("django.conf").settings
    settings.DATABASES["default"].setdefault("OPTIONS", {}).update(
        timeout=_LOCK_SECONDS, transaction_mode="IMMEDIATE"
    )
    import_module("django").setup()


def settle(people: list[dict[str, Any]]) -> dict[str, int]:
    """Email -> id of the accounts, all made or put right in one transaction."""
    organization = import_module("organizations.models").Organization.objects.first()
    if organization is None:
        raise SystemExit("the server has no organisation yet: its first start was not finished")
    # Without it the server refuses every token of the kind we hold.
    organization.jwt.legacy_api_tokens_enabled = True
    organization.jwt.save()
    return {person["email"]: settle_one(person, organization) for person in people}


def settle_one(person: dict[str, Any], organization: Any) -> int:
    """The id of the account, made or put right."""
    user_model = import_module("users.models").User
    user = user_model.objects.filter(email__iexact=person["email"]).first()
    if user is None:
        user = user_model(email=person["email"], first_name=person["name"])
    user.is_active = True
    if person["is_admin"]:
        user.is_staff = user.is_superuser = True
    user.active_organization = organization
    # Setting even the same password again would end the person's sessions.
    if not user.check_password(person["password"]):
        user.set_password(person["password"])
    user.save()
    organization.add_user(user)
    organization.members.filter(user=user).update(deleted_at=None)
    settle_token(user, person["token"])
    return int(user.pk)


def settle_token(user: Any, key: str) -> None:
    """Gives the user exactly this token."""
    tokens = import_module("rest_framework.authtoken.models").Token.objects
    if not tokens.filter(user=user, key=key).exists():
        tokens.filter(user=user).delete()
        tokens.create(user=user, key=key)


def main() -> None:
    people = json.load(sys.stdin)["people"]
    set_up()
    with import_module("django.db").transaction.atomic():
        ids = settle(people)
    sys.stdout.write("\n" + json.dumps({"ids": ids}) + "\n")


if __name__ == "__main__":
    main()
