//! Statements that the protocol prepared, as they were sent. A `Parse` counts once the server has confirmed it; one that
//! it has not confirmed when it is ready again has failed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pgrenga_writeset::session::Deallocated;

use crate::wire::{Piece, client, server};

/// Of one session, the messages that are under way included.
const BYTES_MAX: usize = 256 << 10;
/// `Parse` and `Close` messages of one session that are not answered.
const PENDING_MAX: usize = 1000;

/// Bodies of `Parse` messages, by the statements' names. The one without a name is like the others.
pub(crate) type Prepared = Arc<BTreeMap<Box<[u8]>, Arc<[u8]>>>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Statements {
    prepared: Prepared,
    pending: VecDeque<Pending>,
    /// How many requests were sent, and how many answered.
    sent: u64,
    answered: u64,
    /// A message that comes in pieces.
    partial: Vec<u8>,
    bytes: usize,
    /// Statements with a name that were confirmed since the server was ready last.
    confirmed: usize,
    is_lost: bool,
}

#[derive(Clone, Debug)]
struct Pending {
    /// It belongs to the request that comes after so many others.
    after: u64,
    what: Message,
}

#[derive(Clone, Debug)]
enum Message {
    Parse(Box<[u8]>),
    CloseStatement(Box<[u8]>),
    ClosePortal,
}

impl Statements {
    pub(super) fn client_said(&mut self, piece: Piece<'_>) {
        match piece.kind {
            client::PARSE | client::CLOSE if !self.is_lost => self.collect(piece),
            client::QUERY | client::SYNC | client::FUNCTION_CALL if piece.is_last => self.sent += 1,
            _ => {}
        }
    }

    pub(super) fn server_said(&mut self, kind: u8) {
        match kind {
            server::PARSE_COMPLETE | server::CLOSE_COMPLETE if !self.is_lost => self.confirm(kind),
            server::READY_FOR_QUERY => {
                self.answered += 1;
                self.confirmed = 0;
                self.forget_failed(self.answered);
            }
            _ => {}
        }
    }

    /// Nothing is under way: whatever was sent is answered, also where `Sync` had no answer (among COPY's rows).
    pub(super) fn is_idle(&mut self) {
        self.answered = self.sent;
        if !self.pending.is_empty() {
            self.forget_failed(self.sent);
        }
        if self.pending.capacity() > 0 {
            self.pending = VecDeque::new();
        }
    }

    /// SQL has deallocated them.
    pub(super) fn deallocated(&mut self, which: &Deallocated) {
        match which {
            // Which of the two came first is not known.
            Deallocated::All if self.confirmed > 0 => self.lose(),
            Deallocated::All => {
                self.prepared = Prepared::default();
                self.count();
            }
            Deallocated::Named(names) => names.iter().for_each(|name| self.remove(name)),
        }
    }

    /// How many requests were sent.
    pub(crate) fn requests(&self) -> u64 {
        self.sent
    }

    /// Whether all that there are are known.
    pub(crate) fn are_known(&self) -> bool {
        !self.is_lost
    }

    /// All, as they were sent.
    pub(crate) fn prepared(&self) -> Prepared {
        Arc::clone(&self.prepared)
    }

    /// The text of a statement, also of one that is not confirmed yet.
    pub(crate) fn text(&self, name: &[u8]) -> Option<&[u8]> {
        let pending = self.pending.iter().rev().find_map(|pending| match &pending.what {
            Message::Parse(body) if name_of(body) == name => Some(&**body),
            _ => None,
        });
        let body = pending.or_else(|| self.prepared.get(name).map(|body| &**body))?;
        body.split(|byte| *byte == 0).nth(1)
    }

    fn collect(&mut self, piece: Piece<'_>) {
        if self.bytes + self.partial.len() + piece.body.len() > BYTES_MAX || self.pending.len() >= PENDING_MAX {
            return self.lose();
        }
        let body: Box<[u8]> = if piece.is_first && piece.is_last {
            piece.body.into()
        } else {
            self.partial.extend(piece.body);
            if !piece.is_last {
                return;
            }
            std::mem::take(&mut self.partial).into()
        };
        let what = match (piece.kind, body.first()) {
            (client::PARSE, _) => Message::Parse(body),
            (_, Some(b'S')) => Message::CloseStatement(name_of(&body[1..]).into()),
            _ => Message::ClosePortal,
        };
        if let Message::Parse(body) = &what {
            self.bytes += body.len();
        }
        self.pending.push_back(Pending { after: self.sent, what });
    }

    fn confirm(&mut self, kind: u8) {
        match (kind, self.pending.pop_front().map(|pending| pending.what)) {
            (server::PARSE_COMPLETE, Some(Message::Parse(body))) => {
                let name = name_of(&body).into();
                self.confirmed += usize::from(!body.starts_with(&[0]));
                Arc::make_mut(&mut self.prepared).insert(name, body.into());
                self.count();
            }
            (server::CLOSE_COMPLETE, Some(Message::CloseStatement(name))) => self.remove(&name),
            (server::CLOSE_COMPLETE, Some(Message::ClosePortal)) => {}
            _ => self.lose(),
        }
    }

