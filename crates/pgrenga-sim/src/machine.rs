//! A machine: a disk, a server, and a daemon that is started again whenever it ends.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::daemon::{self, Setup, View};
use crate::disk::Platter;
use crate::network::{Id, Network};
use crate::note;
use crate::postgres::Postgres;
use crate::power::Power;

/// A machine; all clones are one.
#[derive(Clone)]
pub struct Machine {
    /// Which.
    pub id: Id,
    /// Its disk.
    pub platter: Platter,
    /// Its server.
    pub postgres: Postgres,
    setup: Setup,
    network: Network,
    view: Rc<RefCell<View>>,
    power: Rc<RefCell<Arc<Power>>>,
    paused: Rc<Paused>,
    /// It stays off.
    gone: Rc<Cell<bool>>,
    /// Nothing fails any more: what is off comes back at once.
    calm: Rc<Cell<bool>>,
}

#[derive(Default)]
struct Paused {
    now: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A daemon's tasks, which stand still while it is paused.
struct Process {
    tasks: LocalSet,
    paused: Rc<Paused>,
}

impl Future for Process {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.paused.now.get() {
            *self.paused.waker.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.tasks).poll(context)
    }
}

impl Machine {
    /// A machine that is off; `setup` is how its daemons start.
    pub fn new(setup: Setup, network: Network) -> Self {
        Self {
            id: setup.id,
            platter: Platter::default(),
            postgres: setup.postgres.clone(),
            setup,
            network,
            view: Rc::default(),
            power: Rc::default(),
            paused: Rc::default(),
            gone: Rc::default(),
            calm: Rc::default(),
        }
    }

    /// Keeps a daemon running for as long as the machine is there.
    pub async fn run(self) {
        while !self.gone.get() {
            self.life().await;
            if !self.calm.get() {
                let off = Duration::from_millis(fastrand::u64(1..1500));
                let _ = tokio::time::timeout(off, self.until_calm()).await;
            }
        }
    }

    async fn until_calm(&self) {
        while !self.calm.get() {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// One life of the daemon, from its start to its end.
    async fn life(&self) {
        let (id, power) = (self.id, Arc::new(Power::default()));
        note!(self.setup.trace, "n{id} starts");
        *self.power.borrow_mut() = power.clone();
        *self.view.borrow_mut() = View::default();
        self.postgres.set_power(power.clone());
        self.restart_postgres();
        let (disk, transport) = (self.platter.mount(power.clone()), self.network.attach(id, power.clone()));
        let setup = Setup { power: power.clone(), ..self.setup.clone() };
        let tasks = LocalSet::new();
        let ended = tasks.spawn_local(daemon::run(setup, self.view.borrow().clone(), disk, transport));
        let process = tokio::task::spawn_local(Process { tasks, paused: self.paused.clone() });
        tokio::select! {
            biased;
            () = power.died() => {}
            ended = ended => self.ended(ended, &power),
        }
        power.fail(false);
        process.abort();
        // Its only outcome is that it was aborted.
        let _ = process.await;
        self.network.detach(id, power.machine_failed());
        note!(self.setup.trace, "n{id} ends, machine {}", power.machine_failed());
        *self.view.borrow_mut() = View::default();
        if power.machine_failed() {
            self.platter.lose_power();
            self.postgres.crash();
        }
    }

    fn ended(&self, ended: Result<Result<(), String>, tokio::task::JoinError>, power: &Power) {
        let reason = match ended {
            Ok(Ok(())) => "without a reason".into(),
            Ok(Err(reason)) => reason,
            Err(error) => error.to_string(),
        };
        note!(self.setup.trace, "n{} ended: {reason}", self.id);
        let lacks_room = reason.starts_with("cannot start") && self.platter.is_limited();
        if power.is_on() && !reason.starts_with("overtaken") && !lacks_room {
            self.setup.invariants.fail(format!("the daemon of node {} ended: {reason}", self.id));
        }
    }

    /// Starts the server again, after a while.
    pub fn restart_postgres(&self) {
        let (machine, power) = (self.clone(), self.power.borrow().clone());
        tokio::task::spawn_local(async move {
            if !machine.calm.get() {
                sleep(Duration::from_millis(fastrand::u64(..800))).await;
            }
            if !power.machine_failed() && !machine.gone.get() {
                machine.postgres.start();
            }
        });
    }

    /// The present life's power.
    pub fn power(&self) -> Arc<Power> {
        self.power.borrow().clone()
    }

    /// What can be seen of the present daemon.
    pub fn view(&self) -> daemon::Seen {
        self.view.borrow().get()
    }

    /// Whether its daemon runs.
    pub fn is_on(&self) -> bool {
        self.power.borrow().is_on() && self.view().log.is_some()
    }

    /// Stops or continues the daemon, as a signal does.
    pub fn pause(&self, paused: bool) {
        self.paused.now.set(paused);
        if let Some(waker) = self.paused.waker.take() {
            waker.wake();
        }
    }

    /// Faults have stopped.
    pub fn calm(&self) {
        self.calm.set(true);
        self.pause(false);
    }

    /// Switches it off for good.
    pub fn remove(&self) {
        self.gone.set(true);
        self.power().fail(true);
    }
}
