//! (being written)
/// Looks for local transactions that stand in an applier's way.
pub fn scan() {}
