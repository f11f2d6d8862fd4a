//! One run: machines, load and faults for a while; then calm, in which everything must be done that
//! is still wanted.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use pgrenga_writeset::{NodeId, Seq};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::clients::{self, Load};
use crate::daemon::{Ask, Setup};
use crate::faults;
use crate::invariants::{Event, Invariants, Told};
use crate::machine::Machine;
use crate::network::{Id, Network, address};
use crate::note;
use crate::plan::Plan;
use crate::postgres::Postgres;
use crate::table::Table;
use crate::trace::Trace;

/// How long the calm may take, in simulated time.
const CALM: Duration = Duration::from_secs(60);
/// How long a run may take, in real time: a hundred times what one does.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the first nodes may take to become a cluster.
const SET_UP: Duration = Duration::from_secs(30);

/// How a run that held went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Commits that clients were told of.
    pub committed: u64,
    /// The last seq.
    pub seq: u64,
    /// Lines of trace, and a digest of them.
    pub trace: (u64, u64),
}

/// How a run failed.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong.
    pub reason: String,
    /// The trace's end.
    pub tail: Vec<String>,
}

struct World {
    plan: Plan,
    network: Network,
    trace: Trace,
    invariants: Invariants,
    load: Load,
    servers: Rc<RefCell<BTreeMap<Id, Postgres>>>,
    machines: Vec<Machine>,
    next_id: Id,
}

/// Runs what `seed` decides.
///
/// # Errors
/// The first thing that is wrong.
pub fn run(seed: u64) -> Result<Report, Failure> {
    let (traces, trace) = mpsc::channel();
    let (results, result) = mpsc::channel();
    // The thread's generator and its other state belong to one run.
    std::thread::spawn(move || results.send(simulate(seed, &traces)));
    result.recv_timeout(LIMIT).unwrap_or_else(|error| {
        let reason = match error {
            mpsc::RecvTimeoutError::Timeout => "something runs for ever",
            mpsc::RecvTimeoutError::Disconnected => "the simulation panicked",
        };
        let tail = trace.try_recv().map(|trace: Trace| trace.tail()).unwrap_or_default();
        Err(Failure { reason: reason.into(), tail })
    })
}

fn simulate(seed: u64, traces: &mpsc::Sender<Trace>) -> Result<Report, Failure> {
    pgrenga_log::simulation::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| Failure { reason: error.to_string(), tail: Vec::new() })?;
    let tasks = LocalSet::new();
    let result = tasks.block_on(&runtime, async {
        let mut world = World::begin();
        // Whoever waits may have given up.
        let _ = traces.send(world.trace.clone());
        let done = world.run().await;
        match done.err().or_else(|| world.invariants.broken()) {
            Some(reason) => Err(Failure { reason, tail: world.trace.tail() }),
            None => Ok(world.report()),
        }
    });
    drop(tasks);
    result
}

impl World {
    fn begin() -> Self {
        let (plan, trace) = (Plan::choose(), Trace::begin());
        note!(trace, "{plan:?}");
        let invariants = Invariants::begin(trace.clone());
        let load = Load {
            plan,
            invariants: invariants.clone(),
            serial: Rc::default(),
            stop: Rc::new(Cell::new(false)),
            committed: Rc::default(),
        };
        let (network, servers) = (Network::default(), Rc::default());
        Self { plan, network, trace, invariants, load, servers, machines: Vec::new(), next_id: 1 }
    }

    async fn run(&mut self) -> Result<(), String> {
        self.set_up().await?;
        self.disturb().await?;
        self.calm().await
    }

    fn report(&self) -> Report {
        let seq = self.machines.iter().map(|machine| machine.postgres.visible().0).max().unwrap_or(0);
        Report { committed: self.load.committed.get(), seq, trace: self.trace.digest() }
    }

    fn add(&mut self, data: Table) -> Machine {
        let id = self.next_id;
        self.next_id += 1;
        let postgres = Postgres::new(id, data, self.invariants.clone());
        self.servers.borrow_mut().insert(id, postgres.clone());
        let setup = Setup {
            id,
            bootstrap: id == 1,
            plan: self.plan,
            postgres: postgres.clone(),
            power: Arc::default(),
            servers: self.servers.clone(),
            invariants: self.invariants.clone(),
            trace: self.trace.clone(),
        };
        let machine = Machine::new(setup, self.network.clone());
        spawn_local(machine.clone().run());
        spawn_local(clients::turnstile(postgres.clone()));
        spawn_local(clients::wal_writer(postgres.clone()));
        for _ in 0..self.plan.clients {
            spawn_local(clients::client(self.load.clone(), postgres.clone()));
        }
        self.machines.push(machine.clone());
        machine
    }

    async fn set_up(&mut self) -> Result<(), String> {
        self.network.set_latency(2);
        self.add(Table::default());
        for _ in 1..self.plan.nodes {
            timeout(SET_UP, self.join()).await.map_err(|_| "the first nodes cannot join")?;
        }
        Ok(())
    }

