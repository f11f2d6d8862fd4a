"""The first tables, with rows."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "a1", None


def upgrade():
    op.create_table(
        "customer",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_customer"),
        schema="shop",
    )
    customer = sa.table("customer", sa.column("name"), schema="shop")
    op.bulk_insert(customer, [{"name": f"Customer {i}"} for i in range(100)])
    state = sa.Enum("open", "paid", name="order_state", schema="shop")
    op.create_table(
        "order",
        sa.Column("id", sa.Integer, sa.Identity(always=True)),
        sa.Column("customer_id", sa.Integer, nullable=False),
        sa.Column("state", state, server_default="open", nullable=False),
        sa.Column("net", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_order"),
        sa.ForeignKeyConstraint(["customer_id"], ["shop.customer.id"], name="fk_order_customer_id_customer"),
        schema="shop",
    )
    op.execute('INSERT INTO shop."order" (customer_id, net) SELECT id, id * 3 FROM shop.customer')


def downgrade():
    op.drop_table("order", schema="shop")
    op.drop_table("customer", schema="shop")
    op.execute("DROP TYPE shop.order_state")
