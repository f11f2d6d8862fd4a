//! Statements about rows.

use fastrand::Rng;

use super::kind::Kind;
use super::table::{Column, Partitions, Table};
use super::{Step, once_in, pick};

/// Something about rows of one of the tables.
pub(super) fn any(rng: &mut Rng, tables: &[Table]) -> Step {
    let table = pick(rng, tables);
    Step::Rows(match rng.u32(..40) {
        0..=9 => insert(rng, table),
        10..=19 => update(rng, table),
        20..=23 => delete(rng, table),
        24..=26 => merge(rng, table, tables),
        27..=28 => insert_select(rng, table, tables),
        29 => update_from(rng, table, tables),
        30 => moved(rng, table),
        31..=32 => return copy(rng, table),
        33..=34 => lock(rng, table),
        35 => within_block(rng, table),
        36 => view(rng),
        37 => (*pick(rng, &["SET CONSTRAINTS ALL DEFERRED", "SET CONSTRAINTS ALL IMMEDIATE"])).to_owned(),
        38 => by_temporary(rng, table),
        _ => sequence(rng),
    })
}

fn id(rng: &mut Rng, table: &Table) -> String {
    table.column("id").map_or_else(|| "NULL".to_owned(), |column| column.kind.value(rng))
}

/// Some rows.
fn which(rng: &mut Rng, table: &Table) -> String {
    match rng.u32(..9) {
        0..=2 => format!("id = {}", id(rng, table)),
        3 => format!("n = {}", rng.u32(..8)),
        4 => format!("n % 5 = {} OR n IS NULL", rng.u32(..5)),
        5 => format!("v >= {}", Kind::Text.value(rng)),
        6 => "random() < 0.2".to_owned(),
        7 => format!("id IN (SELECT id FROM {} ORDER BY random() LIMIT 3)", table.name),
        _ => format!("n BETWEEN {} AND 9", rng.u32(..9)),
    }
}

/// Columns for an INSERT: all that must be given, and some others.
fn columns<'a>(rng: &mut Rng, table: &'a Table) -> Vec<&'a Column> {
    let must = |column: &Column| !column.may_be_left_out() || table.parent.is_some();
    table.writable().filter(|column| must(column) || !once_in(rng, 4)).collect()
}