    /// A new node: known first, then with a copy of a donor's data, then a member.
    async fn join(&mut self) {
        let node = NodeId(self.next_id);
        let donor = loop {
            sleep(Duration::from_millis(20)).await;
            let donor = &self.machines[fastrand::usize(..self.machines.len())];
            let seen = donor.view();
            if seen.members.contains(&node) && donor.postgres.is_up() {
                break donor.clone();
            }
            if fastrand::u8(..10) == 0
                && seen.members.contains(&NodeId(donor.id))
                && let Some(asks) = seen.asks
            {
                let _ = asks.send(Ask::Register(node));
            }
        };
        let data = donor.postgres.table();
        note!(self.trace, "n{node} joins with the data of n{} up to {}", donor.id, data.visible);
        let joiner = self.add(data);
        loop {
            let machine = &self.machines[fastrand::usize(..self.machines.len())];
            if let Some(log) = machine.view().log.filter(|_| machine.id != joiner.id) {
                let change = async {
                    log.add_learner(node, address(node.0).to_string()).await?;
                    log.promote(node).await
                };
                if matches!(timeout(Duration::from_secs(5), change).await, Ok(Ok(()))) {
                    return note!(self.trace, "n{node} is a member");
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A node leaves for good.
    async fn leave(&mut self) {
        let at = fastrand::usize(..self.machines.len());
        let leaver = self.machines.remove(at);
        let node = NodeId(leaver.id);
        note!(self.trace, "n{node} leaves");
        self.servers.borrow_mut().remove(&leaver.id);
        loop {
            sleep(Duration::from_millis(20)).await;
            let seen = self.machines[fastrand::usize(..self.machines.len())].view();
            if seen.removed.contains(&node) {
                break;
            }
            if fastrand::u8(..10) == 0
                && let Some(asks) = seen.asks
            {
                let _ = asks.send(Ask::Remove(node));
            }
        }
        loop {
            let machine = &self.machines[fastrand::usize(..self.machines.len())];
            if let Some(log) = machine.view().log
                && matches!(timeout(Duration::from_secs(5), log.remove(node)).await, Ok(Ok(())))
            {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        note!(self.trace, "n{node} is no member");
        leaver.remove();
    }

    async fn disturb(&mut self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_millis(self.plan.length_ms);
        while Instant::now() < end && self.invariants.broken().is_none() {
            sleep(Duration::from_millis(fastrand::u64(..=self.plan.fault_ms_max))).await;
            if self.plan.members_change && fastrand::u8(..12) == 0 {
                timeout(CALM, self.change_members()).await.map_err(|_| "a change of the members does not end")?;
            } else {
                faults::strike(&self.machines, &self.network, &self.trace);
            }
        }
        Ok(())
    }

    /// While faults go on.
    async fn change_members(&mut self) {
        let (trace, network) = (self.trace.clone(), self.network.clone());
        let machines = self.machines.clone();
        let fault_ms_max = self.plan.fault_ms_max;
        let disturbed = spawn_local(async move {
            // The change must end some day.
            for _ in 0..6 {
                sleep(Duration::from_millis(fastrand::u64(..=fault_ms_max))).await;
                faults::strike(&machines, &network, &trace);
            }
        });
        let grows = self.machines.len() < 4 || (self.machines.len() < 6 && fastrand::bool());
        if grows {
            self.join().await
        } else {
            self.leave().await
        }
        disturbed.abort();
    }

    /// Faults and load have stopped: all that was proposed and is still wanted is decided, all
    /// nodes reach the same seq and the same data.
    async fn calm(&mut self) -> Result<(), String> {
        note!(self.trace, "CALM");
        self.load.stop.set(true);
        sleep(Duration::from_secs(9)).await;
        self.network.set_cut(BTreeSet::new());
        self.network.set_latency(2);
        for machine in &self.machines {
            machine.platter.set_latency(1);
            machine.platter.set_room(None);
            machine.power().spare();
            machine.calm();
            machine.restart_postgres();
        }
        let before = self.settled(Seq(0)).await?;
        self.all_write().await?;
        let before = self.settled(Seq(before.0 + self.machines.len() as u64)).await?;
        for (marker, machine) in (0..).zip(&self.machines) {
            if let Some(asks) = machine.view().asks {
                let _ = asks.send(Ask::Marker(marker));
            }
        }
        let wanted = Seq(before.0 + self.machines.len() as u64);
        self.settled(wanted).await?;
        let tables: Vec<(Id, Table)> =
            self.machines.iter().map(|machine| (machine.id, machine.postgres.table())).collect();
        self.invariants.see(&Event::Ended { tables: &tables });
        Ok(())
    }

    /// Every node commits again.
    async fn all_write(&self) -> Result<(), String> {
        for machine in &self.machines {
            let told =
                timeout(CALM, clients::write_one(&self.load, &machine.postgres, u64::from(machine.id) << 32)).await;
            if !matches!(told, Ok(Some(Told::Committed(_)))) {
                return Err(format!("node {} is at rest and cannot write: {told:?}", machine.id));
            }
        }
        Ok(())
    }

    /// Waits until nothing moves, at `wanted` or above.
    async fn settled(&self, wanted: Seq) -> Result<Seq, String> {
        let end = Instant::now() + CALM;
        loop {
            if let Some(broken) = self.invariants.broken() {
                return Err(broken);
            }
            let seqs: BTreeSet<Seq> = self.machines.iter().map(|machine| machine.view().certified).collect();
            let rests = |machine: &Machine| {
                let seen = machine.view();
                let server = &machine.postgres;
                seen.proposing == 0 && server.serves() && server.sessions() == 0 && server.visible() == seen.certified
            };
            if let (1, Some(seq)) = (seqs.len(), seqs.first())
                && *seq >= wanted
                && self.machines.iter().all(rests)
            {
                return Ok(*seq);
            }
            if Instant::now() >= end {
                return Err(format!("there is no rest: {}", self.restless()));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn restless(&self) -> String {
        let states = self.machines.iter().map(|machine| {
            let (seen, server) = (machine.view(), &machine.postgres);
            format!(
                "n{} on {} serves {} visible {} certified {} proposing {} sessions [{}] status {:?}; ",
                machine.id,
                machine.is_on(),
                server.serves(),
                server.visible(),
                seen.certified,
                seen.proposing,
                server.stages(),
                seen.log.map(|log| log.status()),
            )
        });
        states.collect()
    }
}
