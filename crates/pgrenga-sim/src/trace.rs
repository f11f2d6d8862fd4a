//! What happened, in order: equal for equal seeds.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// Lines that are kept for who wants to know how a run ended.
const TAIL: usize = 400;

/// The trace of a run. All clones are one.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<State>>);

struct State {
    began: Instant,
    lines: u64,
    digest: u64,
    tail: VecDeque<String>,
    /// Every line is printed as it comes.
    prints: bool,
}

impl Trace {
    /// An empty one; time counts from now.
    pub fn begin() -> Self {
        let prints = std::env::var_os("SIM_TRACE").is_some();
        let state = State { began: Instant::now(), lines: 0, digest: 0, tail: VecDeque::new(), prints };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Adds a line.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{:>9.3} {what}", state.began.elapsed().as_secs_f64());
        state.digest = digest(state.digest, line.as_bytes());
        state.lines += 1;
        if state.prints {
            eprintln!("{line}");
        }
        if state.tail.len() == TAIL {
            state.tail.pop_front();
        }
        state.tail.push_back(line);
    }

    /// A number for all lines so far, and how many there are.
    pub fn digest(&self) -> (u64, u64) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.digest, state.lines)
    }

    /// The last lines.
    pub fn tail(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).tail.iter().cloned().collect()
    }
}

/// A digest of bytes, continued from another (FNV-1a).
pub fn digest(seed: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Adds a line to a trace, formatted.
#[macro_export]
macro_rules! note {
    ($trace:expr, $($what:tt)*) => { $trace.note(format_args!($($what)*)) };
}
