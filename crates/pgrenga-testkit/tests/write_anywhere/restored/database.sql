-- A database with a little of everything, as an application of some age has it. It is made, dumped and dropped; what counts is
-- that the dump can be restored into a cluster that is written meanwhile. Nothing in it lies outside its two schemas but roles and extensions.
CREATE ROLE estate_owner;
CREATE ROLE estate_clerk NOLOGIN;
CREATE ROLE estate_guest NOLOGIN IN ROLE estate_clerk;
CREATE SCHEMA estate AUTHORIZATION estate_owner;
CREATE SCHEMA "Estate archive";
CREATE EXTENSION pgcrypto SCHEMA estate;
CREATE EXTENSION citext SCHEMA estate;
CREATE EXTENSION hstore SCHEMA estate;
CREATE EXTENSION pg_trgm SCHEMA estate;
SET search_path = estate;
ALTER DEFAULT PRIVILEGES FOR ROLE estate_owner IN SCHEMA estate GRANT SELECT ON TABLES TO estate_clerk;
ALTER DEFAULT PRIVILEGES IN SCHEMA estate GRANT USAGE ON SEQUENCES TO estate_clerk;

CREATE TYPE state AS ENUM ('draft', 'listed', 'sold');
CREATE TYPE address AS (street text, number int, tags text[]);
CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi);
CREATE DOMAIN email AS citext CHECK (VALUE ~ '@');
CREATE DOMAIN share AS numeric(5, 2) DEFAULT 0 CHECK (VALUE BETWEEN 0 AND 100);
CREATE COLLATION by_number (provider = icu, locale = 'en-u-kn-true');
CREATE SEQUENCE invoice_number INCREMENT 5 START 1000;
CREATE SEQUENCE countdown INCREMENT -1 MAXVALUE 500 START 500;

CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE STRICT AS 'SELECT n * 2';
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
    NEW.changed_at := clock_timestamp();
    RETURN NEW;
END $f$;
CREATE FUNCTION book() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
    INSERT INTO estate.journal (what, of) VALUES (TG_OP || ' ' || TG_TABLE_NAME, NEW.id);
    RETURN NULL;
END $f$;
CREATE FUNCTION longer(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN length($1) >= length($2) THEN $1 ELSE $2 END';
CREATE AGGREGATE longest(text) (SFUNC = longer, STYPE = text, INITCOND = '');
CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);

CREATE TABLE people (
    id serial PRIMARY KEY,
    email email UNIQUE,
    secret text NOT NULL DEFAULT crypt(gen_random_uuid()::text, gen_salt('bf', 4)),
    home address,
    extra hstore DEFAULT 'a=>1',
    nicknames text[] DEFAULT '{}',
    part share);
CREATE TABLE homes (
    id bigint GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 10) PRIMARY KEY,
    owner int NOT NULL REFERENCES people ON DELETE CASCADE ON UPDATE CASCADE,
    state state NOT NULL DEFAULT 'draft',
    price span,
    offered daterange NOT NULL,
    rooms int[] CHECK (array_length(rooms, 1) < 10),
    name text COLLATE by_number,
    area numeric(8, 2),
    area_feet numeric GENERATED ALWAYS AS (area * 10.7639) STORED,
    photo bytea,
    changed_at timestamptz,
    EXCLUDE USING gist (offered WITH &&, price WITH &&));
