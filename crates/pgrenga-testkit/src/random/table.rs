//! What tables there are, as far as statements need to know.

use fastrand::Rng;

use super::kind::Kind;
use super::{once_in, pick};

/// A table. Each has columns `n int` and `v text` for everybody to change.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<Column>,
    pub(super) key: Option<Key>,
    pub(super) uniques: Vec<Unique>,
    pub(super) references: Vec<Reference>,
    pub(super) partitions: Option<Partitions>,
    /// A table whose columns it inherits.
    pub(super) parent: Option<String>,
    /// `ON CONFLICT` and `MERGE` do not work with rules.
    pub(super) has_rules: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) origin: Origin,
    pub(super) not_null: bool,
}

/// Where a column's values come from if nobody gives one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Given,
    Default(String),
    Serial,
    Identity { always: bool },
    Generated(String),
}

/// The primary key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) columns: Vec<String>,
    pub(super) is_deferrable: bool,
}

/// A unique index or constraint.
#[derive(Clone, Debug)]
pub(super) struct Unique {
    /// Columns, or expressions in parentheses.
    pub(super) parts: Vec<String>,
    pub(super) predicate: Option<&'static str>,
    pub(super) is_deferrable: bool,
    pub(super) nulls_are_equal: bool,
}

/// A foreign key.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub(super) columns: Vec<String>,
    pub(super) to: String,
    pub(super) to_columns: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Partitions {
    Range,
    List,
    Hash,
}

impl Column {
    /// Whether nobody needs to give it a value.
    pub(super) fn may_be_left_out(&self) -> bool {
        self.origin != Origin::Given || !self.not_null
    }
}

impl Table {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Columns that a statement may give a value.
    pub(super) fn writable(&self) -> impl Iterator<Item = &Column> {
        self.columns
            .iter()
            .filter(|column| !matches!(column.origin, Origin::Generated(_) | Origin::Identity { always: true }))
    }
}

/// Some tables; later ones may refer to earlier ones, and to themselves.
pub(super) fn random(rng: &mut Rng) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for at in 0..rng.usize(3..7) {
        let table = one(rng, format!("t{at}"), &tables);
        tables.push(table);
    }
    if let Some(parent) = tables.iter().find(|table| table.partitions.is_none()).cloned() {
        tables.push(heir(rng, &parent));
    }
    tables
}

fn one(rng: &mut Rng, name: String, others: &[Table]) -> Table {
    let mut columns = Vec::new();
    let key = key(rng, &mut columns);
    let plain = |name: &str, kind| Column { name: name.to_owned(), kind, origin: Origin::Given, not_null: false };
    columns.extend([plain("n", Kind::Int), plain("v", Kind::Text)]);
    for at in 0..rng.usize(1..7) {
        columns.push(column(rng, format!("c{at}")));
    }
    if once_in(rng, 2) {
        let expression = pick(rng, &["n * 2", "upper(v)", "coalesce(n, 0) % 5", "length(v) + n"]);
        let kind = if expression.starts_with("upper") { Kind::Text } else { Kind::Int };
        columns.push(Column { origin: Origin::Generated((*expression).to_owned()), ..plain("g", kind) });
    }
    let partitions = partitions(rng, key.as_ref(), &columns);
    let references = references(rng, &mut columns, others, key.as_ref(), &name);
    let mut table =
        Table { name, columns, key, uniques: Vec::new(), references, partitions, parent: None, has_rules: false };
    // A unique index of a partitioned table must have the partition key in it.
    table.has_rules = once_in(rng, 8);
    for _ in 0..rng.usize(0..3) {
        let unique = unique(rng, &table);
        table.uniques.push(unique);
    }
    table
}

fn heir(rng: &mut Rng, parent: &Table) -> Table {
    let mut columns = parent.columns.clone();
    for column in &mut columns {
        // Neither is inherited.
        if matches!(column.origin, Origin::Identity { .. }) {
            column.origin = Origin::Given;
        }
    }
    columns.push(column(rng, "own".to_owned()));
    Table {
        name: "heir".to_owned(),
        columns,
        key: None,
        uniques: Vec::new(),
        references: Vec::new(),
        partitions: None,
        parent: Some(parent.name.clone()),
        has_rules: false,
    }
}

