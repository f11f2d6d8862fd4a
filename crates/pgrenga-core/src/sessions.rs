//! What a node tells the sessions that wait for its log.
//!
//! A verdict is told only in a life of the node that PostgreSQL has entered. What was decided before that is told
//! when the life begins: first every commit that is not visible yet, then to whoever still waits what it asks for
//! ([`remind`]). So nobody hears the end of a story without its beginning. A writeset may come twice, when its
//! proposal's fate was unknown, and after so many others that its outcome was forgotten: then it commits, and aborts
//! as too old. Within a life the commit is always told first, and whoever heard of a commit listens no more. A daemon
//! that reads the log again can tell of no commit until it knows what is visible, and must not tell of the abort either.

use pgrenga_writeset::port::ToPostgres;
use pgrenga_writeset::writeset::Writeset;
use pgrenga_writeset::{Incarnation, NodeId, TransactionId};

use crate::{Core, Decision, Outcome, Status};

/// Answers a piece of a writeset that is not to be proposed: `life` is the one that PostgreSQL has entered, if any. A
/// piece of an earlier life would only be void. What is answered here was never proposed: each piece comes once.
#[must_use]
pub fn turn_away(txid: TransactionId, life: Option<Incarnation>, takes_writes: bool) -> Option<ToPostgres<'static>> {
    if life != Some(txid.incarnation) {
        Some(ToPostgres::Resubmit(txid))
    } else if !takes_writes {
        Some(ToPostgres::Refused(txid))
    } else {
        None
    }
}

/// Answers a writeset that is certain to abort, and need not be proposed. One with fragments
/// must, to take these back.
#[must_use]
pub fn doom(core: &Core, writeset: &Writeset<'_>) -> Option<ToPostgres<'static>> {
    let txid = writeset.header.txid;
    let reason = (writeset.header.fragments == 0).then(|| core.doom(writeset)).flatten()?;
    Some(ToPostgres::Abort { txid, reason })
}

/// What the owner of a transaction hears of a decision, if it is a session of `node`. Commits are told as their seqs
/// are entered.
#[must_use]
pub fn report(decision: &Decision, node: NodeId, life: Option<Incarnation>) -> Option<ToPostgres<'static>> {
    let (txid, frame) = match *decision {
        Decision::Abort { txid, reason } => (txid, ToPostgres::Abort { txid, reason }),
        Decision::Duplicate { txid, outcome } => (txid, verdict(txid, outcome)),
        Decision::FenceGranted { txid, fence, after } => (txid, ToPostgres::FenceGranted { txid, fence, after }),
        Decision::FenceLost { txid } => (txid, ToPostgres::FenceLost(txid)),
        _ => return None,
    };
    (txid.node == node && life.is_some()).then_some(frame)
}

/// Answers a session that waits since an earlier life. Nothing if its verdict is still to come.
#[must_use]
pub fn remind(core: &Core, txid: TransactionId) -> Option<ToPostgres<'static>> {
    match core.outcome(txid) {
        Some(outcome @ Outcome::Commit(_)) => Some(verdict(txid, outcome)),
        // An abort that is remembered may be a repetition's.
        _ if core.status(txid) == Status::Unknown => Some(ToPostgres::Forgotten(txid)),
        Some(outcome) => Some(verdict(txid, outcome)),
        // Its verdict comes when the fence ends.
        None if core.is_deferred(txid) => None,
        None => Some(ToPostgres::Resubmit(txid)),
    }
}

fn verdict(txid: TransactionId, outcome: Outcome) -> ToPostgres<'static> {
    match outcome {
        Outcome::Commit(seq) => ToPostgres::Commit { txid, seq },
        Outcome::Abort(reason) => ToPostgres::Abort { txid, reason },
    }
}
