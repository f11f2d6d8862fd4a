//! What comes before the session: offers of encryption, cancel requests, the
//! startup packet.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::tls::{ClientTls, Stream};
use crate::wire::{CancelKey, Packet, Report, packet, packet_length, sqlstate};

/// TLS and GSSAPI may be asked for once each.
const OFFERS_MAX: usize = 2;
const YES: u8 = b'S';
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
}

/// Reads what the client wants, and encrypts the connection on the way if it asks for that and we can. Nothing if it
/// does not want anything any more.
pub(super) async fn greet(client: TcpStream, tls: Option<&ClientTls>) -> Option<(Stream, Greeting)> {
    let mut client = Stream::Plain(client);
    for _ in 0..=OFFERS_MAX {
        let Some(bytes) = first_packet(&mut client).await? else { return Some((client, nonsense())) };
        let greeting = match packet(&bytes) {
            Ok(Packet::Startup) => Greeting::Startup(bytes),
            Ok(Packet::Cancel(key)) => Greeting::Cancel(key),
            Ok(offer @ (Packet::Ssl | Packet::Gss)) => {
                client = answer(client, offer, tls).await?;
                continue;
            }
            Ok(Packet::UnknownVersion(major, minor)) => {
                let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0");
                Greeting::Nonsense(Report::fatal(sqlstate::FEATURE_NOT_SUPPORTED, message))
            }
            Err(_) => nonsense(),
        };
        return Some((client, greeting));
    }
    Some((client, nonsense()))
}

/// One packet without a type. Nothing if the client is gone, nothing within if it is none.
async fn first_packet(client: &mut Stream) -> Option<Option<Vec<u8>>> {
    let mut head = [0; 4];
    client.read_exact(&mut head).await.ok()?;
    let Ok(length) = packet_length(head) else { return Some(None) };
    let mut bytes = vec![0; length];
    bytes[..head.len()].copy_from_slice(&head);
    client.read_exact(&mut bytes[head.len()..]).await.ok()?;
    Some(Some(bytes))
}

/// Yes and a handshake, or no. What was read is exactly the packet, so what somebody put in behind it is never taken
/// for what the client says encrypted.
async fn answer(mut client: Stream, offer: Packet, tls: Option<&ClientTls>) -> Option<Stream> {
    match (client, tls) {
        (Stream::Plain(mut client), Some(tls)) if offer == Packet::Ssl => {
            client.write_all(&[YES]).await.ok()?;
            let accepted = tls.accept(client).await;
            accepted.inspect_err(|error| tracing::info!(%error, "could not encrypt a client's connection")).ok()
        }
        (other, _) => {
            client = other;
            client.write_all(&[NO]).await.ok()?;
            client.flush().await.ok()?;
            Some(client)
        }
    }
}

fn nonsense() -> Greeting {
    Greeting::Nonsense(Report::fatal(sqlstate::PROTOCOL_VIOLATION, "invalid startup packet"))
}
