//! Which slots of the sequences are free.
//!
//! A slot is a residue of every sequence's values, so two nodes in one slot
//! would draw the same values. What a node drew that is gone is known to nobody
//! else, hence a slot is free only as long as no node that had it ever lived.

use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(super) struct Slots {
    free: BTreeSet<u16>,
}

impl Slots {
    pub(super) fn new(count: u16) -> Self {
        Self { free: (0..count).collect() }
    }

    /// The lowest free one.
    pub(super) fn take(&mut self) -> Option<u16> {
        self.free.pop_first()
    }

    /// This one; says whether it was free.
    pub(super) fn take_this(&mut self, slot: u16) -> bool {
        self.free.remove(&slot)
    }

    pub(super) fn free(&mut self, slot: u16) {
        self.free.insert(slot);
    }
}
