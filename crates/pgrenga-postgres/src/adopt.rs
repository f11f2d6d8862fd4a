//! What is in a data directory that was not made for pgrenga, and what speaks against
//! making a node of it. Looks, and changes nothing.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Row};

use crate::error::Result;
use crate::server::Server;

/// How many objects are named one by one.
const NAMED: usize = 5;

/// A reason why it cannot be a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// What there is: lower case, no full stop.
    pub what: String,
    /// Why that is in the way, in a whole sentence.
    pub why: String,
    /// What to do about it, in a whole sentence.
    pub hint: String,
}

/// Everything about it that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Why it cannot be a node.
    pub obstacles: Vec<Obstacle>,
    /// What whoever adopts it should know.
    pub notes: Vec<String>,
    /// Sequences that will step further.
    pub sequences: Vec<String>,
    /// Tables whose rows will be replicated.
    pub tables: i64,
    /// Size of the database, as PostgreSQL puts it.
    pub size: String,
    /// Settings as they are, by name.
    pub settings: BTreeMap<String, String>,
    /// Whether the role that asks is a superuser.
    pub is_superuser: bool,
    /// Whether it has the extension already.
    pub has_extension: bool,
    /// Settings made by ALTER SYSTEM, which no other file can change.
    pub altered: Vec<String>,
}

/// Objects that cannot be replicated, found by a query for their names.
struct Check {
    what: &'static str,
    why: &'static str,
    hint: &'static str,
    names: &'static str,
}

/// All are asked in the database that is to be replicated. What is true of the whole server is in
/// shared catalogs.
const CHECKS: &[Check] = &[
    Check {
        what: "prepared transactions",
        why: "PREPARE TRANSACTION is not supported, and what is prepared could never be finished.",
        hint: "COMMIT PREPARED or ROLLBACK PREPARED them.",
        names: "SELECT gid FROM pg_prepared_xacts",
    },
    Check {
        what: "subscriptions",
        why: "What a subscription receives would need an order among the nodes.",
        hint: "Drop them; subscribe with a server outside the cluster.",
        names: "SELECT subname FROM pg_subscription",
    },
    Check {
        what: "logical replication slots",
        why: "A node's wal_level is replica, and PostgreSQL does not start with such slots then.",
        hint: "Drop them with pg_drop_replication_slot().",
        names: "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical'",
    },
    Check {
        what: "tablespaces",
        why: "A directory of this server means nothing to the other nodes.",
        hint: "Move what is in them to pg_default, and drop them.",
        names: "SELECT spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')",
    },
    Check {
        what: "tables of other access methods than heap",
        why: "Their rows are not captured.",
        hint: "ALTER TABLE .. SET ACCESS METHOD heap.",
        names: "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
                WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND a.amname <> 'heap'",
    },
    Check {
        what: "sequences with CYCLE",
        why: "A sequence that begins again would hand out values of other nodes.",
        hint: "ALTER SEQUENCE .. NO CYCLE.",
        names: "SELECT seqrelid::regclass::text FROM pg_sequence WHERE seqcycle",
    },
    Check {
        what: "sequences with a very large increment",
        why: "Every node steps by 16 times the increment, which would be out of range.",
        hint: "ALTER SEQUENCE .. INCREMENT BY something smaller.",
        names: "SELECT s.seqrelid::regclass::text FROM pg_sequence s \
                WHERE abs(s.seqincrement::numeric) > 9223372036854775807 / 16 \
                AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pgrenga')",
    },
    Check {
        what: "event triggers that are enabled ALWAYS or REPLICA",
        why: "They would fire again on every node that applies a statement.",
        hint: "ALTER EVENT TRIGGER .. ENABLE.",
        names: "SELECT evtname FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')",
    },
    Check {
        what: "the extension \"pg_surgery\"",
        why: "It changes rows where no other node could follow.",
        hint: "DROP EXTENSION pg_surgery.",
        names: "SELECT extname FROM pg_extension WHERE extname = 'pg_surgery'",
    },
    Check {
        what: "files of the configuration outside of the data directory",
        why: "A node's own are in its data directory, and go to whoever joins with it.",
        hint: "Move pg_hba.conf and pg_ident.conf there, and take hba_file and ident_file out of postgresql.conf.",
        names: "SELECT setting FROM pg_settings WHERE name IN ('hba_file', 'ident_file') \
                AND setting <> current_setting('data_directory') || CASE name WHEN 'hba_file' THEN '/pg_hba.conf' \
                ELSE '/pg_ident.conf' END AND sourcefile IS NOT NULL",
    },
    Check {
        what: "a schema \"pgrenga\"",
        why: "The extension's own schema has that name.",
        hint: "Rename it.",
        names: "SELECT nspname FROM pg_namespace WHERE nspname = 'pgrenga' \
                AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pgrenga')",
    },
    Check {
        what: "no extension \"pgrenga\" among those that PostgreSQL can install",
        why: "It captures and applies what the nodes write.",
        hint: "Install it where this PostgreSQL has its extensions ('make build').",
        names: "SELECT 'pgrenga' WHERE NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pgrenga')",
    },
];

