//! What sessions ask through the port, and what they are told.
//!
//! What became of a transaction, and up to where the present goes, is told only at a
//! position of the log that a majority confirmed after the question had come: so the
//! answer includes every entry that was committed by then, whichever daemon proposed
//! it. Without a majority there is no answer, and the session gives up.

use std::time::Duration;

use pgrenga_admin::{Member, State};
use pgrenga_core::Core;
use pgrenga_log::Handle;
use pgrenga_writeset::port::MAX_ANSWER;
use pgrenga_writeset::{LogIndex, NodeId, TransactionId};
use serde_json::json;
use tokio::time::Instant;

use crate::Options;
use crate::port::ConnectionId;
use crate::rounds::{Round, Told};
use crate::shared::Positions;

/// Questions that wait for the log. Beyond them a question is
/// ignored; the session asks again as long as it waits.
const WAITING_MAX: usize = 1024;

/// Names a question: the connection by which it came, and its id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuestionId {
    pub(crate) port: ConnectionId,
    pub(crate) id: u64,
}

/// What is asked at a position of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// What became of it.
    Transaction(TransactionId),
    /// The last seq given there.
    Present,
}

#[derive(Debug)]
struct Waiting {
    question: QuestionId,
    subject: Subject,
    /// When nobody waits for the answer any more.
    until: Instant,
    /// Which round tells the position that the answer needs.
    round: Round,
    /// The position.
    index: Option<LogIndex>,
}

/// Questions that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: Vec<Waiting>,
}

impl Questions {
    /// Whether there is room for a question that has not come before.
    pub(crate) fn has_room_for(&self, question: QuestionId) -> bool {
        self.waiting.len() < WAITING_MAX && self.waiting.iter().all(|waiting| waiting.question != question)
    }

    /// Takes a question that is to be answered at what `round` tells.
    pub(crate) fn take(&mut self, question: QuestionId, subject: Subject, patience: Duration, round: Round) {
        self.waiting.push(Waiting { question, subject, until: Instant::now() + patience, round, index: None });
    }

    /// A round is over. If it told nothing, the questions wait for the next one, unless
    /// nobody waits for them.
    pub(crate) fn told(&mut self, told: Told) {
        let now = Instant::now();
        self.waiting.retain(|waiting| waiting.until > now);
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.index.is_none() && waiting.round <= told.round)
        {
            waiting.index = told.index;
            waiting.round = told.round + 1;
        }
    }

    /// Whether a question waits for this round.
    pub(crate) fn await_round(&self, round: Round) -> bool {
        self.waiting.iter().any(|waiting| waiting.index.is_none() && waiting.round <= round)
    }

    /// Takes out what can be answered now that the log was read up to `read`.
    pub(crate) fn answerable(&mut self, read: Option<LogIndex>) -> Vec<(QuestionId, Subject)> {
        let is_ready = |waiting: &mut Waiting| waiting.index.is_some_and(|index| read >= Some(index));
        self.waiting.extract_if(.., is_ready).map(|waiting| (waiting.question, waiting.subject)).collect()
    }
}

/// How this node is, for `pgrenga.status()`.
pub(crate) fn status(options: &Options, positions: &Positions) -> String {
    json!({
        "id": options.node,
        "name": options.name,
        "state": positions.state,
        "applied_seq": positions.visible,
        "flushed_seq": positions.flushed,
        "committed_seq": positions.certified,
        "leader": positions.leader,
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
