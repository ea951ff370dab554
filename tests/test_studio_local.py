"""The local Label Studio: the whole life of a server, first with a stand-in, then the real one.

The stand-in is a small program where Label Studio's would be: it obeys the same command line and
the same environment, answers the same three addresses and remembers accounts in a file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from annotator.cli.studio import studio as studio_command
from annotator.errors import LocalStudioError
from annotator.studio import local_environment, local_process
from annotator.studio.local import LocalStudio, RunningStudio
from annotator.studio.local_environment import LABEL_STUDIO_VERSION, ensure, is_ready
from annotator.studio.local_people import load, new_person, save
from tests.studio_server import RealStudio, installed_environment, invited, logs_in

STAND_IN_SERVER = """#!{python}
import json, os, signal, socket, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

order, flag, *rest = sys.argv[1:]
assert (order, flag) in (("init", "--quiet"), ("start", "--no-browser")), sys.argv
options = dict(zip(rest[::2], rest[1::2]))
behaviour = (Path(__file__).parent.parent / "behaviour").read_text()
data = Path(options["--data-dir"])
data.mkdir(exist_ok=True)
seen = json.dumps({{"argv": sys.argv, "environ": dict(os.environ)}})
(data.parent / f"seen-{{order}}.json").write_text(seen)
if order == "init":
    # As the real one: killed amid its migrations, it leaves a database that is no good.
    (data / "label_studio.sqlite3").write_text("half")
    if behaviour == "init dies":
        sys.exit("django.db.utils.OperationalError: disk is full")
    while behaviour == "slow init" and not (data.parent / "go").exists():
        time.sleep(0.02)
    (data / "label_studio.sqlite3").write_text("whole")
assert (data / "label_studio.sqlite3").read_text() == "whole", "no such table"
accounts = data / "accounts.json"
if not accounts.exists():
    admin = {{"id": 1, "token": os.environ["LABEL_STUDIO_USER_TOKEN"]}}
    accounts.write_text(json.dumps({{os.environ["LABEL_STUDIO_USERNAME"]: admin}}))
if order == "init":
    sys.exit()
print("Starting development server", flush=True)
if behaviour == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if behaviour == "dies":
    sys.exit("django.db.utils.OperationalError: no such table")
while behaviour == "mute" or behaviour == "slow" and not (data.parent / "go").exists():
    time.sleep(0.02)


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        answer = {{"status": "UP", "release": "{version}"}}
        code = 200
        if self.path.startswith("/api/current-user"):
            token = self.headers["Authorization"].removeprefix("Token ")
            code, answer = 401, {{"detail": "Invalid token."}}
            for email, account in json.loads(accounts.read_text()).items():
                if account["token"] == token:
                    answer = {{"id": account["id"], "email": email, "active_organization": 1}}
                    code = 200
        body = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


port = int(options["--port"])
with socket.socket() as probe:
    taken = probe.connect_ex(("127.0.0.1", port)) == 0
if taken or behaviour == "moves":
    port = 0
host = "0.0.0.0" if behaviour == "open" else options["--internal-host"]
ThreadingHTTPServer((host, port), Answers).serve_forever()
"""

STAND_IN_PYTHON = """#!{python}
import json, os, sys
from pathlib import Path

assert sys.argv[1] == "-I" and sys.argv[2].endswith("people_script.py"), sys.argv
if (Path(__file__).parent.parent / "behaviour").read_text() == "no accounts":
    sys.exit("database is locked")
accounts = Path(os.environ["LABEL_STUDIO_BASE_DATA_DIR"]) / "accounts.json"
known = json.loads(accounts.read_text())
for person in json.load(sys.stdin)["people"]:
    account = known.setdefault(person["email"], {{"id": len(known) + 1}})
    account.update(token=person["token"], password=person["password"])
accounts.write_text(json.dumps(known))
print(json.dumps({{"ids": {{email: account["id"] for email, account in known.items()}}}}))
"""

Behave = Callable[[str], None]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment with the stand-in; what the file `behaviour` says is what it does."""
    folder = tmp_path / "env with blank"
    (folder / "bin").mkdir(parents=True)
    package = f"lib/python3.11/site-packages/label_studio-{LABEL_STUDIO_VERSION}.dist-info"
    (folder / package).mkdir(parents=True)
    (folder / "behaviour").write_text("")
    for name, text in (("label-studio", STAND_IN_SERVER), ("python", STAND_IN_PYTHON)):
        program = folder / "bin" / name
        program.write_text(text.format(python=sys.executable, version=LABEL_STUDIO_VERSION))
        program.chmod(0o755)
    return folder


