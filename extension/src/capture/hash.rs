//! The hash of names and keys. The same on every node and for ever: hashes
//! stand in the log.

/// A 64-bit hash that is fed piece by piece (multiply and fold, as in wyhash).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(pub u64);

impl Hash {
    /// The hash of nothing.
    pub const EMPTY: Self = Self(0x9E37_79B9_7F4A_7C15);

    /// Feeds a word.
    #[must_use]
    pub fn word(self, word: u64) -> Self {
        let product = u128::from(self.0 ^ word ^ 0xA076_1D64_78BD_642F) * u128::from(0xE703_7ED1_A0B4_28DB_u64 ^ word);
        Self((product as u64) ^ ((product >> 64) as u64) ^ self.0.rotate_left(23))
    }

    /// Feeds bytes and their number.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut hash = self.word(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = hash.word(u64::from_le_bytes(word));
        }
        hash
    }

    /// The hash of a relation's qualified name.
    #[must_use]
    pub fn relation(schema: &str, name: &str) -> Self {
        Self::EMPTY.bytes(schema.as_bytes()).bytes(name.as_bytes())
    }
}
