//! The way to a server: a place at a node, a connection, and the first that the
//! server says, which may be that it takes no session. Then another node is
//! asked, as long as the client has heard nothing.

use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Shared;
use crate::Settings;
use crate::places::{Failure, Place, Serving};
use crate::rules::Voucher;
use crate::tls::{ServerTls, Stream, Way};
use crate::wire::{HEADER_BYTES, Report, frame_length, server, sqlstate};

/// A machine that is gone answers nothing. The first repetition of an unanswered packet would come after a second.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// A server that hangs takes connections all the same.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Bounds the first message.
const FIRST_BYTES_MAX: usize = 64 << 10;

/// When a connection over which nothing comes is looked after, and how often it is asked before it counts as lost.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 5;

/// A connection to a server that has begun to answer.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) place: Place,
    pub(super) server: Stream,
    /// To this server, for cancel requests.
    pub(super) way: Way,
    /// What it has said so far.
    pub(super) first: Vec<u8>,
}

/// Finds a node that takes the session, within the time that the queue has.
pub(super) async fn open(
    shared: &Shared,
    settings: &Settings,
    voucher: Voucher,
    startup: &[u8],
) -> Result<Opened, Report> {
    let deadline = Instant::now() + settings.limits.queue_timeout;
    let tls = &settings.security.servers;
    let mut failure = None;
    loop {
        let place = shared.places.take(deadline, failure.as_ref(), || shared.pool.evict()).await?;
        match open_at(place, tls, voucher, startup).await {
            Ok(opened) => return Ok(opened),
            Err(why) => failure = Some(why),
        }
    }
}

/// A connection to the node of this place, which is given back and left alone for a while if that takes no session.
pub(super) async fn open_at(
    place: Place,
    tls: &ServerTls,
    voucher: Voucher,
    startup: &[u8],
) -> Result<Opened, Failure> {
    let knocked = tokio::select! {
        knocked = knock(place.node(), tls, voucher, startup) => knocked,
        () = place.lost() => Err(gone(place.node())),
    };
    match knocked {
        Ok((server, way, first)) => Ok(Opened { place, server, way, first }),
        Err(why) => {
            tracing::warn!(node = %place.node().name, "{}", why.message);
            place.shun();
            Err(why)
        }
    }
}

/// Asks one node.
pub(super) async fn knock(
    node: &Serving,
    tls: &ServerTls,
    voucher: Voucher,
    startup: &[u8],
) -> Result<(Stream, Way, Vec<u8>), Failure> {
    let Serving { name, host, port, .. } = node;
    let fail = |message: String| Failure { sqlstate: sqlstate::CANNOT_CONNECT_NOW, message };
    let connecting = timeout(CONNECT_PATIENCE, TcpStream::connect((host.as_str(), *port))).await;
    let server = match connecting {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => return Err(fail(format!("Node \"{name}\" cannot be reached at {host}:{port}: {error}."))),
        Err(_) => return Err(fail(format!("Node \"{name}\" does not answer at {host}:{port}."))),
    };
    prepare(&server);
    let asking = async move {
        let (mut server, way) = tls.open(server, host, voucher).await?;
        server.write_all(startup).await?;
        server.flush().await?;
        let first = first_message(&mut server).await?;
        Ok::<_, std::io::Error>((server, way, first))
    };
    let (server, way, first) = match timeout(ANSWER_PATIENCE, asking).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => return Err(fail(format!("Node \"{name}\" did not take the session: {error}."))),
        Err(_) => return Err(fail(format!("Node \"{name}\" takes connections, but does not answer."))),
    };
    match refusal(&first) {
        Some((sqlstate, message)) => Err(Failure { sqlstate, message: format!("Node \"{name}\" says: {message}.") }),
        None => Ok((server, way, first)),
    }
}

fn gone(node: &Serving) -> Failure {
    let message = format!("Node \"{}\" is gone.", node.name);
    Failure { sqlstate: sqlstate::CANNOT_CONNECT_NOW, message }
}

/// What both sides of a session need: no waiting for fuller packets, and to hear of it when the other machine is gone.
pub(crate) fn prepare(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    let set = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "could not set a connection's options");
    }
}

/// Reads until the first message is there, and what has come with it.
async fn first_message(server: &mut Stream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
            let length = frame_length(header).ok().filter(|length| *length <= FIRST_BYTES_MAX);
            let length = length.ok_or_else(|| std::io::Error::other("it does not speak PostgreSQL's protocol"))?;
            if bytes.len() >= length {
                return Ok(bytes);
            }
        }
        if server.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What the server says if it takes no session now, though another one may.
fn refusal(first: &[u8]) -> Option<(&'static str, String)> {
    let (header, rest) = first.split_first_chunk::<HEADER_BYTES>()?;
    if header[0] != server::ERROR_RESPONSE {
        return None;
    }
    let report = Report::decode(rest.get(..frame_length(header).ok()? - HEADER_BYTES)?);
    let retried = [sqlstate::CANNOT_CONNECT_NOW, sqlstate::TOO_MANY_CONNECTIONS];
    let code = retried.into_iter().find(|code| *code == report.sqlstate())?;
    Some((code, report.message().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_node_may_do_better_is_asked_of_another_one() {
        let refused = |code| refusal(&Report::fatal(code, "no").encode()).map(|(code, _)| code);
        assert_eq!(refused(sqlstate::CANNOT_CONNECT_NOW), Some(sqlstate::CANNOT_CONNECT_NOW));
        assert_eq!(refused(sqlstate::TOO_MANY_CONNECTIONS), Some(sqlstate::TOO_MANY_CONNECTIONS));
        assert_eq!(refused("28000"), None, "the same on every node");
        assert_eq!(refusal(&[b'R', 0, 0, 0, 8, 0, 0, 0, 0]), None);
    }
}
