//! What a session has under way, learned from the types of the messages that
//! pass and from `ReadyForQuery`. Pure: what it is told comes in chunks.

use super::known::Known;
use crate::wire::{Broken, Piece, Report, Scanner, client, server, sqlstate};

/// What would be lost if the server were gone now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The server was never ready yet.
    Startup,
    /// Nothing that is worth a word: the session is idle outside of a transaction.
    Idle,
    /// A transaction is open and idle. Its COMMIT was not sent, so it will be rolled back.
    InTransaction,
    /// The server was at work, so that it may have committed something.
    UnderWay,
}

/// Both directions of a session, from the startup packet on.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    from_client: Scanner,
    from_server: Scanner,
    /// Answers by `ReadyForQuery` that are due. The startup packet is due the first.
    outstanding: u32,
    /// The client has sent something that no `Sync` follows yet: it may be executed all the same.
    has_unsynced: bool,
    /// The server waits for rows. Until they end it ignores `Sync` (`CopyGetData` in `copyfromparse.c`).
    takes_rows: bool,
    /// The request that is answered now is of the extended protocol.
    is_extended: bool,
    status: u8,
    is_leaving: bool,
    last_from_server: u8,
    known: Known,
    /// Why the server ends the connection, as it says. The client does not hear it if the session goes on elsewhere.
    farewell: Option<Report>,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            from_client: Scanner::default(),
            from_server: Scanner::default(),
            outstanding: 1,
            has_unsynced: false,
            takes_rows: false,
            is_extended: false,
            status: NEVER_READY,
            is_leaving: false,
            last_from_server: 0,
            known: Known::default(),
            farewell: None,
        }
    }
}

const IDLE: u8 = b'I';
const IN_BLOCK: u8 = b'T';
const NEVER_READY: u8 = 0;

/// Why a server ends a session that may go on: it stops, it has crashed, or the session is idle in a transaction that stands in
/// the way of one that is ordered.
const FAREWELLS: [&str; 3] = [sqlstate::ADMIN_SHUTDOWN, sqlstate::CRASH_SHUTDOWN, sqlstate::SERIALIZATION_FAILURE];

impl Talk {
    /// The client has sent this.
    pub(crate) fn client_said(&mut self, mut chunk: &[u8]) -> Result<(), Broken> {
        while let Some(piece) = self.from_client.next(&mut chunk)? {
            self.known.client_said(piece, self.is_under_way(), self.status);
            if piece.is_last {
                self.note_request(piece.kind);
            }
        }
        Ok(())
    }

    /// The server has sent this. Tells how much of it is for the client: all, but for words about the end of a
    /// session that can go on elsewhere.
    pub(crate) fn server_said(&mut self, chunk: &[u8]) -> Result<usize, Broken> {
        if self.farewell.is_some() {
            return Ok(0);
        }
        let mut rest = chunk;
        loop {
            let begins_here = self.from_server.is_at_boundary();
            let passed = chunk.len() - rest.len();
            let Some(piece) = self.from_server.next(&mut rest)? else { break };
            // Counted once, so it has to be in one piece.
            if piece.kind == server::READY_FOR_QUERY && (piece.body.len(), piece.is_last) != (1, true) {
                return Err(Broken);
            }
            let is_whole = begins_here && piece.is_first && piece.is_last;
            if is_whole && piece.kind == server::ERROR_RESPONSE && self.is_farewell(piece.body) {
                return Ok(passed);
            }
            self.known.server_said(piece);
            self.note_answer(piece);
        }
        Ok(chunk.len())
    }

    /// The client sends nothing more.
    pub(crate) fn client_left(&mut self) {
        self.is_leaving = true;
    }

    /// What is known of the session.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    pub(crate) fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    /// Why the server has ended the connection, if that was withheld.
    pub(crate) fn farewell(&self) -> Option<&Report> {
        self.farewell.as_ref()
    }

    /// What the server said last has not reached the client.
    pub(crate) fn unsay(&mut self) {
        self.last_from_server = 0;
    }

    /// Whether what is under way is one request, which is sent to its end.
    pub(crate) fn is_one_request(&self) -> bool {
        self.outstanding == 1 && !self.has_unsynced && self.from_client.is_at_boundary()
    }

