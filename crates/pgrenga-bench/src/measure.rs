//! One run: clients on all nodes of a cluster, a warm-up, a measured window,
//! and what was used meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::caps::{Caps, Share, Throttle};
use crate::evidence::{Evidence, Limit};
use crate::load::{Generator, Running, Tally, Window};
use crate::{Error, Node, Plan, proc, table};

/// Long enough to read everything even when no processor is idle.
const COOL_DOWN: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Statements a second, all nodes together.
    pub throughput: f64,
    /// Attempts that were aborted (40001) and repeated, as a share of all attempts.
    pub abort_rate: f64,
    /// Of each statement, its repetitions included.
    pub latency: Latency,
    /// Node by node.
    pub nodes: Vec<NodeRun>,
    /// Whether anything but the nodes set the pace.
    pub evidence: Evidence,
    /// The judgement on it.
    pub limited_by: Limit,
    /// How the nodes were held to their share.
    pub caps: Capping,
}

/// How the nodes were held to their share of a core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capping {
    /// Each got this much.
    Applied(Share),
    /// They were not, for this reason.
    Impossible(String),
}

/// One node's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeRun {
    /// Its name.
    pub name: String,
    /// Statements a second.
    pub throughput: f64,
    /// Attempts that were aborted.
    pub aborts: u64,
    /// Processor time that it used in a second, PostgreSQL and daemon together.
    pub cpu_cores: f64,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 95th percentile.
    pub p95_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// Loads the nodes as planned. `rows` of the table, made by [`crate::prepare`],
/// must be unwritten; afterwards every node is asked for what was written.
///
/// # Errors
///
/// See [`Error`].
pub async fn measure(plan: &Plan, nodes: &[Node]) -> Result<Run, Error> {
    let generators = join_all(nodes.iter().map(|node| Generator::connect(plan, node))).await;
    let generators = generators.into_iter().collect::<Result<Vec<_>, _>>()?;
    // With the clients' backends there already. Let go before the nodes are checked and stopped.
    let caps = Caps::apply(nodes, plan.cap_percent);
    let (tallies, usage) = load(plan, nodes, generators, caps.as_ref().ok()).await?;
    let caps = caps.map_or_else(Capping::Impossible, |caps| Capping::Applied(caps.share()));
    table::expect_sum(nodes, plan.rows, tallies.iter().map(|tally| tally.written).sum()).await?;
    Ok(summarize(nodes, &tallies, &usage, caps))
}

async fn load(
    plan: &Plan,
    nodes: &[Node],
    generators: Vec<Generator>,
    caps: Option<&Caps>,
) -> Result<(Vec<Tally>, Usage), Error> {
    let begin = Instant::now() + Duration::from_secs(plan.warm_up_s.into());
    let end = begin + Duration::from_secs(plan.duration_s.into());
    let window = Window { begin, end, stop: end + COOL_DOWN };
    let running: Vec<Running> = generators.into_iter().map(|generator| generator.start(window)).collect();
    sleep_until(window.begin, &running).await;
    let before = Sample::take(nodes, caps)?;
    sleep_until(window.end, &running).await;
    let after = Sample::take(nodes, caps)?;
    let held = caps.map_or(Ok(()), |caps| caps.check(nodes));
    let tallies = join_all(running.into_iter().map(Running::join)).await;
    let tallies = tallies.into_iter().collect::<Result<Vec<_>, _>>()?;
    // A node that ended is known better by what its clients were told.
    held?;
    Ok((tallies, Usage::between(&before, &after)))
}

/// Less long if a client fails.
async fn sleep_until(time: Instant, running: &[Running]) {
    while Instant::now() < time && !running.iter().any(Running::has_ended) {
        tokio::time::sleep(POLL.min(time.saturating_duration_since(Instant::now()))).await;
    }
}

/// What was used up to a moment.
struct Sample {
    at: Instant,
    nodes: Vec<(BTreeMap<u32, Duration>, Option<Throttle>)>,
    generator: Duration,
    processors: Option<proc::Processors>,
}

impl Sample {
    fn take(nodes: &[Node], caps: Option<&Caps>) -> Result<Self, Error> {
        let of = |node: &Node| {
            let throttle = caps.map(|caps| caps.throttle(&node.name)).transpose()?;
            Ok((proc::trees(&node.processes()), throttle))
        };
        let nodes = nodes.iter().map(of).collect::<Result<_, Error>>()?;
        Ok(Self { at: Instant::now(), nodes, generator: proc::own_cpu(), processors: proc::Processors::now() })
    }
}

/// What was used between two moments.
struct Usage {
    seconds: f64,
    node_cores: Vec<f64>,
    throttled_share: Vec<Option<f64>>,
    generator_cores: f64,
    machine_idle_share: f64,
}