@pytest.fixture
def behave(environment: Path) -> Behave:
    """Tells the stand-in how to behave from its next start on."""

    def behave(behaviour: str) -> None:
        (environment / "behaviour").write_text(behaviour)

    return behave


@pytest.fixture
def local(tmp_path: Path, environment: Path) -> Iterator[LocalStudio]:
    """A server to be, with the stand-in; stopped at the end."""
    made = LocalStudio(tmp_path / "a home", environment, start_seconds=20)
    yield made
    made.down()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody listens and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


def seen(local: LocalStudio, order: str = "start") -> dict[str, Any]:
    """Command line and environment as the stand-in found them at the last `order`."""
    found: dict[str, Any] = json.loads((local.home / f"seen-{order}.json").read_text())
    return found


def alive(pid: int) -> bool:
    """Asked of the kernel, not of the code under test."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def kill_nine(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    limit = time.monotonic() + 10
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.02)


def port_of(running: RunningStudio) -> int:
    return int(running.url.rpartition(":")[2])


def in_another_process(local: LocalStudio, call: str) -> subprocess.Popen[str]:
    """Runs `call` on the same server from a second interpreter; its result is on stdout."""
    code = (
        "import sys; from pathlib import Path; from annotator.studio.local import LocalStudio\n"
        "local = LocalStudio(Path(sys.argv[1]), Path(sys.argv[2]), start_seconds=20)\n"
        f"{call}"
    )
    command = [sys.executable, "-c", code, str(local.home), str(local.environment)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


# --- up, down and what may lie in between ----------------------------------------------------


def test_up_starts_a_server_that_accepts_everyone(local: LocalStudio) -> None:
    running = local.up()
    assert running.started and running.new_people
    assert running.version == LABEL_STUDIO_VERSION
    assert [(p.role, p.email) for p in running.people] == [
        ("admin", "admin@annotator.local"),
        ("annotator", "anna@annotator.local"),
        ("annotator", "ben@annotator.local"),
    ]
    assert [p.user_id for p in running.people] == [1, 2, 3]
    assert running.token == running.people[0].token
    for person in running.people:
        head = {"Authorization": f"Token {person.token}"}
        answer = httpx.get(f"{running.url}/api/current-user/whoami", headers=head, trust_env=False)
        assert answer.json()["email"] == person.email


def test_a_second_up_reports_the_same_server(local: LocalStudio) -> None:
    first, second = local.up(), local.up()
    assert (second.pid, second.url, second.people) == (first.pid, first.url, first.people)
    assert not second.started and not second.new_people


def test_a_port_asked_for_later_does_not_move_a_running_server(
    local: LocalStudio, taken_port: int
) -> None:
    first = local.up()
    assert local.up(port=taken_port).url == first.url


def test_down_twice_and_before_the_first_up(local: LocalStudio) -> None:
    assert local.down() is False
    assert not local.home.exists()
    pid = local.up().pid
    assert local.down() is True
    assert not alive(pid)
    assert local.down() is False


def test_up_after_down_keeps_port_accounts_and_data(local: LocalStudio) -> None:
    first = local.up()
    (local.data / "work").write_text("precious")
    local.down()
    second = local.up()
    assert second.pid != first.pid
    assert (second.url, second.people) == (first.url, first.people)
    assert not second.new_people
    assert (local.data / "work").read_text() == "precious"


def test_up_after_the_server_was_killed(local: LocalStudio) -> None:
    first = local.up()
    kill_nine(first.pid)
    assert local.status().state == "stopped"
    second = local.up()
    assert second.started and second.pid != first.pid
    assert second.url == first.url


def test_two_ups_at_once_start_one_server(local: LocalStudio) -> None:
    call = "running = local.up(); print(running.pid, running.url, running.started)"
    both = [in_another_process(local, call) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].split() for process in both]
    assert answers[0][:2] == answers[1][:2]
    assert sorted(answer[2] for answer in answers) == ["False", "True"]


def test_a_server_whose_starter_was_killed_is_taken_over(
    local: LocalStudio, behave: Behave
) -> None:
    behave("slow")
    starter = in_another_process(local, "local.up()")
    limit = time.monotonic() + 20
    while local.status().state != "silent" and time.monotonic() < limit:
        time.sleep(0.02)
    orphan = local.status().pid
    kill_nine(starter.pid)
    starter.communicate()
    (local.home / "go").touch()
    running = local.up()
    assert running.pid == orphan
    assert not running.started


def test_an_interrupted_start_leaves_nothing_behind(local: LocalStudio, behave: Behave) -> None:
    behave("slow")
    # A shell that runs the tests in the background has made us deaf to this signal.
    hearing = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    call = "try: local.up()\nexcept KeyboardInterrupt: print('ended')"
    starter = in_another_process(local, hearing + call)
    limit = time.monotonic() + 20
    while not (local.home / "seen-start.json").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    starter.send_signal(signal.SIGINT)
    assert starter.communicate(timeout=30)[0] == "ended\n"
    assert local.status().state == "stopped"


def test_a_first_start_that_was_killed_leaves_no_half_made_data(
    local: LocalStudio, behave: Behave
) -> None:
    behave("slow init")
    starter = in_another_process(local, "local.up()")
    limit = time.monotonic() + 20
    while not (local.home / "seen-init.json").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    kill_nine(starter.pid)
    starter.communicate()
    assert not local.data.exists()
    # What the killed one had begun still runs and holds the lock: the next one waits for it.
    told: list[str] = []

    def progress(message: str) -> None:
        told.append(message)
        (local.home / "go").touch()

    assert local.up(progress=progress).started
    assert "waiting" in told[0]
    assert (local.data / "label_studio.sqlite3").read_text() == "whole"
    assert not (local.home / "data.new").exists()


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"port": "x"}', '{"port": 99999}', '{"port": null, "pid": 1}']
)
def test_a_damaged_state_file_is_no_obstacle(local: LocalStudio, record: str) -> None:
    local.home.mkdir()
    (local.home / "server.json").write_text(record)
    assert local.up().started


def test_a_recycled_process_id_is_neither_mistaken_nor_killed(local: LocalStudio) -> None:
    local.up()
    local.down()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        record = json.loads((local.home / "server.json").read_text())
        (local.home / "server.json").write_text(json.dumps(record | {"pid": bystander.pid}))
        assert local.status().state == "stopped"
        assert local.running() is None
        assert local.down() is False
        assert local.up().pid != bystander.pid
        local.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_two_homes_do_not_know_each_other(local: LocalStudio, tmp_path: Path) -> None:
    other = LocalStudio(tmp_path / "a home 2", local.environment, start_seconds=20)
    try:
        first, second = local.up(), other.up()
        assert first.pid != second.pid and first.url != second.url
        assert local.down() is True
        assert alive(second.pid)
    finally:
        other.down()


def test_a_server_that_ignores_the_polite_request_is_killed(
    local: LocalStudio, behave: Behave
) -> None:
    behave("stubborn")
    running = local.up()
    process = local_process.find_server(local.data)
    assert process is not None
    local_process.stop(process, grace_seconds=0.3)
    assert not alive(running.pid)


# --- ports -----------------------------------------------------------------------------------


def test_a_busy_preferred_port_is_left_to_its_owner(local: LocalStudio, taken_port: int) -> None:
    local.home.mkdir()
    (local.home / "server.json").write_text(json.dumps({"port": taken_port}))
    running = local.up()
    assert port_of(running) != taken_port


def test_a_port_once_had_is_had_again(local: LocalStudio) -> None:
    port = local_process.free_port([])
    first = local.up(port=port)
    assert port_of(first) == port
    local.down()
    assert local.up().url == first.url


def test_a_busy_port_that_was_named_is_an_error(local: LocalStudio, taken_port: int) -> None:
    with pytest.raises(LocalStudioError, match=f"port {taken_port} .*in use"):
        local.up(port=taken_port)
    assert local.status().state == "stopped"


def test_a_server_that_moved_to_another_port_is_found_there(
    local: LocalStudio, behave: Behave
) -> None:
    behave("moves")
    running = local.up()
    asked = seen(local)["argv"][seen(local)["argv"].index("--port") + 1]
    assert running.url != f"http://127.0.0.1:{asked}"
    assert json.loads((local.home / "server.json").read_text())["port"] == port_of(running)


def test_the_answer_of_another_process_does_not_count(
    local: LocalStudio, behave: Behave, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impostor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"status": "UP", "release": "1.23.2"}')

        def log_message(self, *args: object) -> None:
            pass

    behave("mute")
    local.start_seconds = 1.5
    with ThreadingHTTPServer(("127.0.0.1", 0), Impostor) as impostor:
        threading.Thread(target=impostor.serve_forever).start()
        port = impostor.server_address[1]
        monkeypatch.setattr("annotator.studio.local.free_port", lambda *_, **__: port)
        try:
            with pytest.raises(LocalStudioError, match="does not answer"):
                local.up()
        finally:
            impostor.shutdown()


def test_a_server_open_to_the_network_is_not_accepted(local: LocalStudio, behave: Behave) -> None:
    behave("open")
    local.start_seconds = 1.5
    with pytest.raises(LocalStudioError, match="does not answer"):
        local.up()
    assert local.status().state == "stopped"


# --- a start that fails ----------------------------------------------------------------------


def test_a_server_that_dies_shows_the_end_of_its_log(local: LocalStudio, behave: Behave) -> None:
    behave("dies")
    with pytest.raises(LocalStudioError, match="OperationalError: no such table") as raised:
        local.up()
    assert str(local.log) in str(raised.value)
    behave("")
    assert local.up().started


def test_a_database_that_cannot_be_made_shows_why(local: LocalStudio, behave: Behave) -> None:
    behave("init dies")
    with pytest.raises(LocalStudioError, match="disk is full"):
        local.up()
    assert not local.data.exists()
    behave("slow init")
    local.start_seconds = 0.5
    with pytest.raises(LocalStudioError, match="could not make its database"):
        local.up()
    assert not local.data.exists()
    behave("")
    local.start_seconds = 20
    assert local.up().started


def test_a_server_that_takes_too_long_is_ended(local: LocalStudio, behave: Behave) -> None:
    behave("mute")
    local.start_seconds = 1
    with pytest.raises(LocalStudioError, match="Starting development server"):
        local.up()
    assert local.status().state == "stopped"


def test_accounts_that_cannot_be_made_end_the_start(local: LocalStudio, behave: Behave) -> None:
    behave("no accounts")
    with pytest.raises(LocalStudioError, match="accounts could not be made"):
        local.up()
    assert "database is locked" in (local.home / "accounts.log").read_text()
    assert local.status().state == "stopped"
    behave("")
    # The passwords were drawn before, and are the ones that hold.
    drawn = local.people()
    assert [(p.email, p.password) for p in local.up().people] == [
        (p.email, p.password) for p in drawn
    ]


def test_a_program_that_cannot_be_run_is_named(local: LocalStudio) -> None:
    program = local.environment / "bin" / "label-studio"
    program.write_text("#!/no/such/interpreter\n")
    with pytest.raises(LocalStudioError, match="label-studio cannot be run"):
        local.up()


def test_a_home_that_cannot_be_made_is_named(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalStudioError, match=r"Not a directory[^$]*ANNOTATOR_STUDIO_HOME"):
        LocalStudio(tmp_path / "file" / "home", environment).up()


def test_folders_may_be_given_from_here(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    local = LocalStudio(Path("home"), environment.relative_to(tmp_path), start_seconds=20)
    running = local.up()
    monkeypatch.chdir("/")
    assert local.up().pid == running.pid
    assert local.down()


# --- people ----------------------------------------------------------------------------------


def test_credentials_are_private_from_the_first_moment(local: LocalStudio) -> None:
    old = os.umask(0)
    try:
        local.up()
    finally:
        os.umask(old)
    assert stat.S_IMODE(local.credentials.stat().st_mode) == 0o600
    assert stat.S_IMODE(local.log.stat().st_mode) == 0o600
    assert stat.S_IMODE(local.home.stat().st_mode) == 0o700
    # Files of the server's own making: at its first start, and at every start.
    for written in (local.data / "accounts.json", local.home / "seen-start.json"):
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
    local.credentials.chmod(0o644)
    local.up()
    assert stat.S_IMODE(local.credentials.stat().st_mode) == 0o600


def test_secrets_are_in_the_credentials_and_nowhere_else(local: LocalStudio) -> None:
    running = local.up()
    local.down()
    local.up()
    secrets = [s for p in running.people for s in (p.password, p.token)]
    assert len(set(secrets)) == 6
    places = {
        path.name: path.read_text()
        for path in local.home.iterdir()
        if path.is_file() and path != local.credentials and "seen" not in path.name
    }
    assert {"server.json", "server.log", "server.log.1"} <= set(places)
    places["init"] = " ".join(seen(local, "init")["argv"])
    places["command line"] = Path(f"/proc/{local.up().pid}/cmdline").read_text()
    places["repr"] = repr(running) + repr(local.status())
    places["status"] = json.dumps(local.status().as_dict())
    for name, text in places.items():
        assert not [s for s in secrets if s in text], name


def test_lost_credentials_are_drawn_anew_and_hold(local: LocalStudio) -> None:
    first = local.up()
    local.credentials.unlink()
    second = local.up()
    assert second.new_people and not second.started
    assert second.token != first.token
    assert [p.user_id for p in second.people] == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "{", '{"people": []}', '{"people": [{"role": "admin"}]}'])
def test_damaged_credentials_are_not_overwritten(local: LocalStudio, text: str) -> None:
    local.home.mkdir()
    local.credentials.write_text(text)
    with pytest.raises(LocalStudioError, match="damaged"):
        local.up()
    assert local.credentials.read_text() == text


def test_people_survive_the_file(tmp_path: Path) -> None:
    people = [new_person("admin", "admin"), new_person("annotator", "zoe")]
    save(tmp_path / "people.json", people)
    assert load(tmp_path / "people.json") == tuple(people)
    assert load(tmp_path / "absent.json") == ()


def test_added_people_can_log_in_and_are_added_once(local: LocalStudio) -> None:
    local.up()
    added = local.add_people(["Carl", "anna", "carl ", "d.e-f"])
    assert [(p.email, p.user_id) for p in added] == [
        ("carl@annotator.local", 4),
        ("d.e-f@annotator.local", 5),
    ]
    assert local.add_people(["carl"]) == ()
    assert [p.name for p in local.up().people] == ["admin", "anna", "ben", "carl", "d.e-f"]


def test_people_can_be_added_to_a_stopped_server(local: LocalStudio) -> None:
    local.up()
    local.down()
    local.add_people(["carl"])
    assert local.status().state == "stopped"
    assert local.up().people[-1].user_id == 4


def test_an_addition_that_was_cut_off_is_finished_by_up(local: LocalStudio, behave: Behave) -> None:
    local.up()
    behave("no accounts")
    with pytest.raises(LocalStudioError):
        local.add_people(["carl"])
    behave("")
    # Anna chose a password of her own meanwhile: mending Carl's account must leave hers alone.
    accounts = json.loads((local.data / "accounts.json").read_text())
    accounts["anna@annotator.local"]["password"] = "her own"
    (local.data / "accounts.json").write_text(json.dumps(accounts))
    assert [(p.name, p.user_id) for p in local.up().people][-1] == ("carl", 4)
    accounts = json.loads((local.data / "accounts.json").read_text())
    assert accounts["anna@annotator.local"]["password"] == "her own"


def test_people_cannot_be_added_before_the_first_up(local: LocalStudio) -> None:
    with pytest.raises(LocalStudioError, match="annotator studio up"):
        local.add_people(["carl"])
    assert not local.credentials.exists()


@pytest.mark.parametrize("name", ["", " ", "Anna Maria", "a@b", "-a", "a.", "a..b", "ä", "a" * 65])
def test_names_that_cannot_be_an_address_are_refused(local: LocalStudio, name: str) -> None:
    local.up()
    with pytest.raises(LocalStudioError, match="cannot be the name"):
        local.add_people(["fine", name])
    assert len(local.people()) == 3


# --- what the server is told ------------------------------------------------------------------


def test_the_server_knows_nothing_of_the_caller(
    local: LocalStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = {
        "OPENAI_API_KEY": "sk-secret",
        "LABEL_STUDIO_API_KEY": "secret",
        "PYTHONPATH": "/elsewhere",
        "VIRTUAL_ENV": "/elsewhere",
        "DJANGO_SETTINGS_MODULE": "elsewhere",
        "DATABASE_NAME": "/elsewhere.db",
        "HEARTEX_HOST": "https://elsewhere.example",
        "SSRF_PROTECTION_ENABLED": "false",
    }
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    local.up()
    environ = seen(local)["environ"]
    assert not set(foreign) & set(environ)
    assert environ["HOME"] == os.environ["HOME"]


def test_the_server_is_started_closed_and_quiet(local: LocalStudio) -> None:
    local.up()
    argv, environ = seen(local)["argv"], seen(local)["environ"]
    assert argv[argv.index("--internal-host") + 1] == "127.0.0.1"
    assert environ["COLLECT_ANALYTICS"] == environ["LATEST_VERSION_CHECK"] == "false"
    assert environ["SENTRY_DSN"] == environ["FRONTEND_SENTRY_DSN"] == ""
    assert environ["HTTPS_PROXY"] == "http://127.0.0.1:9"
    assert environ["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"
    assert environ["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert "LABEL_STUDIO_HOST" not in environ


def test_loopback_webhooks_are_an_option(local: LocalStudio) -> None:
    local.loopback_webhooks = True
    local.up()
    assert seen(local)["environ"]["SSRF_PROTECTION_ENABLED"] == "false"


def test_the_callers_proxy_is_not_asked(
    local: LocalStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert local.up().started


# --- status, and the command line -------------------------------------------------------------


def test_status_of_nothing(local: LocalStudio) -> None:
    status = local.status()
    assert (status.state, status.url, status.pid, status.data_bytes) == ("stopped", None, None, 0)
    assert local.running() is None
    assert not local.home.exists()


def test_status_of_a_running_server(local: LocalStudio) -> None:
    running = local.up()
    (local.data / "more").write_bytes(b"x" * 5000)
    status = local.status()
    assert (status.state, status.url, status.pid) == ("running", running.url, running.pid)
    assert status.data_bytes == sum(p.stat().st_size for p in local.data.iterdir())
    assert status.memory_bytes is not None and 2**20 < status.memory_bytes < 2**30
    found = local.running()
    assert found is not None
    assert (found.url, found.token) == (running.url, running.token)


@pytest.fixture
def command(
    local: LocalStudio, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs `annotator studio ...` on the stand-in; exit code, standard output, standard error."""
    monkeypatch.setenv("ANNOTATOR_STUDIO_HOME", str(local.home))
    monkeypatch.setenv("ANNOTATOR_STUDIO_ENV", str(local.environment))

    def run(*words: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(studio_command, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_the_commands_tell_a_story(
    local: LocalStudio, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, first, errors = command("up")
    assert (code, errors) == (0, "")
    anna = local.people()[1]
    assert anna.email in first and anna.password in first
    assert not any(person.token in first for person in local.people())
    code, second, _ = command("up")
    assert code == 0 and "already running" in second
    assert not any(person.password in second for person in local.people())
    code, users, _ = command("users", "--add", "carl", "--add", "anna")
    carl = local.people()[-1]
    assert f"{carl.email}" in users and carl.password in users
    assert anna.email in users and anna.password not in users
    assert anna.password in command("users", "--show-secrets")[1]
    assert "running" in command("status")[1]
    assert "stopped" in command("down")[1]
    assert command("down")[0] == 0
    assert "stopped" in command("status")[1]


def test_json_of_the_commands_holds_no_secret(
    local: LocalStudio, command: Callable[..., tuple[int, str, str]]
) -> None:
    up = json.loads(command("up", "--json")[1])
    status = json.loads(command("status", "--json")[1])
    users = json.loads(command("users", "--add", "carl", "--json")[1])
    assert up["url"] == status["url"] and up["pid"] == status["pid"]
    assert up["started"] is True
    assert status["state"] == "running"
    assert [user["name"] for user in users] == ["admin", "anna", "ben", "carl"]
    shown = json.dumps([up, status, users])
    for person in local.people():
        assert person.password not in shown and person.token not in shown
    asked = json.loads(command("users", "--show-secrets", "--json")[1])
    assert asked[0]["token"] == local.people()[0].token
    assert json.loads(command("down", "--json")[1]) == {"stopped": True}
    assert json.loads(command("down", "--json")[1]) == {"stopped": False}


def test_wrong_usage_of_the_commands(command: Callable[..., tuple[int, str, str]]) -> None:
    assert command("up", "--port", "0")[0] == 2
    assert command("up", "now")[0] == 2
    with pytest.raises(LocalStudioError):
        command("users", "--add", "carl")


# --- the install ------------------------------------------------------------------------------


def test_constraints_are_plain_pins_of_everything() -> None:
    text = (resources.files("annotator.studio") / "server-constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line) for line in lines)
    pins = dict(line.lower().split("==") for line in lines)
    assert len(pins) == len(lines) > 100
    # The version of the server itself is said in one place only.
    assert "label-studio" not in pins
    assert (LABEL_STUDIO_VERSION, pins["label-studio-sdk"]) == ("1.23.2", "2.1.2")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny label-studio to install, and pip told to look nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    name = f"label_studio-{LABEL_STUDIO_VERSION}"
    tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        "label_studio/__init__.py": "",
        "label_studio/server.py": "def main(): print('hello')\n",
        f"{name}.dist-info/METADATA": "Metadata-Version: 2.1\nName: label-studio\n"
        f"Version: {LABEL_STUDIO_VERSION}\n",
        f"{name}.dist-info/WHEEL": tag,
        f"{name}.dist-info/entry_points.txt": "[console_scripts]\n"
        "label-studio = label_studio.server:main\n",
        f"{name}.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_an_install_is_made_once_and_a_broken_one_again(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another project's pins, left in the environment, must not decide over the server's.
    (tmp_path / "other.txt").write_text("label-studio==1.11.0\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "other.txt"))
    folder = tmp_path / "deep" / "server"
    told: list[str] = []
    ensure(folder, told.append)
    assert any("installing" in message for message in told)
    assert is_ready(folder)
    hello = subprocess.run([folder / "bin" / "label-studio"], capture_output=True, check=True)
    assert hello.stdout == b"hello\n"
    told.clear()
    ensure(folder, told.append)
    assert told == []
    # As a kill in the middle leaves it: the program is there, what it needs may not be.
    (folder / ".annotator-install-unfinished").touch()
    (folder / "half").touch()
    assert not is_ready(folder)
    ensure(folder, told.append)
    assert is_ready(folder)
    assert not (folder / "half").exists()


def test_a_failed_install_names_its_log_and_can_be_repeated(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "server"
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(LocalStudioError, match="No matching distribution") as raised:
        ensure(folder, lambda _: None)
    log = tmp_path / "server-install.log"
    assert str(log) in str(raised.value) and log.exists()
    assert not is_ready(folder)
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    ensure(folder, lambda _: None)
    assert is_ready(folder)


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(LocalStudioError, match="holds no Label Studio"):
        ensure(tmp_path, lambda _: None)
    assert (tmp_path / "thesis.txt").read_text() == "two years of work"


def test_another_version_is_refused(environment: Path) -> None:
    package = next(environment.glob("lib/*/*/label_studio-*"))
    package.rename(package.with_name("label_studio-1.11.0.dist-info"))
    with pytest.raises(LocalStudioError, match=r"holds Label Studio 1\.11\.0"):
        is_ready(environment)


def test_pip_is_told_nothing_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    environ = local_environment._pip_environ()
    assert environ["PIP_INDEX_URL"] == "http://127.0.0.1:9/simple"
    assert not {"OPENAI_API_KEY", "PYTHONPATH"} & set(environ)


def test_a_missing_server_is_a_skip_here_and_a_failure_in_ci(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNOTATOR_STUDIO_ENV", str(tmp_path / "absent"))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception):
        installed_environment()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception):
        installed_environment()


# --- processes --------------------------------------------------------------------------------


def test_a_process_with_a_confusing_name_is_told_apart(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    process = local_process.spawn([str(program), "60"], {}, tmp_path, tmp_path / "log")
    assert local_process.is_alive(process)
    assert not local_process.is_alive(local_process.ServerProcess(process.pid, 1))
    local_process.stop(process)
    assert not local_process.is_alive(process)
    assert not alive(process.pid)


def test_a_port_that_is_only_closing_counts_as_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # The side that closes first keeps the port for a minute.
        client.close()
    assert local_process.free_port([port], strict=True) == port


# --- the real server --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(
    real_studio: RealStudio, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalStudio]:
    """A real server to be stopped and killed; a copy of the session's, so that it starts fast."""
    home = tmp_path_factory.mktemp("copy") / "home"
    if real_studio.home:
        shutil.copytree(real_studio.home, home)
    made = LocalStudio(home, real_studio.environment or installed_environment())
    yield made
    made.down()


def api(running: RunningStudio, place: str, **json_body: Any) -> Any:
    """What the admin gets from the API: POST with a body, else GET."""
    answer = httpx.request(
        "POST" if json_body else "GET",
        f"{running.url}{place}",
        headers={"Authorization": f"Token {running.token}"},
        json=json_body or None,
        timeout=60,
        trust_env=False,
    )
    return answer.raise_for_status().json()


@pytest.mark.studio
def test_real_everyone_can_log_in(real_studio: RealStudio) -> None:
    people = [*real_studio.annotators, *([real_studio.admin] if real_studio.admin else [])]
    assert len({person.user_id for person in people}) == len(people) >= 2
    for person in people:
        assert logs_in(real_studio.url, person.email, person.password)
        assert not logs_in(real_studio.url, person.email, person.password + "x")


@pytest.mark.studio
def test_real_annotators_are_members_and_may_annotate(real: LocalStudio) -> None:
    running = real.up()
    anna = running.people[1]
    config = '<View><Text name="t" value="$t"/><Choices name="c" toName="t"><Choice value="x"/></Choices></View>'  # noqa: E501
    project = api(running, "/api/projects", title="as anna", label_config=config)
    task = api(running, f"/api/projects/{project['id']}/import", data={"t": "words"})
    assert task["task_count"] == 1
    answer = httpx.get(
        f"{running.url}/api/projects/{project['id']}/next",
        headers={"Authorization": f"Token {anna.token}"},
        timeout=60,
        trust_env=False,
    )
    assert answer.raise_for_status().json()["data"] == {"t": "words"}
    result = [{"from_name": "c", "to_name": "t", "type": "choices", "value": {"choices": ["x"]}}]
    written = httpx.post(
        f"{running.url}/api/tasks/{answer.json()['id']}/annotations/",
        headers={"Authorization": f"Token {anna.token}"},
        json={"result": result},
        timeout=60,
        trust_env=False,
    )
    assert written.raise_for_status().json()["completed_by"] == anna.user_id


@pytest.mark.studio
def test_real_listens_on_loopback_alone(real: LocalStudio) -> None:
    running = real.up()
    local_address = f"0100007F:{port_of(running):04X}"
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port_of(running):04X}")
    ]
    assert listening == [local_address]
    # A web page that rebinds its own name to this address is refused.
    answer = httpx.get(f"{running.url}/health", headers={"Host": "evil.example"}, trust_env=False)
    assert answer.status_code == 400


@pytest.mark.studio
def test_real_down_and_up_keep_projects_and_accounts(real: LocalStudio) -> None:
    first = real.up()
    project = api(first, "/api/projects", title="kept")
    assert real.up().pid == first.pid
    assert real.down() is True and real.down() is False
    second = real.up()
    assert (second.url, second.people) == (first.url, first.people)
    assert api(second, f"/api/projects/{project['id']}")["title"] == "kept"


@pytest.mark.studio
def test_real_killed_and_started_beside_a_stale_record(real: LocalStudio) -> None:
    first = real.up()
    kill_nine(first.pid)
    record = json.loads((real.home / "server.json").read_text())
    (real.home / "server.json").write_text(json.dumps(record | {"pid": os.getpid()}))
    assert real.status().state == "stopped"
    second = real.up()
    assert second.pid not in (first.pid, os.getpid())
    assert second.people == first.people


@pytest.mark.studio
def test_real_moves_from_a_busy_port_and_is_found(
    real: LocalStudio, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.down()
    # The port is taken between our look and the server's: it then moves without a word.
    monkeypatch.setattr("annotator.studio.local.free_port", lambda *_, **__: taken_port)
    running = real.up()
    assert port_of(running) != taken_port
    assert api(running, "/api/current-user/whoami")["email"] == running.people[0].email


@pytest.mark.studio
def test_real_people_are_added_and_repaired_while_it_runs(real: LocalStudio) -> None:
    running = real.up()
    (carl,) = real.add_people(["carl"])
    assert logs_in(running.url, carl.email, carl.password)
    ids = {p.email: p.user_id for p in real.up().people}
    assert ids[carl.email] == carl.user_id
    real.credentials.unlink()
    again = real.up()
    assert again.new_people and not again.started
    assert [ids[p.email] for p in again.people] == [p.user_id for p in again.people]
    for before, person in zip(running.people, again.people, strict=False):
        assert logs_in(again.url, person.email, person.password)
        assert not logs_in(again.url, person.email, before.password)


@pytest.mark.studio
def test_real_secrets_stay_in_the_credentials(real: LocalStudio) -> None:
    running = real.up()
    command_line = Path(f"/proc/{running.pid}/cmdline").read_text()
    texts = [command_line, (real.home / "server.json").read_text(), real.log.read_text()]
    for person in running.people:
        for text in texts:
            assert person.password not in text and person.token not in text
    database = real.data / "label_studio.sqlite3"
    assert not any(p.password.encode() in database.read_bytes() for p in running.people)


@pytest.mark.studio
def test_real_invitation_makes_an_annotator(real_studio: RealStudio) -> None:
    person = invited(real_studio.url, real_studio.token, "dora")
    assert logs_in(real_studio.url, person.email, person.password)
    assert person.user_id not in {known.user_id for known in real_studio.annotators}
