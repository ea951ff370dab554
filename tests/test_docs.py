"""What is written for people, held against what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from annotator import __version__
from annotator.candidates.formats import FORMATS
from annotator.cli import main
from annotator.config import environment_names
from annotator.studio.connect import KEY_VARIABLE
from annotator.studio.local_environment import LABEL_STUDIO_VERSION
from annotator.web.auth import DASHBOARD_VARIABLE, WEBHOOK_VARIABLE
from strategies import ENTRY_POINT_GROUP

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GENERATED = {".git", ".venv", ".cache", "dist", "build", "test-artifacts", "annotator-demo"}

# Hosts that a text may name: reserved ones, this machine, and the homes of public documents.
HOSTS = re.compile(
    r"(127\.0\.0\.1|localhost|example\.com|[\w-]+\.example(\.com)?|www\.apache\.org|"
    r"api\.openai\.com|keepachangelog\.com|semver\.org|github\.com|arxiv\.org|doi\.org)",
    re.IGNORECASE,
)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups and their verbs among them."""
    for name, command in main.commands.items():
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {verb}", one) for verb, one in command.commands.items())


COMMANDS = dict(commands())


def options_of(command: click.Command) -> set[str]:
    context = click.Context(command)
    return {option for parameter in command.get_params(context) for option in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_in_the_readme_and_explains_itself(name: str) -> None:
    group, _, verb = name.partition(" ")
    row = next(line for line in README.splitlines() if line.startswith(f"| `annotator {group}`"))
    assert not verb or re.search(rf"` .*\b{verb}\b.* \|", row)
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


def test_the_readme_has_what_cog_makes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", "README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _code() -> list[str]:
    """What stands in the README as code: inline pieces, and the lines of its blocks."""
    prose = re.sub(r"<!-- \[\[\[cog.*?\]\]\] -->", "", README, flags=re.DOTALL)
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", prose, flags=re.DOTALL | re.MULTILINE)
    inline = re.sub(r"^```.*?^```", "", prose, flags=re.DOTALL | re.MULTILINE)
    pieces = [piece.replace("\n", " ") for piece in re.findall(r"`([^`]+)`", inline)]
    return [line.split("#")[0] for block in blocks for line in block.splitlines()] + pieces


CODE = _code()


def test_every_option_in_the_readme_exists() -> None:
    anywhere = {"--help"}.union(*(options_of(command) for command in COMMANDS.values()))
    checked = 0
    for piece in CODE:
        used = set(re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", piece))
        if not used or piece.startswith(("$ pip", "scripts/")):
            continue
        named = re.search(r"\bannotator ([a-z-]+)(?: ([a-z]+))?", piece)
        known = anywhere
        if named and named[1] in COMMANDS:
            verb = f"{named[1]} {named[2]}"
            known = options_of(COMMANDS.get(verb) or COMMANDS[named[1]]) | {"--help"}
        assert used <= known, piece
        checked += len(used)
    assert checked >= 5


def test_every_command_that_the_readme_runs_exists() -> None:
    ran = {
        found[1]
        for piece in CODE
        for found in re.finditer(r"(?<![\w/-])annotator ([a-z][a-z-]*)", piece)
    }
    assert ran >= {"init", "import", "next-batch", "sync", "status", "export"}
    assert ran <= set(main.commands)


def test_every_setting_in_the_readme_exists() -> None:
    named = set(re.findall(r"\b(?:ANNOTATOR|LABEL_STUDIO)_[A-Z_]+\b", README))
    assert "ANNOTATOR_ROUND_STRATEGY" in named
    secrets = {KEY_VARIABLE, DASHBOARD_VARIABLE, WEBHOOK_VARIABLE}
    assert named <= {*environment_names(), *secrets, "ANNOTATOR_SECTION_SETTING"}


def test_toml_in_the_readme_is_right() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    (plugin,) = (tomllib.loads(block) for block in blocks)
    assert list(plugin["project"]["entry-points"]) == [ENTRY_POINT_GROUP]


def test_every_format_has_its_row() -> None:
    table = README.split("| format | recognised by |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == len(FORMATS)


def test_every_file_that_is_linked_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_readme_quotes_the_versions_in_use() -> None:
    assert set(re.findall(r"\b\d+\.\d+\.\d+\b", README)) == {LABEL_STUDIO_VERSION}


def test_licence_and_changelog() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(__version__)})\]", changelog, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["version"], project["license"]) == (__version__, "Apache-2.0")


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the source tree, with its name."""
    for path in sorted(ROOT.rglob("*")):
        inside = path.relative_to(ROOT)
        made = {part for part in inside.parts if part in GENERATED or part == "__pycache__"}
        made |= {
            part for part in inside.parts[:-1] if re.fullmatch(r"\..*_cache|\.hypothesis", part)
        }
        if made or not path.is_file():
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            yield inside.as_posix(), content.decode("utf-8")


MACHINE = re.compile(r"(?<![\w.)\]}>])/(?:root|work|home|Users|tmp)/\w[\w./-]*")
ADDRESS = re.compile(r"https?://(?:[^\s/@\"']+@)?([\w-]+(?:\.[\w-]+)+)")


def test_no_text_names_a_path_of_somebodys_machine() -> None:
    found = [(name, hit) for name, text in texts() for hit in MACHINE.findall(text)]
    assert found == []


def test_no_text_names_a_host_of_somebodys_network() -> None:
    found = [
        (name, host)
        for name, text in texts()
        for host in ADDRESS.findall(text)
        if not HOSTS.fullmatch(host)
    ]
    assert found == []


def test_the_two_tests_above_see_what_they_look_for() -> None:
    # Put together here, or this file would be found.
    assert MACHINE.findall(f"cd {'/'.join(['', 'home', 'anna', 'x'])}; ls")
    assert ADDRESS.findall(f"https:{'//'}me:pw@mirror.corp.net/simple") == ["mirror.corp.net"]
    assert not HOSTS.fullmatch("mirror.corp.net")
    assert len(dict(texts())) > 60


def test_pins_name_no_index() -> None:
    pins = ROOT / "constraints.txt", ROOT / "annotator" / "studio" / "server-constraints.txt"
    for path in pins:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            assert not line or line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.!]+", line), line
