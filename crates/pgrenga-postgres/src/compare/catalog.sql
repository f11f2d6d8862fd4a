-- Every object that users can define, as (name, definition), by text only: OIDs differ between nodes.
-- Run with an empty search_path, so that all names come out qualified.
WITH schemas AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_catalog.pg_namespace
    WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pgrenga') AND nspname !~ '^pg_(toast|temp|toast_temp)'
), relations AS (
    SELECT c.*, pg_catalog.format('%I.%I', s.nspname, c.relname) AS name
    FROM pg_catalog.pg_class c JOIN schemas s ON s.oid = c.relnamespace
    WHERE c.relpersistence <> 't'
), functions AS (
    SELECT p.* FROM pg_catalog.pg_proc p JOIN schemas s ON s.oid = p.pronamespace
), types AS (
    SELECT t.* FROM pg_catalog.pg_type t JOIN schemas s ON s.oid = t.typnamespace
    WHERE t.typtype IN ('b', 'd', 'e', 'r') AND t.typcategory <> 'A'
)
SELECT 'schema ' || pg_catalog.quote_ident(nspname),
       pg_catalog.concat_ws(' ', nspowner::pg_catalog.regrole, nspacl::text)
FROM schemas
UNION ALL
SELECT CASE relkind WHEN 'r' THEN 'table ' WHEN 'p' THEN 'partitioned table ' WHEN 'v' THEN 'view '
            WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table ' ELSE 'composite type ' END || name,
       pg_catalog.concat_ws(E'\n', 'owner ' || relowner::pg_catalog.regrole, 'privileges ' || relacl::text,
           'persistence ' || relpersistence::text, 'replica identity ' || relreplident::text, 'options ' || reloptions::text,
           'row security ' || relrowsecurity || ' ' || relforcerowsecurity,
           'partition ' || pg_catalog.pg_get_expr(relpartbound, oid),
           'partition by ' || CASE WHEN relkind = 'p' THEN pg_catalog.pg_get_partkeydef(oid) END,
           'inherits ' || (SELECT pg_catalog.string_agg(inhparent::pg_catalog.regclass::text, ', ' ORDER BY inhseqno)
                           FROM pg_catalog.pg_inherits WHERE inhrelid = relations.oid),
           (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.quote_ident(attname),
                       pg_catalog.format_type(atttypid, atttypmod),
                       'collate ' || NULLIF(attcollation, 0)::pg_catalog.regcollation,
                       CASE WHEN attnotnull THEN 'not null' END, 'identity ' || NULLIF(attidentity::text, ''),
                       'generated ' || NULLIF(attgenerated::text, ''),
                       'default ' || pg_catalog.pg_get_expr(d.adbin, d.adrelid), attacl::text), E'\n' ORDER BY attnum)
            FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum
            WHERE attrelid = relations.oid AND attnum > 0 AND NOT attisdropped),
           CASE WHEN relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(oid) END,
           CASE WHEN relkind = 'm' THEN 'populated ' || relispopulated END)
FROM relations WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
UNION ALL
SELECT 'index ' || name,
       pg_catalog.concat_ws(' ', pg_catalog.pg_get_indexdef(oid), 'valid ' || indisvalid, 'replica identity ' || indisreplident)
FROM relations JOIN pg_catalog.pg_index ON indexrelid = oid
-- What REINDEX CONCURRENTLY builds, or has left behind, is a node's own.
WHERE indisvalid OR relname !~ '_cc(new|old)[0-9]*$'
UNION ALL
-- As its user defined it; where it stands is a node's own.
SELECT 'sequence ' || name,
       pg_catalog.concat_ws(' ', relowner::pg_catalog.regrole, relacl::text, pg_catalog.format_type(seqtypid, NULL),
           'start', seqstart, 'increment', seqincrement, 'from', seqmin, 'to', seqmax, 'cache', seqcache, 'cycle', seqcycle)
FROM relations JOIN pg_catalog.pg_sequence ON seqrelid = oid
UNION ALL
SELECT 'constraint ' || pg_catalog.quote_ident(conname) || ' on ' || r.name,
       pg_catalog.pg_get_constraintdef(c.oid) || ' validated ' || convalidated
