//! Bodies of writesets, made by hand.

use pgrenga_writeset::op::{self, Ddl, Relation, Value};

use crate::session::Session;

/// A value as capture would encode it.
pub enum V {
    Null,
    Int(i32),
    Str(String),
    /// In text form.
    Text(&'static str),
    /// In the internal form of type numeric.
    Bytes(Vec<u8>),
    Unchanged,
    Absent,
}

pub fn s(text: &str) -> V {
    V::Str(text.to_owned())
}

/// A varlena with its header.
fn varlena(bytes: &[u8]) -> Vec<u8> {
    let mut out = if bytes.len() < 127 {
        vec![(((bytes.len() + 1) << 1) | 1) as u8]
    } else {
        (((bytes.len() + 4) << 2) as u32).to_le_bytes().to_vec()
    };
    out.extend_from_slice(bytes);
    out
}

fn put_row(out: &mut Vec<u8>, row: &[V]) {
    op::begin_row(out, row.len() as u16);
    for value in row {
        match value {
            V::Null => Value::Null.encode(out),
            V::Int(number) => Value::Internal(&number.to_le_bytes()).encode(out),
            V::Str(text) => Value::Internal(&varlena(text.as_bytes())).encode(out),
            V::Text(text) => Value::Text(text).encode(out),
            V::Bytes(bytes) => Value::Internal(bytes).encode(out),
            V::Unchanged => Value::Unchanged.encode(out),
            V::Absent => Value::Absent.encode(out),
        }
    }
}

#[derive(Clone, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// Begins with the description of table `name` in schema public as it is
    /// now. The hash of its columns is the extension's affair: it is read off
    /// the report of an apply with a wrong one.
    pub fn on(session: &Session, name: &str, identity: &str) -> Self {
        let descriptor = Self::descriptor(session, name);
        let mut body = Vec::new();
        Relation { ordinal: 0, schema: "public", name, identity, descriptor }.encode(&mut body);
        Self(body)
    }

    /// The hash of a table's columns.
    pub fn descriptor(session: &Session, name: &str) -> u64 {
        let mut probe = Self::default();
        Relation { ordinal: 0, schema: "public", name, identity: "", descriptor: 0 }.encode(&mut probe.0);
        let error = session.fails("PG002", &probe.insert(&[]).apply(u64::MAX >> 4, 0));
        let hash = error.split("descriptor ").nth(1).and_then(|rest| rest.get(..16)).expect("the report names it");
        u64::from_str_radix(hash, 16).expect("a hexadecimal number")
    }

    pub fn insert(mut self, row: &[V]) -> Self {
        op::begin_insert(&mut self.0, 0);
        put_row(&mut self.0, row);
        self
    }

    pub fn update(mut self, old: &[V], new: &[V]) -> Self {
        op::begin_update(&mut self.0, 0);
        put_row(&mut self.0, old);
        put_row(&mut self.0, new);
        self
    }

    pub fn delete(mut self, old: &[V]) -> Self {
        op::begin_delete(&mut self.0, 0);
        put_row(&mut self.0, old);
        self
    }

    pub fn ddl(mut self, statement: &str) -> Self {
        Ddl { role: "postgres", settings: vec![("search_path", "public")], statement }.encode(&mut self.0);
        self
    }

    /// What follows in the same writeset.
    pub fn then(mut self, next: &Self) -> Self {
        self.0.extend_from_slice(&next.0);
        self
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As SQL.
    pub fn literal(&self) -> String {
        literal(&self.0)
    }

    /// The statement that applies the whole of it.
    pub fn apply(&self, seq: u64, after: u64) -> String {
        format!("SELECT pgrenga.apply({seq}, {after}, 9, {}, true)", self.literal())
    }
}

pub fn literal(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("'\\x{digits}'::bytea")
}
