//! Short text in shared memory, in words that are read and written one by one.

use std::sync::atomic::{AtomicU64, Ordering};

/// Up to `8 * WORDS` bytes without NUL. Who reads it while it is written sees a
/// mixture; that this does not happen, or does not matter, is up to the owner.
#[repr(transparent)]
pub struct Text<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> Text<WORDS> {
    /// Replaces it; what is longer is cut off.
    pub fn set(&self, text: &str) {
        let mut parts = text.as_bytes().chunks(8);
        for word in &self.0 {
            let mut bytes = [0; 8];
            if let Some(part) = parts.next() {
                bytes[..part.len()].copy_from_slice(part);
            }
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
    }

    /// The text.
    pub fn get(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        let length = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }
}
