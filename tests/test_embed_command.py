"""`annotator embed` as a person runs it, with the real model; then the database is read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from annotator.cli import main
from annotator.signals.embeddings import response_vectors
from annotator.signals.encoder import MINILM, load_encoder
from annotator.store import open_db
from tests.small_world import add_prompt

LONG = "A reply that goes on and on, sentence after sentence. " * 40


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "annotator.toml").write_text("")
    db = open_db(tmp_path / "annotator.db", create=True)
    add_prompt(db, [{"role": "user", "content": "What is a vote?"}], ["An answer.", LONG])
    add_prompt(db, [{"role": "user", "content": "And a tie?"}], ["An answer.", "Both."])
    db.close()
    return tmp_path


def run(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["embed", *arguments, "--project", str(project)], catch_exceptions=False
    )


def test_embed_fills_what_is_missing_and_then_nothing(project: Path) -> None:
    first = run(project)
    assert first.exit_code == 0
    assert "all-MiniLM-L6-v2, 384 dimensions" in first.stdout
    assert "chunked  1 longer than the window: 254-token chunks" in first.stdout
    second = json.loads(run(project, "--json").stdout)
    assert (second["total"], second["known"], second["added"]) == (5, 5, 0)
    assert (second["chunked"], second["encoder"]) == (1, MINILM)
    db = open_db(project / "annotator.db")
    texts = dict(db.execute("SELECT id, text FROM responses").fetchall())
    ids = np.array(sorted(texts))
    got = response_vectors(db, project / "annotator.db", second["encoder_id"], ids)
    db.close()
    true = load_encoder(precision="float32").encode([texts[int(i)] for i in ids]).vectors
    assert (got * true).sum(axis=1).min() >= 0.9999


def test_again_computes_all_of_them(project: Path) -> None:
    run(project)
    report = json.loads(run(project, "--again", "--json").stdout)
    assert (report["known"], report["added"]) == (0, 5)


def test_an_unknown_encoder_is_an_error_for_people(project: Path, tmp_path: Path) -> None:
    (tmp_path / "no-model").mkdir()
    result = run(project, "--encoder", str(tmp_path / "no-model"))
    assert result.exit_code == 1
    assert "holds no weights" in result.stderr and "to do:" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_with_nothing_to_do_loads_no_model(project: Path) -> None:
    run(project)
    script = (
        "import sys\nfrom annotator.cli import main\n"
        f"main(['embed', '--project', {str(project)!r}], standalone_mode=False)\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    assert done.stderr.strip() == "False"
