"""What every folder of tests may use: the databases and brokers of `services.py`."""

import pytest

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
