//! What a server reports of a session, so that another server can go on with it: the text of the setting
//! `pgrenga.session`. ASCII without quotes and backslashes, whatever names and values hold: it goes through client
//! encodings, and into an SQL literal, as it is.
//!
//! `KEPT|COUNT:NAME,NAME|STATE`: why the session cannot go; which prepared statements are gone (`*` for all there
//! were); and what [`State`] writes. Empty when nothing is reported.

use std::fmt::Write as _;

/// libpq loses its bearings at a `ParameterStatus` of 30,000 bytes (`VALID_LONG_MESSAGE_TYPE` in `fe-protocol3.c`).
pub const TEXT_BYTES_MAX: usize = 24_000;

/// What was reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What the session has that no other server can be given, in words. Empty: it can go.
    pub kept: Vec<String>,
    /// Differs from one report to the next if the statements in `deallocated` were.
    pub deallocations: u64,
    /// Prepared statements that were deallocated by SQL before the report with this number.
    pub deallocated: Deallocated,
    /// The text of a [`State`].
    pub state: String,
}

/// Which prepared statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deallocated {
    /// All that there were; some may have been prepared since.
    All,
    /// Those with these names, if any.
    Named(Vec<Vec<u8>>),
}

impl Default for Deallocated {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl Report {
    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        let kept: Vec<_> = self.kept.iter().map(|words| escaped(words.as_bytes())).collect();
        let deallocated = match &self.deallocated {
            Deallocated::All => "*".to_owned(),
            Deallocated::Named(names) => names.iter().map(|name| escaped(name)).collect::<Vec<_>>().join(","),
        };
        format!("{}|{}:{deallocated}|{}", kept.join(","), self.deallocations, self.state)
    }

    /// The report in a text that has one.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let mut fields = text.split('|');
        let (kept, deallocated, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (count, names) = deallocated.split_once(':')?;
        let list = |text: &str| -> Option<Vec<Vec<u8>>> {
            text.split(',').filter(|item| !item.is_empty()).map(unescaped).collect()
        };
        Some(Self {
            kept: list(kept)?.into_iter().map(String::from_utf8).collect::<Result<_, _>>().ok()?,
            deallocations: count.parse().ok()?,
            deallocated: if names == "*" { Deallocated::All } else { Deallocated::Named(list(names)?) },
            state: state.to_owned(),
        })
    }
}

/// What another server is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Names and values, in the order in which they are to be set.
    pub settings: Vec<(Vec<u8>, Vec<u8>)>,
    /// `PREPARE` statements.
    pub prepared: Vec<Vec<u8>>,
}

impl State {
    /// The text.
    #[must_use]
    pub fn encode(&self) -> String {
        let settings = self.settings.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
        let prepared = self.prepared.iter().map(|statement| format!("={}", escaped(statement)));
        settings.chain(prepared).collect::<Vec<_>>().join("&")
    }

    /// The state in a text that has one.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let mut state = Self::default();
        for item in text.split('&').filter(|item| !item.is_empty()) {
            let (name, value) = item.split_once('=')?;
            match (unescaped(name)?, unescaped(value)?) {
                (name, statement) if name.is_empty() => state.prepared.push(statement),
                setting => state.settings.push(setting),
            }
        }
        Some(state)
    }
}

/// Letters, digits and a few marks stay as they are.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b' ' | b'(' | b')' => {
                text.push(char::from(*byte));
            }
            _ => drop(write!(text, "%{byte:02x}")),
        }
    }
    text
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(any::<u8>(), 1..20)
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            kept in vec("[ -~]{1,20}", 0..3),
            deallocations in any::<u64>(),
            names in proptest::option::of(vec(bytes(), 0..4)),
            settings in vec((bytes(), vec(any::<u8>(), 0..20)), 0..4),
            prepared in vec(vec(any::<u8>(), 0..20), 0..4),
        ) {
            let state = State { settings, prepared };
            let deallocated = names.map_or(Deallocated::All, Deallocated::Named);
            let report = Report { kept, deallocations, deallocated, state: state.encode() };
            let text = report.encode();
            prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\'' && byte != b'\\'));
            prop_assert_eq!(Report::decode(&text), Some(report.clone()));
            prop_assert_eq!(State::decode(&report.state), Some(state));
        }

        #[test]
        fn hostile_text_is_read_or_refused(text in ".{0,60}") {
            let _ = (Report::decode(&text), State::decode(&text));
        }
    }

    #[test]
    fn no_report_is_none() {
        assert_eq!(Report::decode(""), None);
        assert_eq!(Report::decode("|0:|"), Some(Report::default()));
        assert_eq!(State::decode("a=%4"), None);
    }
}
