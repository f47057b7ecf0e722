"""Schema migrations of the state database (Alembic)."""
