//! Where the port worker leaves the answer to a session's question.
//!
//! One for each process. The word names the question that waits; it is moved to
//! "answered" by compare-and-swap, and only from that question's own number, which
//! is never drawn again. So an answer that comes late, when its session has given
//! up and asks something else, is never taken for the answer to that. Only the
//! port worker writes the text, and only the owner reads it.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrenga_writeset::port::MAX_ANSWER;

const ANSWERED: u64 = 1 << 63;

/// See the module.
#[repr(C)]
pub struct Inbox {
    question: AtomicU64,
    length: AtomicU32,
    text: [AtomicU64; MAX_ANSWER / 8],
}

impl Inbox {
    /// The owner waits for the answer to this question, and to no other.
    pub fn expect(&self, question: u64) {
        self.question.store(question, Ordering::Release);
    }

    /// The port worker leaves an answer; false if nobody waits for it.
    pub fn put(&self, question: u64, text: &str) -> bool {
        if text.len() > MAX_ANSWER || self.question.load(Ordering::Acquire) != question {
            return false;
        }
        for (word, part) in self.text.iter().zip(text.as_bytes().chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..part.len()].copy_from_slice(part);
            word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
        }
        self.length.store(text.len() as u32, Ordering::Relaxed);
        self.question.compare_exchange(question, question | ANSWERED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The answer, if it is there.
    pub fn take(&self, question: u64) -> Option<String> {
        if self.question.load(Ordering::Acquire) != question | ANSWERED {
            return None;
        }
        let length = self.length.load(Ordering::Relaxed) as usize;
        let words = self.text.iter().take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        bytes.truncate(length);
        String::from_utf8(bytes).ok()
    }
}
