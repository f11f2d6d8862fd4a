//! How a client has proven who it is, as seen by who passes it on; so that it need not do it again when its session goes
//! to another node. No password is kept: with SCRAM there is none to see, and other ways cannot be gone again.

use crate::wire::scram::{Credential, Exchange, MECHANISM};
use crate::wire::{Broken, Scanner, client, server};

/// Told by the server when the session begins, and to nobody else.
const STORED_KEY: &[u8] = b"pgrenga.stored_key\0";
const OK: u32 = 0;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// What it takes to do it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: the server has asked for nothing.
    #[default]
    None,
    /// This.
    Scram(Credential),
    /// What only the client has, or the server did not tell.
    Unknown,
}

/// Follows an exchange.
#[derive(Debug, Default)]
pub(super) struct Witness {
    from_client: Scanner,
    partial: Vec<u8>,
    asked: Asked,
    exchange: Exchange,
    stored_key: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Nothing,
    Scram,
    Other,
}

impl Witness {
    /// The client has sent this.
    pub(super) fn client_said(&mut self, mut chunk: &[u8]) -> Result<(), Broken> {
        if self.asked != Asked::Scram {
            return Ok(());
        }
        while let Some(piece) = self.from_client.next(&mut chunk)? {
            if piece.kind != client::AUTHENTICATION {
                continue;
            }
            self.partial.extend(piece.body);
            if piece.is_last {
                let answer = std::mem::take(&mut self.partial);
                self.answered(&answer);
            }
        }
        Ok(())
    }

    /// The server has sent this message. True if it is for nobody else.
    pub(super) fn server_said(&mut self, kind: u8, body: &[u8]) -> bool {
        match kind {
            server::AUTHENTICATION => self.challenged(body),
            server::PARAMETER_STATUS => {
                if let Some(value) = body.strip_prefix(STORED_KEY) {
                    self.stored_key = value.strip_suffix(&[0]).unwrap_or(value).to_vec();
                    return true;
                }
            }
            _ => {}
        }
        false
    }

    pub(super) fn proof(&self) -> Proof {
        match self.asked {
            Asked::Nothing => Proof::None,
            Asked::Scram => self.exchange.credential(&self.stored_key).map_or(Proof::Unknown, Proof::Scram),
            Asked::Other => Proof::Unknown,
        }
    }

    fn challenged(&mut self, body: &[u8]) {
        let Some((code, data)) = body.split_first_chunk() else { return };
        match u32::from_be_bytes(*code) {
            OK | SASL_FINAL => {}
            SASL => self.asked = Asked::Scram,
            SASL_CONTINUE => self.exchange.server_first = data.to_vec(),
            _ => self.asked = Asked::Other,
        }
    }

    fn answered(&mut self, body: &[u8]) {
        if !self.exchange.client_first.is_empty() {
            self.exchange.client_final = body.to_vec();
            return;
        }
        let mut parts = body.splitn(2, |byte| *byte == 0);
        let (mechanism, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match rest.get(size_of::<u32>()..) {
            Some(first) if mechanism.starts_with(MECHANISM.as_bytes()) => self.exchange.client_first = first.to_vec(),
            _ => self.asked = Asked::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    fn code(code: u32, data: &[u8]) -> Vec<u8> {
        [&code.to_be_bytes()[..], data].concat()
    }

    #[test]
    fn what_is_asked_for_decides() {
        let mut witness = Witness::default();
        assert_eq!(witness.proof(), Proof::None);
        witness.server_said(server::AUTHENTICATION, &code(OK, b""));
        assert_eq!(witness.proof(), Proof::None);
        for other in [3, 5, 7] {
            let mut witness = Witness::default();
            witness.server_said(server::AUTHENTICATION, &code(other, b"salt"));
            witness.server_said(server::AUTHENTICATION, &code(OK, b""));
            assert_eq!(witness.proof(), Proof::Unknown);
        }
    }

    #[test]
    fn an_exchange_is_followed_however_it_is_cut() {
        let mut witness = Witness::default();
        witness.server_said(server::AUTHENTICATION, &code(SASL, b"SCRAM-SHA-256\0\0"));
        let first = [MECHANISM.as_bytes(), b"\0\0\0\0\x09n,,n=,r=a"].concat();
        frame(b'p', &first).iter().for_each(|byte| witness.client_said(&[*byte]).unwrap());
        witness.server_said(server::AUTHENTICATION, &code(SASL_CONTINUE, b"r=ab,s=,i=1"));
        witness.client_said(&frame(b'p', b"c=biws,r=ab,p=x")).unwrap();
        witness.server_said(server::AUTHENTICATION, &code(SASL_FINAL, b"v=x"));
        let expected = Exchange {
            client_first: b"n,,n=,r=a".to_vec(),
            server_first: b"r=ab,s=,i=1".to_vec(),
            client_final: b"c=biws,r=ab,p=x".to_vec(),
        };
        assert_eq!(witness.exchange, expected);
        assert_eq!(witness.proof(), Proof::Unknown, "the server does not tell");
    }

    #[test]
    fn the_stored_key_is_for_nobody_else() {
        let mut witness = Witness::default();
        assert!(witness.server_said(server::PARAMETER_STATUS, b"pgrenga.stored_key\0abc=\0"));
        assert_eq!(witness.stored_key, b"abc=");
        assert!(!witness.server_said(server::PARAMETER_STATUS, b"server_version\x0015\0"));
    }
}
