//! The one snapshot on disk: the application's state at a log index, opaque
//! here. It is small (the state machine's own state, not the database's), so it
//! is written, read and sent whole.
//!
//! ```text
//! magic "pgrsnap", version u8, crc32c u32 of what follows, body:
//!   optional log id, optional log id of the membership, membership len u32, membership, state
//! ```

use std::io;

use bytes::{BufMut, Bytes};

use crate::codec::{self, Malformed, get_bytes, get_u32};
use crate::error::Error;
use crate::raft::{Snapshot, SnapshotMeta, StoredMembership};
use crate::store::{Disk, is_disk_full};

const MAGIC: &[u8; 8] = b"pgrsnap\x01";
const NAME: &str = "snapshot";
const WRITING: &str = "snapshot.tmp";

/// Meta as bytes; the state's follow, on disk as on the wire.
pub(crate) fn encode_meta(meta: &SnapshotMeta) -> Vec<u8> {
    let membership = codec::encode_membership(meta.last_membership.membership());
    let mut bytes = Vec::with_capacity(64 + membership.len());
    codec::put_optional_log_id(&mut bytes, meta.last_log_id);
    codec::put_optional_log_id(&mut bytes, *meta.last_membership.log_id());
    bytes.put_u32_le(membership.len() as u32);
    bytes.put_slice(&membership);
    bytes
}

pub(crate) fn decode(mut body: Bytes) -> Result<Snapshot, Malformed> {
    let last_log_id = codec::get_optional_log_id(&mut body)?;
    let membership_log_id = codec::get_optional_log_id(&mut body)?;
    let len = get_u32(&mut body, "snapshot")? as usize;
    let membership = codec::decode_membership(&get_bytes(&mut body, len, "snapshot")?)?;
    let last_membership = StoredMembership::new(membership_log_id, membership);
    Ok(Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: body })
}

/// Makes the snapshot durable in place of the one before. On a full disk that one stays, and
/// nothing of this one. Blocks.
pub(crate) fn save(disk: &dyn Disk, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
    let saved = write(disk, meta, state);
    if saved.as_ref().is_err_and(is_disk_full) {
        // Perhaps not even its name had room.
        let _ = disk.remove(WRITING);
    }
    saved
}

fn write(disk: &dyn Disk, meta: &SnapshotMeta, state: &[u8]) -> io::Result<()> {
    let meta = encode_meta(meta);
    let mut head = Vec::with_capacity(MAGIC.len() + 4 + meta.len());
    head.put_slice(MAGIC);
    head.put_u32_le(crc32c::crc32c_append(crc32c::crc32c(&meta), state));
    head.put_slice(&meta);
    let file = disk.create(WRITING)?;
    file.write_at(&head, 0)?;
    file.write_at(state, head.len() as u64)?;
    file.sync()?;
    disk.rename(WRITING, NAME)?;
    disk.sync()
}

/// The snapshot, if there is one. Blocks.
pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Snapshot>, Error> {
    let failed = || Error::io("could not read the log's snapshot");
    if !disk.list().map_err(failed())?.iter().any(|name| name == NAME) {
        return Ok(None);
    }
    let corrupt = |reason: Malformed| Error::Corrupt { file: disk.path(NAME), offset: 0, reason: reason.to_string() };
    let file = disk.open(NAME).map_err(failed())?;
    let mut bytes = vec![0; file.size().map_err(failed())? as usize];
    file.read_at(&mut bytes, 0).map_err(failed())?;
    let mut body = Bytes::from(bytes);
    let magic = get_bytes(&mut body, MAGIC.len(), "snapshot header").map_err(corrupt)?;
    let crc = get_u32(&mut body, "snapshot header").map_err(corrupt)?;
    if magic != MAGIC[..] {
        return Err(corrupt(Malformed::new("snapshot: not a snapshot of this version")));
    }
    if crc32c::crc32c(&body) != crc {
        return Err(corrupt(Malformed::new("snapshot: checksum mismatch")));
    }
    decode(body).map(Some).map_err(corrupt)
}
