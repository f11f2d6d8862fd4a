//! Batches items into log entries and proposes them.
//!
//! While entries are under way the next one fills, so the busier the node the
//! larger the batches; an idle node's single item goes at once. An entry whose
//! fate is unknown is proposed again: the core drops duplicates.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pgrenga_log::{Handle, ProposeError};
use pgrenga_writeset::entry::{self, Item};
use pgrenga_writeset::writeset::Writeset;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::port::Room;

/// Entries under way at once. The leader joins those of all nodes.
const PIPELINE: usize = 4;
/// Bytes after which an entry is full.
const FULL: usize = 1 << 20;
/// How long the log tries before the entry is handed to it again.
const DEADLINE: Duration = Duration::from_secs(5);
/// Items that wait to be batched; beyond it the sender waits.
const QUEUE: usize = 4096;

/// One item, encoded as an entry's part.
struct Proposal {
    bytes: Vec<u8>,
    /// Everything before it must be in the log first.
    after_all: bool,
    /// Held until it is in the log.
    room: Option<Room>,
}

impl Proposal {
    fn new(item: &Item<'_>, room: Option<Room>) -> Self {
        let after_all = matches!(item, Item::Writeset(bytes)
            if Writeset::decode(bytes).is_ok_and(|writeset| writeset.header.fragments > 0));
        let mut bytes = Vec::new();
        entry::push(&mut bytes, item);
        Self { bytes, after_all, room }
    }
}

/// Where to send items.
#[derive(Clone)]
pub(crate) struct Proposer(mpsc::Sender<Proposal>);

impl Proposer {
    /// Starts proposing to `log`.
    pub(crate) fn start(log: Handle) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(run(log, receiver));
        Self(sender)
    }

    /// Hands an item over; waits while too many do.
    pub(crate) async fn propose(&self, item: &Item<'_>) {
        self.send(Proposal::new(item, None)).await;
    }

    /// The same with an item that came from PostgreSQL and takes room until it is in the log.
    pub(crate) async fn propose_in(&self, room: &Room, item: &Item<'_>) {
        self.send(Proposal::new(item, Some(Room::clone(room)))).await;
    }

    async fn send(&self, proposal: Proposal) {
        // The receiver ends only with the process.
        let _ = self.0.send(proposal).await;
    }
}

async fn run(log: Handle, mut queue: mpsc::Receiver<Proposal>) {
    let mut under_way = FuturesUnordered::new();
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next(), if !under_way.is_empty() => continue,
            count = queue.recv_many(&mut waiting, 1024), if waiting.is_empty() && under_way.len() < PIPELINE => {
                if count == 0 {
                    return;
                }
            }
        }
        let mut items = waiting.drain(..).peekable();
        while items.peek().is_some() {
            let mut batch = Vec::with_capacity(4096);
            entry::begin(&mut batch);
            let begun = batch.len();
            let mut rooms = Vec::new();
            while let Some(item) = items.next_if(|item| batch.len() < FULL && (!item.after_all || batch.len() == begun))
            {
                batch.extend_from_slice(&item.bytes);
                rooms.extend(item.room);
                if item.after_all {
                    while under_way.next().await.is_some() {}
                }
            }
            // The log's cache keeps it.
            batch.shrink_to_fit();
            while under_way.len() >= PIPELINE {
                under_way.next().await;
            }
            under_way.push(until_ordered(log.clone(), batch.into(), rooms));
        }
    }
}

async fn until_ordered(log: Handle, entry: Bytes, rooms: Vec<Room>) {
    loop {
        match log.propose(entry.clone(), Instant::now() + DEADLINE).await {
            Ok(_) | Err(ProposeError::Closed) => return drop(rooms),
            Err(error) => {
                tracing::debug!(%error, "proposing again");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
