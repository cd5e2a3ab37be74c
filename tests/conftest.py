"""What every folder of tests may use: the databases and brokers of `services.py`."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from tests.services import (  # noqa: F401  # fixtures
    _migrated_postgres,
    _migrated_sqlite,
    database,
    database_url,
    new_postgres,
    postgres_url,
    postgresql,
    redis_url,
    sqlite,
    sqlite_url,
    storage,
)

_MEMORY = Path("/dev/shm")
_ROOM = 4 * 1024**3

# A property says what is true, not how quickly: on a busy machine any example may take a second.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")


def pytest_configure() -> None:
    """Folders of tests lie in memory where it has room: a flush to disk takes 5 ms, and no test pulls the plug."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For `make test JOBS=2`: what may run beside what.

    A file stays in one process, for the servers that its tests share. So does all of PostgreSQL: which transaction is
    the oldest that runs, by which the change feed goes, is the same for all databases of a server.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            group = "postgresql" if _on_postgresql(item) else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))


def _on_postgresql(item: pytest.Item) -> bool:
    if {"postgresql", "postgres_url", "new_postgres"} & set(getattr(item, "fixturenames", ())):
        return True
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    return any(isinstance(value, str) and value == "postgresql" for value in parameters)
