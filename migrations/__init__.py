"""The one Alembic history of the schema, for SQLite and PostgreSQL."""
