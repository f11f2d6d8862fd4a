//! What a client has asked and not been answered: enough of it to tell the truth when the server is lost.

use crate::wire::{Piece, client, frame, server};

/// More messages than that are no COMMIT.
const SHAPE_MAX: usize = 8;
/// Words that tell what a statement is are not longer.
const HEAD_BYTES_MAX: usize = 40;
/// PostgreSQL's `NAMEDATALEN`.
const NAME_BYTES_MAX: usize = 63;
const OPEN: [u8; 2] = [b'T', b'E'];

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// COMMIT, and nothing else.
    Commit,
    /// ROLLBACK, and nothing else.
    Rollback,
    /// One statement, which commits nothing.
    Statement,
    /// One statement, which commits nothing in a transaction block, and otherwise one transaction, if any.
    Query,
    /// One statement, which may commit one transaction.
    Transaction,
    /// What may have had several transactions.
    Several,
}

/// The messages of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Their types; a `Describe` of a statement is a small one. `SHAPE_MAX + 1` messages are too many.
    shape: [u8; SHAPE_MAX],
    messages: usize,
    is_block_open: bool,
    text: Text,
    /// The statement that was bound last. Cut if its name is not known.
    bound: Short<NAME_BYTES_MAX>,
    /// Something of the answer was seen.
    pub(super) is_answered: bool,
}

impl Asked {
    pub(super) fn begin(status: u8) -> Self {
        Self { is_block_open: OPEN.contains(&status), ..Self::default() }
    }

    /// Whether a transaction block was open when it was asked.
    pub(crate) fn is_block_open(&self) -> bool {
        self.is_block_open
    }

    pub(super) fn note(&mut self, piece: Piece<'_>) {
        if piece.is_first {
            let is_of_statement = piece.kind == client::DESCRIBE && piece.body.first() == Some(&b'S');
            if let Some(place) = self.shape.get_mut(self.messages) {
                *place = if is_of_statement { piece.kind.to_ascii_lowercase() } else { piece.kind };
            }
            self.messages = (self.messages + 1).min(SHAPE_MAX + 1);
        }
        match piece.kind {
            client::QUERY => self.text.note(piece.body),
            client::BIND => {
                let mut names = piece.body.split(|byte| *byte == 0);
                let name = names.nth(1).filter(|_| piece.is_first && names.next().is_some());
                self.bound = Short { is_cut: name.is_none(), ..Short::default() };
                self.bound.extend(name.unwrap_or_default());
            }
            _ => {}
        }
    }

    /// What it was; `text` knows prepared statements.
    pub(super) fn sent<'a>(&self, text: impl Fn(&[u8]) -> Option<&'a [u8]>) -> Sent {
        let Some(shape) = self.shape.get(..self.messages) else { return Sent::Several };
        let count = |kind| shape.iter().filter(|own| **own == kind).count();
        let (queries, executes, binds) = (count(client::QUERY), count(client::EXECUTE), count(client::BIND));
        let statement = match (queries, executes, binds) {
            (1, 0, 0) if shape[1..].iter().all(|kind| *kind == client::COPY_DONE) => self.text.sent(),
            (0, 0, _) if count(client::FUNCTION_CALL) == 0 => Sent::Statement,
            (0, 1, 1) => match self.bound.whole().and_then(text) {
                Some(text) => {
                    let mut read = Text::default();
                    read.note(text);
                    read.sent()
                }
                None => Sent::Several,
            },
            _ => Sent::Several,
        };
        match statement {
            // A procedure has no transactions of its own in a block.
            Sent::Several if self.is_block_open && (executes, binds) == (1, 1) => Sent::Transaction,
            other => other,
        }
    }

    /// The answer to a COMMIT or ROLLBACK, as the server would have given it, if nothing of it has come yet.
    pub(crate) fn answer(&self, tag: &[u8]) -> Option<Vec<u8>> {
        let shape = self.shape.get(..self.messages).filter(|_| !self.is_answered)?;
        let mut answer = Vec::new();
        for kind in shape {
            let (kind, body): (u8, &[u8]) = match *kind {
                client::PARSE => (server::PARSE_COMPLETE, b""),
                client::BIND => (server::BIND_COMPLETE, b""),
                client::DESCRIBE => (server::NO_DATA, b""),
                b'd' => {
                    answer.extend(frame(server::PARAMETER_DESCRIPTION, &[0, 0]));
                    (server::NO_DATA, b"")
                }
                client::QUERY | client::EXECUTE => (server::COMMAND_COMPLETE, tag),
                client::CLOSE => (server::CLOSE_COMPLETE, b""),
                client::SYNC | client::FLUSH => continue,
                _ => return None,
            };
            answer.extend(frame(kind, body));
        }
        Some(answer)
    }
}

