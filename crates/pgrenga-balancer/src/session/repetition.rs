//! A transaction that came whole in one request and lost a conflict is run again, and its client hears of the last run
//! only. Pure: it is told what passes, and withholds what the server says as long as a repetition is possible.
//!
//! The invariant: a request is repeated only if the server has said that it was rolled back (40001, and idle again),
//! nothing of it was committed, the session is as before, and the client has heard nothing of it.

use super::known::is_one_transaction;
use crate::wire::{HEADER_BYTES, Report, client, frame_length, server, sqlstate};

/// A longer request is not repeated.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// An answer that is longer before its first row goes out.
const WITHHELD_BYTES_MAX: usize = 16 << 10;
/// More is given back when a request is answered.
const IDLE_BYTES_MAX: usize = 512;
const IDLE: &[u8] = b"I";
/// What changes with a commit, and with the session.
const TOUCHED: [&[u8]; 2] = [b"pgrenga.commit_seq\0", b"pgrenga.session\0"];

/// See the module.
#[derive(Debug)]
pub(super) struct Repetition {
    /// How often a request is repeated.
    max: u32,
    left: u32,
    stage: Stage,
    /// The request, as it was sent.
    kept: Vec<u8>,
    withheld: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No repetition: everything passes.
    Off,
    /// A request has begun, and is not all there.
    Begun,
    /// It is, and the server has said nothing that has to go out.
    Sent,
}

/// What to do with what the server has said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It is passed on, behind these bytes.
    Pass(Vec<u8>),
    /// It is kept.
    Withhold,
    /// The request is to be sent again. These bytes are passed on.
    Repeat(Vec<u8>),
}

impl Repetition {
    pub(super) fn new(max: u32) -> Self {
        Self { max, left: 0, stage: Stage::Off, kept: Vec::new(), withheld: Vec::new() }
    }

    /// The client has sent this; as the first outside of a transaction (`is_first`), and up to the end of one request
    /// (`is_whole`).
    pub(super) fn client_said(&mut self, chunk: &[u8], is_first: bool, is_whole: bool) {
        if is_first && self.max > 0 {
            (self.stage, self.left) = (Stage::Begun, self.max);
            self.kept.clear();
        }
        // Whoever sends more does not wait for the answer, and what is sent behind must not be overtaken.
        if self.stage != Stage::Begun || self.kept.len() + chunk.len() > KEPT_BYTES_MAX {
            return self.stop();
        }
        self.kept.extend(chunk);
        if is_whole {
            self.stage = Stage::Sent;
        }
    }

    /// The server has sent this. `text` knows prepared statements.
    pub(super) fn server_said<'a>(&mut self, chunk: &[u8], text: impl Fn(&[u8]) -> Option<&'a [u8]>) -> Ruling {
        if self.stage != Stage::Sent {
            self.stop();
            return Ruling::Pass(std::mem::take(&mut self.withheld));
        }
        let finding = if self.withheld.is_empty() {
            examine(chunk)
        } else {
            self.withheld.extend(chunk);
            examine(&self.withheld)
        };
        let withheld = |own: &mut Self| match std::mem::take(&mut own.withheld) {
            empty if empty.is_empty() => chunk.to_vec(),
            all => all,
        };
        match finding {
            Finding::Undecided if self.withheld.len().max(chunk.len()) <= WITHHELD_BYTES_MAX => {
                self.withheld = withheld(self);
                Ruling::Withhold
            }
            Finding::RolledBack if self.may_repeat(text) => Ruling::Repeat(asynchronous(&withheld(self))),
            Finding::Undecided | Finding::RolledBack | Finding::Passes => {
                self.stop();
                let mut before = std::mem::take(&mut self.withheld);
                before.truncate(before.len().saturating_sub(chunk.len()));
                Ruling::Pass(before)
            }
        }
    }

    /// Whether what is under way can be repeated, if it was rolled back.
    pub(super) fn may_repeat<'a>(&self, text: impl Fn(&[u8]) -> Option<&'a [u8]>) -> bool {
        self.stage == Stage::Sent && self.left > 0 && is_repeatable(&self.kept, text)
    }

    /// What is to be sent again.
    pub(super) fn repeat(&mut self) -> Vec<u8> {
        self.left -= 1;
        self.kept.clone()
    }

    /// How often the request was repeated.
    pub(super) fn count(&self) -> u32 {
        self.max - self.left
    }

    /// The server is lost, and what was withheld goes with it. True if that is something.
    pub(super) fn drop_answer(&mut self) -> bool {
        !std::mem::take(&mut self.withheld).is_empty()
    }

    /// What is under way is not repeated.
    pub(super) fn stop(&mut self) {
        self.stage = Stage::Off;
        if self.kept.capacity() > IDLE_BYTES_MAX {
            self.kept = Vec::new();
        }
    }
}

