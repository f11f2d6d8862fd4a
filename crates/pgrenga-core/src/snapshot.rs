//! The frame around a snapshot of the core.
//!
//! ```text
//! version u8 | crc32c u32 of what follows | content
//! ```
//!
//! The bytes are canonical: equal states have equal snapshots, so that nodes
//! can compare them.

use pgrenga_writeset::{Reader, Sink};

use crate::Error;

/// Raised when the layout of any part changes.
const VERSION: u8 = 5;

const CONTENT: usize = 5;

/// Frames what `content` writes.
pub(crate) fn seal(content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u8(VERSION);
    out.put_u32(0);
    content(&mut out);
    let checksum = crc32c::crc32c(&out[CONTENT..]);
    out[1..CONTENT].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Checks the frame and gives its content.
pub(crate) fn open(bytes: &[u8]) -> Result<Reader<'_>, Error> {
    let mut reader = Reader::new(bytes);
    let found = reader.u8()?;
    if found != VERSION {
        return Err(Error::Version { found, expected: VERSION });
    }
    let stored = reader.u32()?;
    let computed = crc32c::crc32c(reader.rest());
    if computed != stored {
        return Err(Error::Checksum { computed, stored });
    }
    Ok(reader)
}
