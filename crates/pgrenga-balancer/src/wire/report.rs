//! `ErrorResponse`: what the balancer says itself, and what a server said.

/// Codes that the balancer uses or looks for; Appendix A of PostgreSQL's manual.
pub(crate) mod sqlstate {
    pub(crate) const CONNECTION_FAILURE: &str = "08006";
    pub(crate) const TRANSACTION_RESOLUTION_UNKNOWN: &str = "08007";
    pub(crate) const PROTOCOL_VIOLATION: &str = "08P01";
    pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub(crate) const INVALID_AUTHORIZATION: &str = "28000";
    pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
    pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
    pub(crate) const CRASH_SHUTDOWN: &str = "57P02";
    pub(crate) const SERIALIZATION_FAILURE: &str = "40001";
    pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
    pub(crate) const QUERY_CANCELED: &str = "57014";
}

/// An error in PostgreSQL's parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// As a server said it; not of our own.
    severity: String,
    sqlstate: String,
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Report {
    /// `message` is lower case, without a full stop.
    pub(crate) fn fatal(sqlstate: &str, message: impl Into<String>) -> Self {
        Self { sqlstate: sqlstate.to_owned(), message: message.into(), ..Self::default() }
    }

    /// Particulars, in whole sentences.
    pub(crate) fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// More particulars.
    pub(crate) fn more_detail(self, sentence: &str) -> Self {
        let detail = self.detail.map_or_else(|| sentence.to_owned(), |detail| format!("{detail} {sentence}"));
        Self { detail: Some(detail), ..self }
    }

    /// What can be done, in whole sentences.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn sqlstate(&self) -> &str {
        &self.sqlstate
    }

    /// Whether the server that says it ends the session.
    pub(crate) fn is_fatal(&self) -> bool {
        self.severity == "FATAL"
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The message for the wire, which ends the session.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_as("FATAL")
    }

    /// The message for the wire, of an error that the session survives.
    pub(crate) fn encode_error(&self) -> Vec<u8> {
        self.encode_as("ERROR")
    }

    fn encode_as(&self, severity: &str) -> Vec<u8> {
        let mut fields = vec![(b'S', severity), (b'V', severity), (b'C', self.sqlstate()), (b'M', self.message())];
        fields.extend(self.detail.as_deref().map(|detail| (b'D', detail)));
        fields.extend(self.hint.as_deref().map(|hint| (b'H', hint)));
        let mut body = Vec::new();
        for (field, text) in fields {
            body.push(field);
            // A zero byte would end the field early.
            body.extend(text.bytes().filter(|byte| *byte != 0));
            body.push(0);
        }
        body.push(0);
        super::frame(super::server::ERROR_RESPONSE, &body)
    }

    /// What a server's `ErrorResponse` says, from its body. What is missing is empty.
    pub(crate) fn decode(body: &[u8]) -> Self {
        let mut report = Self::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'V' => report.severity = text,
                b'C' => report.sqlstate = text,
                b'M' => report.message = text,
                b'D' => report.detail = Some(text),
                b'H' => report.hint = Some(text),
                _ => {}
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let report = Report::fatal("53300", "too many").detail("There are 5.").hint("Wait.");
        let bytes = report.encode();
        assert_eq!((bytes[0], usize::from(bytes[4])), (b'E', bytes.len() - 1));
        let read = Report::decode(&bytes[5..]);
        assert!(read.is_fatal() && !Report::decode(&report.encode_error()[5..]).is_fatal());
        assert_eq!(Report { severity: String::new(), ..read }, report);
        assert_eq!(&bytes[5..12], b"SFATAL\0");
    }

    #[test]
    fn a_name_with_a_zero_byte_ends_nothing_early() {
        let bytes = Report::fatal("57P03", "a\0b").encode();
        assert_eq!(Report::decode(&bytes[5..]).message(), "ab");
    }
}