FROM pg_catalog.pg_constraint c JOIN relations r ON r.oid = conrelid
UNION ALL
SELECT 'trigger ' || pg_catalog.quote_ident(tgname) || ' on ' || r.name,
       pg_catalog.pg_get_triggerdef(t.oid) || ' enabled ' || tgenabled::text
FROM pg_catalog.pg_trigger t JOIN relations r ON r.oid = tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT 'rule ' || pg_catalog.quote_ident(rulename) || ' on ' || r.name,
       pg_catalog.pg_get_ruledef(w.oid) || ' enabled ' || ev_enabled::text
FROM pg_catalog.pg_rewrite w JOIN relations r ON r.oid = ev_class
UNION ALL
SELECT 'policy ' || pg_catalog.quote_ident(polname) || ' on ' || r.name,
       pg_catalog.concat_ws(' ', polcmd, polpermissive,
           (SELECT pg_catalog.string_agg(role::pg_catalog.regrole::text, ', ' ORDER BY role::pg_catalog.regrole::text)
            FROM pg_catalog.unnest(polroles) role),
           pg_catalog.pg_get_expr(polqual, polrelid), pg_catalog.pg_get_expr(polwithcheck, polrelid))
FROM pg_catalog.pg_policy JOIN relations r ON r.oid = polrelid
UNION ALL
SELECT 'statistics ' || pg_catalog.quote_ident(stxname) || ' on ' || r.name, pg_catalog.pg_get_statisticsobjdef(s.oid)
FROM pg_catalog.pg_statistic_ext s JOIN relations r ON r.oid = stxrelid
UNION ALL
SELECT CASE prokind WHEN 'a' THEN 'aggregate ' ELSE 'function ' END || oid::pg_catalog.regprocedure,
       pg_catalog.concat_ws(E'\n', proowner::pg_catalog.regrole, proacl::text,
           CASE WHEN prokind = 'a' THEN (SELECT pg_catalog.concat_ws(' ', aggtransfn, aggfinalfn, agginitval)
                                         FROM pg_catalog.pg_aggregate WHERE aggfnoid = functions.oid)
                ELSE pg_catalog.pg_get_functiondef(oid) END)
FROM functions
UNION ALL
SELECT 'type ' || pg_catalog.format_type(oid, NULL),
       pg_catalog.concat_ws(' ', typowner::pg_catalog.regrole, typacl::text, typtype, CASE WHEN typnotnull THEN 'not null' END,
           'default ' || typdefault, 'of ' || pg_catalog.format_type(NULLIF(typbasetype, 0), typtypmod),
           (SELECT pg_catalog.string_agg(pg_catalog.quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
            FROM pg_catalog.pg_enum WHERE enumtypid = types.oid),
           (SELECT pg_catalog.string_agg(pg_catalog.pg_get_constraintdef(c.oid), ', ' ORDER BY conname)
            FROM pg_catalog.pg_constraint c WHERE contypid = types.oid))
FROM types
UNION ALL
SELECT 'extension ' || pg_catalog.quote_ident(extname), extversion FROM pg_catalog.pg_extension
UNION ALL
-- A hash of the password's verifier: it must be equal, and must not be shown.
SELECT 'role ' || pg_catalog.quote_ident(rolname),
       pg_catalog.concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
           rolbypassrls, rolconnlimit, rolvaliduntil, 'password ' || pg_catalog.md5(rolpassword),
           'member of ' || (SELECT pg_catalog.string_agg(roleid::pg_catalog.regrole || CASE WHEN admin_option THEN '*' ELSE '' END,
                                      ', ' ORDER BY roleid::pg_catalog.regrole::text)
                            FROM pg_catalog.pg_auth_members WHERE member = a.oid))
FROM pg_catalog.pg_authid a WHERE rolname !~ '^pg_'
UNION ALL
-- There may be very many of them: hundreds at a time.
SELECT 'large objects ' || hundred * 100 || ' to ' || hundred * 100 + 99,
       pg_catalog.count(*) || ' ' || pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', oid,
           lomowner::pg_catalog.regrole, lomacl::text, pg_catalog.obj_description(oid, 'pg_largeobject')), E'\n' ORDER BY oid))
FROM (SELECT *, oid::pg_catalog.int8 / 100 AS hundred FROM pg_catalog.pg_largeobject_metadata) AS metadata
GROUP BY hundred
