//! The worker's main loop.

use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use pgrenga_writeset::port::{FromPostgres, ToPostgres};
use pgrenga_writeset::{Incarnation, Seq};
use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::pg_sys;

use super::connection::Connection;
use super::gathering::{GATHER_MS, Gathering};
use super::slots;
use crate::shmem::{monotonic_ms, shared};
use crate::{brute_force, settings};

/// Milliseconds between attempts to reach the daemon.
const RECONNECT_MS: u64 = 100;
/// Milliseconds between looks for transactions in an applier's way.
const SCAN_MS: u64 = 5;
/// Milliseconds between reports of the visible seq.
const PROGRESS_MS: u64 = 50;

/// Registers the worker with the postmaster.
pub fn register() {
    BackgroundWorkerBuilder::new("pgrenga port")
        .set_library("pgrenga")
        .set_function("pgrenga_port_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(std::time::Duration::from_secs(1)))
        .load();
}

/// The worker's entry point.
///
/// # Safety
/// Only the postmaster may call it.
#[unsafe(no_mangle)]
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn pgrenga_port_main(_arg: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    let database = settings::DATABASE.get().unwrap_or_default();
    BackgroundWorker::connect_worker_to_spi(database.to_str().ok(), None);
    recover();
    let shared = shared();
    // SAFETY: this process's own PGPROC.
    shared.set_port_worker(Some(unsafe { (*pg_sys::MyProc).pgprocno }));
    Worker::new().run();
    shared.set_port_worker(None);
}

/// Takes the visible seq from what PostgreSQL recovered, once in a server's life.
fn recover() {
    let recovered: i64 = BackgroundWorker::transaction(|| {
        pgrx::Spi::get_one(
            "SELECT coalesce(max(s.remote_lsn - '0/0'::pg_lsn), 0)::bigint \
             FROM pg_replication_origin_status s WHERE s.external_id LIKE 'pgrenga\\_%'",
        )
        .ok()
        .flatten()
        .unwrap_or(0)
    });
    let turnstile = &shared().turnstile;
    if turnstile.visible() == 0 {
        turnstile.recover(recovered as u64);
    }
}

struct Worker {
    connection: Option<Connection>,
    /// Whether the daemon has answered this connection's Hello.
    welcome: bool,
    next_attempt: u64,
    next_scan: u64,
    next_progress: u64,
    /// The visible seq that the daemon knows.
    reported: u64,
    gathering: Gathering,
    waits: WaitSet,
}

impl Worker {
    fn new() -> Self {
        Self {
            connection: None,
            welcome: false,
            next_attempt: 0,
            next_scan: 0,
            next_progress: 0,
            reported: u64::MAX,
            gathering: Gathering::default(),
            waits: WaitSet::new(None),
        }
    }

    fn run(&mut self) {
        while !BackgroundWorker::sigterm_received() {
            if BackgroundWorker::sighup_received() {
                // SAFETY: rereads the configuration, as any backend does.
                unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
            }
            if let Err(error) = self.turn() {
                pgrx::log!("pgrenga: lost the connection to the daemon: {error}");
                self.connection = None;
                shared().set_standing(None);
                self.waits = WaitSet::new(None);
            }
            let blocked = self.connection.as_ref().is_some_and(Connection::is_blocked);
            let patience = if self.gathering.is_on() { GATHER_MS } else { SCAN_MS };
            self.waits.wait(patience as i64, blocked);
            // SAFETY: between transactions; handles ProcSignal barriers and the like.
            unsafe { pg_sys::ProcessInterrupts() };
        }
        shared().grant_lease(0);
    }

    /// One round: connect if need be, act on what came, send what backends left.
    fn turn(&mut self) -> io::Result<()> {
        let now = monotonic_ms();
        if now >= self.next_scan {
            self.next_scan = now + SCAN_MS;
            brute_force::scan();
        }
        if self.connection.is_none() && now >= self.next_attempt {
            self.next_attempt = now + RECONNECT_MS;
            self.connect();
        }
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let mut answers = Vec::new();
        let mut welcome = self.welcome;
        connection.receive(|payload| {
            let frame = ToPostgres::decode(payload).map_err(io::Error::other)?;
            slots::obey(&frame, &mut answers);
            welcome |= matches!(frame, ToPostgres::Welcome { .. });
            Ok(())
        })?;
        self.welcome = welcome;
        connection.outgoing.append(&mut answers);
        if self.welcome {
            // While the daemon does not read, the ring fills and backends wait.
            if !connection.is_blocked() {
                self.gathering.collect(now, &mut connection.outgoing);
            }
            slots::report_notices(&mut connection.outgoing);
            let visible = shared().turnstile.visible();
            if now >= self.next_progress && visible != self.reported {
                self.next_progress = now + PROGRESS_MS;
                self.reported = visible;
                FromPostgres::Progress(Seq(visible)).encode(&mut connection.outgoing);
            }
        }
        connection.send()
    }

    fn connect(&mut self) {
        let path = settings::SOCKET.get().unwrap_or_default();
        let Ok(mut connection) = Connection::open(Path::new(&*path.to_string_lossy())) else { return };
        let shared = shared();
        let hello = FromPostgres::Hello {
            server_start: shared.server_start.load(Ordering::Relaxed),
            visible: Seq(shared.turnstile.visible()),
            incarnation: Incarnation(shared.incarnation.load(Ordering::Relaxed)),
        };
        hello.encode(&mut connection.outgoing);
        self.welcome = false;
        self.reported = u64::MAX;
        self.waits = WaitSet::new(Some(connection.fd()));
        self.connection = Some(connection);
    }
}

/// What the worker sleeps on; kept from sleep to sleep.
struct WaitSet {
    set: *mut pg_sys::WaitEventSet,
    socket: Option<i32>,
    waits_for_room: bool,
}

impl WaitSet {
    fn new(socket: Option<RawFd>) -> Self {
        // SAFETY: a set of our own with room for three events.
        unsafe {
            let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, 3);
            let none = std::ptr::null_mut();
            let add = |events, fd, latch| pg_sys::AddWaitEventToSet(set, events, fd, latch, none);
            add(pg_sys::WL_LATCH_SET, pg_sys::PGINVALID_SOCKET, pg_sys::MyLatch);
            add(pg_sys::WL_EXIT_ON_PM_DEATH, pg_sys::PGINVALID_SOCKET, std::ptr::null_mut());
            let socket = socket.map(|fd| add(pg_sys::WL_SOCKET_READABLE, fd, std::ptr::null_mut()));
            Self { set, socket, waits_for_room: false }
        }
    }

    /// Sleeps until the latch is set, the socket is ready or the time is over.
    fn wait(&mut self, timeout_ms: i64, wait_for_room: bool) {
        // SAFETY: the set and what is in it are alive.
        unsafe {
            if let Some(position) = self.socket
                && self.waits_for_room != wait_for_room
            {
                let room = if wait_for_room { pg_sys::WL_SOCKET_WRITEABLE } else { 0 };
                pg_sys::ModifyWaitEvent(self.set, position, pg_sys::WL_SOCKET_READABLE | room, std::ptr::null_mut());
                self.waits_for_room = wait_for_room;
            }
            let mut event: pg_sys::WaitEvent = std::mem::zeroed();
            pg_sys::WaitEventSetWait(self.set, timeout_ms, &mut event, 1, pg_sys::PG_WAIT_EXTENSION);
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

impl Drop for WaitSet {
    fn drop(&mut self) {
        // SAFETY: created by `new`, used by nobody else.
        unsafe { pg_sys::FreeWaitEventSet(self.set) };
    }
}