/// Only what is nobody's in particular may be in other databases.
const OTHERS: Check = Check {
    what: "tables in another database",
    why: "Only one database is replicated, and nothing can be written in others.",
    hint: "Move them to the replicated one, or another server; or set database in [postgres] to the one that is meant.",
    names: "SELECT current_database() || ': ' || c.oid::regclass::text FROM pg_class c \
            JOIN pg_namespace n ON n.oid = c.relnamespace \
            WHERE c.relkind IN ('r', 'p', 'S', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'",
};

/// What is allowed, and to be known.
const NOTES: &[(&str, &str)] = &[
    (
        "the rows of unlogged tables are this node's own",
        "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u'",
    ),
    (
        "triggers that are enabled ALWAYS or REPLICA fire on every node, once more for each",
        "SELECT quote_ident(tgname) || ' on ' || tgrelid::regclass FROM pg_trigger \
         WHERE NOT tgisinternal AND tgenabled IN ('A', 'R')",
    ),
    ("replication slots stay on this node, with the WAL that they keep", "SELECT slot_name FROM pg_replication_slots"),
];

const TABLES: &str = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
     AND n.nspname <> 'pgrenga'";

const SEQUENCES: &str = "SELECT s.seqrelid::regclass::text FROM pg_sequence s \
     JOIN pg_class c ON c.oid = s.seqrelid WHERE c.relpersistence <> 't' ORDER BY 1";

/// Looks at a server that runs.
///
/// # Errors
/// If it cannot be asked.
pub async fn look(server: &Server, database: &str) -> Result<Found> {
    let client = server.connect(database).await?;
    let mut found = Found::default();
    let role = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user";
    found.is_superuser = client.query_one(role, &[]).await?.get(0);
    if !found.is_superuser {
        return Ok(found);
    }
    let extension = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pgrenga')";
    found.has_extension = client.query_one(extension, &[]).await?.get(0);
    for check in CHECKS {
        found.obstacles.extend(check.ask(&client).await?);
    }
    let other = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datname <> $1 ORDER BY 1";
    for name in first_column(&client.query(other, &[&database]).await?) {
        found.obstacles.extend(OTHERS.ask(&server.connect(&name).await?).await?);
    }
    for (note, names) in NOTES {
        let names = first_column(&client.query(*names, &[]).await?);
        if !names.is_empty() {
            found.notes.push(format!("{note}: {}", list(&names)));
        }
    }
    found.tables = client.query_one(TABLES, &[]).await?.get(0);
    found.sequences = first_column(&client.query(SEQUENCES, &[]).await?);
    found.size = client.query_one("SELECT pg_size_pretty(pg_database_size(current_database()))", &[]).await?.get(0);
    // What the command line of this very start says is not what the files say.
    let settings = "SELECT s.name, coalesce(f.setting, CASE s.source WHEN 'command line' THEN s.boot_val ELSE current_setting(s.name) END) FROM pg_settings s LEFT JOIN LATERAL \
        (SELECT setting FROM pg_file_settings f WHERE f.name = s.name ORDER BY seqno DESC LIMIT 1) f ON true";
    found.settings = client.query(settings, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let altered =
        "SELECT DISTINCT name FROM pg_file_settings WHERE sourcefile ~ '/postgresql[.]auto[.]conf$' ORDER BY 1";
    found.altered = first_column(&client.query(altered, &[]).await?);
    Ok(found)
}

impl Check {
    async fn ask(&self, client: &Client) -> Result<Option<Obstacle>> {
        let names = first_column(&client.query(self.names, &[]).await?);
        let obstacle = || Obstacle {
            what: format!("{} ({})", self.what, list(&names)),
            why: self.why.to_owned(),
            hint: self.hint.to_owned(),
        };
        Ok((!names.is_empty()).then(obstacle))
    }
}

fn first_column(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.get(0)).collect()
}

/// The first few by name, and how many more there are.
#[must_use]
pub fn list(names: &[String]) -> String {
    let (named, more) = names.split_at(names.len().min(NAMED));
    let named = named.join(", ");
    if more.is_empty() { named } else { format!("{named} and {} more", more.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut() {
        let names: Vec<String> = (1..=7).map(|n| format!("t{n}")).collect();
        assert_eq!(list(&names[..2]), "t1, t2");
        assert_eq!(list(&names), "t1, t2, t3, t4, t5 and 2 more");
    }
}
