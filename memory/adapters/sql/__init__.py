"""The database: SQLite (embedded) or PostgreSQL through SQLAlchemy; one repository per aggregate, units of work."""
