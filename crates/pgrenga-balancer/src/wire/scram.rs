//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as far as who stands between client and server needs it: the ClientKey in a proof
//! that has passed, and a proof made of it. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

const KEY_BYTES: usize = 32;
pub(crate) const MECHANISM: &str = "SCRAM-SHA-256";

type Key = [u8; KEY_BYTES];

/// What opens a role's sessions, on every node, as long as its password stays the same. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    client_key: Key,
    stored_key: Key,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Credential")
    }
}

/// An exchange that has passed: what the client began with (without its choice of channel binding), what the server
/// answered, and what the client ended with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) client_first: Vec<u8>,
    pub(crate) server_first: Vec<u8>,
    pub(crate) client_final: Vec<u8>,
}

impl Exchange {
    /// The credential in it, if `stored_key`, as the server's verifier has it, is that of the client's proof.
    pub(crate) fn credential(&self, stored_key: &[u8]) -> Option<Credential> {
        let stored_key: Key = BASE64.decode(stored_key).ok()?.try_into().ok()?;
        // "n,,n=user,r=nonce": two fields of the header come first.
        let bare = self.client_first.splitn(3, |byte| *byte == b',').nth(2)?;
        let proof_at = self.client_final.windows(3).rposition(|part| part == b",p=")?;
        let (without_proof, proof) = self.client_final.split_at(proof_at);
        let proof: Key = BASE64.decode(&proof[3..]).ok()?.try_into().ok()?;
        let signature = signature(&stored_key, bare, &self.server_first, without_proof);
        let client_key = combined(&proof, &signature);
        (Key::from(Sha256::digest(client_key)) == stored_key).then_some(Credential { client_key, stored_key })
    }
}

/// Who logs in without a password.
pub(crate) struct Login<'a> {
    credential: &'a Credential,
    nonce: String,
}

impl<'a> Login<'a> {
    /// `nonce` is random.
    pub(crate) fn new(credential: &'a Credential, nonce: [u8; 18]) -> Self {
        Self { credential, nonce: BASE64.encode(nonce) }
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// The body of the first answer: `SASLInitialResponse`.
    pub(crate) fn first(&self) -> Vec<u8> {
        let first = format!("n,,{}", self.bare());
        let length = u32::try_from(first.len()).unwrap_or(0);
        [MECHANISM.as_bytes(), b"\0", &length.to_be_bytes(), first.as_bytes()].concat()
    }

    /// The answer to the server's first message; nothing if that is none of this exchange.
    pub(crate) fn last(&self, server_first: &[u8]) -> Option<Vec<u8>> {
        let nonce = std::str::from_utf8(server_first).ok()?.strip_prefix("r=")?.split(',').next()?;
        let is_ours = nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce);
        let without_proof = format!("c=biws,r={nonce}");
        let Credential { client_key, stored_key } = self.credential;
        let signature = signature(stored_key, self.bare().as_bytes(), server_first, without_proof.as_bytes());
        let proof = BASE64.encode(combined(client_key, &signature));
        is_ours.then(|| format!("{without_proof},p={proof}").into_bytes())
    }
}

fn signature(stored_key: &Key, client_first_bare: &[u8], server_first: &[u8], without_proof: &[u8]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(stored_key).expect("a key of any length");
    for part in [client_first_bare, b",", server_first, b",", without_proof] {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn combined(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|place| a[place] ^ b[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7677's example: user "user", password "pencil".
    fn example() -> Exchange {
        Exchange {
            client_first: b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO".to_vec(),
            server_first: b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".to_vec(),
            client_final: b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".to_vec(),
        }
    }

    /// PBKDF2, as RFC 5802 has it.
    fn stored_key(password: &[u8], salt: &[u8], iterations: u32) -> Key {
        let mac = |key: &[u8], text: &[u8]| -> Key {
            Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().into()
        };
        let mut last = mac(password, &[salt, &[0, 0, 0, 1]].concat());
        let mut salted = last;
        for _ in 1..iterations {
            last = mac(password, &last);
            salted = combined(&salted, &last);
        }
        Sha256::digest(mac(&salted, b"Client Key")).into()
    }

    #[test]
    fn the_credential_is_in_the_proof_for_who_knows_the_stored_key() {
        let key = stored_key(b"pencil", &BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096);
        let credential = example().credential(BASE64.encode(key).as_bytes()).unwrap();
        assert_eq!(Key::from(Sha256::digest(credential.client_key)), key);
        assert_eq!(example().credential(BASE64.encode([7; 32]).as_bytes()), None);
        let mut forged = example();
        forged.server_first.push(b'1');
        assert_eq!(forged.credential(BASE64.encode(key).as_bytes()), None);

        // What it proves elsewhere holds the same credential.
        let login = Login::new(&credential, [9; 18]);
        let server_first = format!("r={}more,s=c2FsdA==,i=4096", login.nonce).into_bytes();
        let again = Exchange {
            client_first: login.first()[MECHANISM.len() + 5..].to_vec(),
            client_final: login.last(&server_first).unwrap(),
            server_first,
        };
        assert_eq!(again.credential(BASE64.encode(key).as_bytes()), Some(credential.clone()));
        assert_eq!(login.last(b"r=another,s=c2FsdA==,i=4096"), None);
        assert_eq!(format!("{credential:?}"), "Credential");
    }
}
