//! What a seed decides beforehand.

use pgrenga_core::Limits;

/// The choices of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Nodes at the beginning.
    pub nodes: u32,
    /// Clients of each node.
    pub clients: u32,
    /// Rows of the table: few make conflicts.
    pub rows: u64,
    /// How long faults and load go on, in milliseconds.
    pub length_ms: u64,
    /// The longest time between two faults.
    pub fault_ms_max: u64,
    /// Nodes join and leave.
    pub members_change: bool,
    /// A client's longest pause between two transactions.
    pub pause_ms_max: u64,
    /// Bytes of log between two states that are kept.
    pub snapshot_bytes: usize,
    /// The log's cache.
    pub cache_bytes: usize,
    /// Bytes in one message to another member.
    pub append_bytes: usize,
    /// What the core remembers.
    pub limits: Limits,
}

fn one_of<T: Copy>(choices: &[T]) -> T {
    choices[fastrand::usize(..choices.len())]
}

impl Plan {
    /// Chosen by the seed that the thread's generator has.
    pub fn choose() -> Self {
        let small = Limits {
            keys: one_of(&[6, 40, 400]),
            relations: 4,
            outcomes: one_of(&[8, 30, 300]),
            deferred: one_of(&[3, 100]),
            deferred_bytes: 4 << 10,
            fragments: one_of(&[6, 100]),
            nodes: 64,
            description_bytes: 64,
            sequence_slots: 64,
        };
        Self {
            nodes: one_of(&[3, 3, 3, 5]),
            clients: one_of(&[2, 4, 8]),
            rows: one_of(&[4, 12, 60]),
            length_ms: one_of(&[4_000, 8_000, 12_000]),
            fault_ms_max: one_of(&[200, 600, 1_500]),
            members_change: fastrand::u8(..3) == 0,
            pause_ms_max: one_of(&[20, 60, 200]),
            snapshot_bytes: one_of(&[4 << 10, 16 << 10, 64 << 10]),
            cache_bytes: one_of(&[0, 4 << 10, 1 << 20]),
            append_bytes: one_of(&[1 << 10, 1 << 20]),
            limits: one_of(&[small, small, Limits::default()]),
        }
    }
}
