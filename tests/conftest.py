"""What every folder of tests may use: the databases and brokers of `services.py`."""

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
