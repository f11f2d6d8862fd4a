//! What comes before the session: offers of encryption, cancel requests, the
//! startup packet.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wire::{CancelKey, Packet, Report, packet, packet_length, sqlstate};

/// TLS and GSSAPI may be asked for once each.
const OFFERS_MAX: usize = 2;
const NO: u8 = b'N';

/// What the client wants.
#[derive(Debug)]
pub(super) enum Greeting {
    /// A session; the packet goes to the server as it is.
    Startup(Vec<u8>),
    /// That a statement is cancelled.
    Cancel(CancelKey),
    /// Nothing that can be done.
    Nonsense(Report),
    /// Nothing any more.
    Gone,
}

/// Reads what the client wants, declining encryption on the way.
pub(super) async fn greet(client: &mut TcpStream) -> Greeting {
    for _ in 0..=OFFERS_MAX {
        let mut head = [0; 4];
        if client.read_exact(&mut head).await.is_err() {
            return Greeting::Gone;
        }
        let Ok(length) = packet_length(head) else { return nonsense() };
        let mut bytes = vec![0; length];
        bytes[..head.len()].copy_from_slice(&head);
        if client.read_exact(&mut bytes[head.len()..]).await.is_err() {
            return Greeting::Gone;
        }
        match packet(&bytes) {
            Ok(Packet::Startup) => return Greeting::Startup(bytes),
            Ok(Packet::Cancel(key)) => return Greeting::Cancel(key),
            Ok(Packet::Ssl | Packet::Gss) => {
                if client.write_all(&[NO]).await.is_err() {
                    return Greeting::Gone;
                }
            }
            Ok(Packet::UnknownVersion(major, minor)) => {
                let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0");
                return Greeting::Nonsense(Report::fatal(sqlstate::FEATURE_NOT_SUPPORTED, message));
            }
            Err(_) => return nonsense(),
        }
    }
    nonsense()
}

/// Resolves when the client has closed its connection; never if it has said something more meanwhile.
pub(super) async fn gone(client: &TcpStream) {
    if client.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0) {
        std::future::pending().await
    }
}

fn nonsense() -> Greeting {
    Greeting::Nonsense(Report::fatal(sqlstate::PROTOCOL_VIOLATION, "invalid startup packet"))
}