impl Usage {
    fn between(before: &Sample, after: &Sample) -> Self {
        let seconds = (after.at - before.at).as_secs_f64();
        let pairs = || before.nodes.iter().zip(&after.nodes);
        let cores = |(before, after): (&(BTreeMap<_, Duration>, _), &(BTreeMap<_, Duration>, _))| {
            // A process that was born meanwhile used all of its time meanwhile.
            let used =
                |(pid, cpu): (&u32, &Duration)| cpu.saturating_sub(before.0.get(pid).copied().unwrap_or_default());
            after.0.iter().map(used).sum::<Duration>().as_secs_f64() / seconds
        };
        let idle = before.processors.zip(after.processors);
        Self {
            seconds,
            node_cores: pairs().map(cores).collect(),
            throttled_share: pairs().map(|(before, after)| Some(throttled_share(before.1?, after.1?))).collect(),
            generator_cores: after.generator.saturating_sub(before.generator).as_secs_f64() / seconds,
            machine_idle_share: idle.map_or(1.0, |(before, after)| after.idle_share_since(before)),
        }
    }
}

fn throttled_share(before: Throttle, after: Throttle) -> f64 {
    let periods = after.periods.saturating_sub(before.periods);
    rate(after.throttled.saturating_sub(before.throttled), periods)
}

fn summarize(nodes: &[Node], tallies: &[Tally], usage: &Usage, caps: Capping) -> Run {
    let statements: u64 = tallies.iter().map(|tally| tally.statements).sum();
    let aborts: u64 = tallies.iter().map(|tally| tally.aborts).sum();
    let node = |((node, tally), cpu_cores): ((&Node, &Tally), &f64)| NodeRun {
        name: node.name.clone(),
        throughput: count(tally.statements) / usage.seconds,
        aborts: tally.aborts,
        cpu_cores: *cpu_cores,
    };
    let share = match &caps {
        Capping::Applied(share) => f64::from(share.quota_us) / f64::from(share.period_us),
        Capping::Impossible(_) => 1.0,
    };
    let evidence = Evidence {
        used_share: usage.node_cores.iter().map(|cores| cores / share).collect(),
        throttled_share: usage.throttled_share.clone(),
        generator_cores_per_thread: usage.generator_cores / count(nodes.len() as u64),
        machine_idle_share: usage.machine_idle_share,
    };
    Run {
        throughput: count(statements) / usage.seconds,
        abort_rate: rate(aborts, statements + aborts),
        latency: Latency::of(tallies),
        nodes: nodes.iter().zip(tallies).zip(&usage.node_cores).map(node).collect(),
        limited_by: evidence.limit(),
        evidence,
        caps,
    }
}

impl Latency {
    fn of(tallies: &[Tally]) -> Self {
        let mut all = Histogram::<u64>::new(3).unwrap_or_else(|_| unreachable!("three digits are allowed"));
        for tally in tallies {
            // It grows as needed.
            let _ = all.add(&tally.latency_us);
        }
        let at = |quantile| count(all.value_at_quantile(quantile)) / 1000.0;
        Self {
            mean_ms: all.mean() / 1000.0,
            p50_ms: at(0.5),
            p95_ms: at(0.95),
            p99_ms: at(0.99),
            max_ms: count(all.max()) / 1000.0,
        }
    }
}

fn rate(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { count(part) / count(whole) }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::Version;

    fn tally(latencies_ms: impl IntoIterator<Item = u64>, aborts: u64) -> Tally {
        let mut latency_us = Histogram::new_with_max(120_000_000, 3).unwrap();
        latencies_ms.into_iter().for_each(|latency| latency_us.record(latency * 1000).unwrap());
        Tally { statements: latency_us.len(), aborts, latency_us, written: 0 }
    }

    fn node(name: &str) -> Node {
        Node { name: name.to_owned(), postgres_port: 1, daemon_pid: 2, postmaster_pid: 3 }
    }

    #[test]
    fn nodes_add_up() {
        let share = Share { cgroup: Version::V1, quota_us: 3000, period_us: 10_000 };
        let usage = Usage {
            seconds: 2.0,
            node_cores: vec![0.3, 0.27],
            throttled_share: vec![Some(1.0), Some(0.9)],
            generator_cores: 0.5,
            machine_idle_share: 0.4,
        };
        let tallies = [tally(1..=50, 0), tally(51..=100, 25)];
        let run = summarize(&[node("n1"), node("n2")], &tallies, &usage, Capping::Applied(share));
        assert!((run.throughput - 50.0).abs() < 1e-9 && (run.abort_rate - 0.2).abs() < 1e-9);
        let near = |value: f64, expected: f64| (value - expected).abs() < expected * 0.002;
        let Latency { mean_ms, p50_ms, p95_ms, p99_ms, max_ms } = run.latency;
        for (value, expected) in [(mean_ms, 50.5), (p50_ms, 50.0), (p95_ms, 95.0), (p99_ms, 99.0), (max_ms, 100.0)] {
            assert!(near(value, expected), "{value} is not {expected}");
        }
        assert_eq!((run.nodes[1].throughput, run.nodes[1].aborts), (25.0, 25));
        assert_eq!((run.limited_by, run.evidence.generator_cores_per_thread), (Limit::Nodes, 0.25));
    }

    #[test]
    fn throttling_counts_from_the_first_sample() {
        let (before, after) = (Throttle { periods: 100, throttled: 100 }, Throttle { periods: 300, throttled: 200 });
        assert!((throttled_share(before, after) - 0.5).abs() < 1e-9);
        assert!(throttled_share(after, after).abs() < 1e-9);
    }
}