fn names(columns: &[&Column]) -> String {
    columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn row(rng: &mut Rng, columns: &[&Column]) -> String {
    let value = |column: &&Column| match rng.u32(..10) {
        0 if column.may_be_left_out() => "DEFAULT".to_owned(),
        1 if !column.not_null => "NULL".to_owned(),
        _ => column.kind.value(rng),
    };
    format!("({})", columns.iter().map(value).collect::<Vec<_>>().join(", "))
}

fn insert(rng: &mut Rng, table: &Table) -> String {
    let columns = columns(rng, table);
    if columns.is_empty() || once_in(rng, 30) {
        return format!("INSERT INTO {} DEFAULT VALUES", table.name);
    }
    let rows: Vec<_> = (0..rng.usize(1..5)).map(|_| row(rng, &columns)).collect();
    let conflict = on_conflict(rng, table);
    format!("INSERT INTO {} AS o ({}) VALUES {}{conflict}", table.name, names(&columns), rows.join(", "))
}

fn on_conflict(rng: &mut Rng, table: &Table) -> String {
    if table.has_rules {
        return String::new();
    }
    let mut arbiters: Vec<String> = Vec::new();
    if let Some(key) = table.key.as_ref().filter(|key| !key.is_deferrable) {
        arbiters.push(format!("({})", key.columns.join(", ")));
    }
    for unique in table.uniques.iter().filter(|unique| !unique.is_deferrable) {
        let predicate = unique.predicate.map(|predicate| format!(" WHERE {predicate}")).unwrap_or_default();
        arbiters.push(format!("({}){predicate}", unique.parts.join(", ")));
    }
    let is_deferrable = table.key.as_ref().is_some_and(|key| key.is_deferrable)
        || table.uniques.iter().any(|unique| unique.is_deferrable);
    match rng.u32(..4) {
        0 if !is_deferrable => " ON CONFLICT DO NOTHING".to_owned(),
        1..=2 if !arbiters.is_empty() => {
            let arbiter = pick(rng, &arbiters);
            format!(" ON CONFLICT {arbiter} DO UPDATE SET {} WHERE o.n IS NULL OR o.n < 9", set(rng, table, "o."))
        }
        _ => String::new(),
    }
}

/// What an UPDATE sets.
fn set(rng: &mut Rng, table: &Table, of: &str) -> String {
    let mut parts = vec![match rng.u32(..4) {
        0 => format!("n = coalesce({of}n, 0) + 1"),
        1 => format!("v = {}", Kind::Text.value(rng)),
        2 => format!("n = {}, v = coalesce({of}v, '') || 'u'", rng.u32(..10)),
        _ => format!("v = {of}v"),
    }];
    for column in table.writable().filter(|column| !matches!(column.name.as_str(), "n" | "v")) {
        if once_in(rng, 4) {
            let value = match rng.u32(..8) {
                0 if column.may_be_left_out() => "DEFAULT".to_owned(),
                1 if !column.not_null => "NULL".to_owned(),
                2 if column.kind.counts() => format!("{of}{} + 1", column.name),
                3 if column.kind == Kind::Text || column.kind == Kind::Varchar => {
                    format!("left({of}{} || 'x', 9)", column.name)
                }
                _ => column.kind.value(rng),
            };
            parts.push(format!("{} = {value}", column.name));
        }
    }
    parts.join(", ")
}

fn update(rng: &mut Rng, table: &Table) -> String {
    let only = if table.partitions.is_none() && once_in(rng, 6) { "ONLY " } else { "" };
    let all = once_in(rng, 25);
    let condition = if all { "true".to_owned() } else { which(rng, table) };
    format!("UPDATE {only}{} SET {} WHERE {condition}", table.name, set(rng, table, ""))
}

fn update_from(rng: &mut Rng, table: &Table, tables: &[Table]) -> String {
    let other = &pick(rng, tables).name;
    format!("UPDATE {} AS o SET {} FROM {other} AS f WHERE f.n = o.n AND f.n < 4", table.name, set(rng, table, "o."))
}

fn delete(rng: &mut Rng, table: &Table) -> String {
    if once_in(rng, 25) {
        return format!("DELETE FROM {}", table.name);
    }
    format!("DELETE FROM {} WHERE {}", table.name, which(rng, table))
}

fn merge(rng: &mut Rng, table: &Table, tables: &[Table]) -> String {
    if table.has_rules || table.parent.is_some() {
        return update(rng, table);
    }
    let columns = columns(rng, table);
    if columns.is_empty() {
        return update(rng, table);
    }
    let source = match rng.u32(..2) {
        0 => format!("(SELECT DISTINCT n, v FROM {} WHERE n < 6)", pick(rng, tables).name),
        _ => format!("(VALUES ({}, 'm'), ({}, 'k'))", rng.u32(..5), rng.u32(5..10)),
    };
    format!(
        "MERGE INTO {} AS o USING {source} AS s (n, v) ON o.n = s.n
        WHEN MATCHED AND o.n % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET {}
        WHEN NOT MATCHED AND s.n < 8 THEN INSERT ({}) VALUES {}",
        table.name,
        set(rng, table, "o."),
        names(&columns),
        row(rng, &columns),
    )
}

/// Rows of a table into another one, or into itself.
fn insert_select(rng: &mut Rng, table: &Table, tables: &[Table]) -> String {
    let columns = columns(rng, table);
    if columns.is_empty() {
        return update(rng, table);
    }
    let from = pick(rng, tables);
    let value = |column: &&Column| match from.column(&column.name) {
        Some(same) if same.kind == column.kind && column.name != "id" => column.name.clone(),
        _ => column.kind.value(rng),
    };
    let values: Vec<_> = columns.iter().map(value).collect();
    format!(
        "INSERT INTO {} ({}) SELECT {} FROM {} ORDER BY random() LIMIT 3",
        table.name,
        names(&columns),
        values.join(", "),
        from.name
    )
}

/// Rows that are deleted and come again.
fn moved(rng: &mut Rng, table: &Table) -> String {
    let columns: Vec<_> = table.writable().collect();
    if table.has_rules {
        return delete(rng, table);
    }
    let all = names(&columns);
    format!(
        "WITH gone AS (DELETE FROM {name} WHERE {} RETURNING *) INSERT INTO {name} ({all}) SELECT {all} FROM gone",
        which(rng, table),
        name = table.name
    )
}

fn copy(rng: &mut Rng, table: &Table) -> Step {
    let columns: Vec<_> = table.writable().filter(|column| column.name != "n").collect();
    let field = |rng: &mut Rng, column: &Column| match once_in(rng, 9) && !column.not_null {
        true => String::new(),
        false => format!("\"{}\"", column.kind.text(rng).replace('"', "\"\"")),
    };
    let mut data = String::new();
    for _ in 0..rng.usize(1..8) {
        let fields: Vec<_> = columns.iter().map(|column| field(rng, column)).collect();
        data += &(fields.join(",") + "\n");
    }
    Step::Copy(format!("COPY {} ({}) FROM STDIN (FORMAT csv)", table.name, names(&columns)), data)
}

fn lock(rng: &mut Rng, table: &Table) -> String {
    if once_in(rng, 5) {
        let mode = pick(rng, &["ROW SHARE", "SHARE ROW EXCLUSIVE", "SHARE", "EXCLUSIVE"]);
        return format!("LOCK TABLE {} IN {mode} MODE", table.name);
    }
    let strength = pick(rng, &["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"]);
    let wait = pick(rng, &["", "", " NOWAIT", " SKIP LOCKED"]);
    format!("SELECT FROM {} WHERE {} FOR {strength}{wait}", table.name, which(rng, table))
}

fn within_block(rng: &mut Rng, table: &Table) -> String {
    let (first, second) = (insert(rng, table), update(rng, table));
    format!(
        "DO $do$ BEGIN {first}; BEGIN {second}; IF random() < 0.3 THEN RAISE EXCEPTION 'undo'; END IF;
        EXCEPTION WHEN raise_exception OR integrity_constraint_violation THEN INSERT INTO log (by, what) VALUES ('do', SQLSTATE); END; END $do$"
    )
}

fn view(rng: &mut Rng) -> String {
    let n = rng.u32(..8);
    match rng.u32(..4) {
        0 => format!("UPDATE few SET n = n + 1, v = v || 'w' WHERE n = {n}"),
        1 => format!("DELETE FROM few WHERE n = {n} AND random() < 0.5"),
        2 => format!("UPDATE joined SET v = 'j{n}' WHERE n = {n}"),
        _ => format!("UPDATE counts SET n = n + {n} WHERE name <> 'none'"),
    }
}

/// By way of a table that is this session's own.
fn by_temporary(rng: &mut Rng, table: &Table) -> String {
    let columns = columns(rng, table);
    if columns.is_empty() || table.partitions == Some(Partitions::Hash) {
        return insert(rng, table);
    }
    let names = names(&columns);
    format!(
        "CREATE TEMPORARY TABLE mine ON COMMIT DROP AS SELECT {names} FROM {name} WHERE n < 5 LIMIT 4;
        UPDATE {name} SET v = coalesce(v, '') || 't' WHERE n IN (SELECT count(*) FROM mine); DROP TABLE mine",
        name = table.name
    )
}

fn sequence(rng: &mut Rng) -> String {
    match rng.u32(..4) {
        0 => format!("SELECT setval('ticket', nextval('ticket') + {})", rng.u32(1..50)),
        _ => "INSERT INTO log (by, what) SELECT 'ticket', nextval('ticket') FROM generate_series(1, 3)".to_owned(),
    }
}