/// What an answer says so far.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// Nothing that has to go out.
    Undecided,
    /// Something else than that the request lost a conflict, and changed nothing.
    Passes,
    RolledBack,
}

fn examine(answer: &[u8]) -> Finding {
    let (mut rest, mut has_lost, mut is_touched) = (answer, false, false);
    while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
        match header[0] {
            server::PARSE_COMPLETE
            | server::BIND_COMPLETE
            | server::CLOSE_COMPLETE
            | server::NO_DATA
            | server::PARAMETER_DESCRIPTION
            | server::ROW_DESCRIPTION
            | server::COMMAND_COMPLETE
            | server::EMPTY_QUERY_RESPONSE
            | server::PARAMETER_STATUS
            | server::NOTIFICATION_RESPONSE
            | server::ERROR_RESPONSE
            | server::READY_FOR_QUERY => {}
            _ => return Finding::Passes,
        }
        let Ok(length) = frame_length(header) else { return Finding::Passes };
        let Some(body) = rest.get(HEADER_BYTES..length) else { break };
        rest = &rest[length..];
        match header[0] {
            server::ERROR_RESPONSE if is_conflict(body) => has_lost = true,
            server::ERROR_RESPONSE => return Finding::Passes,
            server::PARAMETER_STATUS => is_touched |= TOUCHED.iter().any(|name| body.starts_with(name)),
            server::READY_FOR_QUERY if has_lost && !is_touched && body == IDLE && rest.is_empty() => {
                return Finding::RolledBack;
            }
            server::READY_FOR_QUERY => return Finding::Passes,
            _ => {}
        }
    }
    Finding::Undecided
}

/// FATAL ends the session; then nobody is there to run it again.
fn is_conflict(error: &[u8]) -> bool {
    let is_error = error.split(|byte| *byte == 0).any(|field| field == b"VERROR");
    is_error && Report::decode(error).sqlstate() == sqlstate::SERIALIZATION_FAILURE
}

/// Of an answer, what is no part of it: the client hears that in any case.
fn asynchronous(answer: &[u8]) -> Vec<u8> {
    let messages =
        messages(answer).filter(|(kind, ..)| [server::PARAMETER_STATUS, server::NOTIFICATION_RESPONSE].contains(kind));
    messages.flat_map(|(_, _, message)| message).copied().collect()
}

/// Whether running it again does what running it once would have done: it is one transaction and nothing but
/// that, and leaves no prepared statement behind when it fails.
fn is_repeatable<'a>(request: &[u8], text: impl Fn(&[u8]) -> Option<&'a [u8]>) -> bool {
    let mut unnamed = None;
    messages(request).all(|(kind, body, _)| {
        let mut texts = body.split(|byte| *byte == 0);
        match kind {
            client::QUERY => texts.next().is_some_and(is_one_transaction),
            client::PARSE => {
                let is_unnamed = texts.next() == Some(b"");
                unnamed = texts.next();
                is_unnamed && unnamed.is_some_and(is_one_transaction)
            }
            client::BIND => match texts.nth(1) {
                Some(b"") if unnamed.is_some() => true,
                Some(name) => text(name).is_some_and(is_one_transaction),
                None => false,
            },
            client::CLOSE => body.first() == Some(&b'P'),
            client::DESCRIBE | client::EXECUTE | client::SYNC => true,
            _ => false,
        }
    })
}

