"""Programs as the operating system sees them: run to the end, started, found, stopped.

Of a running server the process table is the only truth. It is recognised by the data folder on
its command line, so a state file that outlived a reboot, a recycled process id or a start that was
killed half-way cannot mislead us, and a server is never started twice on the same data.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from annotator.errors import LocalStudioError

HOST = "127.0.0.1"

_PROC = Path("/proc")
_LISTENING = "0A"


@dataclass(frozen=True)
class ServerProcess:
    """One process; `start_ticks` (since boot) tells it from a later one with the same `pid`."""

    pid: int
    start_ticks: int


def find_server(data: Path) -> ServerProcess | None:
    """The Label Studio that serves the folder `data`, whoever started it; None if there is none."""
    wanted = b"\0--data-dir\0" + os.fsencode(data) + b"\0"
    for pid in _own_pids():
        try:
            command_line = (_PROC / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        if wanted in command_line and (process := _look_at(pid)):
            return process
    return None


def is_alive(process: ServerProcess) -> bool:
    """True while that very process runs; one that only waits to be collected does not count."""
    return _look_at(process.pid) == process


def memory_bytes(process: ServerProcess) -> int:
    """Resident memory of the process; 0 when it is gone."""
    try:
        pages = (_PROC / str(process.pid) / "statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def listening_port(process: ServerProcess) -> int | None:
    """The port on 127.0.0.1 that the process itself listens on; None while it has none.

    Label Studio moves to another port without failing when the one it was given is taken, so
    this, and not what we asked for, is where it can be reached.
    """
    owned = _socket_inodes(process.pid)
    ports = [
        port for ip, port, inode in _listening_sockets(process.pid) if inode in owned and ip == HOST
    ]
    return min(ports, default=None)


def free_port(preferred: Sequence[int], *, strict: bool = False) -> int:
    """The first of `preferred` that nobody uses, else any free one.

    With `strict`, raises LocalStudioError instead of taking another.
    """
    reason = ""
    for port in (*preferred, *(() if strict else (0,))):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As the server itself does: connections of the last run that are still closing do
            # not count, a listener does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                reason = "in use" if error.errno == errno.EADDRINUSE else str(error.strerror)
            else:
                return int(probe.getsockname()[1])
    raise LocalStudioError(
        f"port {preferred[-1]} on {HOST} cannot be taken: {reason}",
        expected="a free port",
        todo="name another port, or leave it out",
    )


def spawn(
    command: Sequence[str], environ: Mapping[str, str], folder: Path, log: Path
) -> ServerProcess:
    """Starts `command` detached from this terminal, its output going to `log`.

    Raises LocalStudioError when the program cannot be run.
    """
    try:
        with open(log, "wb", opener=_private) as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=dict(environ), cwd=folder, start_new_session=True, umask=0o077,
            )  # fmt: skip
    except OSError as error:
        raise _cannot_run(command, error) from error
    process = _look_at(child.pid) or ServerProcess(child.pid, -1)
    # Without someone who waits for it, a dead child stays in the table of a long-lived parent.
    threading.Thread(target=child.wait, daemon=True).start()
    return process


def run_to_end(
    command: Sequence[str],
    environ: Mapping[str, str],
    log: Path,
    lock: int,
    tick: Callable[[], None],
    *,
    limit_seconds: float | None = None,
) -> int:
    """The exit code of `command`, whose output is added to `log`; `tick` is called now and then.

    The program inherits the descriptor `lock`: should we be killed, whoever wants the same lock
    waits for it to end, and nobody clears a folder under its hands. Killed, with exit code
    -SIGKILL, when it takes longer than `limit_seconds`. Raises LocalStudioError when it cannot be
    run.
    """
    try:
        with open(log, "ab", opener=_private) as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=dict(environ), cwd=log.parent, pass_fds=(lock,), umask=0o077,
            )  # fmt: skip
    except OSError as error:
        raise _cannot_run(command, error) from error
    limit = time.monotonic() + (limit_seconds or float("inf"))
    try:
        while (left := limit - time.monotonic()) > 0 and not _ends_within(child, min(left, 5.0)):
            tick()
    finally:
        child.kill()
        code = child.wait()
    return code


def stop(process: ServerProcess, *, grace_seconds: float = 15.0) -> None:
    """Ends the process: asked first, killed after `grace_seconds`. Done when it is gone."""
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        if not is_alive(process):
            return
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return
        if _gone_within(process, seconds):
            return
    raise LocalStudioError(
        f"process {process.pid} does not end, not even when killed",
        expected="a process that can be ended",
        todo="look at it with `ps`; it may wait for a disk or a network folder",
    )


def _ends_within(child: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _cannot_run(command: Sequence[str], error: OSError) -> LocalStudioError:
    return LocalStudioError(
        f"{command[0]} cannot be run: {error}",
        expected="the program that the install put there",
        todo="remove the folder of the environment; the next start installs it again",
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _gone_within(process: ServerProcess, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while is_alive(process):
        if time.monotonic() > limit:
            return False
        time.sleep(0.05)
    return True


def _own_pids() -> Iterator[int]:
    if not (_PROC / "self" / "stat").exists():
        raise LocalStudioError(
            "there is no /proc here",
            expected="Linux",
            todo="run Label Studio yourself and name it in LABEL_STUDIO_URL",
        )
    for entry in sorted(_PROC.iterdir()):
        if entry.name.isdigit():
            try:
                ours = entry.stat().st_uid == os.geteuid()
            except OSError:
                continue
            if ours:
                yield int(entry.name)


def _look_at(pid: int) -> ServerProcess | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets and may itself hold blanks and brackets.
    state, *fields = text.rpartition(")")[2].split()
    threads, start_ticks = int(fields[16]), int(fields[18])
    # A zombie with threads left is still closing its files: its port is not free yet.
    return None if state in "ZX" and threads <= 1 else ServerProcess(pid, start_ticks)


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    # Descriptors come and go while we read, and so may the process.
    with suppress(OSError):
        for link in (_PROC / str(pid) / "fd").iterdir():
            with suppress(OSError):
                target = link.readlink().name
                inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    return inodes


def _listening_sockets(pid: int) -> Iterator[tuple[str, int, str]]:
    """Address, port and inode of each listening IPv4 socket in the network of `pid`."""
    try:
        lines = (_PROC / str(pid) / "net" / "tcp").read_text().splitlines()[1:]
    except OSError:
        return
    for fields in map(str.split, lines):
        if fields[3] == _LISTENING:
            address, port = fields[1].split(":")
            # Four bytes in the machine's own order.
            ip = socket.inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder))
            yield ip, int(port, 16), fields[9]