    /// What belongs to the first `answered` requests and was not confirmed has failed.
    fn forget_failed(&mut self, answered: u64) {
        while self.pending.front().is_some_and(|pending| pending.after < answered) {
            // The statement without a name goes before another one is made.
            if let Some(Message::Parse(body)) = self.pending.pop_front().map(|pending| pending.what)
                && body.starts_with(&[0])
            {
                self.remove(&[]);
            }
            self.count();
        }
    }

    fn remove(&mut self, name: &[u8]) {
        if self.prepared.contains_key(name) {
            Arc::make_mut(&mut self.prepared).remove(name);
        }
        self.count();
    }

    fn count(&mut self) {
        let pending = self.pending.iter().map(|pending| match &pending.what {
            Message::Parse(body) => body.len(),
            _ => 0,
        });
        self.bytes = pending.chain(self.prepared.values().map(|body| body.len())).sum();
    }

    /// From here on it is not known which there are.
    fn lose(&mut self) {
        *self = Self { is_lost: true, sent: self.sent, answered: self.answered, ..Self::default() };
    }
}

fn name_of(body: &[u8]) -> &[u8] {
    body.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Statements {
        fn client(&mut self, kind: u8, body: &[u8]) {
            self.client_said(Piece { kind, body, is_first: true, is_last: true });
        }

        fn server(&mut self, kinds: &str) {
            kinds.bytes().for_each(|kind| self.server_said(kind));
        }

        fn names(&self) -> Vec<String> {
            self.prepared.keys().map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
        }
    }

    #[test]
    fn what_is_confirmed_is_there_until_it_is_closed() {
        let mut statements = Statements::default();
        statements.client(b'P', b"a\0SELECT 1\0\0\0");
        statements.client(b'P', b"b\0SELECT 2\0\0\0");
        assert_eq!(statements.text(b"b"), Some(&b"SELECT 2"[..]), "also before");
        statements.client(b'S', b"");
        statements.server("11Z");
        assert_eq!(statements.names(), ["a", "b"]);
        statements.client(b'C', b"Pb\0");
        statements.client(b'C', b"Sa\0");
        statements.client(b'S', b"");
        statements.server("33Z");
        assert_eq!(statements.names(), ["b"]);
        assert!(statements.are_known());
    }

    #[test]
    fn what_fails_is_not_there_and_takes_nothing_else_along() {
        let mut statements = Statements::default();
        statements.client(b'P', b"\0SELECT 0\0\0\0");
        statements.client(b'S', b"");
        statements.server("1Z");
        // Two requests under way at once: the first fails after its first statement.
        for body in [b"a\0SELECT 1\0\0\0", b"b\0SELECTS \0\0\0", b"c\0SELECT 3\0\0\0"] {
            statements.client(b'P', body);
        }
        statements.client(b'S', b"");
        statements.client(b'P', b"d\0SELECT 4\0\0\0");
        statements.client(b'S', b"");
        statements.server("1EZ1Z");
        assert_eq!(statements.names(), ["", "a", "d"]);
        statements.client(b'P', b"\0SELEC\0\0\0");
        statements.client(b'S', b"");
        statements.server("EZ");
        assert_eq!(statements.names(), ["a", "d"]);
        assert_eq!(statements.bytes, statements.prepared.values().map(|body| body.len()).sum::<usize>());
    }

    #[test]
    fn deallocated_by_sql() {
        let mut statements = Statements::default();
        for body in [b"a\0SELECT 1\0\0\0", b"b\0SELECT 2\0\0\0"] {
            statements.client(b'P', body);
        }
        statements.client(b'S', b"");
        statements.server("11Z");
        statements.deallocated(&Deallocated::Named(vec![b"a".to_vec(), b"x".to_vec()]));
        assert_eq!(statements.names(), ["b"]);
        statements.deallocated(&Deallocated::All);
        assert_eq!(statements.names(), [""; 0]);
        statements.client(b'P', b"a\0SELECT 1\0\0\0");
        statements.client(b'S', b"");
        statements.server("1");
        statements.deallocated(&Deallocated::All);
        assert!(!statements.are_known(), "before, or after?");
    }

    #[test]
    fn bounded_and_honest_about_it() {
        let mut statements = Statements::default();
        let long = [&b"a\0"[..], &vec![b'x'; BYTES_MAX], b"\0\0\0"].concat();
        statements.client(b'P', &long);
        assert!(!statements.are_known() && statements.bytes == 0);
        let mut statements = Statements::default();
        for _ in 0..=PENDING_MAX {
            statements.client(b'C', b"Pb\0");
        }
        assert!(!statements.are_known());
        let mut statements = Statements::default();
        statements.server("1");
        assert!(!statements.are_known(), "nobody has asked for that");
    }

    #[test]
    fn a_sync_that_is_not_answered_is_none() {
        let mut statements = Statements::default();
        // COPY by the extended protocol: the first Sync comes among the rows.
        for kind in [b'S', b'S'] {
            statements.client(kind, b"");
        }
        statements.server("Z");
        statements.is_idle();
        statements.client(b'P', b"a\0SELEC\0\0\0");
        statements.client(b'S', b"");
        statements.server("EZ");
        assert_eq!(statements.names(), [""; 0]);
        assert!(statements.pending.is_empty() && statements.are_known());
    }
}
