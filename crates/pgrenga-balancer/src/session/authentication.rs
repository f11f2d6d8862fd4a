//! From the startup packet to the first `ReadyForQuery`: client and server
//! prove themselves to each other, and the balancer passes it on. It knows no
//! password. It changes the key for cancel requests, and keeps what the server tells only itself.

use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::End;
use super::binding::Binding;
use super::talk::Talk;
use super::witness::{Proof, Witness};
use crate::cancel::Cancellable;
use crate::gate::Entered;
use crate::tls::Stream;
use crate::wire::{Broken, CancelKey, HEADER_BYTES, frame, frame_length, server};

/// A message of the server during the startup is not longer.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// What a client may send before it is authenticated: PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH`, and a bit.
const UNAUTHENTICATED_BYTES_MAX: usize = 70 << 10;
const READ_BYTES: usize = 4 << 10;

/// A session that has begun.
#[derive(Debug)]
pub(super) struct Authenticated {
    /// What its client's cancel key means.
    pub(super) cancellable: Option<Cancellable>,
    /// What the server sent behind its first `ReadyForQuery`. The talk knows it, the client does not have it yet.
    pub(super) rest: Vec<u8>,
    /// How the client has proven who it is.
    pub(super) proof: Proof,
}

/// A client that has not proven who it is.
#[derive(Debug)]
pub(super) struct Unproven {
    pub(super) binding: Binding,
    /// Let go before the client hears that it has.
    pub(super) entered: Entered,
    pub(super) deadline: Instant,
}

/// Passes on what both sides say until the server is ready. `inbox` is what the server has said already.
pub(super) async fn relay(
    client: &mut Stream,
    server: &mut Stream,
    talk: &mut Talk,
    (mut inbox, unproven): (Vec<u8>, Unproven),
    register: impl Fn(CancelKey) -> Option<Cancellable>,
) -> Result<Authenticated, End> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let Unproven { binding, entered, .. } = unproven;
    let mut progress = Progress {
        register,
        binding,
        witness: Witness::default(),
        cancellable: None,
        unauthenticated: Some(entered),
        is_ready: false,
    };
    let (mut outbox, mut said) = (vec![0; READ_BYTES], 0);
    loop {
        let whole = progress.take_in(&mut inbox).map_err(|Broken| End::ServerBroken)?;
        talk.server_said(&inbox[..whole]).map_err(|Broken| End::ServerBroken)?;
        to_client.write_all(&inbox[..whole]).await.map_err(|_| End::Client)?;
        to_client.flush().await.map_err(|_| End::Client)?;
        inbox.drain(..whole);
        if progress.is_ready {
            let passed = talk.server_said(&inbox).map_err(|Broken| End::ServerBroken)?;
            inbox.truncate(passed);
            let proof = progress.witness.proof();
            return Ok(Authenticated { cancellable: progress.cancellable, rest: inbox, proof });
        }
        tokio::select! {
            read = from_server.read_buf(&mut inbox) => if !read.is_ok_and(|bytes| bytes > 0) {
                return Err(End::Server);
            },
            read = from_client.read(&mut outbox) => {
                let bytes = read.ok().filter(|bytes| *bytes > 0).ok_or(End::Client)?;
                said += bytes;
                if said > UNAUTHENTICATED_BYTES_MAX && progress.unauthenticated.is_some() {
                    return Err(End::ClientBroken);
                }
                talk.client_said(&outbox[..bytes]).map_err(|Broken| End::ClientBroken)?;
                progress.binding.client_said(&outbox[..bytes])?;
                progress.witness.client_said(&outbox[..bytes]).map_err(|Broken| End::ClientBroken)?;
                // If the server does not take it any more, what it has said last is still to be read.
                let _ = to_server.write_all(&outbox[..bytes]).await;
                let _ = to_server.flush().await;
            }
        }
    }
}

/// How far the server has come with the startup.
struct Progress<R> {
    register: R,
    binding: Binding,
    witness: Witness,
    cancellable: Option<Cancellable>,
    /// Nothing once the server has said that it is satisfied.
    unauthenticated: Option<Entered>,
    is_ready: bool,
}

impl<R: Fn(CancelKey) -> Option<Cancellable>> Progress<R> {
    /// Looks at the whole messages in `bytes` up to `ReadyForQuery`, puts our cancel key into the place of the
    /// server's, and withholds what cannot pass us. Tells how many bytes they have.
    fn take_in(&mut self, bytes: &mut Vec<u8>) -> Result<usize, Broken> {
        let mut whole = 0;
        while let Some(header) = bytes[whole..].first_chunk::<HEADER_BYTES>() {
            let mut length = frame_length(header)?;
            if length > MESSAGE_BYTES_MAX {
                return Err(Broken);
            }
            let Some(message) = bytes[whole..].get_mut(..length) else { break };
            let (header, body) = message.split_at_mut(HEADER_BYTES);
            if self.witness.server_said(header[0], body) {
                bytes.drain(whole..whole + length);
                continue;
            }
            match header[0] {
                server::AUTHENTICATION if body == [0; 4] => self.unauthenticated = None,
                server::AUTHENTICATION => {
                    if let Some(other) = self.binding.replace(body) {
                        let (message, end) = (frame(server::AUTHENTICATION, &other), whole + length);
                        length = message.len();
                        bytes.splice(whole..end, message);
                    }
                }
                server::BACKEND_KEY_DATA => self.replace_key(body),
                server::READY_FOR_QUERY => self.is_ready = true,
                _ => {}
            }
            whole += length;
            if self.is_ready {
                break;
            }
        }
        Ok(whole)
    }

    fn replace_key(&mut self, body: &mut [u8]) {
        let Ok([a, b, c, d, e, f, g, h]) = <[u8; 8]>::try_from(&*body) else { return };
        let key = CancelKey { pid: u32::from_be_bytes([a, b, c, d]), secret: u32::from_be_bytes([e, f, g, h]) };
        self.cancellable = (self.register)(key);
        // Without a key of ours there is none that means anything to us.
        let own = self.cancellable.as_ref().map_or(CancelKey { secret: 0, ..key }, Cancellable::key);
        body[..4].copy_from_slice(&own.pid.to_be_bytes());
        body[4..].copy_from_slice(&own.secret.to_be_bytes());
    }
}
