//! What keeps a machine's processes alive, and the moment at which it fails.
//!
//! Everything that a daemon does and others can see passes [`Power::act`]: a change of the disk,
//! bytes sent, a word to PostgreSQL. So a crash is possible between any two of them: after it
//! the daemon's code may run on until the simulation ends it, but nobody sees what it does.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

/// One life of a daemon.
#[derive(Debug, Default)]
pub struct Power {
    dead: AtomicBool,
    /// It is the whole machine that fails, and PostgreSQL with it.
    machine: AtomicBool,
    /// Actions until it fails; zero for none.
    left: AtomicU32,
    died: Notify,
}

impl Power {
    /// Lets it fail after so many more actions, at least one.
    pub fn fail_after(&self, actions: u32, machine: bool) {
        if self.is_on() {
            self.machine.store(machine, Ordering::Relaxed);
            self.left.store(actions.max(1), Ordering::Relaxed);
        }
    }

    /// Lets it not fail after all.
    pub fn spare(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// Lets it fail now.
    pub fn fail(&self, machine: bool) {
        if !self.dead.load(Ordering::Relaxed) {
            self.machine.store(machine, Ordering::Relaxed);
            self.dead.store(true, Ordering::Relaxed);
        }
        self.died.notify_one();
    }

    /// Does one thing that others can see; false if it was the last one or comes too late.
    pub fn act(&self) -> bool {
        match self.left.load(Ordering::Relaxed) {
            0 => {}
            1 => {
                self.left.store(0, Ordering::Relaxed);
                self.dead.store(true, Ordering::Relaxed);
                self.died.notify_one();
            }
            left => self.left.store(left - 1, Ordering::Relaxed),
        }
        self.is_on()
    }

    /// Whether the daemon lives.
    pub fn is_on(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }

    /// Whether the machine failed, and not only the daemon.
    pub fn machine_failed(&self) -> bool {
        !self.is_on() && self.machine.load(Ordering::Relaxed)
    }

    /// Waits for the failure.
    pub async fn died(&self) {
        self.died.notified().await;
    }
}
