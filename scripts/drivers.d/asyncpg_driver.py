"""asyncpg."""

import asyncio
import os
import ssl

import asyncpg

from checks import ROWS, check, run


async def connect():
    # It wants to be told; libpq's variables are for the rest.
    mode = os.environ.get("PGSSLMODE", "disable")
    context = False
    if mode != "disable":
        context = ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"])
    return await asyncpg.connect(ssl=context)


@check
async def simple():
    session = await connect()
    assert (await session.execute("SELECT 1; SELECT 2")) == "SELECT 1"
    await session.close()


@check
async def extended():
    session = await connect()
    assert await session.fetchval("SELECT $1::int + 1", 41) == 42
    await session.close()


@check
async def named():
    session = await connect()
    statement = await session.prepare("SELECT $1::int * 2")
    assert [await statement.fetchval(number) for number in range(50)] == [number * 2 for number in range(50)]
    await session.close()


@check
async def pipelined():
    session = await connect()
    await session.execute("CREATE TEMP TABLE p (id int PRIMARY KEY)")
    await session.executemany("INSERT INTO p VALUES ($1)", [(number,) for number in range(5000)])
    assert await session.fetchval("SELECT count(*) FROM p") == 5000
    await session.close()


@check
async def copied():
    session = await connect()
    await session.execute("CREATE TEMP TABLE c (id int, x text)")
    await session.copy_records_to_table("c", records=[(number, "x" * 100) for number in range(ROWS)])
    size = 0

    async def count(block):
        nonlocal size
        size += len(block)

    await session.copy_from_query("SELECT * FROM c", output=count)
    assert size > ROWS * 100
    await session.close()


@check
async def cursor():
    session = await connect()
    async with session.transaction():
        rows = session.cursor("SELECT i FROM generate_series(1, 10000) i", prefetch=100)
        assert sum([row[0] async for row in rows]) == 50005000
    await session.close()


@check
async def cancelled():
    session = await connect()
    try:
        await session.execute("SELECT pg_sleep(60)", timeout=0.5)
    except asyncio.TimeoutError:
        assert await session.fetchval("SELECT 1") == 1
        await session.close()
        return
    raise AssertionError("not cancelled")


@check
async def notified():
    listener, speaker = await connect(), await connect()
    heard = asyncio.get_running_loop().create_future()
    await listener.add_listener("asyncpg", lambda *what: heard.set_result(what[3]))
    await speaker.execute("SELECT pg_notify('asyncpg', 'heard')")
    assert await asyncio.wait_for(heard, 30) == "heard"
    await asyncio.gather(listener.close(), speaker.close())


@check
async def written():
    session = await connect()
    await session.execute("CREATE TABLE IF NOT EXISTS asyncpg_t (id serial PRIMARY KEY, x numeric[])")
    async with session.transaction():
        await session.execute("INSERT INTO asyncpg_t (x) VALUES ($1)", [1, 2])
    assert await session.fetchval("SELECT count(*) FROM asyncpg_t") > 0
    await session.execute("DROP TABLE asyncpg_t")
    await session.close()


run("asyncpg")
