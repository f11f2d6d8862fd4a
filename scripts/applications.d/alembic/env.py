"""Each migration in a transaction of its own, on the node that PGPORT names."""

from alembic import context
from sqlalchemy import create_engine, text

import models


def mine(name, kind, _parents):
    return kind != "schema" or name == "shop"


engine = create_engine("postgresql+psycopg://")
with engine.connect() as connection:
    connection.execute(text("CREATE SCHEMA IF NOT EXISTS shop"))
    connection.commit()
    context.configure(
        connection=connection, target_metadata=models.metadata, include_schemas=True, include_name=mine,
        version_table_schema="shop", transaction_per_migration=True, compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()
