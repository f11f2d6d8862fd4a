"""What cannot run in a transaction: a label of an enum in use, an index made concurrently."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision, down_revision = "c3", "b2"


def upgrade():
    with op.get_context().autocommit_block():
        op.execute("ALTER TYPE shop.order_state ADD VALUE IF NOT EXISTS 'sent'")
        op.create_index(
            "open_orders", "order", ["customer_id"], postgresql_where=sa.text("state = 'open'"), postgresql_concurrently=True, schema="shop"
        )
    op.execute("UPDATE shop.\"order\" SET state = 'sent' WHERE id % 3 = 0")
    op.add_column("order", sa.Column("details", postgresql.JSONB), schema="shop")
    op.drop_constraint("fk_order_customer_id_customer", "order", schema="shop")
    op.create_foreign_key(
        "fk_order_customer_id_customer", "order", "customer", ["customer_id"], ["id"], ondelete="CASCADE", source_schema="shop", referent_schema="shop"
    )


def downgrade():
    op.execute("UPDATE shop.\"order\" SET state = 'open' WHERE state = 'sent'")
    op.drop_column("order", "details", schema="shop")
    with op.get_context().autocommit_block():
        op.drop_index("open_orders", "order", postgresql_concurrently=True, schema="shop")
