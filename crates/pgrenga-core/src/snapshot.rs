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
use crate::hash::Map;

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

/// Writes a map: how many entries, then each of them, in the order of their keys.
pub(crate) fn put_map<K: Ord, V, S>(out: &mut Vec<u8>, map: &Map<K, V, S>, mut put: impl FnMut(&K, &V, &mut Vec<u8>)) {
    out.put_u32(map.len() as u32);
    let mut sorted: Vec<_> = map.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    sorted.into_iter().for_each(|(key, value)| put(key, value, out));
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
