//! (being written)
/// Whether this process applies.
pub fn active() -> bool { false }
/// Raises.
pub fn already_visible(_seq: u64) -> ! { unreachable!() }
/// Raises.
pub fn give_up(_seq: u64) -> ! { unreachable!() }
/// Resets.
pub fn reset() {}
