//! The body of a writeset: what physically happened, in the order in which it
//! happened.
//!
//! A relation is described at its first use and after each DDL statement, and
//! from then on named by its ordinal; values stand as they were at that
//! moment. Values never contain an OID of an object that users can create:
//! types for which PostgreSQL's internal form would, travel as text.

use crate::large_object::LargeObject;
use crate::{Error, Reader, Sink};

/// One step of a writeset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Describes the relation that ops name by `ordinal` from here on.
    Relation(Relation<'a>),
    /// A row came in.
    Insert {
        /// Names a [`Relation`].
        relation: u16,
        /// Every column.
        new: Row<'a>,
    },
    /// A row changed.
    Update {
        /// Names a [`Relation`].
        relation: u16,
        /// Identifies the row: the identity's columns, or all.
        old: Row<'a>,
        /// Every column; [`Value::Unchanged`] where the old one stays.
        new: Row<'a>,
    },
    /// A row went away.
    Delete {
        /// Names a [`Relation`].
        relation: u16,
        /// Identifies the row: the identity's columns, or all.
        old: Row<'a>,
    },
    /// A statement that changes the catalog.
    Ddl(Ddl<'a>),
    /// A relation holds nothing any more: what it holds from here on comes in.
    /// A materialized view counts as filled.
    Replace {
        /// Names a [`Relation`].
        relation: u16,
    },
    /// Rows that lack a column, because it was added later, have this in it.
    Missing {
        /// Names a [`Relation`].
        relation: u16,
        /// The column's number, from 1.
        column: u16,
        /// An array of one element, in text form.
        value: &'a str,
    },
    /// Somebody is to be notified.
    Notify(Notify<'a>),
    /// A large object changed.
    LargeObject(LargeObject<'a>),
}

/// A relation as it is at this place of the writeset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// How ops name it.
    pub ordinal: u16,
    /// Schema.
    pub schema: &'a str,
    /// Name in the schema.
    pub name: &'a str,
    /// The unique index, in the same schema, by which rows are found; empty
    /// when rows are found by comparing all columns.
    pub identity: &'a str,
    /// Hash of the columns' names, types and dropped marks: the applier
    /// compares it before it trusts column positions.
    pub descriptor: u64,
}

/// A statement, and what its meaning depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ddl<'a> {
    /// The role that ran it.
    pub role: &'a str,
    /// Settings that change the meaning of a statement (`search_path`,
    /// `DateStyle`, ..), in the order in which to set them.
    pub settings: Vec<(&'a str, &'a str)>,
    /// One statement.
    pub statement: &'a str,
}

/// A notification, in the server's encoding, which all nodes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notify<'a> {
    /// Whoever listens on this channel hears it.
    pub channel: &'a [u8],
    /// What they hear.
    pub payload: &'a [u8],
}

/// A row: one value for each column position, dropped columns included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    count: u16,
    values: &'a [u8],
}

/// One column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL, or a dropped column.
    Null,
    /// PostgreSQL's internal form: the bytes of a fixed-size value, or of a
    /// varlena with its header, never external.
    Internal(&'a [u8]),
    /// The type's text form.
    Text(&'a str),
    /// The value of the old row stays (a TOASTed one that was not touched).
    Unchanged,
    /// Not part of the identity.
    Absent,
}

mod tag {
    pub(super) const RELATION: u8 = 1;
    pub(super) const INSERT: u8 = 2;
    pub(super) const UPDATE: u8 = 3;
    pub(super) const DELETE: u8 = 4;
    pub(super) const DDL: u8 = 5;
    pub(super) const NOTIFY: u8 = 6;
    pub(super) const REPLACE: u8 = 7;
    pub(super) const MISSING: u8 = 8;
    pub(super) const LARGE_OBJECT: u8 = 9;

    pub(super) const NULL: u8 = 0;
    pub(super) const INTERNAL: u8 = 1;
    pub(super) const TEXT: u8 = 2;
    pub(super) const UNCHANGED: u8 = 3;
    pub(super) const ABSENT: u8 = 4;
}

impl Relation<'_> {
    /// Appends the op.
    pub fn encode(&self, out: &mut impl Sink) {
        out.put_u8(tag::RELATION);
        out.put_u16(self.ordinal);
        out.put_str(self.schema);
        out.put_str(self.name);
        out.put_str(self.identity);
        out.put_u64(self.descriptor);
    }
}

impl Ddl<'_> {
    /// Appends the op.
    pub fn encode(&self, out: &mut impl Sink) {
        out.put_u8(tag::DDL);
        out.put_str(self.role);
        out.put_u16(self.settings.len() as u16);
        for (name, value) in &self.settings {
            out.put_str(name);
            out.put_str(value);
        }
        out.put_str(self.statement);
    }
}

impl Notify<'_> {
    /// Appends the op.
    pub fn encode(&self, out: &mut impl Sink) {
        out.put_u8(tag::NOTIFY);
        out.put_bytes(self.channel);
        out.put_bytes(self.payload);
    }
}

