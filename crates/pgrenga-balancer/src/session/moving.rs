//! A session goes on at another node: because its server is lost, or because it is better off there. The other server is
//! given what is known of it; and what was under way at a lost one is answered with the truth.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep, timeout};

use super::errand::Errand;
use super::known::{ASKED_FOR, Known, Reported, TRANSACTION_ID};
use super::opening::{self, Opened};
use super::talk::{Standing, Talk};
use super::witness::Proof;
use super::{Shared, verdict};
use crate::cancel::{Cancellable, Target};
use crate::places::Place;
use crate::rules::Voucher;
use crate::tls::{Stream, Way};
use crate::wire::{CancelKey, Report, asking_for, client, frame, server, sqlstate};
use verdict::Answer;
pub(super) use verdict::Loss;

/// Other nodes may fail as well.
const ATTEMPTS_MAX: usize = 3;
/// To log in and to restore, waiting for the session's last commit included.
const PATIENCE: Duration = Duration::from_secs(15);
/// A node that is gone is taken for gone after four seconds; then all its transactions are decided.
const RESOLUTION_PATIENCE: Duration = Duration::from_secs(15);
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(100);

/// What opens the session at any node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    startup: Vec<u8>,
    voucher: Voucher,
    proof: Proof,
}

/// Its place at one.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) place: Place,
    pub(super) server: Stream,
    /// All that was to be prepared is.
    pub(super) is_whole: bool,
}

impl Ticket {
    /// `startup` is what the client has sent.
    pub(super) fn new(startup: Vec<u8>, voucher: Voucher) -> Self {
        let startup = asking_for(&startup, &ASKED_FOR).unwrap_or(startup);
        Self { startup, voucher, proof: Proof::Unknown }
    }

    pub(super) fn startup(&self) -> &[u8] {
        &self.startup
    }

    pub(super) fn voucher(&self) -> Voucher {
        self.voucher
    }

    pub(super) fn stamp(&mut self, proof: Proof) {
        self.proof = proof;
    }

    /// Why a session with it can go nowhere else.
    pub(super) fn keeps(&self) -> Option<String> {
        (self.proof == Proof::Unknown).then(|| "Only its client can prove who it is.".to_owned())
    }
}

/// How a session goes on whose server was lost.
pub(super) struct Rescued {
    /// What the client is to hear.
    pub(super) heard: Vec<u8>,
    /// What was under way is aborted, and is to be sent again in place of saying so.
    pub(super) repeats: bool,
}

/// The server is lost. Finds another one.
pub(super) async fn rescue(
    shared: &Shared,
    seat: &mut Seat,
    ticket: &Ticket,
    talk: &mut Talk,
    cancellable: Option<&Cancellable>,
    may_repeat: bool,
) -> Result<Rescued, String> {
    if let Some(why) = ticket.keeps().or_else(|| talk.known().keeps()) {
        return Err(why);
    }
    let settings = shared.settings();
    let loss = Loss::of(talk).ok_or("What was under way cannot be answered by another one.")?;
    let farewell = talk.farewell().map_or("", Report::sqlstate);
    if farewell == sqlstate::ADMIN_SHUTDOWN
        && opening::knock(seat.place.node(), &settings.security.servers, ticket.voucher, &ticket.startup).await.is_ok()
    {
        return Err("It was ended, and its node serves.".to_owned());
    }
    // A conflict has ended the session, and its node is as good as any.
    if farewell != sqlstate::SERIALIZATION_FAILURE {
        seat.place.avoid();
    }
    let mut failure = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let opened =
            opening::open(shared, &settings, ticket.voucher, &ticket.startup).await.map_err(|report| said(&report))?;
        match settle(opened, ticket, talk.known(), loss).await {
            Ok(mut settled) => {
                let repeats = may_repeat && settled.answer.is_aborted();
                if repeats {
                    settled.answer = Answer::Nothing;
                }
                return Ok(Rescued { heard: settled.take_over(seat, talk, loss, cancellable), repeats });
            }
            Err((place, report)) => {
                failure = format!("Node \"{}\": {}.", place.node().name, said(&report));
                tracing::warn!("a session could not go on: {failure}");
                if report.sqlstate() != sqlstate::CONNECTION_FAILURE {
                    break;
                }
                place.shun();
            }
        }
    }
    Err(failure)
}

/// The session is idle, and its server there: goes where it is better off, if that is anywhere. What the client is to hear.
pub(super) async fn relocate(
    shared: &Shared,
    seat: &mut Seat,
    ticket: &Ticket,
    talk: &mut Talk,
    cancellable: Option<&Cancellable>,
) -> Option<Vec<u8>> {
    let place = seat.place.better()?;
    match go(shared, place, ticket, talk.known()).await {
        Some(settled) => {
            let goodbye = frame(client::TERMINATE, b"");
            let _ = timeout(ASK_AGAIN, seat.server.write_all(&goodbye)).await;
            Some(settled.take_over(seat, talk, Loss::Nothing, cancellable))
        }
        None => {
            seat.place.keep();
            None
        }
    }
}