/// The first `N` bytes of something.
#[derive(Clone, Debug)]
struct Short<const N: usize> {
    bytes: [u8; N],
    length: usize,
    is_cut: bool,
}

impl<const N: usize> Default for Short<N> {
    fn default() -> Self {
        Self { bytes: [0; N], length: 0, is_cut: false }
    }
}

impl<const N: usize> Short<N> {
    fn extend(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(N - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        self.is_cut |= taken < bytes.len();
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn whole(&self) -> Option<&[u8]> {
        (!self.is_cut).then(|| self.bytes())
    }
}

/// A statement's first words, and whether another statement follows. Its text may come in pieces.
#[derive(Clone, Debug, Default)]
struct Text {
    head: Short<HEAD_BYTES_MAX>,
    /// A semicolon was seen, and something behind it.
    has_semicolon: bool,
    has_more: bool,
}

impl Text {
    fn note(&mut self, text: &[u8]) {
        self.head.extend(text);
        let mut rest = text;
        if !self.has_semicolon {
            let Some(semicolon) = rest.iter().position(|byte| *byte == b';') else { return };
            self.has_semicolon = true;
            rest = &rest[semicolon + 1..];
        }
        self.has_more |= rest.iter().any(|byte| !byte.is_ascii_whitespace() && !matches!(byte, b';' | 0));
    }

    fn sent(&self) -> Sent {
        if self.has_more {
            return Sent::Several;
        }
        let head = String::from_utf8_lossy(self.head.bytes()).to_ascii_uppercase();
        let end = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
        let is_short = !self.head.is_cut;
        let words: Vec<&str> = head.split(end).filter(|word| !word.is_empty()).collect();
        let is_plain = head.trim_start().starts_with(|letter: char| letter.is_ascii_alphabetic());
        match words[..] {
            _ if !is_plain => Sent::Several,
            ["COMMIT" | "END"] | ["COMMIT" | "END", "WORK" | "TRANSACTION"] if is_short => Sent::Commit,
            ["ROLLBACK" | "ABORT"] | ["ROLLBACK" | "ABORT", "WORK" | "TRANSACTION"] if is_short => Sent::Rollback,
            ["CALL" | "DO", ..] | [] => Sent::Several,
            ["BEGIN" | "START" | "SAVEPOINT" | "RELEASE" | "DECLARE" | "FETCH" | "MOVE" | "LOCK", ..] => {
                Sent::Statement
            }
            [
                "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "WITH" | "MERGE" | "VALUES" | "TABLE" | "COPY" | "SET",
                ..,
            ]
            | ["SHOW" | "EXECUTE" | "EXPLAIN" | "TRUNCATE" | "CREATE" | "ALTER" | "DROP", ..] => Sent::Query,
            _ => Sent::Transaction,
        }
    }
}

/// Whether each statement of a text that comes outside of a transaction block is part of one transaction, and does
/// nothing that outlives it when it fails. Whatever a semicolon is followed by is taken for a statement, so that the
/// answer is no for some texts with semicolons in strings.
pub(crate) fn is_one_transaction(text: &[u8]) -> bool {
    const HEADS: [&[u8]; 10] =
        [b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"MERGE", b"WITH", b"VALUES", b"TABLE", b"EXECUTE", b"TRUNCATE"];
    let mut statements =
        text.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|text| !text.is_empty()).peekable();
    statements.peek().is_some()
        && statements.all(|text| {
            let end = text.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
            let word = &text[..end.unwrap_or(text.len())];
            HEADS.iter().any(|head| word.eq_ignore_ascii_case(head))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(status: u8, messages: &[(u8, &[u8])]) -> Asked {
        let mut asked = Asked::begin(status);
        for (kind, body) in messages {
            asked.note(Piece { kind: *kind, body, is_first: true, is_last: true });
        }
        asked
    }

    fn query(text: &str) -> Sent {
        asked(b'I', &[(b'Q', text.as_bytes())]).sent(|_| None)
    }

    #[test]
    fn what_a_query_may_have_committed() {
        for text in ["COMMIT\0", "commit;\0", " END ; ;\0", "Commit Work\0", "END TRANSACTION\0"] {
            assert_eq!(query(text), Sent::Commit, "{text}");
        }
        for text in ["ROLLBACK\0", "abort work;\0"] {
            assert_eq!(query(text), Sent::Rollback, "{text}");
        }
        for text in ["BEGIN\0", "SAVEPOINT a\0", "FETCH 1 FROM c\0"] {
            assert_eq!(query(text), Sent::Statement, "{text}");
        }
        for text in ["INSERT INTO t VALUES (1)\0", "SELECT f();\0", "\n with a AS (SELECT 1) TABLE a\0"] {
            assert_eq!(query(text), Sent::Query, "{text}");
        }
        for text in ["COMMIT AND CHAIN\0", "COMMIT PREPARED 'a'\0", "VACUUM\0"] {
            assert_eq!(query(text), Sent::Transaction, "{text}");
        }
        for text in [
            "CALL p()\0",
            "DO $$$$\0",
            "ROLLBACK; INSERT INTO t VALUES (1)\0",
            "SELECT ';'\0",
            "/* */ COMMIT\0",
            "-- a\nCOMMIT\0",
            "\0",
            "",
        ] {
            assert_eq!(query(text), Sent::Several, "{text}");
        }
        let long = format!("COMMIT {}AND CHAIN\0", " ".repeat(HEAD_BYTES_MAX));
        assert_eq!(query(&long), Sent::Transaction);
    }

    #[test]
    fn a_text_may_come_in_pieces() {
        let mut asked = Asked::begin(b'I');
        for (place, byte) in b"COMMIT; SELECT 1\0".iter().enumerate() {
            asked.note(Piece { kind: b'Q', body: &[*byte], is_first: place == 0, is_last: *byte == 0 });
        }
        assert_eq!(asked.sent(|_| None), Sent::Several);
    }

    #[test]
    fn what_the_extended_protocol_may_have_committed() {
        let text = |name: &[u8]| match name {
            b"c" => Some(&b"COMMIT"[..]),
            b"p" => Some(&b"CALL p()"[..]),
            b"i" => Some(&b"INSERT INTO t VALUES ($1)"[..]),
            _ => None,
        };
        let bind = |name: &str| format!("\0{name}\0\0\0\0\0\0\0").into_bytes();
        let one =
            |status, name: &str| asked(status, &[(b'B', &bind(name)), (b'E', b"\0\0\0\0\0"), (b'S', b"")]).sent(text);
        assert_eq!(one(b'T', "c"), Sent::Commit);
        assert_eq!(one(b'I', "i"), Sent::Query);
        assert_eq!(one(b'I', "p"), Sent::Several);
        assert_eq!((one(b'I', "unknown"), one(b'T', "unknown")), (Sent::Several, Sent::Transaction));
        let two = [(b'B', &bind("i")[..]), (b'E', b""), (b'B', &bind("i")), (b'E', b""), (b'S', b"")];
        assert_eq!(asked(b'I', &two).sent(text), Sent::Several);
        assert_eq!(asked(b'I', &[(b'P', b"a\0SELECT\0"), (b'D', b"Sa\0"), (b'S', b"")]).sent(text), Sent::Statement);
        assert_eq!(asked(b'I', &[(b'F', b"")]).sent(text), Sent::Several);
    }

    #[test]
    fn a_commit_is_answered_as_it_was_asked() {
        let tag = b"COMMIT\0";
        let simple = asked(b'T', &[(b'Q', b"COMMIT\0")]);
        assert_eq!(simple.answer(tag), Some(frame(b'C', tag)));
        let extended =
            [(b'P', &b"\0COMMIT\0\0\0"[..]), (b'B', b"\0\0\0\0\0\0\0\0"), (b'D', b"P\0"), (b'E', b""), (b'S', b"")];
        let expected = [frame(b'1', b""), frame(b'2', b""), frame(b'n', b""), frame(b'C', tag)].concat();
        assert_eq!(asked(b'T', &extended).answer(tag), Some(expected));
        let mut begun = asked(b'T', &extended);
        begun.is_answered = true;
        assert_eq!(begun.answer(tag), None, "part of it was given");
        assert_eq!(asked(b'T', &vec![(b'B', &b""[..]); SHAPE_MAX + 1]).answer(tag), None);
    }
}
