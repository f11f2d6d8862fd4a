//! Statements about definitions. They name only what no statement about rows needs.

use fastrand::Rng;

use super::kind::Kind;
use super::table::{Partitions, Table};
use super::{Step, once_in, pick};

/// Changes that a session makes: what it has made itself it also changes and drops.
#[derive(Debug)]
pub(super) struct Changes {
    session: usize,
    count: usize,
}

impl Changes {
    pub(super) fn new(session: usize) -> Self {
        Self { session, count: 0 }
    }

    /// A name for something new.
    fn fresh(&mut self, kind: &str) -> String {
        self.count += 1;
        format!("{kind}{}_{}", self.session, self.count)
    }

    /// The name of something that may have been made before.
    fn earlier(&self, rng: &mut Rng, kind: &str) -> String {
        format!("{kind}{}_{}", self.session, rng.usize(..self.count + 1))
    }

    /// One statement, or several that belong together.
    pub(super) fn any(&mut self, rng: &mut Rng, tables: &[Table]) -> Vec<Step> {
        let table = pick(rng, tables);
        let sql = match rng.u32(..13) {
            0..=2 => self.of_columns(rng, table),
            3 => self.of_indexes(rng, table),
            4 => self.of_constraints(rng, table),
            5..=6 => return self.new_table(rng, table),
            7 => (*pick(rng, &["REFRESH MATERIALIZED VIEW sums", "REFRESH MATERIALIZED VIEW CONCURRENTLY sums"]))
                .to_owned(),
            8 => truncate(rng, table),
            9 => return of_partitions(rng, table),
            10 => self.of_types(rng),
            11 => of_storage(rng, table),
            _ => of_triggers(rng, table),
        };
        vec![Step::Definition(sql)]
    }

    fn of_columns(&mut self, rng: &mut Rng, table: &Table) -> String {
        let name = &table.name;
        match rng.u32(..7) {
            0..=2 => {
                let kind = pick(rng, &Kind::ALL);
                let default = match rng.u32(..4) {
                    0 => String::new(),
                    1 => format!(" NOT NULL DEFAULT {}", kind.value(rng)),
                    _ => format!(" DEFAULT {}", kind.value(rng)),
                };
                let column = self.fresh("a");
                format!("ALTER TABLE {name} ADD COLUMN {column} {}{default}", kind.sql())
            }
            3 => {
                let column = self.fresh("a");
                let kind =
                    pick(rng, &["serial", "int GENERATED ALWAYS AS (n + 1) STORED", "timestamptz DEFAULT now()"]);
                format!("ALTER TABLE {name} ADD COLUMN {column} {kind}")
            }
            4..=5 => format!("ALTER TABLE {name} DROP COLUMN {} CASCADE", self.earlier(rng, "a")),
            _ => {
                let (old, new) = (self.earlier(rng, "a"), self.fresh("a"));
                format!("ALTER TABLE {name} RENAME COLUMN {old} TO {new}")
            }
        }
    }

    fn of_indexes(&mut self, rng: &mut Rng, table: &Table) -> String {
        let fit: Vec<_> = table.columns.iter().filter(|column| column.kind.has_order()).collect();
        let column = &pick(rng, &fit).name;
        match rng.u32(..4) {
            0 => format!("CREATE UNIQUE INDEX {} ON {} (id, {column}) WHERE n > 5", self.fresh("i"), table.name),
            1 => format!("DROP INDEX {}", self.earlier(rng, "i")),
            _ => format!("CREATE INDEX {} ON {} ({column})", self.fresh("i"), table.name),
        }
    }

    fn of_constraints(&mut self, rng: &mut Rng, table: &Table) -> String {
        let name = &table.name;
        match rng.u32(..4) {
            0 => format!("ALTER TABLE {name} ADD CONSTRAINT {} CHECK (n < 1000) NOT VALID", self.fresh("k")),
            1 => format!("ALTER TABLE {name} VALIDATE CONSTRAINT {}", self.earlier(rng, "k")),
            2 => format!("ALTER TABLE {name} DROP CONSTRAINT {}", self.earlier(rng, "k")),
            _ => format!("ALTER TABLE {name} ADD CONSTRAINT {} CHECK (v <> 'forbidden')", self.fresh("k")),
        }
    }

