//! Compares what several servers hold, each seen through a snapshot of the
//! same point in the order of commits: definitions by their text, tables by
//! the number of their rows and an order-independent hash of them, and a table
//! that differs by its rows.
//!
//! Left out is what is local by its nature: temporary tables, rows of unlogged
//! tables, positions of sequences, and the schema `pgrenga`.

mod catalog;
mod range;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use serde::Serialize;
use tokio_postgres::{Client, NoTls};

use crate::error::{Error, Result};

pub use range::Range;
pub use rows::{Digest, RowDifference};

/// Settings that decide how values are written as text.
const SETTINGS: &str = "SET search_path = ''; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; \
     SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'; \
     SET row_security = off; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
     SET max_parallel_workers_per_gather = 0";

/// One server, seen through one snapshot.
#[derive(Debug)]
pub struct View {
    /// The node's name, for messages.
    pub node: String,
    client: Client,
}

/// How to look into a node, also into one that serves no reads because it differs.
#[must_use]
pub fn connection(host: &str, port: u16, user: &str, database: &str, application: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).user(user).dbname(database).application_name(application);
    config.connect_timeout(Duration::from_secs(10));
    config.options("-c pgrenga.minority_reads=on -c pgrenga.read_consistency=local");
    if let Ok(password) = std::env::var("PGPASSWORD") {
        config.password(password);
    }
    config
}

impl View {
    /// Connects and imports an exported snapshot. Whoever exported it must keep it until this returns.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered.
    pub async fn open(node: &str, config: &tokio_postgres::Config, snapshot: &str) -> Result<Self> {
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(SETTINGS).await?;
        let snapshot = snapshot.replace('\'', "''");
        client
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
            ))
            .await?;
        Ok(Self { node: node.to_owned(), client })
    }

    /// Everything that is defined, by kind and name.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered.
    pub async fn definitions(&self) -> Result<BTreeMap<String, String>> {
        Ok(catalog::read(&self.client).await?.definitions)
    }

    /// The tables whose rows are to be the same everywhere, in the order of their quoted names.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered.
    pub async fn tables(&self) -> Result<BTreeSet<String>> {
        Ok(catalog::read(&self.client).await?.tables)
    }
}

/// One object that is not the same everywhere. `reference` is the node whose
/// version most nodes share; `node` has another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Such as `table public.accounts`.
    pub object: String,
    /// The node that stands apart.
    pub node: String,
    /// A node of the majority.
    pub reference: String,
    /// In what they differ.
    #[serde(flatten)]
    pub content: Content,
}

/// In what two versions of an object differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// The object is defined differently, or missing on one side.
    Definition {
        /// On the node; none if it is missing there.
        on_node: Option<String>,
        /// On the reference.
        on_reference: Option<String>,
    },
    /// The table's rows differ.
    Rows {
        /// How many rows the node has.
        count_on_node: i64,
        /// How many the reference has.
        count_on_reference: i64,
        /// Some of the rows that differ.
        rows: Vec<RowDifference>,
    },
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Objects whose definitions were compared.
    pub objects: u64,
    /// Tables whose rows were compared.
    pub tables: u64,
    /// Rows compared, on one node.
    pub rows: i64,
    /// All differences found.
    pub differences: Vec<Difference>,
}

/// Compares all views with each other. `on_table` hears the name of each table before its rows are compared.
///
/// # Errors
///
/// What PostgreSQL answered: a connection that broke leaves nothing to say.
pub async fn compare(views: &[View], mut on_table: impl FnMut(&str)) -> Result<Comparison> {
    let catalogs = try_join_all(views.iter().map(|view| catalog::read(&view.client))).await?;
    let mut comparison = Comparison::default();
    compare_definitions(views, &catalogs, &mut comparison);
    for table in shared_tables(&catalogs) {
        on_table(table);
        compare_rows(views, table, &mut comparison).await?;
    }
    Ok(comparison)
}

fn compare_definitions(views: &[View], catalogs: &[catalog::Catalog], comparison: &mut Comparison) {
    let mut objects: Vec<&String> = catalogs.iter().flat_map(|catalog| catalog.definitions.keys()).collect();
    objects.sort_unstable();
    objects.dedup();
    comparison.objects = objects.len() as u64;
    for object in objects {
        let versions: Vec<_> = catalogs.iter().map(|catalog| catalog.definitions.get(object)).collect();
        let reference = majority(&versions);
        for (index, version) in versions.iter().enumerate().filter(|(_, version)| **version != versions[reference]) {
            comparison.differences.push(Difference {
                object: object.clone(),
                node: views[index].node.clone(),
                reference: views[reference].node.clone(),
                content: Content::Definition { on_node: version.cloned(), on_reference: versions[reference].cloned() },
            });
        }
    }
}

/// A table that is missing somewhere differs in its definition already.
fn shared_tables(catalogs: &[catalog::Catalog]) -> impl Iterator<Item = &String> {
    let (first, others) = catalogs.split_first().map_or((None, catalogs), |(first, others)| (Some(first), others));
    let tables = first.into_iter().flat_map(|catalog| &catalog.tables);
    tables.filter(move |table| others.iter().all(|catalog| catalog.tables.contains(*table)))
}

async fn compare_rows(views: &[View], table: &str, comparison: &mut Comparison) -> Result<()> {
    let digests: Vec<_> = join_all(views.iter().map(|view| rows::digest(&view.client, table))).await;
    let digests = digests.into_iter().collect::<std::result::Result<Vec<_>, Error>>()?;
    let reference = majority(&digests);
    comparison.tables += 1;
    comparison.rows += digests[reference].count;
    for (index, digest) in digests.iter().enumerate().filter(|(_, digest)| **digest != digests[reference]) {
        let rows = rows::narrow(&views[index].client, &views[reference].client, table).await?;
        comparison.differences.push(Difference {
            object: format!("table {table}"),
            node: views[index].node.clone(),
            reference: views[reference].node.clone(),
            content: Content::Rows { count_on_node: digest.count, count_on_reference: digests[reference].count, rows },
        });
    }
    Ok(())
}

/// The index of the first of those values that occur most often.
fn majority<T: Ord>(values: &[T]) -> usize {
    let mut votes: BTreeMap<&T, (usize, usize)> = BTreeMap::new();
    for (index, value) in values.iter().enumerate() {
        votes.entry(value).or_insert((0, index)).0 += 1;
    }
    let winner = votes.into_values().max_by_key(|(count, index)| (*count, usize::MAX - index));
    winner.map_or(0, |(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::majority;

    #[test]
    fn the_reference_is_the_first_of_the_most_frequent() {
        assert_eq!(majority(&["a", "b", "b"]), 1);
        assert_eq!(majority(&["a", "b", "a"]), 0);
        assert_eq!(majority(&["a", "b"]), 0);
        assert_eq!(majority(&["x"]), 0);
    }
}
