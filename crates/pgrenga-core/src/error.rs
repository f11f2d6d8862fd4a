//! Why a snapshot cannot be restored.

/// The bytes are not a snapshot that this core can go on from. What is wrong
/// with an item of the *log* is never an error but a [`crate::Decision`] that
/// every node shares; an error here concerns this node alone, which must take
/// the state from somewhere else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Written by another version.
    #[error("snapshot has format version {found}, this build reads {expected}")]
    Version {
        /// What the bytes say.
        found: u8,
        /// What this build knows.
        expected: u8,
    },
    /// Damaged.
    #[error("snapshot is damaged: checksum {computed:#010x}, stored {stored:#010x}")]
    Checksum {
        /// Of the bytes at hand.
        computed: u32,
        /// What the snapshot says.
        stored: u32,
    },
    /// Taken with other limits. Limits decide verdicts, so all nodes must have
    /// the same at every place of the log.
    #[error("snapshot was taken with other limits")]
    Limits,
    /// The checksum is right and the content is not: a bug where it was written.
    #[error("snapshot is malformed: {0}")]
    Malformed(#[from] pgrenga_writeset::Error),
    /// As [`Error::Malformed`], for content that can be read but makes no sense.
    #[error("snapshot is inconsistent: {0}")]
    Inconsistent(&'static str),
}
