//! Clients: transactions on random rows of one server, one after the other.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::invariants::{Event, Invariants, Told};
use crate::plan::Plan;
use crate::postgres::Postgres;

/// How long a definition waits for the fence.
const PATIENCE: Duration = Duration::from_secs(3);

/// What all clients share.
#[derive(Clone)]
pub struct Load {
    /// The run's choices.
    pub plan: Plan,
    /// What must hold.
    pub invariants: Invariants,
    /// Counts transactions.
    pub serial: Rc<Cell<u64>>,
    /// They stop.
    pub stop: Rc<Cell<bool>>,
    /// Commits that were acknowledged.
    pub committed: Rc<Cell<u64>>,
}

impl Load {
    fn next_serial(&self) -> u64 {
        self.serial.set(self.serial.get() + 1);
        self.serial.get()
    }
}

fn pause(ms_max: u64) -> impl Future<Output = ()> {
    sleep(Duration::from_millis(fastrand::u64(..=ms_max)))
}

/// One client of a server, until all stop.
pub async fn client(load: Load, server: Postgres) {
    while !load.stop.get() {
        pause(load.plan.pause_ms_max).await;
        let serial = load.next_serial();
        transaction(&load, &server, serial).await;
    }
}

async fn transaction(load: &Load, server: &Postgres, serial: u64) {
    let definition = fastrand::u8(..40) == 0;
    let pieces = if fastrand::u8(..12) == 0 { fastrand::usize(2..5) } else { 1 };
    let Some(told) = server.open(serial, definition, pieces) else {
        return sleep(Duration::from_millis(20)).await;
    };
    if definition {
        let _ = timeout(PATIENCE, fence(server, serial)).await;
        if server.may_define(serial) != Some(true) || fastrand::u8(..6) == 0 {
            server.terminate(serial);
        }
    } else {
        for _ in 0..fastrand::u8(1..5) {
            if !server.touch(serial, fastrand::u64(..load.plan.rows), fastrand::u8(..4) != 0) {
                break;
            }
            pause(5).await;
        }
    }
    submit(load, server, serial, told).await;
}

async fn submit(load: &Load, server: &Postgres, serial: u64, told: oneshot::Receiver<Told>) -> Told {
    server.submit(serial);
    let told = told.await.unwrap_or(Told::Unknown);
    if matches!(told, Told::Committed(_)) {
        load.committed.set(load.committed.get() + 1);
    }
    load.invariants.see(&Event::Told { serial, told });
    told
}

/// Writes one row that nobody else writes.
pub async fn write_one(load: &Load, server: &Postgres, row: u64) -> Option<Told> {
    let serial = load.next_serial();
    let told = server.open(serial, false, 1)?;
    server.touch(serial, row, true);
    Some(submit(load, server, serial, told).await)
}

async fn fence(server: &Postgres, serial: u64) {
    while server.may_define(serial) == Some(false) {
        server.changed().await;
    }
}

/// Lets ordered sessions commit when their turn comes.
pub async fn turnstile(server: Postgres) {
    loop {
        while server.pass() {
            pause(1).await;
        }
        server.changed().await;
        pause(1).await;
    }
}

/// Writes the server's WAL to its disk from time to time.
pub async fn wal_writer(server: Postgres) {
    loop {
        pause(300).await;
        server.flush();
    }
}
