//! Where encoders write: a `Vec` in the daemon, PostgreSQL's memory in the
//! extension, where an allocation that fails must be an ERROR and not an abort.

use crate::TransactionId;

/// An append-only byte buffer.
pub trait Sink {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);

    /// Appends one byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Appends a little-endian integer.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a little-endian integer.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a little-endian integer.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Appends a length (`u32`) and the bytes.
    ///
    /// # Panics
    /// If `bytes` is 4 GiB or longer: PostgreSQL's values end at 1 GiB.
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_u32(u32::try_from(bytes.len()).expect("a value is shorter than 4 GiB"));
        self.put(bytes);
    }

    /// Appends a length (`u32`) and the text.
    fn put_str(&mut self, text: &str) {
        self.put_bytes(text.as_bytes());
    }

    /// Appends a transaction's id: 16 bytes.
    fn put_txid(&mut self, id: &TransactionId) {
        self.put_u32(id.node.0);
        self.put_u32(id.incarnation.0);
        self.put_u64(id.counter);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