    /// Whether nothing is under way, and no message has begun.
    pub(crate) fn is_between_requests(&self) -> bool {
        !self.is_under_way() && self.from_client.is_at_boundary() && self.from_server.is_at_boundary()
    }

    /// The same, outside of a transaction.
    pub(crate) fn is_quiet(&self) -> bool {
        self.standing() == Standing::Idle && self.is_between_requests()
    }

    /// How many requests there were. Changes whenever something happens.
    pub(crate) fn requests(&self) -> u64 {
        self.known.statements.requests()
    }

    /// The session goes on at another server, with nothing under way; `is_block_open`: in a transaction.
    pub(crate) fn resume(&mut self, is_block_open: bool) {
        let known = std::mem::take(&mut self.known);
        let status = if is_block_open { IN_BLOCK } else { IDLE };
        *self = Self { outstanding: 0, status, known, is_leaving: self.is_leaving, ..Self::default() };
        self.known.is_idle();
    }

    fn is_under_way(&self) -> bool {
        self.outstanding > 0 || self.has_unsynced
    }

    /// Whether a server's error is its last word to a session that may go on elsewhere, or hears what keeps it.
    fn is_farewell(&mut self, error: &[u8]) -> bool {
        if self.known.reported.session.is_none() || self.status == NEVER_READY {
            return false;
        }
        let report = Report::decode(error);
        let is_farewell = report.is_fatal() && FAREWELLS.contains(&report.sqlstate());
        if is_farewell {
            self.farewell = Some(report);
        }
        is_farewell
    }

    /// What is under way now.
    pub(crate) fn standing(&self) -> Standing {
        match self.status {
            NEVER_READY => Standing::Startup,
            _ if self.is_under_way() => Standing::UnderWay,
            IDLE => Standing::Idle,
            _ => Standing::InTransaction,
        }
    }

    /// Whether a message of our own may be put in here for the client.
    pub(crate) fn may_speak(&self) -> bool {
        self.from_server.is_at_boundary()
    }

    /// Whether nobody is surprised if the server ends the connection: the client has taken its leave, or the last that
    /// the server said was an error, which tells why.
    pub(crate) fn is_over(&self) -> bool {
        self.is_leaving || self.last_from_server == server::ERROR_RESPONSE
    }

    fn note_request(&mut self, kind: u8) {
        match kind {
            client::TERMINATE => self.is_leaving = true,
            // Part of the startup, which is counted already.
            client::AUTHENTICATION => {}
            client::SYNC if self.takes_rows => self.has_unsynced = true,
            client::QUERY | client::FUNCTION_CALL | client::SYNC => {
                self.outstanding += 1;
                self.has_unsynced = false;
                self.is_extended = kind == client::SYNC;
            }
            client::COPY_DONE | client::COPY_FAIL => {
                self.takes_rows = false;
                self.has_unsynced |= self.is_extended;
            }
            // Rows belong to the request that asked for them.
            client::COPY_DATA => {}
            _ => self.has_unsynced = true,
        }
    }

