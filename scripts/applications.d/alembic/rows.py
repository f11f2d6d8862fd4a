"""An application at work with the migrated tables: SQLAlchemy's own inserts, updates, deletes, savepoints and locks."""

import models
from sqlalchemy import create_engine, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

customer, order = models.customer, models.order
engine = create_engine("postgresql+psycopg://")
with engine.begin() as c:
    rows = [{"full_name": f"New {i}", "tags": [str(i), "b, c"]} for i in range(500)]
    ids = c.execute(insert(customer).returning(customer.c.id), rows).scalars().all()
    assert len(set(ids)) == 500
    c.execute(insert(order), [{"customer_id": id, "net": id * 0.5, "details": {"of": id, "parts": [1, "2", None]}} for id in ids])
with engine.begin() as c:
    one = c.execute(select(customer).where(customer.c.id == ids[0]).with_for_update()).one()
    again = upsert(customer).values(id=one.id, full_name="Again")
    c.execute(again.on_conflict_do_update(index_elements=[customer.c.id], set_={"full_name": again.excluded.full_name}))
    with c.begin_nested() as savepoint:
        c.execute(delete(customer))
        savepoint.rollback()
    c.execute(update(order).where(order.c.customer_id == one.id).values(state="paid"))
    c.execute(delete(customer).where(customer.c.id.in_(ids[400:])))
with engine.connect() as c:
    counted = c.execute(select(func.count(), func.count().filter(order.c.state == "paid")).select_from(order)).one()
    assert tuple(counted) == (500, 1), counted
    assert c.execute(select(func.count()).where(customer.c.full_name == "Again")).scalar() == 1
