"""Columns are added, renamed and retyped while there are rows."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision, down_revision = "b2", "a1"


def upgrade():
    op.alter_column("customer", "name", new_column_name="full_name", type_=sa.String(100), schema="shop")
    op.add_column("customer", sa.Column("uid", postgresql.UUID, server_default=sa.text("gen_random_uuid()"), nullable=False), schema="shop")
    op.create_unique_constraint("uq_customer_uid", "customer", ["uid"], schema="shop")
    op.add_column("customer", sa.Column("tags", sa.ARRAY(sa.String), server_default="{}", nullable=False), schema="shop")
    op.create_index("ix_shop_customer_full_name", "customer", ["full_name"], schema="shop")
    op.alter_column("order", "net", type_=sa.Numeric(10, 2), postgresql_using="net::numeric / 100", schema="shop")
    op.add_column("order", sa.Column("gross", sa.Numeric(10, 2), sa.Computed("net * 1.2", persisted=True)), schema="shop")
    op.create_check_constraint("net_is_positive", "order", "net >= 0", schema="shop")


def downgrade():
    op.drop_constraint("ck_order_net_is_positive", "order", schema="shop")
    op.drop_column("order", "gross", schema="shop")
    op.alter_column("order", "net", type_=sa.Integer, postgresql_using="(net * 100)::int", schema="shop")
    op.drop_index("ix_shop_customer_full_name", "customer", schema="shop")
    op.drop_column("customer", "tags", schema="shop")
    op.drop_constraint("uq_customer_uid", "customer", schema="shop")
    op.drop_column("customer", "uid", schema="shop")
    op.alter_column("customer", "full_name", new_column_name="name", type_=sa.String(50), schema="shop")
