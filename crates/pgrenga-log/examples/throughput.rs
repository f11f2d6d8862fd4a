//! Measures the log on this machine: proposals of 512 bytes from 1, 16 and 64
//! proposers, on one member and on three over the loopback interface, beside a
//! bare loop of the same writes with `fdatasync`. Compare only within one run.
//!
//! ```text
//! cargo run --release -p pgrenga-log --example throughput [SECONDS [DIRECTORY]]
//! ```

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pgrenga_log::{Committed, Handle, NodeId, Options, start};

const SIZE: usize = 512;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Appends of `SIZE` bytes into a file that has its blocks, one sync each.
fn bare_syncs(dir: &Path, time: Duration) -> Result<Vec<Duration>> {
    let path = dir.join("bare");
    let file = std::fs::File::create(&path)?;
    file.write_all_at(&vec![0; 64 << 20], 0)?;
    file.sync_all()?;
    let (begin, mut took) = (Instant::now(), Vec::new());
    while begin.elapsed() < time && (took.len() + 1) * SIZE < 64 << 20 {
        let one = Instant::now();
        file.write_all_at(&[1; SIZE], (took.len() * SIZE) as u64)?;
        file.sync_data()?;
        took.push(one.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(took)
}

fn drain(mut committed: Committed) {
    tokio::spawn(async move { while committed.next().await.is_ok() {} });
}

async fn members(dir: &Path, count: u32) -> Result<Vec<Handle>> {
    let mut members: Vec<Handle> = Vec::new();
    for id in 1..=count {
        let (handle, committed) = start(Options::new(NodeId(id), dir.join(format!("{count}-{id}")), "bench")).await?;
        drain(committed);
        match members.first() {
            None => handle.initialize().await?,
            Some(first) => {
                first.add_learner(NodeId(id), handle.local_addr().to_string()).await?;
                first.promote(NodeId(id)).await?;
            }
        }
        members.push(handle);
    }
    Ok(members)
}

async fn propose(handle: &Handle, proposers: usize, time: Duration) -> Result<(Vec<Duration>, Duration)> {
    let stop = Arc::new(AtomicBool::new(false));
    let begin = Instant::now();
    let tasks: Vec<_> = (0..proposers)
        .map(|_| {
            let (handle, stop) = (handle.clone(), stop.clone());
            tokio::spawn(async move {
                let payload = Bytes::from(vec![7; SIZE]);
                let mut took = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let one = Instant::now();
                    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
                    handle.propose(payload.clone(), deadline).await?;
                    took.push(one.elapsed());
                }
                Result::Ok(took)
            })
        })
        .collect();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    Ok((took, begin.elapsed()))
}

fn report(what: &str, mut took: Vec<Duration>, time: Duration, base: Option<(f64, f64)>) -> (f64, f64) {
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let (rate, p50) = (took.len() as f64 / time.as_secs_f64(), at(0.5));
    let ratio = base.map_or(String::new(), |(base_rate, base_p50)| {
        format!("  {:6.2}x rate, p50 {:+.0} us", rate / base_rate, p50 - base_p50)
    });
    println!("{what:<28} {rate:>9.0}/s  p50 {p50:>7.0} us  p99 {:>7.0} us{ratio}", at(0.99));
    (rate, p50)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let time = Duration::from_secs_f64(arguments.next().map_or(Ok(3.0), |seconds| seconds.parse())?);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    let dir = tempfile::tempdir_in(dir)?;
    let base = report("bare fdatasync", bare_syncs(dir.path(), time)?, time, None);
    for count in [1, 3] {
        let members = members(dir.path(), count).await?;
        for proposers in [1, 16, 64] {
            let (took, elapsed) = propose(&members[0], proposers, time).await?;
            report(&format!("{count} members, {proposers} proposers"), took, elapsed, Some(base));
        }
        if count > 1 {
            let (took, elapsed) = propose(&members[1], 16, time).await?;
            report("   through a follower, 16", took, elapsed, Some(base));
        }
        if let [leader, other, ..] = &members[..] {
            leader.shutdown().await;
            let begin = Instant::now();
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            // Unknown at first: the message to the leader that went may have arrived.
            while other.propose(Bytes::from_static(b"first"), deadline).await.is_err() {}
            println!("   first commit without the leader after {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
        }
        for member in &members {
            member.shutdown().await;
        }
    }
    report("bare fdatasync, again", bare_syncs(dir.path(), time)?, time, Some(base));
    Ok(())
}
