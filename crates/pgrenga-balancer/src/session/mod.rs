//! The life of one session: greeted, given a place at a node, authenticated,
//! relayed, and ended with a word about why.

mod authentication;
mod binding;
mod course;
mod errand;
mod greeting;
mod known;
mod moving;
mod opening;
mod pool;
mod relay;
mod repetition;
mod seating;
mod shared;
mod talk;
mod verdict;
mod witness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout_at;

use crate::gate::Entered;
use crate::rules::Visitor;
use crate::tls::Stream;
use crate::wire::{Report, sqlstate};
use crate::{Limits, Settings};
use authentication::{Authenticated, Unproven};
pub(crate) use binding::Binding;
use course::Course;
use greeting::Greeting;
use moving::{Seat, Ticket};
use opening::Opened;
pub(crate) use opening::prepare;
use relay::Relay;
use seating::Wanderer;
pub(crate) use shared::Shared;
use talk::Standing;
pub(crate) use talk::Talk;

/// A client that does not take our last word is not waited for.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client has closed its connection.
    Client,
    /// The server has.
    Server,
    /// The client sends what is not the protocol.
    ClientBroken,
    /// The server does.
    ServerBroken,
    /// The client took too long to prove who it is.
    Late,
    /// The client could bind its proof to the server's certificate, and does not see it.
    Unbound,
    /// The balancer stops.
    Stopped,
    /// None: the session had better go to another node.
    Called,
    /// None: nothing is under way, as was wanted.
    Quiet,
    /// None: a transaction lost a conflict, and is about to be run again.
    Conflict,
    /// There was no server for the next transaction.
    Refused,
}

/// Serves one client from its first byte to its last. `unauthenticated` is held until it has proven who it is.
pub(crate) async fn run(client: TcpStream, shared: Arc<Shared>, unauthenticated: Entered) {
    let begun = Instant::now();
    let settings = shared.settings();
    let Settings { limits, security, .. } = &*settings;
    let Ok(address) = client.peer_addr() else { return };
    let greet = greeting::greet(client, security.clients.as_ref());
    let greeted = timeout_at((begun + limits.authentication_timeout).into(), greet).await;
    // Who says nothing gets no answer, as from PostgreSQL.
    let Ok(Some((mut client, greeting))) = greeted else { return };
    let startup = match greeting {
        Greeting::Startup(packet) => packet,
        Greeting::Cancel(key) => {
            shared.counters.cancelled.add_one();
            return shared.cancels.carry_out(key).await;
        }
        Greeting::Nonsense(report) => return say(&mut client, &report).await,
    };
    let Some(_connection) = shared.connections.enter(limits.max_connections) else {
        shared.counters.refused.add_one();
        return say(&mut client, &too_many(limits)).await;
    };
    let common_name = client.common_name();
    let visitor = Visitor::new(&startup, address.ip(), common_name.as_deref(), client.is_encrypted());
    let voucher = match security.rules.decide(&visitor) {
        Ok(voucher) => voucher,
        Err(report) => {
            shared.counters.refused.add_one();
            tracing::info!("{}", report.message());
            return say(&mut client, &report).await;
        }
    };
    let time_left = limits.authentication_timeout.saturating_sub(begun.elapsed());
    let ticket = Ticket::new(startup, voucher);
    let opened = tokio::select! {
        opened = opening::open(&shared, &settings, voucher, ticket.startup()) => opened,
        () = client.gone() => return,
        () = stopped(&shared) => Err(farewell(End::Stopped, Standing::Startup, "")),
    };
    match opened {
        Ok(opened) => {
            let binding = Binding::new(&client, &opened.server, security);
            drop(settings);
            let unproven = Unproven { binding, entered: unauthenticated, deadline: Instant::now() + time_left };
            serve(client, opened, ticket, &shared, unproven).await;
        }
        Err(report) => {
            shared.counters.refused.add_one();
            say(&mut client, &report).await;
        }
    }
}

