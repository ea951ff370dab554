"""Which Label Studio to talk to, and with which key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from annotator.errors import StudioDenied, StudioUnreachable
from annotator.studio.local import LocalStudio

if TYPE_CHECKING:
    from annotator.studio.client import Studio

KEY_VARIABLE = "LABEL_STUDIO_API_KEY"


def connect(url: str | None, environment: Mapping[str, str] | None = None) -> Studio:
    """A client for the server at `url`, or for the local one of `annotator studio up`.

    The key comes from LABEL_STUDIO_API_KEY; the local server's own key is used for the local
    server and goes nowhere else, nor does the variable's key go to a server that no URL names.
    Raises StudioUnreachable when there is no server to talk to, StudioDenied without a key.
    """
    from annotator.studio.client import Studio

    key = (os.environ if environment is None else environment).get(KEY_VARIABLE, "").strip()
    if url and key:
        return Studio(url, key)
    local = LocalStudio().running()
    if local is None and not url:
        raise StudioUnreachable(
            "the local Label Studio is not running, and no other one is named",
            expected="a server to talk to",
            todo=f"run `annotator studio up`, or set LABEL_STUDIO_URL and {KEY_VARIABLE}",
        )
    if local and (not url or url.rstrip("/") == local.url):
        return Studio(local.url, local.token)
    raise StudioDenied(
        f"there is no API key for {url}",
        expected=f"the key in the environment variable {KEY_VARIABLE}",
        todo="copy it from Label Studio: account menu, Account & Settings, Personal Access Token",
    )
