//! What every node that serves shows: for sessions with `pgrenga.ack = all`.
//!
//! The other nodes are asked directly, each by one request at a time, which it answers as soon as
//! it shows what is asked for: so many sessions share a request. A node does not count if it says that
//! it does not serve, or if it has not answered for longer than any lease lasts; such a one is asked
//! again and again until it answers. Of the others nothing is asked while nobody waits.
//!
//! One that comes back begins a new life in the log before it serves, and shows everything ordered
//! before that. So from there on it counts again, until a question asked later is not answered.

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
/// The same while nobody waits.
const RETRY_IDLE: Duration = Duration::from_secs(1);

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
    /// What it was asked for last.
    asked: Seq,
    serves_not: bool,
    /// So many answers have to fail before its present life counts as silent.
    doubts: u8,
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

    /// The log holds a new life of another node, or the end of one.
    pub(crate) fn began(&mut self, node: NodeId) {
        let other = self.others.entry(node).or_default();
        // What is under way was asked before, maybe.
        other.doubts = 1 + u8::from(other.is_asked);
    }

    /// Another node has answered, or has not.
    pub(crate) fn heard(&mut self, node: NodeId, said: Said) {
        let other = self.others.entry(node).or_default();
        other.is_asked = false;
        match said {
            Said::Shows(seq) => {
                other.silent_since = None;
                other.serves_not = false;
                other.shows = seq;
                self.excuse(node, seq);
            }
            Said::ServesNot => {
                other.silent_since = None;
                other.serves_not = true;
                other.shows = Seq(0);
                // It will show that before it serves; of the rest it knows nothing.
                let asked = other.asked;
                self.excuse(node, asked);
            }
            Said::Nothing => {
                other.silent_since.get_or_insert_with(Instant::now);
                other.doubts = other.doubts.saturating_sub(1);
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

    /// Asks those that somebody waits for, unless they are being asked; and those that are gone, in
    /// case that they come back.
    pub(crate) fn ask(&mut self, others: &[Member], events: &mpsc::Sender<Event>) {
        for member in others {
            let wanted =
                self.waiting.iter().filter(|waiting| waiting.of.contains(&member.id)).map(|waiting| waiting.seq);
            let other = self.others.entry(member.id).or_default();
            let gone = other.silent_since.is_some();
            // Who serves not answers for everything at once.
            let wanted = if other.serves_not { wanted.max() } else { wanted.min() };
            let Some(seq) = wanted.or(gone.then_some(Seq(0))) else { continue };
            if !std::mem::replace(&mut other.is_asked, true) {
                other.asked = seq;
                let pause = match (gone, self.waiting.is_empty()) {
                    (false, _) => Duration::ZERO,
                    (true, false) => RETRY,
                    (true, true) => RETRY_IDLE,
                };
                tokio::spawn(ask(self.client.clone(), member.clone(), seq, pause, events.clone()));
            }
        }
    }
}

fn is_gone(other: &Other, silence: Duration) -> bool {
    other.doubts == 0 && other.silent_since.is_some_and(|since| since.elapsed() > silence)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of which the other is away, and was waited for.
    #[tokio::test]
    async fn a_node_that_is_away_is_asked_until_it_answers_though_nobody_waits() {
        let nowhere = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let admin_url = format!("http://{}", nowhere.expect("a free port"));
        let (name, peer) = ("n2".to_owned(), String::new());
        let others = [Member { id: NodeId(2), name, admin_url, postgres: None, peer, voter: true }];
        let (events, mut said) = mpsc::channel(16);
        let mut everywhere = Everywhere::new(Duration::ZERO);
        let question = QuestionId { port: 1, id: 1 };
        everywhere.take(question, Seq(7), Duration::from_secs(30), &others);
        everywhere.ask(&others, &events);
        let mut heard = async |everywhere: &mut Everywhere| {
            let event = tokio::time::timeout(Duration::from_secs(10), said.recv()).await;
            let Ok(Some(Event::Everywhere { node, said })) = event else { panic!("it is not asked") };
            assert_eq!((node, said), (NodeId(2), Said::Nothing));
            everywhere.heard(node, said);
        };
        loop {
            heard(&mut everywhere).await;
            if everywhere.answerable(&others) == [question] {
                break;
            }
            everywhere.ask(&others, &events);
        }
        everywhere.ask(&others, &events);
        heard(&mut everywhere).await;
        everywhere.take(question, Seq(8), Duration::from_secs(30), &others);
        assert_eq!(everywhere.answerable(&others), [question], "it is away still");

        // What was asked before its new life says nothing of that.
        everywhere.ask(&others, &events);
        everywhere.began(NodeId(2));
        heard(&mut everywhere).await;
        everywhere.take(question, Seq(8), Duration::from_secs(30), &others);
        assert_eq!(everywhere.answerable(&others), [], "it may be back");
        everywhere.ask(&others, &events);
        heard(&mut everywhere).await;
        assert_eq!(everywhere.answerable(&others), [question], "nor does it answer in its new life");

        everywhere.ask(&others, &events);
        heard(&mut everywhere).await;
        everywhere.heard(NodeId(2), Said::Shows(Seq(5)));
        everywhere.take(question, Seq(8), Duration::from_secs(30), &others);
        assert_eq!(everywhere.answerable(&others), [], "it is back");
    }
}
