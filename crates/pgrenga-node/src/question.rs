//! What sessions ask through the port, and what they are told.
//!
//! What became of a transaction is told only at a position of the log that a
//! majority confirmed after the question had come: so the answer includes every
//! entry that was committed by then, whichever daemon proposed it. Without a
//! majority there is no answer, and the session gives up.

use std::time::Duration;

use pgrenga_admin::{Member, State};
use pgrenga_core::Core;
use pgrenga_log::Handle;
use pgrenga_writeset::port::MAX_ANSWER;
use pgrenga_writeset::{LogIndex, NodeId, TransactionId};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Options;
use crate::engine::Event;
use crate::port::ConnectionId;
use crate::shared::Positions;

/// Questions about transactions that wait for the log. Beyond them a question is
/// ignored; the session asks again as long as it waits.
const WAITING_MAX: usize = 1024;

/// Names a question: the connection by which it came, and its id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuestionId {
    pub(crate) port: ConnectionId,
    pub(crate) id: u64,
}

#[derive(Debug)]
struct Waiting {
    question: QuestionId,
    txid: TransactionId,
    /// The position that the answer needs, once a majority has told it.
    index: Option<LogIndex>,
}

/// Questions about transactions that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: Vec<Waiting>,
}

impl Questions {
    /// Takes a question, and asks a majority for the log's present.
    pub(crate) fn take(
        &mut self,
        question: QuestionId,
        txid: TransactionId,
        patience: Duration,
        log: &Handle,
        events: &mpsc::Sender<Event>,
    ) {
        let is_known = self.waiting.iter().any(|waiting| waiting.question == question);
        if is_known || self.waiting.len() >= WAITING_MAX {
            return;
        }
        self.waiting.push(Waiting { question, txid, index: None });
        let (log, events) = (log.clone(), events.clone());
        tokio::spawn(async move {
            let index = log.linearizable_index(Instant::now() + patience).await.ok();
            let _ = events.send(Event::QuestionPlaced { question, index }).await;
        });
    }

    /// The question's position, or that there is none and nobody waits any more.
    pub(crate) fn placed(&mut self, question: QuestionId, index: Option<LogIndex>) {
        match (self.waiting.iter().position(|waiting| waiting.question == question), index) {
            (Some(place), None) => drop(self.waiting.swap_remove(place)),
            (Some(place), index) => self.waiting[place].index = index,
            (None, _) => {}
        }
    }

    /// Takes out what can be answered now that the log was read up to `read`.
    pub(crate) fn answerable(&mut self, read: Option<LogIndex>) -> Vec<(QuestionId, TransactionId)> {
        let is_ready = |waiting: &mut Waiting| waiting.index.is_some_and(|index| read >= Some(index));
        self.waiting.extract_if(.., is_ready).map(|waiting| (waiting.question, waiting.txid)).collect()
    }
}

/// How this node is, for `pgrenga.status()`.
pub(crate) fn status(options: &Options, positions: &Positions, log: &Handle) -> String {
    json!({
        "id": options.node,
        "name": options.name,
        "state": positions.state,
        "applied_seq": positions.visible,
        "flushed_seq": positions.flushed,
        "committed_seq": positions.certified,
        "leader": *log.leader().borrow(),
    })
    .to_string()
}

/// The `ordinal`-th member as this node knows it, for `pgrenga.nodes`.
pub(crate) fn member(
    ordinal: u32,
    core: &Core,
    log: &Handle,
    members: Vec<Member>,
    (own, state): (NodeId, State),
) -> String {
    let Some(member) = members.into_iter().nth(ordinal as usize) else { return String::new() };
    let voter = log.status().members.iter().any(|known| known.node_id == member.id && known.voter);
    let text = json!({
        "id": member.id,
        "name": member.name,
        "state": (member.id == own).then_some(state),
        "host": member.postgres.as_ref().map(|postgres| &postgres.host),
        "port": member.postgres.as_ref().map(|postgres| postgres.port),
        "voter": voter,
        "flushed_seq": core.flushed(member.id),
    })
    .to_string();
    if text.len() <= MAX_ANSWER { text } else { json!({ "id": member.id, "voter": voter }).to_string() }
}
