"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database

from annotator.store import open_db
from tests.studio_server import real_studio

__all__ = ["real_studio"]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long fault tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    skip = pytest.mark.skip(reason="long fault run; `scripts/test --soak` includes it")
    for item in items:
        if "soak" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key or setting of the person who runs the tests reaches a test; nor their home."""
    for name in list(os.environ):
        if name.startswith(("LABEL_STUDIO_", "OPENAI_")):
            monkeypatch.delenv(name)
        if name.startswith("ANNOTATOR_") and not name.startswith(
            ("ANNOTATOR_STUDIO_ENV", "ANNOTATOR_TEST_")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ANNOTATOR_STUDIO_HOME", str(tmp_path / "no-studio"))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """An empty, migrated database on disk."""
    database = open_db(tmp_path / "annotator.db", create=True)
    yield database
    database.close()


@pytest.fixture
def shared_data() -> Path:
    """The folder of real human votes, where it lies beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the sets of real votes are not beside this checkout")
    return SHARED_DATA
