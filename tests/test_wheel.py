"""The wheel as people install it: what is in it, and that it works away from the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from annotator import __version__
from annotator.studio.screen import config_xml

ROOT = Path(__file__).resolve().parents[1]


def succeed(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must end well."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this checkout; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("dist")
    succeed(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment that holds this wheel.

    Its dependencies are those of the environment that runs the tests, named in a .pth file:
    folders named there come last, and .pth files in them (such as the one of an editable
    install of this checkout) do nothing.
    """
    folder = tmp_path_factory.mktemp("environment")
    succeed(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--quiet", "--disable-pip-version-check"]
    succeed(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(succeed(python, "-c", ask, cwd=folder).strip())
    theirs = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (site / "dependencies.pth").write_text("\n".join(theirs) + "\n")
    return folder / "bin"


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"annotator-{__version__}.dist-info/METADATA").decode()
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("annotator", "strategies", "label_studio_config")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == sources
    for name in (
        "annotator/py.typed",
        "strategies/py.typed",
        "label_studio_config/pairwise.xml",
        "annotator/studio/server-constraints.txt",
        "annotator/demo/candidates.jsonl",
        f"annotator-{__version__}.dist-info/licenses/LICENSE",
    ):
        assert name in names, name
    assert not [name for name in names if name.startswith(("tests", "scripts", "docs"))]
    assert f"Version: {__version__}\n" in metadata


def test_its_packages_are_found_and_not_those_of_the_checkout(
    installed: Path, tmp_path: Path
) -> None:
    script = (
        "import annotator, json, strategies\n"
        "from annotator.studio.screen import config_xml\n"
        "print(json.dumps([annotator.__file__, strategies.__file__, config_xml()]))"
    )
    ours, chosen, screen = json.loads(succeed(installed / "python", "-c", script, cwd=tmp_path))
    for file in (ours, chosen):
        assert Path(file).is_relative_to(installed.parent), file
    assert screen == config_xml()


def test_from_nothing_to_a_batch(installed: Path, tmp_path: Path) -> None:
    command = installed / "annotator"
    assert __version__ in succeed(command, "--version", cwd=tmp_path)
    assert "next-batch" in succeed(command, "--help", cwd=tmp_path)
    succeed(command, "init", "prefs", cwd=tmp_path)
    folder = tmp_path / "prefs"
    ask = "from importlib.resources import files; print(files('annotator.demo'))"
    sample = Path(succeed(installed / "python", "-c", ask, cwd=tmp_path).strip())
    imported = json.loads(
        succeed(command, "import", sample / "candidates.jsonl", "--json", cwd=folder)
    )
    assert imported["total"]["rejected"] == 0
    embedded = json.loads(succeed(command, "embed", "--json", cwd=folder))
    assert embedded["added"] == embedded["total"] > 300
    batch = json.loads(succeed(command, "next-batch", "-n", "5", "--no-push", "--json", cwd=folder))
    assert (batch["n_acquired"], batch["n_control"], batch["pushed"]) == (4, 1, None)
    assert "5 waiting to be sent" in succeed(command, "status", cwd=folder)