    fn note_answer(&mut self, piece: Piece<'_>) {
        match (piece.kind, piece.body.first()) {
            (server::READY_FOR_QUERY, Some(status)) => {
                self.status = *status;
                // One more than expected answers what was sent while rows were taken.
                self.has_unsynced &= self.outstanding > 0;
                self.outstanding = self.outstanding.saturating_sub(1);
                if !self.is_under_way() {
                    self.known.is_idle();
                }
            }
            (server::COPY_IN_RESPONSE, _) if piece.is_last => {
                self.takes_rows = true;
                if self.is_extended && self.outstanding > 0 {
                    // Its `Sync` was sent along, and will be ignored: another one follows the rows.
                    self.outstanding -= 1;
                    self.has_unsynced = true;
                }
            }
            (server::ERROR_RESPONSE, _) => self.takes_rows = false,
            _ => {}
        }
        if piece.is_last {
            self.last_from_server = piece.kind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    impl Talk {
        fn client(&mut self, kinds: &str) -> Standing {
            for kind in kinds.bytes() {
                self.client_said(&frame(kind, b"something")).unwrap();
            }
            self.standing()
        }

        fn server(&mut self, kind: u8, body: &[u8]) -> Standing {
            // The worst that can happen to a message: every byte comes by itself.
            for byte in frame(kind, body) {
                self.server_said(&[byte]).unwrap();
            }
            self.standing()
        }

        fn ready(&mut self, status: u8) -> Standing {
            self.server(b'Z', &[status])
        }
    }

    fn started() -> Talk {
        let mut talk = Talk::default();
        assert_eq!(talk.client("pp"), Standing::Startup);
        assert_eq!(talk.ready(b'I'), Standing::Idle);
        talk
    }

    #[test]
    fn a_query_is_under_way_until_the_server_is_ready() {
        let mut talk = started();
        assert_eq!(talk.client("Q"), Standing::UnderWay);
        assert_eq!(talk.server(b'C', b"BEGIN\0"), Standing::UnderWay);
        assert_eq!(talk.ready(b'T'), Standing::InTransaction);
        assert_eq!(talk.client("Q"), Standing::UnderWay);
        assert_eq!(talk.ready(b'E'), Standing::InTransaction);
        assert_eq!(talk.client("Q"), Standing::UnderWay);
        assert_eq!(talk.ready(b'I'), Standing::Idle);
    }

    #[test]
    fn each_of_a_pipelines_syncs_is_answered() {
        let mut talk = started();
        assert_eq!(talk.client("PBES"), Standing::UnderWay);
        assert_eq!(talk.client("BESBE"), Standing::UnderWay);
        assert_eq!(talk.ready(b'I'), Standing::UnderWay);
        assert_eq!(talk.ready(b'I'), Standing::UnderWay, "what was executed is not synced yet");
        assert_eq!(talk.client("S"), Standing::UnderWay);
        assert_eq!(talk.ready(b'I'), Standing::Idle);
    }

    #[test]
    fn copy_by_a_simple_query() {
        let mut talk = started();
        talk.client("Q");
        talk.server(b'G', &[0, 0, 0]);
        assert_eq!(talk.client("dSdHdc"), Standing::UnderWay, "Sync and Flush among rows are ignored");
        assert_eq!(talk.ready(b'I'), Standing::UnderWay, "they were sent, so caution is right");
        let mut talk = started();
        talk.client("Q");
        talk.server(b'G', &[0, 0, 0]);
        assert_eq!(talk.client("ddc"), Standing::UnderWay);
        assert_eq!(talk.ready(b'I'), Standing::Idle);
    }

    #[test]
    fn copy_by_the_extended_protocol_as_libpq_does_it() {
        let mut talk = started();
        talk.client("PBDES");
        talk.server(b'G', &[0, 0, 0]);
        assert_eq!(talk.client("dddcS"), Standing::UnderWay);
        assert_eq!(talk.ready(b'I'), Standing::Idle);
        assert_eq!(talk.client("Q"), Standing::UnderWay);
        assert_eq!(talk.ready(b'I'), Standing::Idle);
    }

    #[test]
    fn copy_that_fails_before_its_end() {
        let mut talk = started();
        talk.client("PBDES");
        talk.server(b'G', &[0, 0, 0]);
        talk.client("ddd");
        talk.server(b'E', b"SERROR\0\0");
        assert_eq!(talk.client("cS"), Standing::UnderWay);
        assert_eq!(talk.ready(b'I'), Standing::Idle);
    }

    #[test]
    fn a_server_is_ready_in_one_byte() {
        for body in [&b""[..], b"II", b"IIII"] {
            assert_eq!(started().server_said(&frame(b'Z', body)), Err(Broken));
        }
    }

    #[test]
    fn who_is_over_and_when_we_may_speak() {
        let mut talk = started();
        assert!(talk.may_speak() && !talk.is_over());
        talk.server_said(&frame(b'D', &[0; 100])[..50]).unwrap();
        assert!(!talk.may_speak());
        talk.server_said(&frame(b'D', &[0; 100])[50..]).unwrap();
        assert!(talk.may_speak() && !talk.is_over());
        talk.server(b'E', b"SFATAL\0\0");
        assert!(talk.is_over());
        let mut talk = started();
        talk.client("X");
        assert!(talk.is_over());
    }
}
