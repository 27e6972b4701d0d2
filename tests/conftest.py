"""A small world that every test may use: 60 users with a favorite genre, 40 items in four genres."""

import signal

import polars as pl
import pytest

from genrec import Dataset, testing

# Tests send signals to themselves and to what they start, also where nohup or a shell's "&" made these ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked slow unless asked for: ``pytest -m slow``."""
    if config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)


@pytest.fixture(scope="session")
def tiny_items() -> pl.DataFrame:
    return testing.tiny_items()


@pytest.fixture(scope="session")
def tiny_interactions() -> pl.DataFrame:
    return testing.tiny_interactions()


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The small world prepared with leave-one-out; three users are too short to be evaluated."""
    return testing.tiny_dataset(tmp_path_factory.mktemp("tiny") / "dataset")
