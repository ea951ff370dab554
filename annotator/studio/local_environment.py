"""The server's own Python environment: found, or installed once with pip.

Label Studio pins openai, numpy and others to versions that clash with ours, so it never shares
our environment. A half-finished install carries a marker file and is thrown away on the next try.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from annotator.errors import LocalStudioError
from annotator.store.locks import hold_lock
from annotator.studio.local_process import run_to_end

LABEL_STUDIO_VERSION = "1.23.2"
INSTALL_WAIT_SECONDS = 3600.0

_CONSTRAINTS = "server-constraints.txt"
_UNFINISHED = ".annotator-install-unfinished"
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
_PASSED_TO_PIP = (
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NETRC", "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS",
)  # fmt: skip
# They would send the packages elsewhere, or hold them at the versions of another project.
_KEPT_FROM_PIP = (
    "PIP_CONSTRAINT", "PIP_PREFIX", "PIP_REQUIREMENT", "PIP_ROOT", "PIP_TARGET", "PIP_USER",
)  # fmt: skip


def ensure(environment: Path, progress: Callable[[str], None]) -> None:
    """Makes sure that Label Studio LABEL_STUDIO_VERSION is installed in the folder `environment`.

    Installs it where there is nothing yet: about 1 GB and one to three minutes. Raises
    LocalStudioError when the folder holds something else, or the install fails.
    """
    if is_ready(environment):
        return
    environment.parent.mkdir(parents=True, exist_ok=True)
    lock = environment.with_name(f"{environment.name}.lock")
    what = "installing Label Studio"
    with hold_lock(
        lock,
        what,
        wait_seconds=INSTALL_WAIT_SECONDS,
        on_wait=lambda: progress(f"another process is {what}; waiting"),
    ) as fd:
        if not is_ready(environment):
            _install(environment, fd, progress)


def is_ready(environment: Path) -> bool:
    """True when the install was finished; raises LocalStudioError when the folder is not ours."""
    if not environment.exists() or (environment / _UNFINISHED).exists():
        return False
    version = installed_version(environment)
    if version == LABEL_STUDIO_VERSION:
        return True
    if version is None and environment.is_dir() and not any(environment.iterdir()):
        return False
    raise LocalStudioError(
        f"{environment} holds Label Studio {version}"
        if version
        else f"{environment} exists and holds no Label Studio",
        expected=f"Label Studio {LABEL_STUDIO_VERSION}, or no such folder",
        todo="remove the folder, or name another one in ANNOTATOR_STUDIO_ENV; accounts and labels "
        "are kept elsewhere",
    )


def installed_version(environment: Path) -> str | None:
    """The version of the Label Studio in `environment`, such as "1.23.2"; None if there is none."""
    if not (environment / "bin" / "label-studio").exists():
        return None
    for folder in environment.glob("lib/python3*/site-packages/label_studio-*.dist-info"):
        return folder.name.removeprefix("label_studio-").removesuffix(".dist-info")
    return None


def bare_environ() -> dict[str, str]:
    """The few variables that a program needs to run; no secret, no setting of the caller.

    A list of what is let through, not of what is held back: Label Studio reads some hundred
    variables under three prefixes, and DATABASE_NAME or DEBUG could belong to anything.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith("LC_")
    }


def _pip_environ() -> dict[str, str]:
    pip = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_TO_PIP or (name.startswith("PIP_") and name not in _KEPT_FROM_PIP)
    }
    return bare_environ() | pip


def _install(environment: Path, lock: int, progress: Callable[[str], None]) -> None:
    progress(
        f"installing Label Studio {LABEL_STUDIO_VERSION} into {environment} (once, about 1 GB)"
    )
    if environment.exists():
        shutil.rmtree(environment)
    environment.mkdir()
    marker = environment / _UNFINISHED
    marker.touch()
    log = environment.with_name(f"{environment.name}-install.log")
    log.unlink(missing_ok=True)
    python = str(environment / "bin" / "python")
    wanted = f"label-studio=={LABEL_STUDIO_VERSION}"
    pip = [python, "-m", "pip", "install", "--no-input", "--progress-bar", "off", wanted]
    with resources.as_file(resources.files("annotator.studio") / _CONSTRAINTS) as constraints:
        _run([sys.executable, "-m", "venv", str(environment)], log, lock, progress)
        _run([*pip, "-c", str(constraints)], log, lock, progress)
    # After a power cut a missing marker must not vouch for files that never reached the disk.
    os.sync()
    marker.unlink()


def _run(command: Sequence[str], log: Path, lock: int, progress: Callable[[str], None]) -> None:
    tick = elapsed(progress, "  still installing")
    code = run_to_end(command, _pip_environ(), log, lock, tick)
    if code != 0:
        raise LocalStudioError(
            f"Label Studio could not be installed: {' '.join(command[1:4])} ended with {code}\n"
            + last_lines(log, 5),
            expected="a Python with venv, and an index that has label-studio and what it needs",
            todo=f"read {log}, then run `annotator studio up` again",
        )


def elapsed(progress: Callable[[str], None], message: str) -> Callable[[], None]:
    """A function that reports `message` with the seconds since now."""
    started = time.monotonic()
    return lambda: progress(f"{message}, {time.monotonic() - started:.0f} s")


def last_lines(log: Path, count: int) -> str:
    """The last `count` lines of a log, each at most 300 characters; "" when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64_000))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(line[:300] for line in lines[-count:])


def python_command(environment: Path, script: Path) -> list[str]:
    """The command that runs `script` in `environment`, isolated from the folder it lies in."""
    return [str(environment / "bin" / "python"), "-I", str(script)]
