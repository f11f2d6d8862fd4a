//! Joins proposals: what comes while an entry is on its way to a majority goes
//! into the next one, whoever proposed it.
//!
//! An entry costs every member an fsync, messages and wake-ups, however much it
//! holds. So the next one waits until the one before is committed, unless it
//! is full; the busier the cluster, the larger the entries. A proposal that
//! finds nothing under way goes at once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::errors::ClientWriteError;
use tokio::sync::{mpsc, oneshot};

use crate::network::message::ProposeReply;
use crate::raft::{Outcome, Payload, Raft, Reply};
use crate::space::Space;

/// Appends an entry to another so that they are one; false if they cannot be.
pub type Join = fn(entry: &mut Vec<u8>, next: &[u8]) -> bool;

/// Bytes with which an entry is full.
const FULL: usize = 256 << 10;
/// Full entries under way at once.
const PIPELINE: usize = 8;
/// Proposals that wait to be joined, and as many more in the queue before that.
pub(crate) const WAITING: usize = 1024;

/// One proposal, and who waits for its outcome.
pub(crate) struct Proposal {
    pub(crate) payload: Bytes,
    pub(crate) reply: oneshot::Sender<ProposeReply>,
}

/// Turns proposals into entries until the queue is closed and all of them have ended.
pub(crate) async fn run(raft: Raft, join: Join, space: Arc<Space>, mut queue: mpsc::Receiver<Proposal>) {
    let mut under_way = FuturesUnordered::new();
    let mut waiting = Waiting::default();
    let mut arrived = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next() => {}
            count = queue.recv_many(&mut arrived, WAITING), if waiting.proposals.len() < WAITING => {
                if count == 0 {
                    return under_way.collect().await;
                }
                arrived.drain(..).for_each(|proposal| waiting.push(proposal));
            }
        }
        while under_way.is_empty() || (waiting.bytes >= FULL && under_way.len() < PIPELINE) {
            let Some(batch) = waiting.take(join) else { break };
            if !space.has_room(batch.payload.len()) {
                // Whoever leads next may have room, or this member when they ask again.
                batch.answer(ProposeReply::NotLeader);
                continue;
            }
            under_way.push(commit(&raft, batch).await);
        }
    }
}

#[derive(Default)]
struct Waiting {
    proposals: VecDeque<Proposal>,
    bytes: usize,
}

/// An entry, and everyone who proposed a part of it.
struct Batch {
    payload: Bytes,
    replies: Vec<oneshot::Sender<ProposeReply>>,
}

impl Batch {
    fn answer(self, reply: ProposeReply) {
        for proposer in self.replies {
            // Who gave up is no concern of the others.
            let _ = proposer.send(reply);
        }
    }
}

impl Waiting {
    fn push(&mut self, proposal: Proposal) {
        self.bytes += proposal.payload.len();
        self.proposals.push_back(proposal);
    }

    fn pop(&mut self) -> Option<Proposal> {
        let proposal = self.proposals.pop_front()?;
        self.bytes -= proposal.payload.len();
        Some(proposal)
    }

    /// One entry from the front of what waits, in its order.
    fn take(&mut self, join: Join) -> Option<Batch> {
        let first = self.pop()?;
        let mut replies = vec![first.reply];
        let fits =
            |joined: usize, next: Option<&Proposal>| next.is_some_and(|next| joined + next.payload.len() <= FULL);
        if !fits(first.payload.len(), self.proposals.front()) {
            return Some(Batch { payload: first.payload, replies });
        }
        let mut payload = first.payload.to_vec();
        while fits(payload.len(), self.proposals.front()) && join(&mut payload, &self.proposals[0].payload) {
            replies.extend(self.pop().map(|proposal| proposal.reply));
        }
        payload.shrink_to_fit();
        Some(Batch { payload: payload.into(), replies })
    }
}

/// Hands an entry to the core, in order; what is returned waits for its end.
async fn commit(raft: &Raft, batch: Batch) -> impl Future<Output = ()> + use<> {
    let (reply, outcome) = Reply::new();
    let accepted = raft.client_write_ff(Payload(batch.payload.clone()), Some(reply)).await.is_ok();
    async move {
        let reply = match outcome.await {
            // The core is gone: it never had the entry, or what became of it is not known.
            Err(_) => {
                if accepted {
                    ProposeReply::Unknown
                } else {
                    ProposeReply::NotLeader
                }
            }
            Ok(Outcome::Committed(id)) => ProposeReply::Committed(id.index),
            Ok(Outcome::Finished(Ok(response))) => ProposeReply::Committed(response.log_id.index),
            // The one error that openraft gives before it has appended anything.
            Ok(Outcome::Finished(Err(ClientWriteError::ForwardToLeader(_)))) => ProposeReply::NotLeader,
            Ok(Outcome::Finished(Err(_))) => ProposeReply::Unknown,
        };
        batch.answer(reply);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(payloads: &[&'static [u8]]) -> Waiting {
        let mut waiting = Waiting::default();
        for payload in payloads {
            waiting.push(Proposal { payload: Bytes::from_static(payload), reply: oneshot::channel().0 });
        }
        waiting
    }

    fn concatenate(entry: &mut Vec<u8>, next: &[u8]) -> bool {
        let joins = next[0] != b'!';
        if joins {
            entry.extend_from_slice(next);
        }
        joins
    }

    #[test]
    fn entries_keep_the_order_of_proposals() {
        let mut waiting = waiting(&[b"a", b"bc", b"!", b"d", b"!e"]);
        let entries: Vec<_> = std::iter::from_fn(|| waiting.take(concatenate))
            .map(|batch| (batch.payload, batch.replies.len()))
            .collect();
        let expected = [(&b"abc"[..], 2), (b"!d", 2), (b"!e", 1)];
        assert_eq!(entries, expected.map(|(payload, replies)| (Bytes::from_static(payload), replies)));
        assert_eq!(waiting.bytes, 0);
    }

    #[test]
    fn a_full_entry_takes_no_more() {
        const LARGE: &[u8] = &[1; FULL];
        let mut waiting = waiting(&[LARGE, b"a", LARGE]);
        let lengths: Vec<_> =
            std::iter::from_fn(|| waiting.take(concatenate)).map(|batch| batch.payload.len()).collect();
        assert_eq!(lengths, [FULL, 1, FULL]);
    }
}
