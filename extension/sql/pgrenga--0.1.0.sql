-- pgrenga 0.1.0: the SQL side. Everything here is this node's own: nothing in
-- schema pgrenga is ever replicated.
\echo Use "CREATE EXTENSION pgrenga" to load this file. \quit

-- ---------------------------------------------------------------------------
-- Applying, progress, markers (src/apply/functions.rs). The daemon's, except
-- for visible() and wait_for().
-- ---------------------------------------------------------------------------

CREATE FUNCTION pgrenga.apply(seq bigint, after bigint, origin integer, body bytea, last boolean) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_apply_wrapper';
COMMENT ON FUNCTION pgrenga.apply(bigint, bigint, integer, bytea, boolean)
    IS 'executes a piece of a writeset; for the daemon';

CREATE FUNCTION pgrenga.apply_run(first bigint, after bigint, run bytea) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_apply_run_wrapper';
COMMENT ON FUNCTION pgrenga.apply_run(bigint, bigint, bytea)
    IS 'executes successive writesets; for the daemon';

CREATE FUNCTION pgrenga.hold(seq bigint) RETURNS boolean
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_hold_wrapper';
COMMENT ON FUNCTION pgrenga.hold(bigint)
    IS 'lets nothing later become visible until release(); false if that seq is visible already';

CREATE FUNCTION pgrenga.release(seq bigint) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_release_wrapper';
COMMENT ON FUNCTION pgrenga.release(bigint) IS 'ends hold()';

CREATE FUNCTION pgrenga.setup(origins integer DEFAULT 0) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_setup_wrapper';
COMMENT ON FUNCTION pgrenga.setup(integer)
    IS 'creates the replication origins that carry progress, one for each process; 0 means as many as the server can have';

CREATE FUNCTION pgrenga.flushed() RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_flushed_wrapper';
COMMENT ON FUNCTION pgrenga.flushed() IS 'flushes WAL and returns up to which seq a crash loses nothing';

CREATE FUNCTION pgrenga.recovered() RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_recovered_wrapper';
COMMENT ON FUNCTION pgrenga.recovered() IS 'highest seq that a commit record on this node names';

CREATE FUNCTION pgrenga.visible() RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_visible_wrapper';
COMMENT ON FUNCTION pgrenga.visible() IS 'highest seq that is visible on this node';

CREATE FUNCTION pgrenga.wait_for(seq bigint, timeout_ms integer DEFAULT 10000) RETURNS boolean
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_wait_for_wrapper';
COMMENT ON FUNCTION pgrenga.wait_for(bigint, integer)
    IS 'waits until that seq is visible on this node; false when the time is over';

REVOKE ALL ON FUNCTION
    pgrenga.apply(bigint, bigint, integer, bytea, boolean), pgrenga.apply_run(bigint, bigint, bytea), pgrenga.hold(bigint), pgrenga.release(bigint),
    pgrenga.setup(integer), pgrenga.flushed(), pgrenga.recovered()
FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- Sequences (src/sequence.rs)
-- ---------------------------------------------------------------------------

CREATE TABLE pgrenga.sequence (
    relid oid PRIMARY KEY,
    increment bigint NOT NULL,
    base bigint NOT NULL
);
COMMENT ON TABLE pgrenga.sequence IS 'the user''s own definition of each sequence; physically it steps further';
COMMENT ON COLUMN pgrenga.sequence.increment IS 'as the user gave it';
COMMENT ON COLUMN pgrenga.sequence.base IS 'the value from which all nodes'' values count';

CREATE FUNCTION pgrenga.realign_sequences(schemas text[], sequences text[], drawn bigint[]) RETURNS bigint
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'pgrenga_realign_sequences_wrapper';
COMMENT ON FUNCTION pgrenga.realign_sequences(text[], text[], bigint[])
    IS 'moves every sequence to this node''s own values, beyond those in use and those drawn; returns how many it moved';
REVOKE ALL ON FUNCTION pgrenga.realign_sequences(text[], text[], bigint[]) FROM PUBLIC;

-- Queries that look at sequences get these instead of what is there physically (src/sequence/shown.rs).
CREATE FUNCTION pgrenga.own_increment(sequence oid, physical bigint) RETURNS bigint
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'pgrenga_own_increment_wrapper';
CREATE FUNCTION pgrenga.shown_last_value(sequence oid, last_value bigint, is_called boolean) RETURNS bigint
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'pgrenga_shown_last_value_wrapper';
CREATE FUNCTION pgrenga.shown_is_called(sequence oid, last_value bigint, is_called boolean) RETURNS boolean
    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME', 'pgrenga_shown_is_called_wrapper';
