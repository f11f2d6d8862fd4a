//! Where the port worker leaves the answer to a session's question.
//!
//! One for each process. The word names the question that waits; it is moved to
//! "answered" by compare-and-swap, and only from that question's own number, which
//! is never drawn again. So an answer that comes late, when its session has given
//! up and asks something else, is never taken for the answer to that. Only the
//! port worker writes the text, and only the owner reads it.

use std::sync::atomic::{AtomicU64, Ordering};

use pgrenga_writeset::port::MAX_ANSWER;

use super::text::Text;

const ANSWERED: u64 = 1 << 63;

/// See the module.
#[repr(C)]
pub struct Inbox {
    question: AtomicU64,
    text: Text<{ MAX_ANSWER / 8 }>,
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
        self.text.set(text);
        self.question.compare_exchange(question, question | ANSWERED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The answer, if it is there.
    pub fn take(&self, question: u64) -> Option<String> {
        (self.question.load(Ordering::Acquire) == question | ANSWERED).then(|| self.text.get())
    }
}
