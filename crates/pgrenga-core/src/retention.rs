//! How long the log must be kept: when the state at some place of the log may
//! take the place of everything before.
//!
//! Nobody may ever need an entry again that is gone: no node for applying what
//! it certified, no node's core for a verdict still to come. Positions tell:
//!
//! 1. At the state's index, writesets may wait for the fence and fragments for
//!    their header. They are *settled* at the first later place at which nothing
//!    that old is needed any more. A seq that any of them got is at most the last
//!    one given there: seq order is not log order, but it is the order in which
//!    the log decided.
//! 2. Everything up to that seq must be *flushed* by every node that has data,
//!    as the log tells it. Whoever is down, or joins from a copy of another one's
//!    data, finds what it lacks behind the state's index.

use pgrenga_writeset::{LogIndex, Seq};

use crate::Core;

/// A state that waits until it may take the place of the log up to its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    index: LogIndex,
    settled: Option<Seq>,
}

impl Candidate {
    /// The state of `core` after the entry at `index`.
    #[must_use]
    pub fn new(index: LogIndex, core: &Core) -> Self {
        let mut candidate = Self { index, settled: None };
        candidate.look(core);
        candidate
    }

    /// The last entry that the state includes.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// Every seq that may need the log up to there is at most this one, once that is known.
    #[must_use]
    pub fn settled(&self) -> Option<Seq> {
        self.settled
    }

    /// Looks at the core as it is later in the log.
    pub fn look(&mut self, core: &Core) {
        self.note(core.oldest_needed(), core.seq());
    }

    fn note(&mut self, oldest_needed: Option<LogIndex>, certified: Seq) {
        if oldest_needed.is_none_or(|oldest| oldest > self.index) {
            self.settled.get_or_insert(certified);
        }
    }

    /// Whether the log up to the index may go, if those who may need it have
    /// flushed so much. Never if nobody is known.
    #[must_use]
    pub fn may_replace_log(&self, flushed: impl IntoIterator<Item = Seq>) -> bool {
        match (self.settled, flushed.into_iter().min()) {
            (Some(settled), Some(lowest)) => settled <= lowest,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A candidate at index 100; then what the core says as the log goes on
    /// (oldest needed index, last seq); then what the nodes have flushed.
    struct Case {
        what: &'static str,
        looks: &'static [(Option<u64>, u64)],
        flushed: &'static [u64],
        may: bool,
    }

    const CASES: &[Case] = &[
        Case { what: "all have flushed all", looks: &[(None, 50)], flushed: &[50, 70, 50], may: true },
        Case { what: "one lacks one seq", looks: &[(None, 50)], flushed: &[70, 49, 70], may: false },
        Case { what: "a newcomer has said nothing yet", looks: &[(None, 50)], flushed: &[70, 0], may: false },
        Case { what: "nobody is known", looks: &[(None, 50)], flushed: &[], may: false },
        Case { what: "an empty log's state", looks: &[(None, 0)], flushed: &[0], may: true },
        Case { what: "a writeset waits since before", looks: &[(Some(90), 50)], flushed: &[70], may: false },
        Case { what: "one waits at the index itself", looks: &[(Some(100), 50)], flushed: &[70], may: false },
        Case { what: "one came later", looks: &[(Some(101), 50)], flushed: &[50], may: true },
        Case {
            what: "who waited got a seq that one node lacks",
            looks: &[(Some(90), 50), (Some(95), 60), (None, 65)],
            flushed: &[70, 64],
            may: false,
        },
        Case {
            what: "who waited got a seq that all have",
            looks: &[(Some(90), 50), (Some(95), 60), (None, 65)],
            flushed: &[70, 65],
            may: true,
        },
        Case {
            what: "what comes after it was settled does not matter",
            looks: &[(Some(90), 50), (Some(101), 65), (Some(101), 80), (None, 90)],
            flushed: &[65],
            may: true,
        },
    ];

    #[test]
    fn the_log_goes_when_nobody_needs_it() {
        for case in CASES {
            let mut candidate = Candidate { index: LogIndex(100), settled: None };
            for &(oldest, certified) in case.looks {
                candidate.note(oldest.map(LogIndex), Seq(certified));
            }
            let may = candidate.may_replace_log(case.flushed.iter().copied().map(Seq));
            assert_eq!(may, case.may, "{}", case.what);
        }
    }
}
