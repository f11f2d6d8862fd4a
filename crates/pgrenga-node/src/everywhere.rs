//! What every node that serves shows: for sessions with `pgrenga.ack = all`.
//!
//! The other nodes are asked directly, each by one request at a time, which it answers as soon as
//! it shows what is asked for: so many sessions share a request, and nothing is asked while nobody
//! waits. A node does not count if it says that it does not serve, or if it has not answered for
//! longer than any lease lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgrenga_admin::{Client, Member, State};
use pgrenga_writeset::{NodeId, Seq};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::engine::Event;
use crate::question::QuestionId;

/// Sessions that wait at a time. Beyond them a question is ignored; the session asks again.
const WAITING_MAX: usize = 1024;
/// How long another node may take to answer; it does so after half of that in any case.
const PATIENCE: Duration = Duration::from_secs(2);
/// After a request that was not answered.
const RETRY: Duration = Duration::from_millis(100);

/// What another node said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It serves, and shows everything up to here.
    Shows(Seq),
    /// It does not serve.
    ServesNot,
    /// Nothing.
    Nothing,
}

#[derive(Debug)]
struct Waiting {
    question: QuestionId,
    seq: Seq,
    until: Instant,
    /// Who has to show it yet.
    of: BTreeSet<NodeId>,
}

#[derive(Debug, Default)]
struct Other {
    shows: Seq,
    /// It has said nothing since.
    silent_since: Option<Instant>,
    is_asked: bool,
}

/// Who waits for whom.
#[derive(Debug)]
pub(crate) struct Everywhere {
    /// After such a silence a node cannot hold a lease.
    silence: Duration,
    client: Client,
    waiting: Vec<Waiting>,
    others: BTreeMap<NodeId, Other>,
}

impl Everywhere {
    /// No node serves after it has heard of no majority for as long as `lease`.
    pub(crate) fn new(lease: Duration) -> Self {
        let silence = lease + Duration::from_secs(1);
        let client = Client::new().with_timeout(PATIENCE);
        Self { silence, client, waiting: Vec::new(), others: BTreeMap::new() }
    }

    /// A session waits until all `others` that serve show `seq`.
    pub(crate) fn take(&mut self, question: QuestionId, seq: Seq, patience: Duration, others: &[Member]) {
        self.waiting.retain(|waiting| waiting.until > Instant::now());
        if self.waiting.len() >= WAITING_MAX || self.waiting.iter().any(|waiting| waiting.question == question) {
            return;
        }
        let lacks = |member: &&Member| {
            self.others.get(&member.id).is_none_or(|other| other.shows < seq && !is_gone(other, self.silence))
        };
        let of = others.iter().filter(lacks).map(|member| member.id).collect();
        self.waiting.push(Waiting { question, seq, until: Instant::now() + patience, of });
    }

    /// Another node has answered, or has not.
    pub(crate) fn heard(&mut self, node: NodeId, said: Said) {
        let other = self.others.entry(node).or_default();
        other.is_asked = false;
        match said {
            Said::Shows(seq) => {
                other.silent_since = None;
                other.shows = seq;
                self.excuse(node, seq);
            }
            Said::ServesNot => {
                other.silent_since = None;
                other.shows = Seq(0);
                self.excuse(node, Seq(u64::MAX));
            }
            Said::Nothing => {
                other.silent_since.get_or_insert_with(Instant::now);
                if is_gone(other, self.silence) {
                    self.excuse(node, Seq(u64::MAX));
                }
            }
        }
    }

    fn excuse(&mut self, node: NodeId, seq: Seq) {
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.seq <= seq) {
            waiting.of.remove(&node);
        }
    }

    /// Takes out the questions that nobody has to be waited for any more. Members that were
    /// removed are not in `others`.
    pub(crate) fn answerable(&mut self, others: &[Member]) -> Vec<QuestionId> {
        let is_member = |node: &NodeId| others.iter().any(|member| member.id == *node);
        let is_done = |waiting: &mut Waiting| !waiting.of.iter().any(is_member);
        self.waiting.extract_if(.., is_done).map(|waiting| waiting.question).collect()
    }

    /// Asks those that somebody waits for, unless they are being asked; and, as long as anybody
    /// waits, those that are gone, in case that they come back.
    pub(crate) fn ask(&mut self, others: &[Member], events: &mpsc::Sender<Event>) {
        for member in others {
            let wanted =
                self.waiting.iter().filter(|waiting| waiting.of.contains(&member.id)).map(|waiting| waiting.seq);
            let other = self.others.entry(member.id).or_default();
            let gone = other.silent_since.is_some() && !self.waiting.is_empty();
            let Some(seq) = wanted.min().or(gone.then_some(Seq(0))) else { continue };
            if !std::mem::replace(&mut other.is_asked, true) {
                let pause = if other.silent_since.is_some() { RETRY } else { Duration::ZERO };
                tokio::spawn(ask(self.client.clone(), member.clone(), seq, pause, events.clone()));
            }
        }
    }
}

fn is_gone(other: &Other, silence: Duration) -> bool {
    other.silent_since.is_some_and(|since| since.elapsed() > silence)
}

async fn ask(client: Client, member: Member, seq: Seq, pause: Duration, events: mpsc::Sender<Event>) {
    tokio::time::sleep(pause).await;
    let answer = client.shown(&member.admin_url, seq).await;
    let said = match answer.ok().filter(|shown| shown.id == member.id) {
        Some(shown) if shown.state == State::Serving => Said::Shows(shown.applied_seq),
        Some(_) => Said::ServesNot,
        None => Said::Nothing,
    };
    let _ = events.send(Event::Everywhere { node: member.id, said }).await;
}