CREATE TABLE journal (number bigint DEFAULT nextval('invoice_number'), what text, of bigint, at timestamptz DEFAULT now());
ALTER SEQUENCE invoice_number OWNED BY journal.number;
CREATE TABLE visits (id int, at timestamptz, guest citext, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE visits_2025 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE visits_2026 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (id);
CREATE TABLE visits_2026_odd PARTITION OF visits_2026 FOR VALUES IN (1, 3, 5, 7, 9);
CREATE TABLE visits_2026_rest PARTITION OF visits_2026 DEFAULT;
CREATE TABLE "Estate archive"."Old homes" (LIKE homes INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (fillfactor = 70);
CREATE TABLE flats (floor int) INHERITS (homes);
CREATE UNLOGGED TABLE scratch (n int);
CREATE TABLE hashed (k text, v jsonb) PARTITION BY HASH (k);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);

CREATE PROCEDURE settle(home int) LANGUAGE sql BEGIN ATOMIC UPDATE estate.homes SET state = 'sold' WHERE id = home; END;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON homes FOR EACH ROW EXECUTE FUNCTION stamp();
CREATE TRIGGER book AFTER INSERT OR UPDATE OF state ON homes FOR EACH ROW WHEN (NEW.state <> 'draft') EXECUTE FUNCTION book();
CREATE CONSTRAINT TRIGGER late AFTER DELETE ON people DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER TABLE people DISABLE TRIGGER late;
CREATE VIEW listed AS SELECT id, name, price FROM homes WHERE state = 'listed' WITH LOCAL CHECK OPTION;
CREATE VIEW owners AS SELECT p.id, p.email, count(h.id) AS homes FROM people p LEFT JOIN homes h ON h.owner = p.id GROUP BY p.id;
CREATE RULE hush AS ON DELETE TO journal WHERE OLD.of IS NULL DO INSTEAD NOTHING;
CREATE RULE remember AS ON DELETE TO people DO ALSO INSERT INTO journal (what, of) VALUES ('gone', OLD.id);
CREATE MATERIALIZED VIEW prices AS SELECT owner, max(upper(price)) AS highest, longest(name) AS longest FROM homes GROUP BY owner;
CREATE MATERIALIZED VIEW empty AS SELECT * FROM homes WITH NO DATA;
CREATE UNIQUE INDEX ON prices (owner);
CREATE INDEX by_name ON homes USING gin (name gin_trgm_ops);
CREATE UNIQUE INDEX one_listed ON homes (owner, twice(id::int)) WHERE state = 'listed';
CREATE INDEX ON people USING gin (extra);
CREATE INDEX ON visits (guest) INCLUDE (id);
ALTER TABLE homes CLUSTER ON homes_pkey;
ALTER TABLE homes ALTER COLUMN photo SET STORAGE EXTERNAL, ALTER COLUMN name SET STATISTICS 200;
CREATE STATISTICS owner_and_state (ndistinct, dependencies) ON owner, state FROM homes;
ALTER TABLE homes ENABLE ROW LEVEL SECURITY;
ALTER TABLE people FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON homes USING (owner IN (SELECT id FROM people WHERE email = current_user::citext)) WITH CHECK (state <> 'sold');
CREATE POLICY clerks ON homes AS RESTRICTIVE FOR SELECT TO estate_clerk USING (state <> 'draft');
CREATE TEXT SEARCH CONFIGURATION plain (COPY = pg_catalog.simple);
CREATE PUBLICATION estate_changes FOR TABLE people, ONLY homes;

COMMENT ON SCHEMA estate IS 'everybody''s houses';
COMMENT ON TABLE homes IS E'several\nlines';
COMMENT ON COLUMN homes.area_feet IS 'computed';
COMMENT ON POLICY own ON homes IS 'who may see what';
COMMENT ON FUNCTION twice(int) IS '2x';
GRANT USAGE ON SCHEMA estate TO estate_clerk;
GRANT SELECT (id, name), UPDATE (state) ON homes TO estate_clerk WITH GRANT OPTION;
GRANT EXECUTE ON PROCEDURE settle(int) TO estate_guest;
REVOKE EXECUTE ON FUNCTION twice(int) FROM PUBLIC;
ALTER TABLE people OWNER TO estate_owner;
ALTER TABLE journal OWNER TO estate_owner;
ALTER VIEW owners OWNER TO estate_owner;

INSERT INTO people (id, email, home, extra, nicknames, part)
    SELECT i, format('Person%s@example.org', i), ('High street', i, ARRAY['a', NULL, 'b "quoted"'])::address,
        hstore('i', i::text), ARRAY[i::text, NULL], i % 100 FROM generate_series(1, 200) AS i;
DO $$ BEGIN PERFORM setval('people_id_seq', 200); END $$;
INSERT INTO homes (owner, state, price, offered, rooms, name, area, photo)
    SELECT 1 + i % 200, (ARRAY['draft', 'listed', 'sold'])[1 + i % 3]::state, span(i, i + 1, '[)'), daterange('2026-01-01'::date + i, '2026-01-02'::date + i),
        ARRAY[i, 2], 'Home ' || i, i * 1.5, CASE WHEN i % 50 = 0 THEN (SELECT string_agg(gen_random_bytes(1000), '') FROM generate_series(1, 20)) END FROM generate_series(1, 600) AS i;
INSERT INTO flats (id, owner, offered, floor) SELECT -i, i, daterange('2026-01-01'::date + i, '2026-01-02'::date + i), i FROM generate_series(1, 20) AS i;
INSERT INTO visits SELECT i % 12, '2025-12-01'::timestamptz + i * interval '1 hour', 'Guest ' || i FROM generate_series(1, 1500) AS i;
INSERT INTO hashed SELECT i::text, jsonb_build_object('i', i, 'nested', ARRAY[i]) FROM generate_series(1, 100) AS i;
INSERT INTO "Estate archive"."Old homes" (id, owner, offered, rooms) SELECT id, owner, offered, rooms FROM homes LIMIT 30;
DO $$ BEGIN PERFORM nextval('countdown') FROM generate_series(1, 20); END $$;
UPDATE homes SET state = 'listed' WHERE name = 'Home 30';
DELETE FROM people WHERE id = 200;
REFRESH MATERIALIZED VIEW prices;