COMMENT ON FUNCTION pgrenga.own_increment(oid, bigint) IS 'a sequence''s increment as the user gave it';
COMMENT ON FUNCTION pgrenga.shown_last_value(oid, bigint, boolean)
    IS 'a sequence''s last value on this node, or a later one in a column that it fills';
COMMENT ON FUNCTION pgrenga.shown_is_called(oid, bigint, boolean) IS 'goes with shown_last_value()';

-- ---------------------------------------------------------------------------
-- What anybody may ask (src/question.rs)
-- ---------------------------------------------------------------------------

GRANT USAGE ON SCHEMA pgrenga TO PUBLIC;

CREATE FUNCTION pgrenga.transaction_status(id text) RETURNS text
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'pgrenga_transaction_status_wrapper';
COMMENT ON FUNCTION pgrenga.transaction_status(text)
    IS '''committed'', ''aborted'', ''in progress'' or ''unknown'', for a transaction of any node';

CREATE FUNCTION pgrenga.transaction_id() RETURNS text
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'pgrenga_transaction_id_wrapper';
COMMENT ON FUNCTION pgrenga.transaction_id()
    IS 'the id for transaction_status() under which this transaction will be ordered, or never';

CREATE FUNCTION pgrenga.status_json() RETURNS text
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'pgrenga_status_json_wrapper';
COMMENT ON FUNCTION pgrenga.status_json() IS 'what status() shows, from the daemon';

CREATE FUNCTION pgrenga.nodes_json() RETURNS SETOF text
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'pgrenga_nodes_json_wrapper';
COMMENT ON FUNCTION pgrenga.nodes_json() IS 'what nodes shows, from the daemon';

CREATE FUNCTION pgrenga.status(
    OUT id integer, OUT name text, OUT state text, OUT applied_seq bigint, OUT flushed_seq bigint,
    OUT committed_seq bigint, OUT lag_seq bigint, OUT leader integer
)
    LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT s.id, s.name, s.state, s.applied_seq, s.flushed_seq, s.committed_seq, s.committed_seq - s.applied_seq, s.leader
    FROM jsonb_to_record(pgrenga.status_json()::jsonb) AS s(
        id integer, name text, state text, applied_seq bigint, flushed_seq bigint, committed_seq bigint, leader integer
    );
END;
COMMENT ON FUNCTION pgrenga.status() IS 'this node: its state, how far it is, and who leads the log';

CREATE VIEW pgrenga.nodes AS
    SELECT n.id, n.name, n.state, n.host, n.port, n.voter, n.flushed_seq
    FROM pgrenga.nodes_json() AS json, jsonb_to_record(json::jsonb) AS n(
        id integer, name text, state text, host text, port integer, voter boolean, flushed_seq bigint
    );
COMMENT ON VIEW pgrenga.nodes IS 'all members as this node knows them; the state is known of this node only';
GRANT SELECT ON pgrenga.nodes TO PUBLIC;

CREATE FUNCTION pgrenga.lost_conflicts()
    RETURNS TABLE (at timestamptz, table_name text, key_name text, winner_node integer, winner_seq bigint)
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'pgrenga_lost_conflicts_wrapper';
COMMENT ON FUNCTION pgrenga.lost_conflicts() IS 'what conflicts shows, from this server''s memory';

CREATE VIEW pgrenga.conflicts AS
    SELECT c.at, c.table_name, c.key_name, c.winner_node, c.winner_seq
    FROM pgrenga.lost_conflicts() AS c
    ORDER BY c.at DESC;
COMMENT ON VIEW pgrenga.conflicts IS 'the last transactions of this server that gave way to another node''s';
GRANT SELECT ON pgrenga.conflicts TO PUBLIC;

-- ---------------------------------------------------------------------------
-- Sessions that go on at another node (src/session). For the balancer; anybody may call them.
-- ---------------------------------------------------------------------------

CREATE FUNCTION pgrenga.restore_session(state text, commit_seq bigint) RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'pgrenga_restore_session_wrapper';
COMMENT ON FUNCTION pgrenga.restore_session(text, bigint)
    IS 'takes over the settings and prepared statements of a session on another node, whose last commit is visible then';

CREATE FUNCTION pgrenga.lose_transaction() RETURNS void
    LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'pgrenga_lose_transaction_wrapper';
COMMENT ON FUNCTION pgrenga.lose_transaction()
    IS 'whatever follows in this transaction fails with 40001: it stands for one that was lost with another node';
