//! What is known of a session that another node needs to go on with it. Pure: it is told what passes.
//!
//! The server reports the session's settings, SQL-level prepared statements and what keeps it (`pgrenga.session`), its
//! last commit and the id of its next transaction. Statements that the protocol prepared are remembered as they pass,
//! and what was asked last, as long as it is not answered.

mod asked;
mod statements;

use pgrenga_writeset::session::{Report, TEXT_BYTES_MAX};

pub(crate) use asked::{Asked, Sent, is_one_transaction};
pub(crate) use statements::Prepared;
use statements::Statements;

use crate::wire::{Piece, client, server};

/// Settings that are asked for when a session begins.
pub(crate) const ASKED_FOR: [&str; 2] = ["pgrenga.report_session", "pgrenga.report_transaction_id"];
const SESSION: &[u8] = b"pgrenga.session";
const COMMIT_SEQ: &[u8] = b"pgrenga.commit_seq";
pub(crate) const TRANSACTION_ID: &[u8] = b"pgrenga.transaction_id";
const PARAMETER_BYTES_MAX: usize = TEXT_BYTES_MAX + 100;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) reported: Reported,
    pub(crate) statements: Statements,
    pub(crate) asked: Asked,
    /// The beginning of a report that came in pieces.
    partial: Vec<u8>,
}

impl Known {
    /// The client has sent this, as the first of a request if nothing else `is_under_way`; the server's last status was
    /// `status`.
    pub(crate) fn client_said(&mut self, piece: Piece<'_>, is_under_way: bool, status: u8) {
        if piece.is_first && !is_under_way {
            self.asked = Asked::begin(status);
        }
        if piece.kind != client::COPY_DATA {
            self.asked.note(piece);
            self.statements.client_said(piece);
        }
    }

    /// The server has sent this.
    pub(crate) fn server_said(&mut self, piece: Piece<'_>) {
        match piece.kind {
            server::PARAMETER_STATUS => self.parameter_passes(piece),
            server::NOTICE_RESPONSE | server::NOTIFICATION_RESPONSE => {}
            kind => {
                self.asked.is_answered = kind != server::READY_FOR_QUERY;
                if piece.is_last {
                    self.statements.server_said(kind);
                }
            }
        }
    }

    /// Nothing is under way.
    pub(crate) fn is_idle(&mut self) {
        self.statements.is_idle();
    }

    /// Why the session cannot go on at another node, if it cannot.
    pub(crate) fn keeps(&self) -> Option<String> {
        let Some(report) = &self.reported.session else {
            return Some("Its server does not report its state.".to_owned());
        };
        if !report.kept.is_empty() {
            return Some(format!("It has {}, which no other node has.", report.kept.join(", ")));
        }
        (!self.statements.are_known()).then(|| "Not all of its prepared statements are known.".to_owned())
    }

    /// What was asked last and is not answered.
    pub(crate) fn sent(&self) -> Sent {
        self.asked.sent(|name| self.statements.text(name))
    }

    fn parameter_passes(&mut self, piece: Piece<'_>) {
        let body = if piece.is_first && piece.is_last {
            piece.body
        } else {
            self.partial.extend(piece.body);
            self.partial.truncate(PARAMETER_BYTES_MAX);
            &self.partial
        };
        if piece.is_last {
            let body = body.to_vec();
            self.partial = Vec::new();
            self.parameter(&body);
        }
    }

    /// A whole `ParameterStatus`.
    fn parameter(&mut self, body: &[u8]) {
        let before = self.reported.session.as_ref().map(|report| report.deallocations);
        self.reported.parameter(body);
        if let Some(report) = &self.reported.session
            && before.is_some_and(|before| before != report.deallocations)
        {
            self.statements.deallocated(&report.deallocated);
        }
    }
}

/// What the server has said of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    pub(crate) session: Option<Report>,
    pub(crate) commit_seq: u64,
    /// Of the transaction that is open, or of the next one that writes; empty if it is not told.
    pub(crate) transaction_id: String,
}

impl Reported {
    /// A whole `ParameterStatus`.
    pub(crate) fn parameter(&mut self, body: &[u8]) {
        let mut texts = body.split(|byte| *byte == 0);
        let (Some(name), Some(value)) = (texts.next(), texts.next()) else { return };
        if !name.starts_with(b"pgrenga.") {
            return;
        }
        let value = String::from_utf8_lossy(value);
        match name {
            SESSION => self.session = Report::decode(&value),
            COMMIT_SEQ => self.commit_seq = value.parse().unwrap_or(self.commit_seq),
            TRANSACTION_ID => self.transaction_id = value.into_owned(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(kind: u8, body: &[u8]) -> Piece<'_> {
        Piece { kind, body, is_first: true, is_last: true }
    }

    fn told(known: &mut Known, parameter: &str) {
        known.server_said(piece(server::PARAMETER_STATUS, parameter.as_bytes()));
    }

    #[test]
    fn a_session_goes_if_its_server_says_so() {
        let mut known = Known::default();
        assert!(known.keeps().unwrap().contains("does not report"));
        told(&mut known, "pgrenga.session\0|0:|a=1\0");
        assert_eq!(known.keeps(), None);
        told(&mut known, "pgrenga.session\0LISTEN,advisory locks|0:|a=1\0");
        assert_eq!(known.keeps().unwrap(), "It has LISTEN, advisory locks, which no other node has.");
        told(&mut known, "pgrenga.commit_seq\x0017\0");
        told(&mut known, "pgrenga.transaction_id\x001-2-3\0");
        assert_eq!((known.reported.commit_seq, &*known.reported.transaction_id), (17, "1-2-3"));
        told(&mut known, "pgrenga.session\0\0");
        assert!(known.keeps().is_some(), "it does so no longer");
    }

    #[test]
    fn a_report_may_come_in_pieces() {
        let mut known = Known::default();
        let body = b"pgrenga.session\0|0:|a=1\0";
        for (place, byte) in body.iter().enumerate() {
            let (is_first, is_last) = (place == 0, place == body.len() - 1);
            known.server_said(Piece { kind: server::PARAMETER_STATUS, body: &[*byte], is_first, is_last });
        }
        assert_eq!(known.reported.session.unwrap().state, "a=1");
    }

    #[test]
    fn deallocations_are_followed() {
        let mut known = Known::default();
        told(&mut known, "pgrenga.session\0|7:old|\0");
        known.client_said(piece(client::PARSE, b"a\0SELECT 1\0\0\0"), false, b'I');
        known.client_said(piece(client::SYNC, b""), true, b'I');
        known.server_said(piece(server::PARSE_COMPLETE, b""));
        known.server_said(piece(server::READY_FOR_QUERY, b"I"));
        assert!(known.statements.text(b"a").is_some());
        told(&mut known, "pgrenga.session\0|7:a|\0");
        assert!(known.statements.text(b"a").is_some(), "that was said before");
        told(&mut known, "pgrenga.session\0|8:a|\0");
        assert!(known.statements.text(b"a").is_none());
    }
}
