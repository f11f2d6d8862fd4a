//! A part of a table's rows, small enough to be compared in passing: those whose primary keys lie
//! between two, found through the key's index.

use std::fmt;

use super::View;
use super::rows::{DIGEST, Digest};
use crate::error::{Error, Result};

/// The rows with keys above `after`, up to and including `upto`; without bounds where these are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    table: String,
    key: Key,
    after: Option<Vec<String>>,
    upto: Option<Vec<String>>,
}

/// A primary key's columns: quoted names and types.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    columns: Vec<String>,
    types: Vec<String>,
}

impl Key {
    fn columns(&self) -> String {
        self.columns.join(", ")
    }

    /// `(a, b) > ($1::text::int, $2::text::text)`, with parameters from `first` on.
    fn condition(&self, operator: &str, first: usize) -> String {
        let value = |(at, kind): (usize, &String)| format!("${}::text::{kind}", first + at);
        let values: Vec<String> = self.types.iter().enumerate().map(value).collect();
        format!("({}) {operator} ({})", self.columns(), values.join(", "))
    }
}

impl Range {
    /// Where the next one begins; nothing if this is the table's last.
    #[must_use]
    pub fn end(&self) -> Option<&[String]> {
        self.upto.as_deref()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |bound: &Vec<String>| format!("({})", bound.join(", "));
        write!(f, "table {}", self.table)?;
        match (&self.after, &self.upto) {
            (None, None) => Ok(()),
            (Some(after), None) => write!(f, ", keys above {}", key(after)),
            (None, Some(upto)) => write!(f, ", keys up to {}", key(upto)),
            (Some(after), Some(upto)) => write!(f, ", keys above {} up to {}", key(after), key(upto)),
        }
    }
}

impl View {
    /// The next `rows` rows of a table after a key, or the first ones. Nothing if the table is not
    /// there, or has no primary key.
    ///
    /// # Errors
    ///
    /// What PostgreSQL answered.
    pub async fn range(&self, table: &str, after: Option<&[String]>, rows: u32) -> Result<Option<Range>> {
        let Some(key) = self.key(table).await? else { return Ok(None) };
        let (columns, texts) = (key.columns(), key.columns.join("::text, "));
        let condition = after.map_or_else(|| "true".to_owned(), |_| key.condition(">", 1));
        let skip = rows.saturating_sub(1);
        let query = format!(
            "SELECT ARRAY[{texts}::text] FROM ONLY {table} WHERE {condition} ORDER BY {columns} OFFSET {skip} LIMIT 1"
        );
        let upto = self.client.query_opt(&query, &parameters(after, None)).await?.map(|row| row.get(0));
        Ok(Some(Range { table: table.to_owned(), key, after: after.map(<[String]>::to_vec), upto }))
    }

    /// Number and hash of a range's rows. The table stays locked against changes of its definition.
    ///
    /// # Errors
    ///
    /// [`Error::Rewritten`]; what PostgreSQL answered.
    pub async fn digest(&self, range: &Range) -> Result<Digest> {
        let Range { table, key, after, upto } = range;
        self.pin(table).await?;
        let mut conditions = vec!["true".to_owned()];
        let mut first = 1;
        if after.is_some() {
            conditions.push(key.condition(">", first));
            first += key.columns.len();
        }
        if upto.is_some() {
            conditions.push(key.condition("<=", first));
        }
        let conditions = conditions.join(" AND ");
        let query = format!("SELECT {DIGEST} FROM ONLY {table} AS pgrenga_row WHERE {conditions}");
        let row = self.client.query_one(&query, &parameters(after.as_deref(), upto.as_deref())).await?;
        Ok(Digest { count: row.get(0), hash: row.get(1) })
    }

    /// Keeps a table from being truncated or rewritten until the look is over: a snapshot from before that sees
    /// it empty, or half. Fails if that has happened since the snapshot, or something holds the table.
    async fn pin(&self, table: &str) -> Result<()> {
        self.client
            .batch_execute(&format!("SET lock_timeout = '500ms'; LOCK TABLE ONLY {table} IN ACCESS SHARE MODE"))
            .await?;
        // The catalog as the snapshot has it, and as it is now.
        let same = "SELECT pg_relation_filenode(oid) IS NOT DISTINCT FROM relfilenode \
                    FROM pg_catalog.pg_class WHERE oid = to_regclass($1::text)";
        match self.client.query_opt(same, &[&table]).await?.map(|row| row.get(0)) {
            Some(true) => Ok(()),
            _ => Err(Error::Rewritten(table.to_owned())),
        }
    }

    async fn key(&self, table: &str) -> Result<Option<Key>> {
        let query = "SELECT array_agg(quote_ident(a.attname) ORDER BY k.ordinality), \
                array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY k.ordinality) \
             FROM pg_catalog.pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, ordinality), \
                  pg_catalog.pg_attribute a \
             WHERE i.indrelid = to_regclass($1::text) AND i.indisprimary AND a.attrelid = i.indrelid \
               AND a.attnum = k.attnum AND k.ordinality <= i.indnkeyatts HAVING count(*) > 0";
        let row = self.client.query_opt(query, &[&table]).await?;
        Ok(row.map(|row| Key { columns: row.get(0), types: row.get(1) }))
    }
}

type Parameter<'a> = &'a (dyn tokio_postgres::types::ToSql + Sync);

fn parameters<'a>(after: Option<&'a [String]>, upto: Option<&'a [String]>) -> Vec<Parameter<'a>> {
    [after, upto].into_iter().flatten().flatten().map(|value| value as Parameter<'a>).collect()
}
