//! Cancel requests. Each client gets a secret of the balancer's own, so that no
//! two sessions have the same key whichever nodes they are on; what it means at
//! the server is known as long as the session lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::tls::Way;
use crate::wire::{CancelKey, cancel_request};

/// A server that takes longer is not waited for: its client waits along.
const PATIENCE: Duration = Duration::from_secs(5);

/// All sessions that can be cancelled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancels(Arc<Mutex<Targets>>);

/// Nothing for a session that has no server.
type Targets = HashMap<CancelKey, Option<Target>>;

/// A session's server process.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    way: Way,
    key: CancelKey,
    /// A copy goes with each request that is under way.
    requests: Arc<()>,
}

impl Target {
    pub(crate) fn new(way: Way, key: CancelKey) -> Self {
        Self { way, key, requests: Arc::default() }
    }
}

/// Its drop ends what the key means.
#[derive(Debug)]
pub(crate) struct Cancellable {
    cancels: Cancels,
    key: CancelKey,
}

impl Cancels {
    /// A key for the client of this server process. The process id stays as it is, so that it is the one that
    /// `pg_stat_activity` shows.
    pub(crate) fn register(&self, way: &Way, key: CancelKey) -> Result<Cancellable, getrandom::Error> {
        let mut targets = self.lock();
        loop {
            let own = CancelKey { pid: key.pid, secret: getrandom::u32()? };
            if let std::collections::hash_map::Entry::Vacant(vacant) = targets.entry(own) {
                vacant.insert(Some(Target::new(way.clone(), key)));
                return Ok(Cancellable { cancels: self.clone(), key: own });
            }
        }
    }

    /// Passes a cancel request on, and waits until the server has carried it out. A key that nobody has is no error:
    /// the client is not told, as by PostgreSQL.
    pub(crate) async fn carry_out(&self, key: CancelKey) {
        let target = self.lock().get(&key).cloned().flatten();
        let Some(Target { way, key, requests: _under_way }) = target else {
            tracing::debug!(pid = key.pid, "a cancel request that is no session's, or of one that does nothing");
            return;
        };
        let ask = async {
            let mut server = way.connect().await?;
            server.write_all(&cancel_request(key)).await?;
            server.flush().await?;
            // It closes the connection when the signal is sent.
            server.read_u8().await.map(drop).or_else(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => Ok(()),
                _ => Err(error),
            })
        };
        let address = way.address();
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%address, %error, "could not pass a cancel request on"),
            Err(_) => tracing::warn!(%address, "a cancel request got no answer"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Targets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cancellable {
    /// The session goes on as this server process. What its client was told stays.
    pub(crate) fn give(&self, target: Target) {
        self.cancels.lock().insert(self.key, Some(target));
    }

    /// It has none any more. Nothing as long as a request is under way, which could reach who has it next.
    pub(crate) fn release(&self) -> Option<Target> {
        self.cancels.lock().get_mut(&self.key)?.take_if(|target| Arc::strong_count(&target.requests) == 1)
    }

    /// What the client is told.
    pub(crate) fn key(&self) -> CancelKey {
        self.key
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        self.cancels.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_let_go_when_no_request_is_on_its_way_to_it() {
        let cancels = Cancels::default();
        let way = Way::plain("127.0.0.1:1".parse().unwrap());
        let own = cancels.register(&way, CancelKey { pid: 9, secret: 1 }).unwrap();
        let under_way = cancels.lock()[&own.key()].clone();
        assert!(own.release().is_none());
        drop(under_way);
        let target = own.release().unwrap();
        assert!(cancels.lock()[&own.key()].is_none() && own.release().is_none());
        own.give(target);
        assert!(own.release().is_some());
    }

    #[test]
    fn the_same_process_on_two_nodes_has_two_keys() {
        let cancels = Cancels::default();
        let key = CancelKey { pid: 9, secret: 1 };
        let [one, two] = ["127.0.0.1:1", "127.0.0.1:2"].map(|address| Way::plain(address.parse().unwrap()));
        let (a, b) = (cancels.register(&one, key).unwrap(), cancels.register(&two, key).unwrap());
        assert_ne!(a.key(), b.key());
        for (own, way) in [(&a, one), (&b, two)] {
            let target = cancels.lock()[&own.key()].clone().unwrap();
            assert_eq!((target.way.address(), target.key), (way.address(), key));
        }
        let gone = a.key();
        drop(a);
        assert!(!cancels.lock().contains_key(&gone) && cancels.lock().contains_key(&b.key()));
    }
}
