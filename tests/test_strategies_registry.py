"""Strategies by name: ours, and those that other distributions really install."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import strategies
from strategies import STRATEGIES, strategy_named, strategy_names
from strategies.pool import BadPlugin, Pool, Selection, UnknownStrategy, check_selection

FIRST_ONES = """
import numpy as np
from strategies.pool import Pool, Selection, eligible_for


def choose(pool: Pool, n: int, rng: np.random.Generator) -> Selection:
    return Selection.of(eligible_for(pool, n)[:n])


NOT_A_FUNCTION = 7
"""


def install(site: Path, distribution: str, entry_points: dict[str, str], source: str = "") -> None:
    """A distribution as pip leaves it: a module, and metadata that names its entry points."""
    module = distribution.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    metadata = site / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
    lines = [f"{name} = {target}" for name, target in entry_points.items()]
    group = "\n".join([f"[{strategies.ENTRY_POINT_GROUP}]", *lines])
    (metadata / "entry_points.txt").write_text(group + "\n")
    importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path; modules imported from it are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


@pytest.fixture
def pool() -> Pool:
    return Pool.of_responses(np.eye(4, dtype=np.float32), np.zeros(4, dtype=np.int64))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_our_names_give_our_functions(name: str) -> None:
    strategy = strategy_named(name)
    assert strategy is STRATEGIES[name]
    assert strategy.__name__ == name.replace("-", "_")
    summary = (strategy.__doc__ or "").splitlines()[0]
    assert summary.startswith("n pairs")
    assert summary.endswith(".")


def test_an_unknown_name_lists_what_exists_and_what_is_close(site: Path) -> None:
    install(site, "others", {"reel-easy": "others:choose"}, FIRST_ONES)
    with pytest.raises(UnknownStrategy, match="no strategy 'real-esy'") as caught:
        strategy_named("real-esy")
    for name in [*STRATEGIES, "reel-easy"]:
        assert name in caught.value.expected
    assert "real-easy" in caught.value.todo
    assert "reel-easy" in caught.value.todo
    with pytest.raises(UnknownStrategy) as caught:
        strategy_named("xyzzy")
    assert caught.value.todo == ""


def test_anothers_strategy_is_used_by_name(site: Path, pool: Pool) -> None:
    install(site, "first-ones", {"first": "first_ones:choose"}, FIRST_ONES)
    assert strategy_names() == [*STRATEGIES, "first"]
    assert "first_ones" not in sys.modules
    selection = strategy_named("first")(pool, 2, np.random.default_rng(0))
    assert isinstance(selection, Selection)
    check_selection(pool, selection, 2)
    assert selection.positions.tolist() == [0, 1]


def test_our_names_cannot_be_taken(site: Path) -> None:
    install(site, "evil-twin", {"random": "evil_twin:choose"}, FIRST_ONES)
    assert strategy_names() == list(STRATEGIES)
    with pytest.raises(BadPlugin, match="'random' is claimed by evil-twin"):
        strategy_named("random")
    assert strategy_named("real-easy") is STRATEGIES["real-easy"]
    assert "evil_twin" not in sys.modules


def test_two_distributions_cannot_share_a_name(site: Path) -> None:
    install(site, "one", {"first": "one:choose"}, FIRST_ONES)
    install(site, "two", {"first": "two:choose"}, FIRST_ONES)
    assert strategy_names().count("first") == 1
    with pytest.raises(BadPlugin, match="claimed by one and two"):
        strategy_named("first")


@pytest.mark.parametrize(
    ("target", "source", "reason"),
    [
        ("broken:choose", "import no_such_module_at_all", "ModuleNotFoundError"),
        ("broken:choose", "raise RuntimeError('no licence')", "RuntimeError: no licence"),
        ("broken:missing", FIRST_ONES, "AttributeError"),
        ("broken:NOT_A_FUNCTION", FIRST_ONES, "is a int, not a function"),
        ("broken choose", FIRST_ONES, "AttributeError"),
    ],
)
def test_what_cannot_be_used_is_reported_only_when_asked_for(
    site: Path, target: str, source: str, reason: str
) -> None:
    install(site, "broken", {"crooked": target}, source)
    assert "crooked" in strategy_names()
    assert strategy_named("random") is STRATEGIES["random"]
    with pytest.raises(BadPlugin, match=reason) as caught:
        strategy_named("crooked")
    assert "'crooked' of broken cannot be used" in caught.value.found
    assert "uninstall broken" in caught.value.todo