/// The part of a session's life that it shares with servers. `opened` holds its place at the first one.
async fn serve(mut client: Stream, opened: Opened, mut ticket: Ticket, shared: &Shared, unproven: Unproven) {
    let Opened { place, mut server, way, first } = opened;
    let mut talk = Talk::default();
    let register = |key| shared.cancels.register(&way, key).ok();
    let deadline = unproven.deadline;
    let authenticating = authentication::relay(&mut client, &mut server, &mut talk, (first, unproven), register);
    let authenticated = tokio::select! {
        result = timeout_at(deadline.into(), authenticating) => result.unwrap_or(Err(End::Late)),
        () = stopped(shared) => Err(End::Stopped),
        () = place.lost() => Err(End::Server),
    };
    let mut seat = Some(Seat { place, server, is_whole: true });
    let mut refusal = None;
    let (end, why, may_speak) = match authenticated {
        Ok(Authenticated { cancellable, rest, proof }) => {
            ticket.stamp(proof);
            let settings = shared.settings();
            let ticket = Arc::new(ticket);
            let mut course = Course {
                shared,
                client: &mut client,
                seat: &mut seat,
                ticket: &ticket,
                talk: &mut talk,
                relay: Relay::new(rest, settings.limits.max_repetitions),
                cancellable,
                leaving: None,
                wanderer: Wanderer { mode: settings.pool_mode, id: shared.number(), node: None },
                refusal: None,
            };
            drop(settings);
            let (end, why) = course.run().await;
            refusal = course.refusal.take();
            (end, why, course.relay.is_clear())
        }
        Err(end) => (end, None, true),
    };
    let is_expected = end == End::Client || (end == End::Server && talk.is_over());
    if !is_expected {
        if end == End::Server {
            shared.counters.lost.add_one();
        }
        let node = seat.as_ref().map_or("", |seat| &*seat.place.node().name);
        let said = talk.farewell().filter(|_| end == End::Server).cloned();
        let report = refusal.or(said).unwrap_or_else(|| farewell(end, talk.standing(), node));
        let report = why.iter().fold(report, |report, why| report.more_detail(why));
        tracing::info!(node, sqlstate = report.sqlstate(), "{}", report.message());
        drop(seat);
        if may_speak && talk.may_speak() {
            say(&mut client, &report).await;
        }
    }
}

/// What is said to a client at the end.
fn farewell(end: End, standing: Standing, node: &str) -> Report {
    let lost = format!("the connection to node \"{node}\" was lost");
    let again = "Connect again: the session goes to a node that serves.";
    match (end, standing) {
        (End::Stopped, _) => {
            Report::fatal(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
                .detail("The balancer stops.")
        }
        (End::Late, _) => Report::fatal(sqlstate::QUERY_CANCELED, "canceling authentication due to timeout"),
        (End::Unbound, _) => binding::refusal(),
        (End::ClientBroken, _) => Report::fatal(sqlstate::PROTOCOL_VIOLATION, "invalid message from the client"),
        (End::ServerBroken, _) => {
            Report::fatal(sqlstate::PROTOCOL_VIOLATION, format!("invalid message from node \"{node}\""))
        }
        (_, Standing::Startup) => {
            Report::fatal(sqlstate::CONNECTION_FAILURE, lost).detail("The session had not begun.").hint(again)
        }
        (_, Standing::Idle) => {
            Report::fatal(sqlstate::CONNECTION_FAILURE, lost).detail("The session was idle.").hint(again)
        }
        (_, Standing::InTransaction) => Report::fatal(sqlstate::CONNECTION_FAILURE, lost)
            .detail("The transaction that was open is rolled back.")
            .hint("Connect again and repeat the transaction."),
        (_, Standing::UnderWay) => Report::fatal(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, lost)
            .detail("It is not known whether what was sent last has been executed, and committed.")
            .hint("Connect again, and find out before you repeat it."),
    }
}

fn too_many(limits: &Limits) -> Report {
    Report::fatal(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
        .detail(format!("The balancer takes {} connections.", limits.max_connections))
        .hint("Raise max_connections in the balancer's configuration, or let clients pool their connections.")
}

/// The last that a client hears. What it sends meanwhile is read away: otherwise the connection would be reset, and our
/// words could be lost.
async fn say(client: &mut Stream, report: &Report) {
    let speak = async {
        client.write_all(&report.encode()).await?;
        client.shutdown().await?;
        tokio::io::copy(client, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(FAREWELL, speak).await;
}

async fn stopped(shared: &Shared) {
    let mut stop = shared.stop.clone();
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_said_to_be_rolled_back_only_if_it_is() {
        let said = |standing| farewell(End::Server, standing, "n2");
        assert_eq!(said(Standing::Idle).sqlstate(), sqlstate::CONNECTION_FAILURE);
        assert_eq!(said(Standing::InTransaction).sqlstate(), sqlstate::CONNECTION_FAILURE);
        assert_eq!(said(Standing::UnderWay).sqlstate(), sqlstate::TRANSACTION_RESOLUTION_UNKNOWN);
    }
}
