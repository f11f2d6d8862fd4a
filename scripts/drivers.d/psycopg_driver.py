"""psycopg 3: see README.md for what each check is."""

import psycopg

from checks import ROWS, check, run


def connect(**options):
    return psycopg.connect("", autocommit=True, **options)


@check
def simple():
    with connect() as session:
        cursor = psycopg.ClientCursor(session)
        cursor.execute("SELECT 1; SELECT 'two'")
        assert cursor.fetchone() == (1,) and cursor.nextset() and cursor.fetchone() == ("two",)


@check
def extended():
    with connect() as session:
        assert session.execute("SELECT %s::int + 1, %s::text", (41, "x"), binary=True).fetchone() == (42, "x")


@check
def named():
    with connect() as session:
        for number in range(20):
            assert session.execute("SELECT %s::int", (number,), prepare=True).fetchone() == (number,)
        assert session.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()[0] >= 1


@check
def pipelined():
    with connect() as session, session.pipeline():
        cursors = [session.execute("SELECT %s::int", (number,)) for number in range(200)]
        assert [cursor.fetchone()[0] for cursor in cursors] == list(range(200))


@check
def an_error_within_a_pipeline():
    with connect() as session:
        try:
            with session.pipeline():
                session.execute("SELECT 1")
                session.execute("SELECT 1/0")
                session.execute("SELECT 2")
        except psycopg.errors.DivisionByZero:
            assert session.execute("SELECT 3").fetchone() == (3,)
            return
        raise AssertionError("no error")


@check
def copied():
    with connect() as session, session.transaction():
        session.execute("CREATE TEMP TABLE c (id int, x text) ON COMMIT DROP")
        with session.cursor().copy("COPY c FROM STDIN") as copy:
            for number in range(ROWS):
                copy.write_row((number, "x" * 100))
        with session.cursor().copy("COPY c TO STDOUT (FORMAT binary)") as copy:
            assert sum(len(block) for block in copy) > ROWS * 100


@check
def cursor():
    with connect() as session, session.transaction(), session.cursor("portal") as portal:
        portal.itersize = 100
        portal.execute("SELECT i FROM generate_series(1, 10000) i")
        assert sum(row[0] for row in portal) == 50005000


@check
def cancelled():
    import threading

    with connect() as session:
        timer = threading.Timer(0.5, session.cancel_safe)
        timer.start()
        try:
            session.execute("SELECT pg_sleep(60)")
        except psycopg.errors.QueryCanceled:
            assert session.execute("SELECT 1").fetchone() == (1,)
            return
        raise AssertionError("not cancelled")


@check
def notified():
    with connect() as listener, connect() as speaker:
        listener.execute("LISTEN psycopg")
        speaker.execute("SELECT pg_notify('psycopg', 'heard')")
        assert next(listener.notifies(timeout=30)).payload == "heard"


@check
def written():
    with connect() as session:
        session.execute("CREATE TABLE IF NOT EXISTS psycopg_t (id serial PRIMARY KEY, x jsonb)")
        with session.transaction():
            session.execute("INSERT INTO psycopg_t (x) VALUES (%s)", ('{"a": 1}',))
        assert session.execute("SELECT count(*) > 0 FROM psycopg_t WHERE x @> '{\"a\": 1}'").fetchone() == (True,)
        session.execute("DROP TABLE psycopg_t")


run("psycopg")
