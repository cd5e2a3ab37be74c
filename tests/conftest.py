"""What every folder of tests may use: the databases and brokers of `services.py`."""

import os
import shutil
from pathlib import Path

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
_ROOM = 1024**3

# A property says what is true, not how quickly: on a busy machine any example may take a second.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")


def pytest_configure() -> None:
    """Folders of tests lie in memory where it has room: a flush to disk takes 5 ms, and no test pulls the plug."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
