//! `pgrenga bench`: clusters of several sizes under load, and what comes out.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use pgrenga_bench::{Capping, Kind, Machine, Node, Plan, Report, Run, measure, prepare};

use crate::cli::{self, Benchmark};
use crate::demo::{self, ClusterFile};
use crate::report::{Problem, say};
use crate::stop::StopSignals;

/// Small enough to stay in memory, large enough that clients seldom meet.
const ROWS: i32 = 100_000;

/// On disk, unlike what `TMPDIR` may name: writes are to be as durable as anywhere. PostgreSQL's user can get there.
const DIRECTORY: &str = "/var/tmp";

pub(crate) async fn run(arguments: cli::Bench) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("could not create directory \"{}\"", arguments.out.display()))?;
    let (plan, machine) = (plan(&arguments), Machine::look());
    let sizes: BTreeSet<u16> = arguments.nodes.into_iter().collect();
    say(format_args!(
        "{}: {} clients on each node, {} rows, {} s a run, {}% of a core for each node",
        plan.benchmark.name(),
        plan.clients_per_node,
        plan.rows,
        plan.duration_s,
        plan.cap_percent
    ));
    let mut runs = Vec::new();
    for round in 1..=arguments.rounds {
        for nodes in in_turn(&sizes, round) {
            say(format_args!("round {round} of {}, nodes: {nodes}", arguments.rounds));
            let run = run_size(&plan, nodes, &mut signals).await?;
            if let Capping::Impossible(problem) = &run.caps {
                say(format_args!("WARNING: the nodes are not held to their share: {problem}"));
            }
            say(format_args!("{:.0} statements/s, limited by {}", run.throughput, run.limited_by.describe()));
            runs.push((nodes, run));
        }
    }
    let report = Report::new(&plan, arguments.rounds, machine, runs);
    say(format_args!("\n{}", report.table()));
    for path in report.save(&arguments.out)? {
        say(path.display());
    }
    Ok(())
}

fn plan(arguments: &cli::Bench) -> Plan {
    let benchmark = match arguments.benchmark {
        Benchmark::Select => Kind::Select,
        Benchmark::Mixed => Kind::Mixed,
    };
    Plan {
        benchmark,
        clients_per_node: arguments.clients.unwrap_or(benchmark.default_clients_per_node()),
        rows: ROWS,
        warm_up_s: (arguments.duration / 5).max(1),
        duration_s: arguments.duration,
        cap_percent: arguments.cap,
    }
}

/// Every other round the other way round, so that a drift of the machine favours no size.
fn in_turn(sizes: &BTreeSet<u16>, round: u16) -> Vec<u16> {
    if round % 2 == 1 { sizes.iter().copied().collect() } else { sizes.iter().rev().copied().collect() }
}

/// One run, on a cluster of its own that is gone afterwards.
async fn run_size(plan: &Plan, nodes: u16, signals: &mut StopSignals) -> Result<Run> {
    let directory = temporary_directory()?;
    let dir = directory.path().join("cluster");
    let result = demo::with_cluster(&dir, nodes, signals, async |file| {
        let nodes = nodes_of(&file)?;
        say("loading the table");
        prepare(&nodes, plan.rows).await.context("could not load the table")?;
        say("measuring");
        Ok(measure(plan, &nodes).await?)
    });
    result.await
}

fn temporary_directory() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::Permissions::from_mode(0o755);
    let made = tempfile::Builder::new().prefix("pgrenga-bench-").permissions(open).tempdir_in(Path::new(DIRECTORY));
    made.with_context(|| format!("could not create a directory in \"{DIRECTORY}\""))
}

fn nodes_of(file: &ClusterFile) -> Result<Vec<Node>> {
    let node = |node: &demo::Node| {
        let postmaster = node.postgres_pid.and_then(|pid| u32::try_from(pid).ok());
        let (daemon_pid, postmaster_pid) = node.daemon_pid.zip(postmaster)?;
        Some(Node { name: node.name.clone(), postgres_port: node.postgres_port, daemon_pid, postmaster_pid })
    };
    let nodes: Option<Vec<Node>> = file.nodes.iter().map(node).collect();
    nodes.ok_or_else(|| Problem::new("a node ended right after its start").into())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<cli::Bench, clap::Error> {
        let all = ["pgrenga", "bench"].iter().chain(arguments);
        match cli::Arguments::try_parse_from(all)?.command {
            cli::Command::Bench(arguments) => Ok(arguments),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let arguments = parse(&["mixed"]).unwrap();
        assert_eq!((&arguments.nodes[..], arguments.out.as_path()), (&[1, 2, 3][..], Path::new(".")));
        let plan = plan(&arguments);
        assert_eq!((plan.benchmark, plan.clients_per_node, plan.duration_s, plan.warm_up_s), (Kind::Mixed, 24, 15, 3));
        assert_eq!(super::plan(&parse(&["select", "--duration", "1", "--clients", "3"]).unwrap()).clients_per_node, 3);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for wrong in
            [&["insert"][..], &["select", "--nodes", "0"], &["select", "--nodes", "1,x"], &["mixed", "--cap", "0"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(parse(&["select", "--nodes", "2,4"]).unwrap().nodes, [2, 4]);
    }

    #[test]
    fn every_other_round_is_in_reverse() {
        let sizes = BTreeSet::from([3, 1, 2]);
        assert_eq!((in_turn(&sizes, 1), in_turn(&sizes, 2)), (vec![1, 2, 3], vec![3, 2, 1]));
    }
}
