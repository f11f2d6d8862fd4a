//! Places for sessions at nodes, and the queue for them.

mod nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pgrenga_writeset::NodeId;
use tokio::sync::{Notify, Semaphore};

use crate::Limits;
use crate::wire::{Report, sqlstate};
use nodes::{Lack, Nodes};
pub(crate) use nodes::{Load, Serving};

/// How long a node that took no session is left alone. The cluster tells within such a time if it is out.
const SHUN: Duration = Duration::from_millis(500);
/// How often the first in the queue looks again. Whatever frees a place wakes it; that a node is no longer shunned does not.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The places at all nodes.
#[derive(Debug)]
pub(crate) struct Places {
    nodes: Mutex<Nodes>,
    limits: RwLock<Limits>,
    /// Held by the first in the queue; the others wait for it in the order in which they came.
    first: Semaphore,
    /// Something that the first in the queue wants to know.
    changed: Notify,
    waiting: AtomicUsize,
}

/// What was waited for.
#[derive(Debug)]
pub(crate) enum Taken<T> {
    /// What was ready.
    Ready(T),
    Place(Place),
}

/// A session's place at a node. Its drop gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    node: Serving,
    call: Arc<Notify>,
    /// Given back already: the session is about to go.
    is_given_back: bool,
}

impl Places {
    pub(crate) fn new(limits: Limits, weights: BTreeMap<String, NonZeroU32>) -> Self {
        let nodes = Mutex::new(Nodes::new(weights, limits.max_sessions_per_node));
        Self {
            nodes,
            limits: RwLock::new(limits),
            first: Semaphore::new(1),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// From now on these count. Who has a place keeps it.
    pub(crate) fn change(&self, limits: Limits, weights: BTreeMap<String, NonZeroU32>) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
        self.lock().change(weights, limits.max_sessions_per_node);
        self.changed.notify_one();
    }

    /// These nodes serve, and no others. Sessions that had better be elsewhere are called upon.
    pub(crate) fn update(&self, serving: &[Serving]) {
        let mut nodes = self.lock();
        if nodes.update(serving) {
            let names: Vec<&str> = serving.iter().map(|node| &*node.name).collect();
            tracing::info!(nodes = names.join(", "), "nodes that serve");
        }
        nodes.call(Instant::now());
        drop(nodes);
        self.changed.notify_one();
    }

    /// These nodes are gone, and no others: nothing more is to be expected of connections to them.
    pub(crate) fn abandon(&self, gone: &BTreeSet<NodeId>) {
        self.lock().abandon(gone);
    }

    /// A place at the node with the least load, see [`Places::take_or`].
    pub(crate) async fn take(
        self: &Arc<Self>,
        deadline: Instant,
        failure: Option<&Failure>,
        evict: impl Fn() -> bool,
    ) -> Result<Place, Report> {
        match self.take_or(deadline, failure, || None::<Infallible>, evict).await? {
            Taken::Place(place) => Ok(place),
            Taken::Ready(never) => match never {},
        }
    }

    /// What is `ready`, or a place at the node with the least load; where all are full, `evict` may make room. If there is
    /// none, waits in the queue until `deadline`, and then tells what is the matter; `failure` is why the last node that
    /// was tried took no session.
    pub(crate) async fn take_or<T>(
        self: &Arc<Self>,
        deadline: Instant,
        failure: Option<&Failure>,
        ready: impl Fn() -> Option<T>,
        evict: impl Fn() -> bool,
    ) -> Result<Taken<T>, Report> {
        let _waiting = Waiting::count(&self.waiting);
        let late = |lack| Err(self.refusal(lack, failure));
        let Ok(_first) = tokio::time::timeout_at(deadline.into(), self.first.acquire()).await else {
            return late(self.lock().lack(Instant::now()));
        };
        loop {
            if let Some(ready) = ready() {
                return Ok(Taken::Ready(ready));
            }
            let now = Instant::now();
            let taken = self.lock().take(now);
            match taken {
                Ok((node, call)) => {
                    return Ok(Taken::Place(Place { places: Arc::clone(self), node, call, is_given_back: false }));
                }
                Err(Lack::Full) if evict() => {}
                Err(lack) if now >= deadline => return late(lack),
                Err(_) => {
                    let patience = LOOK_AGAIN.min(deadline - now);
                    let _ = tokio::time::timeout(patience, self.changed.notified()).await;
                }
            }
        }
    }

    /// The first in the queue looks again.
    pub(crate) fn nudge(&self) {
        self.changed.notify_one();
    }

    /// How many are in the queue.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How much each node has to do.
    pub(crate) fn nodes(&self) -> Vec<Load> {
        self.lock().loads()
    }

    fn refusal(&self, lack: Lack, failure: Option<&Failure>) -> Report {
        let limits = *self.limits.read().unwrap_or_else(PoisonError::into_inner);
        let waited = limits.queue_timeout.as_secs_f32();
        if let Some(Failure { sqlstate, message }) = failure {
            return Report::fatal(sqlstate, "no node takes the session")
                .detail(format!("{message} Others were looked for, for {waited} seconds in all."));
        }
        match lack {
            Lack::Full => {
                let max = limits.max_sessions_per_node;
                Report::fatal(sqlstate::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                    .detail(format!(
                        "Every node that serves has {max} sessions of this balancer, and no place became free within {waited} seconds."
                    ))
                    .hint("Raise max_sessions_per_node (and max_connections of the servers), add a node, or let clients pool their connections.")
            }
            Lack::NoneServes => Report::fatal(sqlstate::CANNOT_CONNECT_NOW, "no node serves")
                .detail(format!("None began to within {waited} seconds."))
                .hint("'pgrenga status' tells what the nodes are doing."),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Nodes> {
        // What is in it is whole between any two statements.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn count(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a node took no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// For the client, if there is no other node.
    pub(crate) sqlstate: &'static str,
    /// A sentence.
    pub(crate) message: String,
}

impl Place {
    /// The node.
    pub(crate) fn node(&self) -> &Serving {
        &self.node
    }

    /// Resolves when some of the node's sessions had better leave; several times a second, as long as they had.
    pub(crate) async fn called(&self) {
        self.call.notified().await;
    }

    /// Resolves when the node is gone, though the connection to it may not have ended.
    pub(crate) async fn lost(&self) {
        while !self.is_lost() {
            self.called().await;
        }
    }

    /// Whether it is gone.
    pub(crate) fn is_lost(&self) -> bool {
        self.places.lock().is_gone(self.node.id)
    }

    /// Whether the node serves.
    pub(crate) fn is_serving(&self) -> bool {
        self.places.lock().is_serving(self.node.id)
    }

    /// Whether a session is better off at another node.
    pub(crate) fn is_better_elsewhere(&self) -> bool {
        self.places.lock().better(self.node.id, Instant::now()).is_some()
    }

    /// Another place, if the session is better off there. It takes the place of this one, unless [`Place::keep`] is called.
    pub(crate) fn better(&mut self) -> Option<Self> {
        let (node, call) = self.places.lock().take_better(self.node.id, Instant::now())?;
        self.is_given_back = true;
        Some(Self { places: Arc::clone(&self.places), node, call, is_given_back: false })
    }

    /// The session stays here after all.
    pub(crate) fn keep(&mut self) {
        self.is_given_back &= !self.places.lock().take_again(self.node.id);
    }

    /// Gives the place back and keeps sessions from the node for a while.
    pub(crate) fn shun(self) {
        self.avoid();
    }

    /// Keeps sessions from the node for a while.
    pub(crate) fn avoid(&self) {
        self.places.lock().shun(self.node.id, Instant::now() + SHUN);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.places.lock().give_back(self.node.id);
        }
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: Duration = Duration::from_secs(5);

    fn places(sessions_max: usize) -> Arc<Places> {
        let limits = Limits {
            max_connections: 10,
            max_unauthenticated: 10,
            authentication_timeout: QUEUE,
            max_sessions_per_node: sessions_max,
            queue_timeout: QUEUE,
            max_repetitions: 0,
        };
        Arc::new(Places::new(limits, BTreeMap::new()))
    }

    fn one_node() -> Vec<Serving> {
        vec![Serving { id: NodeId(1), name: "n1".to_owned(), host: "h".to_owned(), port: 1 }]
    }

    async fn soon(places: &Arc<Places>) -> Result<Place, Report> {
        places.take(Instant::now(), None, || false).await
    }

    #[tokio::test]
    async fn a_place_is_free_again_when_its_session_is_over() {
        let places = places(1);
        assert_eq!(soon(&places).await.unwrap_err().sqlstate(), sqlstate::CANNOT_CONNECT_NOW);
        places.update(&one_node());
        let place = soon(&places).await.unwrap();
        assert_eq!(soon(&places).await.unwrap_err().sqlstate(), sqlstate::TOO_MANY_CONNECTIONS);
        drop(place);
        soon(&places).await.unwrap();
    }

    #[tokio::test]
    async fn the_queue_is_served_in_order() {
        let places = places(1);
        places.update(&one_node());
        let place = soon(&places).await.unwrap();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        let mut queue = Vec::new();
        for number in 0..3 {
            let (places, sender) = (Arc::clone(&places), sender.clone());
            queue.push(tokio::spawn(async move {
                let place = places.take(Instant::now() + QUEUE, None, || false).await.unwrap();
                sender.send(number).unwrap();
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        assert!(order.try_recv().is_err());
        drop(place);
        for expected in 0..3 {
            assert_eq!(order.recv().await, Some(expected));
        }
    }

    #[tokio::test]
    async fn nobody_jumps_the_queue() {
        let places = places(1);
        places.update(&one_node());
        let place = soon(&places).await.unwrap();
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(Instant::now() + QUEUE, None, || false).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(places.waiting(), 1);
        drop(place);
        assert_eq!(soon(&places).await.unwrap_err().sqlstate(), sqlstate::TOO_MANY_CONNECTIONS);
        waiting.await.unwrap().unwrap();
        assert_eq!(places.waiting(), 0);
    }

    #[tokio::test]
    async fn who_waits_goes_to_the_node_that_comes() {
        let places = places(1);
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.take(Instant::now() + QUEUE, None, || false).await.map(|place| place.node().id) }
        });
        tokio::task::yield_now().await;
        places.update(&one_node());
        assert_eq!(waiting.await.unwrap(), Ok(NodeId(1)));
    }
}
