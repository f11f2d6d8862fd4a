//! Proposes items: those that wait together in one entry, several entries at once, and an entry
//! whose fate is unknown again.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pgrenga_log::{Handle, ProposeError};
use pgrenga_writeset::entry::{self, Item};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Setup, View};
use crate::invariants::Event;
use crate::writes::last_piece;

/// Entries under way at once.
const PIPELINE: usize = 4;
/// Items in one entry.
const BATCH: usize = 8;

struct Proposal {
    item: Vec<u8>,
    /// Everything before it must be in the log first.
    after_all: bool,
}

pub(super) struct Proposer {
    view: View,
    queue: mpsc::UnboundedSender<Proposal>,
}

impl Proposer {
    pub(super) fn start(setup: &Setup, view: View, log: Handle) -> Self {
        let (queue, received) = mpsc::unbounded_channel();
        tokio::task::spawn_local(run(setup.clone(), view.clone(), log, received));
        Self { view, queue }
    }

    pub(super) fn propose(&self, item: &Item<'_>) {
        let after_all = matches!(item, Item::Writeset(bytes) if last_piece(bytes).is_some_and(|(_, ahead)| ahead > 0));
        let mut bytes = Vec::new();
        entry::push(&mut bytes, item);
        self.view.set(|seen| seen.proposing += 1);
        let _ = self.queue.send(Proposal { item: bytes, after_all });
    }
}

async fn run(setup: Setup, view: View, log: Handle, mut queue: mpsc::UnboundedReceiver<Proposal>) {
    let mut under_way = FuturesUnordered::new();
    let mut waiting: VecDeque<Proposal> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next() => {}
            Some(proposal) = queue.recv() => {
                waiting.push_back(proposal);
                while let Ok(more) = queue.try_recv() {
                    waiting.push_back(more);
                }
            }
            else => return,
        }
        while under_way.len() < PIPELINE && !waiting.is_empty() {
            let mut batch = Vec::new();
            entry::begin(&mut batch);
            let mut count = 0;
            while count < BATCH && waiting.front().is_some_and(|next| count == 0 || !next.after_all) {
                let Some(next) = waiting.pop_front() else { break };
                if next.after_all {
                    while under_way.next().await.is_some() {}
                }
                batch.extend_from_slice(&next.item);
                count += 1;
            }
            under_way.push(until_ordered(setup.clone(), view.clone(), log.clone(), batch.into(), count));
        }
    }
}

async fn until_ordered(setup: Setup, view: View, log: Handle, payload: Bytes, count: usize) {
    loop {
        match log.propose(payload.clone(), Instant::now() + Duration::from_secs(5)).await {
            Ok(index) => {
                if setup.power.is_on() {
                    setup.invariants.see(&Event::Proposed { index, payload: &payload });
                }
                break;
            }
            Err(ProposeError::Closed) => break,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    view.set(|seen| seen.proposing -= count);
}
