"""Alembic's environment, as `alembic init` writes it, for a live database."""

from alembic import context
from sqlalchemy import engine_from_config, pool

config = context.config

engine = engine_from_config(
    config.get_section(config.config_ini_section, {}), prefix="sqlalchemy.", poolclass=pool.NullPool
)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