    /// A table with rows, which other statements do not know.
    fn new_table(&mut self, rng: &mut Rng, table: &Table) -> Vec<Step> {
        let (new, old) = (self.fresh("n"), self.earlier(rng, "n"));
        let table = &table.name;
        match rng.u32(..7) {
            0 => vec![Step::Definition(format!("CREATE TABLE {new} AS SELECT n, v, random() AS r FROM {table}"))],
            1 => vec![
                Step::Definition(format!("CREATE TABLE {new} (LIKE {table} INCLUDING ALL)")),
                Step::Rows(format!("INSERT INTO {new} (n, v) SELECT n, v FROM {table} LIMIT 5")),
            ],
            2 => vec![
                Step::Definition(format!(
                    "CREATE TABLE {new} (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int)"
                )),
                Step::Rows(format!("INSERT INTO {new} (n) SELECT n FROM {table} LIMIT 5")),
                Step::Definition(format!("ALTER TABLE {new} ALTER COLUMN n TYPE text USING n || md5(random()::text)")),
            ],
            3 => vec![
                Step::Definition(format!("CREATE TABLE {new} ()")),
                Step::Rows(format!("INSERT INTO {new} DEFAULT VALUES")),
            ],
            4 => vec![Step::Definition(format!("DROP TABLE {old} CASCADE"))],
            5 => vec![Step::Definition(format!("ALTER TABLE {old} RENAME TO {new}"))],
            _ => vec![Step::Definition(format!("CREATE VIEW {new} AS SELECT n, v FROM {table}"))],
        }
    }

    fn of_types(&mut self, rng: &mut Rng) -> String {
        let value = self.fresh("value");
        match rng.u32(..4) {
            0..=1 => format!("ALTER TYPE mood ADD VALUE '{value}'{}", pick(rng, &["", " BEFORE 'ok'"])),
            2 => format!("ALTER DOMAIN word ADD CONSTRAINT {value} CHECK (VALUE <> '{value}') NOT VALID"),
            _ => format!("COMMENT ON TYPE pair IS '{value}'"),
        }
    }
}

fn truncate(rng: &mut Rng, table: &Table) -> String {
    let restart = if once_in(rng, 3) { " RESTART IDENTITY" } else { "" };
    match rng.u32(..3) {
        0 => format!("TRUNCATE {}{restart} CASCADE", table.name),
        1 => format!("TRUNCATE log{restart}"),
        _ => format!("TRUNCATE {}{restart}", table.name),
    }
}

/// A partition leaves and comes back.
fn of_partitions(rng: &mut Rng, table: &Table) -> Vec<Step> {
    let name = &table.name;
    let bound = match table.partitions {
        Some(Partitions::Range) => "FROM (4) TO (40)",
        Some(Partitions::List) => "IN (4, 5, 6, 7)",
        _ => return vec![Step::Definition(format!("ANALYZE {name}"))],
    };
    vec![
        Step::Definition(format!("ALTER TABLE {name} DETACH PARTITION {name}_p1")),
        Step::Rows(format!("UPDATE {name}_p1 SET v = v || 'd', n = {}", rng.u32(..9))),
        Step::Definition(format!("ALTER TABLE {name} ATTACH PARTITION {name}_p1 FOR VALUES {bound}")),
    ]
}

/// What changes how rows are stored, and not what they are.
fn of_storage(rng: &mut Rng, table: &Table) -> String {
    let name = &table.name;
    match rng.u32(..6) {
        0 => format!("ALTER TABLE {name} ALTER COLUMN v SET STORAGE {}", pick(rng, &["EXTERNAL", "EXTENDED", "PLAIN"])),
        1 => format!("ANALYZE {name}"),
        // That of a partitioned table does not run in a transaction block.
        2 if table.partitions.is_none() => format!("REINDEX TABLE {name}"),
        3 => format!("ALTER TABLE {name} ALTER COLUMN v SET DEFAULT {}", Kind::Text.value(rng)),
        4 => format!("ALTER TABLE {name} ALTER COLUMN n SET STATISTICS 50"),
        _ => format!("COMMENT ON TABLE {name} IS {}", super::kind::quote(&Kind::Text.text(rng))),
    }
}

fn of_triggers(rng: &mut Rng, table: &Table) -> String {
    let name = &table.name;
    match rng.u32(..4) {
        0 => format!("ALTER TABLE {name} DISABLE TRIGGER USER"),
        1 => format!("ALTER TABLE {name} ENABLE TRIGGER USER"),
        2 => "ALTER SEQUENCE ticket RESTART".to_owned(),
        _ => format!("ALTER TABLE {name} ENABLE ALWAYS TRIGGER {name}_g0"),
    }
}
