//! Rows: first one hash for each table, then, where it differs, hashes of ever
//! smaller buckets of rows, until the rows themselves can be laid side by side.

use std::collections::BTreeMap;

use futures::future::try_join;
use serde::Serialize;
use tokio_postgres::Client;

use crate::error::Result;

/// How many differing rows of a table are named.
const NAMED_MAX: usize = 10;
/// A bucket with no more rows than this is read whole.
const BUCKET_ROWS: i64 = 2000;
/// Each level looks at this many more bits of the key's hash.
const LEVEL_BITS: u32 = 8;
/// Rows that still share a bucket after so many levels have equal keys.
const LEVELS_MAX: u32 = 4;

/// One row that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowDifference {
    /// The primary key; the whole row where there is none.
    pub key: String,
    /// The row on the node that stands apart, as text; none if it is missing there.
    pub on_node: Option<String>,
    /// The row on the reference.
    pub on_reference: Option<String>,
}

/// Number and hash of a set of rows, whatever their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    pub(super) count: i64,
    pub(super) hash: String,
}

pub(super) const DIGEST: &str = "count(*), coalesce(sum(hashtextextended((pgrenga_row.*)::text, 0)::numeric), 0)::text";

pub(super) async fn digest(client: &Client, table: &str) -> Result<Digest> {
    let row = client.query_one(&format!("SELECT {DIGEST} FROM ONLY {table} AS pgrenga_row"), &[]).await?;
    Ok(Digest { count: row.get(0), hash: row.get(1) })
}

/// Names up to [`NAMED_MAX`] of the rows in which two servers differ.
pub(super) async fn narrow(node: &Client, reference: &Client, table: &str) -> Result<Vec<RowDifference>> {
    let key = key_expression(reference, table).await?;
    let mut found = Vec::new();
    let mut todo = vec![Bucket::WHOLE];
    while let Some(bucket) = todo.pop().filter(|_| found.len() < NAMED_MAX) {
        let (on_node, on_reference) =
            try_join(bucket.split(node, table, &key), bucket.split(reference, table, &key)).await?;
        let mut parts: Vec<i64> = on_node.keys().chain(on_reference.keys()).copied().collect();
        parts.sort_unstable();
        parts.dedup();
        for part in parts.into_iter().filter(|part| on_node.get(part) != on_reference.get(part)) {
            let rows = |side: &BTreeMap<i64, Digest>| side.get(&part).map_or(0, |digest| digest.count);
            let child = bucket.child(part);
            if rows(&on_node).max(rows(&on_reference)) <= BUCKET_ROWS || child.level >= LEVELS_MAX {
                let both = try_join(child.read(node, table, &key), child.read(reference, table, &key)).await?;
                found.extend(side_by_side(both.0, &both.1));
                if found.len() >= NAMED_MAX {
                    break;
                }
            } else {
                todo.push(child);
            }
        }
    }
    found.truncate(NAMED_MAX);
    Ok(found)
}

/// The primary key as one text, or the row as a whole.
async fn key_expression(client: &Client, table: &str) -> Result<String> {
    let columns = "SELECT string_agg('pgrenga_row.' || quote_ident(a.attname), ', ' ORDER BY k.ordinality) \
         FROM pg_catalog.pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ordinality), \
              pg_catalog.pg_attribute a \
         WHERE i.indrelid = $1::text::regclass AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum \
           AND k.ordinality <= i.indnkeyatts";
    let columns: Option<String> = client.query_one(columns, &[&table]).await?.get(0);
    Ok(columns.map_or_else(|| "(pgrenga_row.*)::text".to_owned(), |columns| format!("ROW({columns})::text")))
}

/// The rows whose key's hash begins (from the low end) with certain bits.
#[derive(Clone, Copy)]
struct Bucket {
    level: u32,
    prefix: i64,
}

impl Bucket {
    const WHOLE: Self = Self { level: 0, prefix: 0 };

    fn child(self, part: i64) -> Self {
        Self { level: self.level + 1, prefix: self.prefix | part << (self.level * LEVEL_BITS) }
    }

    fn condition(self, key: &str) -> String {
        let mask = (1_i64 << (self.level * LEVEL_BITS)) - 1;
        format!("hashtextextended({key}, 1) & {mask} = {}", self.prefix)
    }

    /// Digests of the buckets one level down.
    async fn split(self, client: &Client, table: &str, key: &str) -> Result<BTreeMap<i64, Digest>> {
        let shift = self.level * LEVEL_BITS;
        let part = format!("hashtextextended({key}, 1) >> {shift} & {}", (1 << LEVEL_BITS) - 1);
        let condition = self.condition(key);
        let query = format!("SELECT {part}, {DIGEST} FROM ONLY {table} AS pgrenga_row WHERE {condition} GROUP BY 1");
        let rows = client.query(&query, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), Digest { count: row.get(1), hash: row.get(2) })).collect())
    }

    /// The rows themselves.
    async fn read(self, client: &Client, table: &str, key: &str) -> Result<Rows> {
        let condition = self.condition(key);
        let query = format!(
            "SELECT {key}, (pgrenga_row.*)::text, count(*) FROM ONLY {table} AS pgrenga_row WHERE {condition} GROUP BY 1, 2"
        );
        let mut rows = Rows::new();
        for row in client.query(&query, &[]).await? {
            rows.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
        }
        Ok(rows)
    }
}

/// By key, which rows there are and how often. More than one row, and more
/// than once, only where there is no primary key.
type Rows = BTreeMap<String, BTreeMap<String, i64>>;

fn side_by_side(mut on_node: Rows, on_reference: &Rows) -> Vec<RowDifference> {
    let nothing = BTreeMap::new();
    let mut found = Vec::new();
    for (key, theirs) in on_reference {
        let ours = on_node.remove(key).unwrap_or_default();
        found.extend(pair_up(key, &ours, theirs));
    }
    for (key, ours) in on_node {
        found.extend(pair_up(&key, &ours, &nothing));
    }
    found
}

fn pair_up(key: &str, ours: &BTreeMap<String, i64>, theirs: &BTreeMap<String, i64>) -> Vec<RowDifference> {
    let mut only_ours = surplus(ours, theirs);
    let mut only_theirs = surplus(theirs, ours);
    let mut found = Vec::new();
    loop {
        let (on_node, on_reference) = (only_ours.next(), only_theirs.next());
        if (on_node.is_none() && on_reference.is_none()) || found.len() == NAMED_MAX {
            return found;
        }
        found.push(RowDifference { key: key.to_owned(), on_node, on_reference });
    }
}

/// The rows that `these` has and `those` lacks, as often as it lacks them.
fn surplus(these: &BTreeMap<String, i64>, those: &BTreeMap<String, i64>) -> impl Iterator<Item = String> {
    these.iter().flat_map(|(row, count)| {
        let missing = count - those.get(row).unwrap_or(&0);
        std::iter::repeat_n(row.clone(), usize::try_from(missing).unwrap_or(0))
    })
}
