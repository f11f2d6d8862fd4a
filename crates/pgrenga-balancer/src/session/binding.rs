//! SCRAM's channel binding, where the balancer stands between.
//!
//! A client that binds its proof to the server's certificate
//! (`SCRAM-SHA-256-PLUS`, RFC 5802, RFC 5929's `tls-server-end-point`) wants to
//! know that nobody stands between. If the balancer shows the very certificate
//! of the node, binding holds from end to end, and everything is passed on. If
//! not, clients must not be offered it. Then one that could bind says so, and
//! the server takes that for an attack (`read_client_first_message` in
//! PostgreSQL's `auth-scram.c`): it is told earlier, and what to do.

use super::End;
use crate::Security;
use crate::tls::Stream;
use crate::wire::{HEADER_BYTES, Report, frame_length, sqlstate};

/// `AuthenticationSASL`.
const SASL: [u8; 4] = [0, 0, 0, 10];
const BINDING_SUFFIX: &[u8] = b"-PLUS";

/// What is done about it in one session.
#[derive(Debug)]
pub(crate) enum Binding {
    /// Nothing: the server offers none, or the client may have it.
    Passed,
    /// The server's offer is withheld.
    EndsHere,
    /// It was, and the client's choice is awaited: what it said so far.
    Withheld(Vec<u8>),
}

impl Binding {
    pub(crate) fn new(client: &Stream, server: &Stream, security: &Security) -> Self {
        let own = security.clients.as_ref().map(|tls| tls.certificate());
        let is_the_same = client.is_encrypted() && own.is_some() && own == server.peer_certificates().first();
        if !server.is_encrypted() || is_the_same { Self::Passed } else { Self::EndsHere }
    }

    /// What the client is to hear in place of this message of the server, if anything else: the offer without those
    /// ways that bind.
    pub(crate) fn replace(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if !matches!(self, Self::EndsHere) {
            return None;
        }
        let offer = without_binding(body)?;
        *self = Self::Withheld(Vec::new());
        Some(offer)
    }

    /// The client has sent this. Refuses one that the server would take for an attack.
    pub(crate) fn client_said(&mut self, chunk: &[u8]) -> Result<(), End> {
        let Self::Withheld(said) = self else { return Ok(()) };
        said.extend(chunk);
        let Some(header) = said.first_chunk::<HEADER_BYTES>() else { return Ok(()) };
        let length = frame_length(header).map_err(|_| End::ClientBroken)?;
        let Some(choice) = said.get(HEADER_BYTES..length) else { return Ok(()) };
        let could_bind = could_bind(choice);
        *self = Self::Passed;
        if could_bind { Err(End::Unbound) } else { Ok(()) }
    }
}

/// What such a client hears.
pub(super) fn refusal() -> Report {
    Report::fatal(sqlstate::INVALID_AUTHORIZATION, "channel binding cannot pass the balancer")
        .detail("The client can bind its password's proof to a certificate, and sees another one than the node's.")
        .hint("Connect with channel_binding=disable, or give the balancer and all nodes the same certificate.")
}

/// The offer without those mechanisms that bind; nothing if there are none.
fn without_binding(body: &[u8]) -> Option<Vec<u8>> {
    let mechanisms = body.strip_prefix(&SASL)?;
    let mut left = SASL.to_vec();
    for mechanism in mechanisms.split_inclusive(|byte| *byte == 0) {
        if !mechanism.strip_suffix(&[0]).unwrap_or(mechanism).ends_with(BINDING_SUFFIX) {
            left.extend(mechanism);
        }
    }
    (left.len() < body.len()).then_some(left)
}

/// Whether this `SASLInitialResponse` comes from a client that could bind: its first character, the GS2 header's flag,
/// is `y`. Whoever says so and is offered the choice would have taken it.
fn could_bind(choice: &[u8]) -> bool {
    let mut parts = choice.splitn(2, |byte| *byte == 0);
    let _mechanism = parts.next();
    parts.next().and_then(|rest| rest.get(size_of::<u32>())) == Some(&b'y')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{client, frame};

    fn offer(mechanisms: &str) -> Vec<u8> {
        [&SASL[..], mechanisms.replace(' ', "\0").as_bytes(), b"\0\0"].concat()
    }

    fn choice(gs2: &str) -> Vec<u8> {
        let data = format!("{gs2},,n=,r=nonce");
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        frame(client::AUTHENTICATION, &[&b"SCRAM-SHA-256\0"[..], &length, data.as_bytes()].concat())
    }

    #[test]
    fn only_what_binds_is_withheld() {
        assert_eq!(without_binding(&offer("SCRAM-SHA-256-PLUS SCRAM-SHA-256")), Some(offer("SCRAM-SHA-256")));
        assert_eq!(without_binding(&offer("SCRAM-SHA-256")), None);
        assert_eq!(without_binding(&[0, 0, 0, 0]), None);
        assert_eq!(without_binding(&[0, 0, 0, 5, b'-', b'P', b'L', b'U']), None, "an MD5 salt");
    }

    #[test]
    fn who_could_bind_is_found_however_it_comes() {
        for (gs2, is_refused) in [("y", true), ("n", false)] {
            let mut binding = Binding::EndsHere;
            assert_eq!(binding.client_said(&choice("y")), Ok(()), "nothing was withheld yet");
            assert!(binding.replace(&offer("SCRAM-SHA-256-PLUS SCRAM-SHA-256")).is_some());
            let said: Vec<_> = choice(gs2).iter().map(|byte| binding.client_said(&[*byte])).collect();
            let (last, before) = said.split_last().unwrap();
            assert!(before.iter().all(Result::is_ok));
            assert_eq!(last.is_err(), is_refused);
        }
    }

    #[test]
    fn a_client_that_may_bind_is_left_alone() {
        let mut binding = Binding::Passed;
        assert_eq!(binding.replace(&offer("SCRAM-SHA-256-PLUS SCRAM-SHA-256")), None);
        assert_eq!(binding.client_said(&choice("y")), Ok(()));
    }

    #[test]
    fn short_answers_are_no_choice() {
        for body in [&b""[..], b"y", b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0\0\0"] {
            assert!(!could_bind(body), "{body:?}");
        }
    }
}