/// An idle session is taken over there.
async fn go(shared: &Shared, place: Place, ticket: &Ticket, known: &Known) -> Option<Settled> {
    let settings = shared.settings();
    let tls = &settings.security.servers;
    let opened = opening::open_at(place, tls, ticket.voucher, &ticket.startup).await.ok()?;
    match settle(opened, ticket, known, Loss::Nothing).await {
        Ok(settled) => Some(settled),
        Err((place, report)) => {
            tracing::warn!(node = %place.node().name, "a session could not go there: {}", said(&report));
            None
        }
    }
}

fn said(report: &Report) -> String {
    report.message().to_owned()
}

/// A session that another server has taken over.
pub(super) struct Settled {
    seat: Seat,
    way: Way,
    reported: Reported,
    key: Option<CancelKey>,
    answer: Answer,
}

impl Settled {
    /// What the client is to hear.
    fn take_over(self, seat: &mut Seat, talk: &mut Talk, loss: Loss, cancellable: Option<&Cancellable>) -> Vec<u8> {
        let answer = self.answer.encode(&talk.known().asked);
        let (other, told) = self.sit(talk, loss, cancellable);
        tracing::info!(from = %seat.place.node().name, to = %other.place.node().name, "a session goes on");
        *seat = other;
        [told, answer].concat()
    }

    /// The session is there now. What the client is to hear of it.
    pub(super) fn sit(self, talk: &mut Talk, loss: Loss, cancellable: Option<&Cancellable>) -> (Seat, Vec<u8>) {
        if let (Some(cancellable), Some(key)) = (cancellable, self.key) {
            cancellable.give(Target::new(self.way, key));
        }
        (self.seat, goes_on(talk, self.reported, loss.is_block_open()))
    }
}

/// The session goes on where this was reported. What its client is to hear of that.
pub(super) fn goes_on(talk: &mut Talk, reported: Reported, is_block_open: bool) -> Vec<u8> {
    let known = talk.known_mut();
    let is_told = known.reported.transaction_id == reported.transaction_id;
    let told = [TRANSACTION_ID, b"\0", reported.transaction_id.as_bytes(), b"\0"].concat();
    let commit_seq = reported.commit_seq.max(known.reported.commit_seq);
    known.reported = Reported { commit_seq, ..reported };
    talk.resume(is_block_open);
    if is_told { Vec::new() } else { frame(server::PARAMETER_STATUS, &told) }
}

/// Logs in and restores; the place is given back if that fails.
pub(super) async fn settle(
    opened: Opened,
    ticket: &Ticket,
    known: &Known,
    loss: Loss,
) -> Result<Settled, (Place, Report)> {
    let Opened { place, mut server, way, first } = opened;
    let mut errand = Errand::new(&mut server, first);
    match restore(&mut errand, ticket, known, loss).await {
        Ok(answer) => {
            let Errand { reported, key, is_whole, .. } = errand;
            Ok(Settled { seat: Seat { place, server, is_whole }, way, reported, key, answer })
        }
        Err(report) => Err((place, report)),
    }
}

async fn restore(errand: &mut Errand<'_>, ticket: &Ticket, known: &Known, loss: Loss) -> Result<Answer, Report> {
    in_time(errand.log_in(&ticket.proof)).await?;
    let Reported { session, commit_seq, transaction_id } = &known.reported;
    let fate = match loss {
        Loss::InDoubt(_) if !transaction_id.is_empty() => resolve(errand, transaction_id).await?,
        _ => None,
    };
    let answer = Answer::to(loss, fate.as_deref(), transaction_id, &known.asked);
    // Its seq is not known, but not behind what is certified here by now.
    let ordered = if answer.is_committed() { "(SELECT committed_seq FROM pgrenga.status())" } else { "0" };
    let state = session.as_ref().map_or("", |report| &*report.state);
    in_time(async {
        let restore = format!("SELECT pgrenga.restore_session('{state}', greatest({commit_seq}, {ordered}))");
        errand.ask(&restore).await?;
        errand.prepare(&known.statements.prepared()).await?;
        if loss.is_block_open() {
            errand.ask("BEGIN").await?;
            errand.ask("SELECT pgrenga.lose_transaction()").await?;
            if answer.leaves_failed_block() {
                let _ = errand.ask("SELECT").await;
            }
        }
        Ok(())
    })
    .await?;
    Ok(answer)
}

/// What became of a transaction; nothing if nobody knows in time.
async fn resolve(errand: &mut Errand<'_>, id: &str) -> Result<Option<String>, Report> {
    let begun = Instant::now();
    let question = format!("SELECT pgrenga.transaction_status('{id}')");
    loop {
        match in_time(errand.ask(&question)).await {
            Ok(Some(fate)) if fate != "in progress" => return Ok(Some(fate)),
            Err(report) if report.sqlstate() == sqlstate::CONNECTION_FAILURE => return Err(report),
            _ if begun.elapsed() > RESOLUTION_PATIENCE => return Ok(None),
            _ => sleep(ASK_AGAIN).await,
        }
    }
}

pub(super) async fn in_time<T>(errand: impl Future<Output = Result<T, Report>>) -> Result<T, Report> {
    let late = || Report::fatal(sqlstate::CONNECTION_FAILURE, "it does not answer in time");
    timeout(PATIENCE, errand).await.unwrap_or_else(|_| Err(late()))
}

/// Whether nothing of the session's keeps it where it is.
pub(super) fn can_go(ticket: &Ticket, talk: &Talk) -> bool {
    ticket.keeps().is_none() && talk.known().keeps().is_none() && talk.standing() != Standing::Startup
}