/// Whole messages: type, body, and all of it.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8], &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER_BYTES>()?;
        let (message, others) = rest.split_at_checked(frame_length(header).ok()?)?;
        rest = others;
        Some((header[0], &message[HEADER_BYTES..], message))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame;

    const TEXT: &[u8] = b"UPDATE t SET x = x + $1";

    fn conflict() -> Vec<u8> {
        Report::fatal(sqlstate::SERIALIZATION_FAILURE, "could not serialize access").encode_error()
    }

    fn query(text: &str) -> Vec<u8> {
        frame(client::QUERY, format!("{text}\0").as_bytes())
    }

    fn sent(request: &[u8]) -> Repetition {
        let mut repetition = Repetition::new(1);
        repetition.client_said(request, true, true);
        repetition
    }

    fn ruled(request: &[u8], answer: &[u8]) -> Ruling {
        sent(request).server_said(answer, |name| (name == b"known").then_some(TEXT))
    }

    fn is_repeated(request: &[u8], answer: &[u8]) -> bool {
        matches!(ruled(request, answer), Ruling::Repeat(_))
    }

    fn ready(status: u8) -> Vec<u8> {
        frame(server::READY_FOR_QUERY, &[status])
    }

    #[test]
    fn one_transaction_that_lost_a_conflict_is_repeated() {
        let lost = [conflict(), ready(b'I')].concat();
        for text in ["UPDATE t SET x = 1", "insert into t values (1); DELETE FROM t;", " with a AS (SELECT 1) TABLE a"]
        {
            assert!(is_repeated(&query(text), &lost), "{text}");
        }
        for text in [
            "BEGIN; UPDATE t SET x = 1; COMMIT",
            "COMMIT",
            "CALL p()",
            "UPDATE t SET x = 1; COMMIT; SELECT 1",
            "PREPARE a AS SELECT 1; UPDATE t SET x = 1",
            "SELECT 1; /* */ COMMIT",
            "CREATE INDEX CONCURRENTLY ON t (x)",
            "",
            ";",
        ] {
            assert!(!is_repeated(&query(text), &lost), "{text}");
        }
    }

    #[test]
    fn so_is_a_batch_that_leaves_nothing_behind() {
        let lost = [frame(b'1', b""), frame(b'2', b""), frame(b'C', b"UPDATE 1\0"), conflict(), ready(b'I')].concat();
        let batch =
            |messages: &[(u8, &[u8])]| messages.iter().flat_map(|(kind, body)| frame(*kind, body)).collect::<Vec<_>>();
        let parse = [b"\0", TEXT, b"\0\0\0"].concat();
        let end = [(b'E', &b"\0\0\0\0\0"[..]), (b'S', b"")];
        let (bind, bind_known) = (&b"\0\0\0\0\0\0\0\0"[..], &b"\0known\0\0\0\0\0\0\0"[..]);
        for begins in [
            vec![(b'P', &parse[..]), (b'B', bind), (b'D', b"P\0")],
            vec![(b'B', bind_known)],
            vec![(b'B', bind_known), (b'C', b"P\0")],
        ] {
            assert!(is_repeated(&batch(&[&begins[..], &end].concat()), &lost), "{begins:?}");
        }
        let named = [b"a\0", TEXT, b"\0\0\0"].concat();
        for begins in [
            vec![(b'P', &named[..]), (b'B', b"\0a\0\0\0\0\0\0\0")],
            vec![(b'B', b"\0other\0\0\0\0\0\0\0")],
            vec![(b'B', bind)],
            vec![(b'P', b"\0COMMIT\0\0\0"), (b'B', bind)],
            vec![(b'B', bind_known), (b'C', b"Sknown\0")],
            vec![(b'B', bind_known), (b'H', b"")],
        ] {
            assert!(!is_repeated(&batch(&[&begins[..], &end].concat()), &lost), "{begins:?}");
        }
    }

    #[test]
    fn nothing_else_is() {
        let update = query("UPDATE t SET x = 1");
        let fatal = Report::fatal(sqlstate::SERIALIZATION_FAILURE, "no").encode();
        let other = Report::fatal("08007", "not known").encode_error();
        let parameter = |text: &[u8]| frame(server::PARAMETER_STATUS, text);
        for answer in [
            vec![conflict(), ready(b'E')],
            vec![conflict(), ready(b'T')],
            vec![other, ready(b'I')],
            vec![fatal, ready(b'I')],
            vec![frame(server::DATA_ROW, b"\0\0"), conflict(), ready(b'I')],
            vec![frame(server::NOTICE_RESPONSE, b"\0"), conflict(), ready(b'I')],
            vec![conflict(), parameter(b"pgrenga.commit_seq\x007\0"), ready(b'I')],
            vec![conflict(), parameter(b"pgrenga.session\0LISTEN|0:|\0"), ready(b'I')],
            vec![conflict(), ready(b'I'), ready(b'I')],
            vec![frame(b'C', b"UPDATE 1\0"), ready(b'I')],
        ] {
            assert_eq!(ruled(&update, &answer.concat()), Ruling::Pass(Vec::new()), "{answer:?}");
        }
        assert!(is_repeated(
            &update,
            &[conflict(), parameter(b"pgrenga.transaction_id\x001-1-2\0"), ready(b'I')].concat()
        ));
    }

    #[test]
    fn repetitions_end_and_what_is_too_long_is_not_kept() {
        let (update, lost) = (query("UPDATE t SET x = 1"), [conflict(), ready(b'I')].concat());
        let none = |_: &[u8]| None;
        let mut repetition = sent(&update);
        assert_eq!(repetition.server_said(&lost, none), Ruling::Repeat(Vec::new()));
        assert_eq!((repetition.repeat(), repetition.count()), (update.clone(), 1));
        assert_eq!(repetition.server_said(&lost, none), Ruling::Pass(Vec::new()));
        let long = query(&format!("UPDATE t SET x = '{}'", "x".repeat(KEPT_BYTES_MAX)));
        let mut repetition = sent(&long);
        assert_eq!(repetition.server_said(&lost, none), Ruling::Pass(Vec::new()));
        assert_eq!(repetition.kept.capacity(), 0);
        let mut repetition = Repetition::new(0);
        repetition.client_said(&update, true, true);
        assert_eq!(repetition.server_said(&lost, none), Ruling::Pass(Vec::new()));
    }

    #[test]
    fn who_sends_more_hears_everything_in_order() {
        let (update, none) = (query("UPDATE t SET x = 1"), |_: &[u8]| None);
        let mut repetition = sent(&update);
        let (one, two) = (frame(b'C', b"UPDATE 1\0"), [conflict(), ready(b'I')].concat());
        assert_eq!(repetition.server_said(&one, none), Ruling::Withhold);
        repetition.client_said(&query("SELECT 1"), false, false);
        assert_eq!(repetition.server_said(&two, none), Ruling::Pass(one));
    }

    proptest! {
        /// However an answer is cut, the client hears all of it, or that it is repeated.
        #[test]
        fn nothing_is_lost(
            kinds in proptest::collection::vec(proptest::sample::select(b"12nCTDSAEZ".to_vec()), 0..8),
            cuts in proptest::collection::vec(1_usize..9, 1..30),
        ) {
            let answer: Vec<u8> = kinds.iter().flat_map(|kind| match kind {
                b'E' => conflict(),
                b'Z' => ready(b'I'),
                kind => frame(*kind, b"something\0"),
            }).collect();
            let mut repetition = sent(&query("UPDATE t SET x = 1"));
            let (mut rest, mut heard, mut repeats) = (&answer[..], Vec::new(), None);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() || repeats.is_some() { break }
                let (chunk, others) = rest.split_at(rest.len().min(*cut));
                rest = others;
                match repetition.server_said(chunk, |_| None) {
                    Ruling::Pass(before) => heard.extend([&before, chunk].concat()),
                    Ruling::Withhold => {}
                    Ruling::Repeat(bytes) => repeats = Some(bytes),
                }
            }
            match repeats {
                Some(bytes) => {
                    prop_assert!(heard.is_empty() && kinds.contains(&b'E'));
                    let before = kinds.iter().take_while(|kind| **kind != b'Z');
                    prop_assert!(before.clone().all(|kind| *kind != b'D'));
                    prop_assert_eq!(messages(&bytes).count(), before.filter(|kind| b"SA".contains(kind)).count());
                }
                None => {
                    heard.extend(std::mem::take(&mut repetition.withheld));
                    prop_assert_eq!(heard, answer);
                }
            }
        }
    }
}
