use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::error::Result;

const DEFINITIONS: &str = include_str!("catalog.sql");

/// Tables whose rows are shared, and the pages of large objects. A partitioned table's rows are those of its leaves.
const TABLES: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' \
     AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgrenga') AND n.nspname !~ '^pg_(toast|temp|toast_temp)' \
     AND (c.relkind <> 'm' OR c.relispopulated) UNION ALL SELECT 'pg_catalog.pg_largeobject'";

/// What one server defines.
pub(super) struct Catalog {
    /// From an object's kind and name to its definition.
    pub(super) definitions: BTreeMap<String, String>,
    /// Tables whose rows are to be compared.
    pub(super) tables: BTreeSet<String>,
}

pub(super) async fn read(client: &Client) -> Result<Catalog> {
    let definitions = client.query(DEFINITIONS, &[]).await?;
    let tables = client.query(TABLES, &[]).await?;
    Ok(Catalog {
        definitions: definitions.iter().map(|row| (row.get(0), row.get(1))).collect(),
        tables: tables.iter().map(|row| row.get(0)).collect(),
    })
}
