//! A full disk under the log, or under PostgreSQL: writes are refused clearly, nothing is lost, nobody has to start
//! anything, and it goes on when there is room.
//!
//! Each node's log, and one node's data, lie on small file systems of their own, which are filled up and emptied again.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use pgrenga_testkit::cluster::{Cluster, Mount, Options, Part};
use serde_json::Value;
use tokio_postgres::error::SqlState;

use crate::{RECOVERY, agree};

const CONFIGURATION: &str = "[log]\nsegment_bytes = 5242880\n";
const NODES: usize = 3;
const DISK_BYTES: u64 = 128 << 20;
/// For a data directory, which has some WAL.
const DATA_BYTES: u64 = 512 << 20;
/// The node whose data lie there.
const SMALL: usize = 1;
/// More than fits into what is left of a segment of WAL.
const FILLING: u32 = 40;
/// Half a megabyte of log.
const ROWS: i64 = 500;
/// Inserts within which a log needs another segment, and one more that was there already.
const SEGMENTS: u32 = 60;

/// A file system in memory under a directory of a node.
struct Disk {
    dir: PathBuf,
    _mount: Mount,
}

impl Disk {
    /// Moves the directory of a node that does not run there.
    fn under(dir: PathBuf, bytes: u64) -> Result<Self> {
        let mount = Mount::in_memory(&dir, bytes)?;
        Ok(Self { dir, _mount: mount })
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    fn fill(&self) -> Result<()> {
        let mut ballast = std::fs::File::create(self.ballast())?;
        loop {
            match ballast.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

/// Whether file systems can be mounted here.
fn can_mount() -> bool {
    let Ok(dir) = tempfile::tempdir() else { return false };
    Mount::in_memory(dir.path(), DISK_BYTES).is_ok()
}

#[test]
fn writes_are_refused_while_disks_are_full() -> Result<()> {
    if !can_mount() {
        eprintln!("skipped: file systems cannot be mounted here");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut disks = Vec::new();
        let options = Options { configuration: CONFIGURATION.to_owned(), ..Options::default() };
        let mut cluster = Cluster::start_with(options).await?;
        cluster.kill_everything();
        for node in 0..NODES {
            disks.push(Disk::under(log_of(&cluster.dir(), node), DISK_BYTES)?);
        }
        disks.push(Disk::under(cluster.data_dir(SMALL), DATA_BYTES)?);
        cluster.start_demo()?;
        cluster.wait_ready().await?;
        let result = survive(&cluster, &disks).await.map_err(|error| error.context(cluster.diagnosis()));
        cluster.kill_everything();
        // Its directory could not be removed with them.
        drop(disks);
        result
    })
}

fn log_of(dir: &Path, node: usize) -> PathBuf {
    dir.join(format!("n{}", node + 1)).join("log")
}

/// Writes on a node, and counts what was acknowledged.
struct Writer<'a> {
    cluster: &'a Cluster,
    acknowledged: i64,
    /// Inserts whose answer was lost with the server.
    unknown: i64,
}

impl Writer<'_> {
    /// False if it was refused because a disk is full. Nothing else may happen.
    async fn insert(&mut self, node: usize) -> Result<bool> {
        let session = self.cluster.connect(node).await?;
        session.batch_execute("SET pgrenga.commit_timeout = '60s'").await?;
        let insert = format!("INSERT INTO t (x) SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})");
        match session.batch_execute(&insert).await {
            Ok(()) => self.acknowledged += 1,
            Err(error) if error.code() == Some(&SqlState::DISK_FULL) => {
                let hint = error.as_db_error().and_then(|error| error.hint()).context("there is a hint")?;
                ensure!(hint.contains("pgrenga status"), "{hint}");
                return Ok(false);
            }
            Err(error) => return Err(error).with_context(|| format!("on node {node}")),
        }
        Ok(true)
    }

    /// The same where the server may run out of room, and end. False if it was refused.
    async fn try_insert(&mut self, node: usize) -> Result<bool> {
        let insert = format!("INSERT INTO t (x) SELECT repeat('x', 1000) FROM generate_series(1, {ROWS})");
        let Ok(session) = self.cluster.connect(node).await else { return Ok(false) };
        let Err(error) = session.batch_execute(&insert).await else {
            self.acknowledged += 1;
            return Ok(true);
        };
        match error.code().map(SqlState::code) {
            // The server ended, or its daemon could not say.
            None | Some("08007" | "57P01" | "57P02") => self.unknown += 1,
            Some(code) => ensure!(code.starts_with("53") || code == "57P03", "{error:?}"),
        }
        Ok(false)
    }

    /// Writes there until another node's log, or so many logs, are full.
    async fn insert_until(&mut self, node: usize, what: &str, is_full: impl Fn(&Value) -> bool) -> Result<()> {
        for _ in 0..SEGMENTS {
            if is_full(&self.cluster.status().await?) {
                return Ok(());
            }
            self.insert(node).await?;
        }
        bail!("{what} is not full: {}", self.cluster.status().await?)
    }
}

fn is_full(status: &Value, node: usize) -> bool {
    status["nodes"][node]["log_full"] == true
}

async fn survive(cluster: &Cluster, disks: &[Disk]) -> Result<()> {
    cluster.execute(0, "CREATE TABLE t (id bigserial PRIMARY KEY, x text)").await?;
    cluster.settle_within(RECOVERY).await?;
    let mut writer = Writer { cluster, acknowledged: 0, unknown: 0 };
    let leads = |status: &Value, node: usize| status["leader"] == cluster.name(node);
    let status = cluster.status().await?;
    let first = (0..NODES).find(|node| leads(&status, *node)).context("a node leads")?;
    let (second, third) = ((first + 1) % NODES, (first + 2) % NODES);
    let daemons: Vec<_> = (0..NODES).map(|node| cluster.pid(node, Part::Daemon)).collect();

    // One disk, the leader's: its node refuses writes, another one leads, the others go on.
    disks[first].fill()?;
    writer.insert_until(second, "the leader's log", |status| is_full(status, first)).await?;
    ensure!(!writer.insert(first).await?, "a node whose log is full takes no writes");
    cluster.wait_until("another node leads", RECOVERY, |status| !leads(status, first)).await?;
    for _ in 0..20 {
        ensure!(writer.insert(second).await? && writer.insert(third).await?, "two of three have room");
    }
    cluster.connect(first).await?.query_one("SELECT count(*) FROM t", &[]).await.context("it is still read")?;

    // Two: no majority has room.
    disks[second].fill()?;
    writer.insert_until(third, "the second log", |status| is_full(status, second)).await?;
    for node in [third, second, first] {
        let mut inserts = 0;
        while writer.insert(node).await? {
            inserts += 1;
            ensure!(inserts < 20, "node {node} takes writes though no majority has room");
        }
    }
    // A daemon that starts on a full disk is of the same use.
    ensure!(cluster.kill(second, Part::Daemon), "its daemon runs");
    let back = |status: &Value| status["nodes"][second]["state"] == "serving" && is_full(status, second);
    cluster.wait_until("the killed daemon is back", RECOVERY, back).await?;
    ensure!(!writer.insert(third).await?, "it does not count as one that has room");

    // It goes on by itself.
    disks[first].empty()?;
    disks[second].empty()?;
    let has_room = |status: &Value| (0..NODES).all(|node| !is_full(status, node));
    cluster.wait_until("all have room", RECOVERY, has_room).await?;
    cluster.wait_serving(RECOVERY).await?;
    for node in 0..NODES {
        let begun = std::time::Instant::now();
        while !writer.insert(node).await? {
            ensure!(begun.elapsed() < RECOVERY, "node {node} takes no writes though all have room");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    for node in [first, third] {
        ensure!(cluster.pid(node, Part::Daemon) == daemons[node], "the daemon of node {node} ended meanwhile");
    }
    without_room_for_postgresql(&mut writer, &disks[NODES]).await?;
    cluster.settle_within(RECOVERY).await?;
    let rows = cluster.ask_all("SELECT count(*) FROM t").await?;
    let counts = writer.acknowledged..=writer.acknowledged + writer.unknown;
    let same = rows.iter().all(|count| *count == rows[0]);
    ensure!(same && counts.clone().any(|inserts| rows[0] == format!("({})", inserts * ROWS)), "{counts:?}: {rows:?}");
    agree(cluster).await
}

/// PostgreSQL itself has none: what its own clients write fails with class 53, or with their server; it applies nothing of the
/// others', who go on; and it catches up by itself.
async fn without_room_for_postgresql(writer: &mut Writer<'_>, data: &Disk) -> Result<()> {
    let cluster = writer.cluster;
    data.fill()?;
    let mut refused = false;
    for _ in 0..FILLING {
        refused |= !writer.try_insert(SMALL).await?;
        let others = (0..NODES).filter(|node| *node != SMALL);
        for node in others {
            ensure!(writer.insert(node).await?, "node {node} has room");
        }
    }
    ensure!(refused, "its own writes found room");
    let says = |status: &Value| {
        let node = &status["nodes"][SMALL];
        node["reason"].as_str().is_some_and(|reason| reason.contains("No space left on device"))
    };
    cluster.wait_until("status says what is missing", RECOVERY, says).await?;
    data.empty()?;
    cluster.wait_serving(RECOVERY).await?;
    ensure!(writer.insert(SMALL).await?, "it has room again");
    let said = std::fs::read_to_string(log_of(&cluster.dir(), SMALL).with_file_name("daemon.log"))?;
    ensure!(!said.contains("stops serving"), "a full disk was taken for a difference");
    Ok(())
}
