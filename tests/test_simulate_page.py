"""docs/savings.md says what docs/savings/*.json say, and the script that writes it runs."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from annotator.simulate.account import account
from annotator.simulate.savings import NEITHER
from annotator.simulate.simulation import METRICS, Request, simulate, usual_budgets
from annotator.simulate.words import lines
from tests.synthetic_world import ridge, synthetic_world

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("savings", ROOT / "scripts" / "savings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_what_is_stored(script: ModuleType) -> None:
    if not script.STORED.is_dir():
        pytest.skip("nothing is stored yet")
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.stored())


def test_stored_files_are_named_after_what_they_hold(script: ModuleType) -> None:
    for document in script.stored():
        assert (script.STORED / script.file_name(document)).is_file()


def test_a_page_is_made_of_the_json_alone(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for metric in METRICS:
        request = Request(("real-easy",), (20, 40), 2, metric)
        document = account(
            simulate(synthetic_world().world, request, tmp_path / "cache", make_learner=ridge)
        )
        document |= {"annotator": "0", "encoder": "none"}
        name = script.file_name(document)
        (tmp_path / name).write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(script, "STORED", tmp_path)
    monkeypatch.setattr(script, "PAGE", tmp_path / "savings.md")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["savings.py", "--page-only"])
    script.main()
    largest = document["budgets"][-1]
    written = (tmp_path / "savings.md").read_text(encoding="utf-8")
    titles = [f"synthetic, {metric}, {largest} votes, 2 seeds" for metric in METRICS]
    said = [line[3:] for line in written.splitlines() if line.startswith("## ")]
    assert said == ["What was measured", *titles]
    assert written.count(f"[2 strategies, {largest} votes, 2 seeds](#synthetic-") == len(METRICS)
    assert written.count("| `real-easy` |") == len(METRICS)


@pytest.mark.parametrize(
    ("n_pairs", "budgets"),
    [
        (16_466, (100, 200, 400, 800, 1600, 3200, 6400)),
        (1_732, (100, 200, 400, 800)),
        (878, (100, 200, 400)),
        (120, (30, 60)),
    ],
)
def test_budgets_double_up_to_half_of_the_pairs(
    script: ModuleType, n_pairs: int, budgets: tuple[int, ...]
) -> None:
    assert script.ladder(n_pairs) == budgets


def test_few_seeds_or_prompts_give_no_verdict(tmp_path: Path) -> None:
    """With one seed on one prompt a gap is luck, and its interval has no width."""
    for sizes, seeds, said in [((40,), 1, "1 seeds and 1 prompts"), (None, 4, "from 4 seeds are")]:
        world = synthetic_world(**({"sizes": sizes} if sizes else {})).world
        request = Request(("real-hard",), (20, 60), seeds, control=0.0)
        document = account(simulate(world, request, tmp_path / str(seeds), make_learner=ridge))
        assert document["saved"]["real-hard"]["verdict"] == NEITHER
        assert any(said in note and "no" in note for note in document["notes"])
        assert not document["conclusive"]
        assert "no verdict" in "\n".join(lines(document))


def test_where_random_gets_no_better_there_is_no_verdict(tmp_path: Path) -> None:
    """Votes at equal quality are noise where more votes do not help."""
    world = synthetic_world(noise=200.0).world
    request = Request(("real-easy",), (20, 40, 60), seeds=6, metric="reserved-accuracy")
    document = account(simulate(world, request, tmp_path, make_learner=ridge))
    assert not document["conclusive"]
    assert any("no measurably better between 20 and 60" in note for note in document["notes"])
    assert document["saved"]["real-easy"]["verdict"] == NEITHER


@pytest.mark.parametrize(
    ("n_pairs", "budgets"),
    [(360, (22, 45, 90, 180)), (16_466, (400, 800, 1600, 3200)), (3, (1,)), (9, (1, 2, 4))],
)
def test_usual_budgets_double_up_to_half_of_the_pairs(
    n_pairs: int, budgets: tuple[int, ...]
) -> None:
    assert usual_budgets(n_pairs) == budgets


def test_budgets_beyond_the_pairs_are_said(tmp_path: Path) -> None:
    world = synthetic_world().world
    n = world.pool.n_pairs
    request = Request(("real-easy",), (n // 2, n + 5), seeds=1)
    document = account(simulate(world, request, tmp_path, make_learner=ridge))
    assert any(f"beyond the {n:,} pairs" in note for note in document["notes"])
    usual = account(simulate(world, replace(request, budgets=()), tmp_path, make_learner=ridge))
    assert usual["budgets"] == list(usual_budgets(n))
    assert not any("beyond the" in note for note in usual["notes"])
