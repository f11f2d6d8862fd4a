//! What a transaction did to a large object, in the order in which it did it.
//!
//! ```text
//! oid u32 | change u8 | owner, or offset u64 and data, or length u64
//! ```
//!
//! An OID names a large object for its users, so it is the same on every node.

use crate::{Error, Reader, Sink};

/// The longest piece of data that one op writes: a longer write is several ops.
pub const PIECE: usize = 256 << 10;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LargeObject<'a> {
    /// Which one.
    pub oid: u32,
    /// What happened to it.
    pub change: Change<'a>,
}

/// What happened to a large object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// It came into being, empty.
    Create {
        /// The role that owns it.
        owner: &'a str,
    },
    /// Bytes were written.
    Write {
        /// Where the first one is, from 0.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// It was cut off, or made longer by zeros.
    Truncate {
        /// Bytes that it has now.
        length: u64,
    },
    /// It is gone.
    Unlink,
}

mod tag {
    pub(super) const CREATE: u8 = 1;
    pub(super) const WRITE: u8 = 2;
    pub(super) const TRUNCATE: u8 = 3;
    pub(super) const UNLINK: u8 = 4;
}

impl<'a> LargeObject<'a> {
    pub(crate) fn encode(&self, out: &mut impl Sink) {
        out.put_u32(self.oid);
        match self.change {
            Change::Create { owner } => {
                out.put_u8(tag::CREATE);
                out.put_str(owner);
            }
            Change::Write { offset, data } => {
                out.put_u8(tag::WRITE);
                out.put_u64(offset);
                out.put_bytes(data);
            }
            Change::Truncate { length } => {
                out.put_u8(tag::TRUNCATE);
                out.put_u64(length);
            }
            Change::Unlink => out.put_u8(tag::UNLINK),
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let oid = reader.u32()?;
        let change = match reader.u8()? {
            tag::CREATE => Change::Create { owner: reader.str()? },
            tag::WRITE => Change::Write { offset: reader.u64()?, data: reader.bytes()? },
            tag::TRUNCATE => Change::Truncate { length: reader.u64()? },
            tag::UNLINK => Change::Unlink,
            tag => return Err(Error::Unknown { what: "change of a large object", tag }),
        };
        Ok(Self { oid, change })
    }
}
