"""The database: SQLAlchemy over SQLite (embedded) or PostgreSQL. Tables, one repository per aggregate, units of work."""
