//! Reads what a [`Sink`](crate::Sink) wrote, borrowing from the bytes.

use crate::{Incarnation, NodeId, TransactionId};

/// The bytes are not what they should be. Nothing was lost: whoever sent or
/// stored them is at fault, and the reader stops rather than guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end before the value does.
    #[error("truncated: {wanted} more bytes expected, {left} left")]
    Truncated {
        /// How many bytes the next value takes.
        wanted: usize,
        /// How many there are.
        left: usize,
    },
    /// Bytes follow the last value.
    #[error("{0} bytes left over at the end")]
    Trailing(usize),
    /// A tag that this version does not know.
    #[error("unknown {what} {tag}")]
    Unknown {
        /// What the tag selects.
        what: &'static str,
        /// The tag.
        tag: u8,
    },
    /// Text that is not UTF-8.
    #[error("text is not valid UTF-8")]
    NotUtf8,
    /// A format version that this build cannot read.
    #[error("format version {found}, this build reads {expected}")]
    Version {
        /// What the bytes say.
        found: u8,
        /// What this build knows.
        expected: u8,
    },
}

/// A position in borrowed bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Fails with [`Error::Trailing`] unless everything has been read.
    pub fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Trailing(self.rest.len())) }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        match self.rest.split_at_checked(n) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(Error::Truncated { wanted: n, left: self.rest.len() }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    /// A little-endian integer.
    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    /// A little-endian integer.
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    /// A little-endian integer.
    pub fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes behind their `u32` length.
    pub fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    /// Text behind its `u32` length.
    pub fn str(&mut self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::NotUtf8)
    }

    /// A transaction's id.
    pub fn txid(&mut self) -> Result<TransactionId, Error> {
        Ok(TransactionId { node: NodeId(self.u32()?), incarnation: Incarnation(self.u32()?), counter: self.u64()? })
    }
}