/// Appends a change of a large object.
pub fn large_object(out: &mut impl Sink, object: &LargeObject<'_>) {
    out.put_u8(tag::LARGE_OBJECT);
    object.encode(out);
}

/// Begins an insert: one row follows.
pub fn begin_insert(out: &mut impl Sink, relation: u16) {
    out.put_u8(tag::INSERT);
    out.put_u16(relation);
}

/// Begins an update: the old row's identity and the new row follow.
pub fn begin_update(out: &mut impl Sink, relation: u16) {
    out.put_u8(tag::UPDATE);
    out.put_u16(relation);
}

/// Begins a delete: the old row's identity follows.
pub fn begin_delete(out: &mut impl Sink, relation: u16) {
    out.put_u8(tag::DELETE);
    out.put_u16(relation);
}

/// Appends the replacement of a relation's content.
pub fn replace(out: &mut impl Sink, relation: u16) {
    out.put_u8(tag::REPLACE);
    out.put_u16(relation);
}

/// Appends what rows have in a column that they lack.
pub fn missing(out: &mut impl Sink, relation: u16, column: u16, value: &str) {
    out.put_u8(tag::MISSING);
    out.put_u16(relation);
    out.put_u16(column);
    out.put_str(value);
}

/// Begins a row: `columns` values follow.
pub fn begin_row(out: &mut impl Sink, columns: u16) {
    out.put_u16(columns);
}

impl Value<'_> {
    /// Appends the value of the next column.
    pub fn encode(&self, out: &mut impl Sink) {
        match self {
            Self::Null => out.put_u8(tag::NULL),
            Self::Internal(bytes) => {
                out.put_u8(tag::INTERNAL);
                out.put_bytes(bytes);
            }
            Self::Text(text) => {
                out.put_u8(tag::TEXT);
                out.put_str(text);
            }
            Self::Unchanged => out.put_u8(tag::UNCHANGED),
            Self::Absent => out.put_u8(tag::ABSENT),
        }
    }

    fn decode<'a>(reader: &mut Reader<'a>) -> Result<Value<'a>, Error> {
        Ok(match reader.u8()? {
            tag::NULL => Value::Null,
            tag::INTERNAL => Value::Internal(reader.bytes()?),
            tag::TEXT => Value::Text(reader.str()?),
            tag::UNCHANGED => Value::Unchanged,
            tag::ABSENT => Value::Absent,
            tag => return Err(Error::Unknown { what: "value", tag }),
        })
    }
}

impl<'a> Row<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let count = reader.u16()?;
        let start = reader.rest();
        for _ in 0..count {
            Value::decode(reader)?;
        }
        Ok(Self { count, values: &start[..start.len() - reader.rest().len()] })
    }

    /// The values by column position.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut reader = Reader::new(self.values);
        (0..self.count).map(move |_| Value::decode(&mut reader).expect("validated when decoded"))
    }

    /// How many columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        usize::from(self.count)
    }
}

/// Reads a body's ops in order. Ask [`Ops::next_op`] until it says `None`.
#[derive(Clone, Debug)]
pub struct Ops<'a> {
    reader: Reader<'a>,
}

impl<'a> Ops<'a> {
    /// Starts at the beginning of `body`.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self { reader: Reader::new(body) }
    }

    /// What has not been read: after [`Error::Truncated`], the beginning of an
    /// op that goes on in the next fragment.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    /// The next op, or `None` at the end. After an error the position is still
    /// before the op that could not be read.
    pub fn next_op(&mut self) -> Result<Option<Op<'a>>, Error> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let mut reader = self.reader.clone();
        let op = match reader.u8()? {
            tag::RELATION => Op::Relation(Relation {
                ordinal: reader.u16()?,
                schema: reader.str()?,
                name: reader.str()?,
                identity: reader.str()?,
                descriptor: reader.u64()?,
            }),
            tag::INSERT => Op::Insert { relation: reader.u16()?, new: Row::decode(&mut reader)? },
            tag::UPDATE => {
                Op::Update { relation: reader.u16()?, old: Row::decode(&mut reader)?, new: Row::decode(&mut reader)? }
            }
            tag::DELETE => Op::Delete { relation: reader.u16()?, old: Row::decode(&mut reader)? },
            tag::DDL => {
                let role = reader.str()?;
                let settings =
                    (0..reader.u16()?).map(|_| Ok((reader.str()?, reader.str()?))).collect::<Result<_, Error>>()?;
                Op::Ddl(Ddl { role, settings, statement: reader.str()? })
            }
            tag::REPLACE => Op::Replace { relation: reader.u16()? },
            tag::MISSING => Op::Missing { relation: reader.u16()?, column: reader.u16()?, value: reader.str()? },
            tag::NOTIFY => Op::Notify(Notify { channel: reader.bytes()?, payload: reader.bytes()? }),
            tag::LARGE_OBJECT => Op::LargeObject(LargeObject::decode(&mut reader)?),
            tag => return Err(Error::Unknown { what: "op", tag }),
        };
        self.reader = reader;
        Ok(Some(op))
    }
}
