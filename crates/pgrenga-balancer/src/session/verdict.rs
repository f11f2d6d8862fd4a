//! What a client is told about what was under way when its server was lost. Pure. The invariant: 40001 is said only of
//! what is aborted, and success only of what is committed.

use super::known::{Asked, Sent};
use super::talk::{Standing, Talk};
use crate::wire::{Report, frame, server, sqlstate};

/// What the loss of the server has taken along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Nothing.
    Nothing,
    /// A transaction that was open, its client not waiting for anything.
    OpenTransaction,
    /// The same, in the midst of a statement.
    OpenTransactionAtWork,
    /// A transaction whose ROLLBACK was under way.
    RolledBack,
    /// A statement that commits nothing.
    Statement,
    /// What may have committed one transaction.
    InDoubt(Sent),
}

impl Loss {
    /// Nothing if too little is known of it.
    pub(super) fn of(talk: &Talk) -> Option<Self> {
        let asked = &talk.known().asked;
        match talk.standing() {
            _ if !talk.may_speak() => None,
            Standing::Idle if talk.is_quiet() => Some(Self::Nothing),
            Standing::InTransaction if talk.is_between_requests() => Some(Self::OpenTransaction),
            Standing::UnderWay if talk.is_one_request() => match (talk.known().sent(), asked.is_block_open()) {
                (Sent::Several, _) => None,
                (Sent::Rollback, true) => Some(Self::RolledBack),
                (Sent::Statement | Sent::Query, true) => Some(Self::OpenTransactionAtWork),
                (Sent::Statement | Sent::Commit | Sent::Rollback, false) => Some(Self::Statement),
                (sent, _) => Some(Self::InDoubt(sent)),
            },
            _ => None,
        }
    }

    /// Whether the client believes to be in a transaction block afterwards.
    pub(super) fn is_block_open(self) -> bool {
        matches!(self, Self::OpenTransaction | Self::OpenTransactionAtWork)
    }
}

/// What the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: it has asked for nothing.
    Nothing,
    /// What the server would have said.
    Done { tag: &'static [u8], is_committed: bool },
    /// An error; a transaction block that was open is one that has failed.
    Failed { report: Report, is_block_open: bool, is_committed: bool },
}

impl Answer {
    /// `fate` is what the log says of the transaction with that `id`, if that had to be asked.
    pub(super) fn to(loss: Loss, fate: Option<&str>, id: &str, asked: &Asked) -> Self {
        let failed = |report| Self::Failed { report, is_block_open: loss.is_block_open(), is_committed: false };
        match (loss, fate) {
            (Loss::Nothing | Loss::OpenTransaction, _) => Self::Nothing,
            (Loss::RolledBack, _) if asked.answer(ROLLBACK).is_some() => {
                Self::Done { tag: ROLLBACK, is_committed: false }
            }
            (Loss::OpenTransactionAtWork | Loss::RolledBack | Loss::Statement, _) => {
                failed(lost("It changed nothing, since it was not committed.".to_owned()))
            }
            (Loss::InDoubt(_), Some("aborted")) => {
                failed(lost(format!("Transaction {id} is aborted: it changed nothing.")))
            }
            (Loss::InDoubt(Sent::Commit), Some("committed")) if asked.answer(COMMIT).is_some() => {
                Self::Done { tag: COMMIT, is_committed: true }
            }
            (Loss::InDoubt(_), Some("committed")) => {
                let report = in_doubt("the transaction is committed, but its node was lost before it was answered")
                    .detail(format!("Transaction {id} is committed."))
                    .hint("Do not repeat it.");
                Self::Failed { report, is_block_open: false, is_committed: true }
            }
            (Loss::InDoubt(_), _) => failed(
                in_doubt("the node was lost, and it is not known whether the transaction is committed")
                    .detail(format!("Transaction \"{id}\" is not decided, or too little is known of it."))
                    .hint("Find out before you repeat it; pgrenga.transaction_status() tells."),
            ),
        }
    }

    /// Whether something of the session's has been committed that it did not hear of.
    pub(super) fn is_committed(&self) -> bool {
        matches!(self, Self::Done { is_committed: true, .. } | Self::Failed { is_committed: true, .. })
    }

    /// Whether what was under way is over, and has changed nothing.
    pub(super) fn is_aborted(&self) -> bool {
        matches!(self, Self::Failed { report, is_block_open: false, .. } if report.sqlstate() == sqlstate::SERIALIZATION_FAILURE)
    }

    /// Whether the client is told that its transaction block has failed.
    pub(super) fn leaves_failed_block(&self) -> bool {
        matches!(self, Self::Failed { is_block_open: true, .. })
    }

    /// The messages.
    pub(super) fn encode(&self, asked: &Asked) -> Vec<u8> {
        let (mut messages, status) = match self {
            Self::Nothing => return Vec::new(),
            Self::Done { tag, .. } => (asked.answer(tag).unwrap_or_default(), b"I"),
            Self::Failed { report, is_block_open, .. } => {
                (report.encode_error(), if *is_block_open { b"E" } else { b"I" })
            }
        };
        messages.extend(frame(server::READY_FOR_QUERY, status));
        messages
    }
}

const COMMIT: &[u8] = b"COMMIT\0";
const ROLLBACK: &[u8] = b"ROLLBACK\0";

fn lost(detail: String) -> Report {
    Report::fatal(sqlstate::SERIALIZATION_FAILURE, "the transaction was lost with its node")
        .detail(detail)
        .hint("Try the transaction again.")
}

fn in_doubt(message: &str) -> Report {
    Report::fatal(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(answer: &Answer) -> &str {
        match answer {
            Answer::Failed { report, .. } => report.sqlstate(),
            _ => "",
        }
    }

    #[test]
    fn only_what_is_aborted_may_be_repeated() {
        let asked = Asked::default();
        let every = [Sent::Commit, Sent::Query, Sent::Transaction, Sent::Statement, Sent::Rollback, Sent::Several];
        for sent in every {
            let answer = |fate| Answer::to(Loss::InDoubt(sent), fate, "1-1-1", &asked);
            assert_eq!(code(&answer(Some("aborted"))), "40001");
            for fate in [None, Some("unknown"), Some("in progress"), Some("anything")] {
                assert_eq!(code(&answer(fate)), "08007", "{fate:?}");
            }
            let committed = answer(Some("committed"));
            assert!(committed.is_committed() && code(&committed) != "40001", "{committed:?}");
            assert!(answer(Some("aborted")).is_aborted() && !answer(None).is_aborted() && !committed.is_aborted());
        }
    }

    #[test]
    fn a_block_is_left_as_the_client_is_told() {
        let answer = Answer::to(Loss::OpenTransactionAtWork, None, "", &Asked::default());
        assert!(answer.leaves_failed_block() && answer.encode(&Asked::default()).ends_with(b"Z\0\0\0\x05E"));
        let answer = Answer::to(Loss::InDoubt(Sent::Commit), Some("aborted"), "", &Asked::default());
        assert!(!answer.leaves_failed_block() && answer.encode(&Asked::default()).ends_with(b"Z\0\0\0\x05I"));
    }
}
