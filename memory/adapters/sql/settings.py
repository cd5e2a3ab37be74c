"""How is the database reached?"""

from pydantic import BaseModel, Field


class DatabaseSettings(BaseModel):
    pool_size: int = Field(default=10, ge=1, le=200, description="Connections that stay open; SQLite: readers.")
    connect_timeout: float = Field(default=5, gt=0, description="Seconds until an unreachable database is an error.")
    statement_timeout: float = Field(default=60, gt=0, description="Seconds a statement (SQLite: a lock) may take.")
    group_commit: int = Field(
        default=64, ge=1, description="SQLite: writers in a row that may share one flush to disk (fsync)."
    )
