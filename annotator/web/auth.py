"""Who may see the dashboard: everybody on this machine, or whoever has the token.

Bound to loopback, the server takes requests for its own names only, so that a page of another
site cannot reach it under a name of its own that points here (DNS rebinding), and none that a
proxy says it passed on. With a login token it asks for that instead, and a browser that gave it
gets a random session.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address

from annotator.errors import ServeError

DASHBOARD_VARIABLE = "ANNOTATOR_DASHBOARD_TOKEN"
WEBHOOK_VARIABLE = "ANNOTATOR_WEBHOOK_TOKEN"

COOKIE = "annotator_session"
SESSION_SECONDS = 12 * 3600.0
SESSIONS = 1_000
# 22 letters of a base64 alphabet are 132 bits.
SHORTEST_TOKEN = 22
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
ADDRESSES = 10_000

Clock = Callable[[], float]


def new_token() -> str:
    """256 random bits as 43 letters that fit into a header and an address."""
    return secrets.token_urlsafe(32)


def token_from(environment: Mapping[str, str], variable: str) -> str | None:
    """The token that the variable holds, None where it holds none; raises ServeError for one that
    is too short or cannot stand in a header."""
    token = environment.get(variable, "").strip()
    if not token:
        return None
    if len(token) < SHORTEST_TOKEN or not all("!" <= letter <= "~" for letter in token):
        raise ServeError(
            f"the token in {variable} is shorter than {SHORTEST_TOKEN} letters, or holds a blank "
            "or a letter that no header can hold",
            expected="at least 128 random bits",
            todo='make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return token


def same_secret(given: str, expected: str) -> bool:
    """Whether they are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to that address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(header: str) -> str:
    """The name in a Host header, in small letters and without its port."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def is_forwarded(headers: Iterable[str]) -> bool:
    """Whether one of these names of headers is of those that proxies add."""
    return any(
        name.lower() == "forwarded" or name.lower().startswith("x-forwarded-") for name in headers
    )


class Sessions:
    """Browsers that have logged in; forgotten with the process."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._ends: OrderedDict[str, float] = OrderedDict()

    def open(self) -> str:
        """The id of a new session; the oldest makes room where there are too many."""
        session = new_token()
        self._ends[session] = self._clock() + SESSION_SECONDS
        while len(self._ends) > SESSIONS:
            self._ends.popitem(last=False)
        return session

    def is_open(self, session: str | None) -> bool:
        """Whether somebody logged in with it, not too long ago."""
        return session is not None and self._ends.get(session, 0.0) > self._clock()

    def close(self, session: str | None) -> None:
        """Ends it."""
        if session is not None:
            self._ends.pop(session, None)


class SlowDown:
    """Makes an address that failed wait before its next try: half a second, then twice that, and
    so on up to a minute.

    It keeps guesses and the log few; what keeps guesses from being right is the token's length. So
    the right token need not wait.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def seconds_left(self, address: str) -> float:
        """How long that address has to wait; 0 where it may try."""
        _, until = self._failures.get(address, (0, 0.0))
        return max(until - self._clock(), 0.0)

    def failed(self, address: str) -> None:
        """Counts one more failure."""
        times = self._failures.pop(address, (0, 0.0))[0] + 1
        wait = min(FIRST_WAIT * 2.0 ** min(times - 1, 20), LONGEST_WAIT)
        self._failures[address] = (times, self._clock() + wait)
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forgets its failures."""
        self._failures.pop(address, None)
