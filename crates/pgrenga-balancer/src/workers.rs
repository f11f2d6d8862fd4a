//! Threads that carry sessions. Each has its own event loop, and a session
//! stays with its thread: nothing is handed from one to another while it lives.

use std::future::Future;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::Error;

/// They end when this is dropped, and with them what is left of their sessions.
#[derive(Debug)]
pub(crate) struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    next: usize,
    stop: watch::Sender<bool>,
}

impl Workers {
    pub(crate) fn start(count: usize) -> Result<Self, Error> {
        let (stop, _) = watch::channel(false);
        let mut workers = Self { handles: Vec::new(), threads: Vec::new(), next: 0, stop };
        for number in 0..count.max(1) {
            let (started, handle) = mpsc::channel();
            let stop = workers.stop.subscribe();
            let thread = std::thread::Builder::new().name(format!("sessions-{number}"));
            workers.threads.push(thread.spawn(move || work(&started, stop)).map_err(Error::Worker)?);
            let handle = handle.recv().unwrap_or_else(|ended| Err(std::io::Error::other(ended)));
            workers.handles.push(handle.map_err(Error::Worker)?);
        }
        Ok(workers)
    }

    /// Runs it on the next thread in turn.
    pub(crate) fn spawn(&mut self, session: impl Future<Output = ()> + Send + 'static) {
        self.next = (self.next + 1) % self.handles.len();
        self.handles[self.next].spawn(session);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A thread's life.
fn work(started: &mpsc::Sender<std::io::Result<Handle>>, mut stop: watch::Receiver<bool>) {
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let _ = started.send(Ok(runtime.handle().clone()));
            let _ = runtime.block_on(stop.wait_for(|stop| *stop));
            // A look-up of a host's name may still be under way.
            runtime.shutdown_background();
        }
        Err(error) => drop(started.send(Err(error))),
    }
}
