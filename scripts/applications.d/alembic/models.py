"""The models that the migrations end with: `alembic check` compares them with the database."""

from sqlalchemy import (
    ARRAY, CheckConstraint, Column, Computed, DateTime, Enum, ForeignKey, Identity, Index, Integer, MetaData, Numeric, String, Table,
    UniqueConstraint, func, text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

NAMES = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(schema="shop", naming_convention=NAMES)

customer = Table(
    "customer", metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", UUID, server_default=text("gen_random_uuid()"), nullable=False),
    Column("full_name", String(100), nullable=False, index=True),
    Column("tags", ARRAY(String), server_default="{}", nullable=False),
    Column("created_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
    UniqueConstraint("uid"),
)
order = Table(
    "order", metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("customer_id", ForeignKey("shop.customer.id", ondelete="CASCADE"), nullable=False),
    Column("state", Enum("open", "paid", "sent", name="order_state", schema="shop"), server_default="open", nullable=False),
    Column("net", Numeric(10, 2), nullable=False),
    Column("gross", Numeric(10, 2), Computed("net * 1.2", persisted=True)),
    Column("details", JSONB),
    CheckConstraint("net >= 0", name="net_is_positive"),
    Index("open_orders", "customer_id", postgresql_where=text("state = 'open'")),
)
