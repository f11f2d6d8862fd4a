//! Triggers, rules and views: what changes rows that no statement names.

use fastrand::Rng;

use super::table::Table;
use super::{once_in, pick};

/// Of all tables, and after them.
pub(super) fn all(rng: &mut Rng, tables: &[Table]) -> Vec<String> {
    let mut all = Vec::new();
    for table in tables {
        for at in 0..rng.usize(0..3) {
            let others: Vec<_> = tables.iter().filter(|other| other.name != table.name).collect();
            let other = pick(rng, &others);
            all.extend(trigger(rng, at, table, other));
        }
        let name = &table.name;
        if table.has_rules {
            all.push(format!(
                "CREATE RULE also AS ON UPDATE TO {name} DO ALSO INSERT INTO log (by, what) VALUES ('rule', OLD.n::text)"
            ));
        }
    }
    all.extend(views(rng, tables));
    all
}

/// A trigger and its function.
fn trigger(rng: &mut Rng, at: usize, table: &Table, other: &Table) -> [String; 2] {
    let (name, other) = (&table.name, &other.name);
    let (event, level, body) = match rng.u32(..11) {
        0 => (
            "AFTER INSERT OR UPDATE OR DELETE",
            "ROW",
            "INSERT INTO log (by, what) VALUES (TG_NAME || TG_OP, left(md5(random()::text), 4)); RETURN NULL;".to_owned(),
        ),
        1 => (
            "BEFORE INSERT OR UPDATE",
            "ROW",
            "NEW.v := left(coalesce(NEW.v, '') || left(md5(random()::text), 1), 20); RETURN NEW;".to_owned(),
        ),
        2 => (
            "AFTER UPDATE OF n",
            "ROW",
            format!(
                "IF pg_trigger_depth() < 3 THEN UPDATE {name} SET n = n + 1 WHERE n = NEW.n AND v IS DISTINCT FROM NEW.v; END IF;
                RETURN NULL;"
            ),
        ),
        3 => ("BEFORE DELETE", "ROW", "IF OLD.n % 4 = 0 THEN RETURN NULL; END IF; RETURN OLD;".to_owned()),
        4 => (
            "AFTER UPDATE",
            "STATEMENT",
            "INSERT INTO log (by, what) SELECT 'changed', count(*) || ' ' || coalesce(sum(n), 0) FROM new_rows; RETURN NULL;"
                .to_owned(),
        ),
        5 => (
            "AFTER INSERT OR UPDATE",
            "DEFERRED",
            format!(
                "INSERT INTO counts VALUES ('{name}', 1) ON CONFLICT (name) DO UPDATE SET n = counts.n + 1; RETURN NULL;"
            ),
        ),
        6 => (
            "AFTER INSERT",
            "ROW",
            format!(
                "IF pg_trigger_depth() < 3 THEN
                    BEGIN UPDATE {other} SET n = coalesce(n, 0) + 1 WHERE n = NEW.n OR n IS NULL;
                    EXCEPTION WHEN integrity_constraint_violation THEN INSERT INTO log (by, what) VALUES ('caught', SQLSTATE); END;
                END IF; RETURN NULL;"
            ),
        ),
        7 => (
            "AFTER DELETE",
            "ROW",
            format!("IF pg_trigger_depth() < 3 THEN DELETE FROM {other} WHERE n = OLD.n AND random() < 0.5; END IF; RETURN NULL;"),
        ),
        8 => (
            "BEFORE UPDATE",
            "ROW",
            format!("IF pg_trigger_depth() < 2 AND NEW.n % 5 = 0 THEN UPDATE {name} SET v = 'outer' WHERE n = OLD.n; END IF; RETURN NEW;"),
        ),
        9 => (
            "AFTER INSERT OR UPDATE",
            "DEFERRED",
            "IF NEW.n = 77 THEN RAISE EXCEPTION 'no 77'; END IF;
            IF pg_trigger_depth() < 3 THEN UPDATE counts SET n = n + nextval('ticket') % 5 WHERE name = NEW.v; END IF; RETURN NULL;"
                .to_owned(),
        ),
        _ => (
            "BEFORE INSERT",
            "ROW",
            "NEW.n := coalesce(NEW.n, floor(random() * 9)::int); PERFORM nextval('ticket'); RETURN NEW;".to_owned(),
        ),
    };
    let function = format!("CREATE FUNCTION {name}_f{at}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$");
    let (constraint, how) = match level {
        "DEFERRED" => ("CONSTRAINT ", "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"),
        "STATEMENT" => ("", "REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"),
        _ => ("", "FOR EACH ROW"),
    };
    let trigger =
        format!("CREATE {constraint}TRIGGER {name}_g{at} {event} ON {name} {how} EXECUTE FUNCTION {name}_f{at}()");
    [function, trigger]
}

fn views(rng: &mut Rng, tables: &[Table]) -> Vec<String> {
    let table = &pick(rng, tables).name;
    let other = &pick(rng, tables).name;
    let check = if once_in(rng, 2) { " WITH CHECK OPTION" } else { "" };
    vec![
        format!("CREATE VIEW few AS SELECT n, v FROM {table} WHERE n < 6{check}"),
        format!("CREATE VIEW joined AS SELECT a.n, b.v FROM {table} a JOIN {other} b ON a.n = b.n"),
        format!(
            "CREATE FUNCTION joined_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE {table} SET v = NEW.v WHERE n = OLD.n; UPDATE {other} SET v = NEW.v || 'j' WHERE n = OLD.n; RETURN NEW; END $$"
        ),
        "CREATE TRIGGER joined_g INSTEAD OF UPDATE ON joined FOR EACH ROW EXECUTE FUNCTION joined_f()".to_owned(),
        format!("CREATE MATERIALIZED VIEW sums AS SELECT n, count(*) AS rows, string_agg(v, ',') AS vs, random() AS r FROM {table} GROUP BY n"),
        "CREATE UNIQUE INDEX ON sums (n)".to_owned(),
    ]
}