fn key(rng: &mut Rng, columns: &mut Vec<Column>) -> Option<Key> {
    let column = |name: &str, kind, origin| Column { name: name.to_owned(), kind, origin, not_null: true };
    let given = Origin::Given;
    let new = match rng.u32(..10) {
        0 => vec![column("id", Kind::Int, Origin::Serial)],
        1 => vec![column("id", Kind::BigInt, Origin::Identity { always: true })],
        2 => vec![column("id", Kind::Int, Origin::Identity { always: false })],
        3..=4 => vec![column("id", Kind::Int, given)],
        5 => vec![column("id", *pick(rng, &[Kind::Varchar, Kind::Numeric, Kind::Mood, Kind::Date]), given)],
        6 => vec![column("id", Kind::Int, given), column("part", Kind::Text, Origin::Given)],
        7 => vec![column("id", Kind::Uuid, Origin::Default("gen_random_uuid()".to_owned()))],
        // None.
        _ => {
            columns.push(Column { not_null: false, ..column("id", Kind::Int, given) });
            return None;
        }
    };
    let names = new.iter().map(|column| column.name.clone()).collect();
    columns.extend(new);
    Some(Key { columns: names, is_deferrable: once_in(rng, 6) })
}

fn column(rng: &mut Rng, name: String) -> Column {
    let kind = *pick(rng, &Kind::ALL);
    let origin = if once_in(rng, 3) { Origin::Default(kind.value(rng)) } else { Origin::Given };
    Column { name, kind, origin, not_null: once_in(rng, 6) }
}

fn partitions(rng: &mut Rng, key: Option<&Key>, columns: &[Column]) -> Option<Partitions> {
    // A deferrable key, or one of several columns, works as well; by `id` alone they are split.
    let counts = columns[0].kind.counts() && columns[0].kind != Kind::Numeric;
    let by_id = key.is_none_or(|key| key.columns[0] == "id") && counts;
    (by_id && once_in(rng, 3)).then(|| *pick(rng, &[Partitions::Range, Partitions::List, Partitions::Hash]))
}

fn references(
    rng: &mut Rng,
    columns: &mut Vec<Column>,
    others: &[Table],
    own_key: Option<&Key>,
    name: &str,
) -> Vec<Reference> {
    let mut references = Vec::new();
    let mut refer = |rng: &mut Rng, to: &str, key: &Key, kinds: Vec<Kind>, columns: &mut Vec<Column>| {
        let at = references.len();
        let names: Vec<_> = (0..kinds.len()).map(|part| format!("r{at}{part}")).collect();
        for (name, kind) in names.iter().zip(kinds) {
            let origin = if once_in(rng, 3) { Origin::Default(kind.value(rng)) } else { Origin::Given };
            columns.push(Column { name: name.clone(), kind, origin, not_null: once_in(rng, 8) });
        }
        references.push(Reference { columns: names, to: to.to_owned(), to_columns: key.columns.clone() });
    };
    for _ in 0..rng.usize(0..3) {
        let Some(other) = others.get(rng.usize(..others.len().max(1))) else { continue };
        if let Some(key) = other.key.as_ref().filter(|key| !key.is_deferrable) {
            let kinds = key.columns.iter().filter_map(|name| other.column(name)).map(|column| column.kind).collect();
            refer(rng, &other.name, key, kinds, columns);
        }
    }
    if let Some(key) = own_key.filter(|key| !key.is_deferrable && key.columns.len() == 1)
        && once_in(rng, 5)
    {
        let kind = columns[0].kind;
        refer(rng, name, key, vec![kind], columns);
    }
    references
}

fn unique(rng: &mut Rng, table: &Table) -> Unique {
    let fit: Vec<&Column> = table.columns.iter().filter(|column| column.kind.has_order()).collect();
    let mut parts = vec![pick(rng, &fit).name.clone()];
    if once_in(rng, 2) {
        let other = pick(rng, &fit).name.clone();
        if other != parts[0] {
            parts.push(other);
        }
    }
    if table.partitions.is_some() {
        parts.retain(|part| part != "id");
        parts.insert(0, "id".to_owned());
    } else if once_in(rng, 4) {
        parts = vec![(*pick(rng, &["(lower(v))", "(n % 7)", "(coalesce(v, ''))"])).to_owned()];
    }
    let is_expression = parts[0].starts_with('(');
    let predicate =
        (table.partitions.is_none() && once_in(rng, 3)).then(|| *pick(rng, &["n > 3", "v IS NOT NULL", "n % 2 = 0"]));
    let is_deferrable = !is_expression && predicate.is_none() && once_in(rng, 4);
    Unique { parts, predicate, is_deferrable, nulls_are_equal: once_in(rng, 4) }
}
