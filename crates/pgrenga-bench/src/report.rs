//! The results of one benchmark over all sizes, as JSON and as a table.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::file;
use crate::evidence::Limit;
use crate::{Capping, Curve, Error, Kind, Plan, Run, plot};

/// Everything that a reader needs to trust or repeat it: `bench-select.json` and `bench-mixed.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// When it ended.
    pub unix_time_s: u64,
    /// The version of pgrenga.
    pub version: String,
    /// How often each size was measured.
    pub rounds: u16,
    /// What each run did.
    pub plan: Plan,
    /// Where it ran.
    pub machine: Machine,
    /// One entry for each number of nodes.
    pub sizes: Vec<Size>,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that we may use.
    pub processors: usize,
    /// Load average over one minute, before anything was started.
    pub load_average_before: f64,
}

/// One number of nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// How many nodes.
    pub nodes: u16,
    /// Statements a second, the mean of all runs.
    pub throughput: f64,
    /// The same, relative to one node; nothing where one node was not measured.
    pub ratio: Option<f64>,
    /// Aborted attempts as a share of all, the mean of all runs.
    pub abort_rate: f64,
    /// Every run.
    pub runs: Vec<Run>,
}

impl Machine {
    /// As it is now.
    #[must_use]
    pub fn look() -> Self {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            load_average_before: load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

impl Report {
    /// Sums up the runs, given as number of nodes and result.
    #[must_use]
    pub fn new(plan: &Plan, rounds: u16, machine: Machine, runs: Vec<(u16, Run)>) -> Self {
        let unix_time_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        Self {
            unix_time_s,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rounds,
            plan: plan.clone(),
            machine,
            sizes: sizes(runs),
        }
    }

    /// Writes the JSON and the plots into `directory`; the files written.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub fn save(&self, directory: &Path) -> Result<Vec<PathBuf>, Error> {
        let kind = self.plan.benchmark;
        let json = json_path(directory, kind);
        let mut text =
            serde_json::to_string_pretty(self).map_err(|source| Error::Format { path: json.clone(), source })?;
        text.push('\n');
        std::fs::write(&json, text).map_err(file("write", &json))?;
        let mut written = vec![json];
        written.push(save_plot(directory, &format!("bench-{}.svg", kind.name()), &[self.curve()])?);
        let all = Kind::ALL.into_iter().map(|kind| Self::find(directory, kind));
        let all: Vec<Self> = all.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        if all.len() > 1 {
            let curves: Vec<Curve> = all.iter().map(Self::curve).collect();
            written.push(save_plot(directory, "bench.svg", &curves)?);
        }
        Ok(written)
    }

    /// The report of an earlier benchmark, if it is there.
    fn find(directory: &Path, kind: Kind) -> Result<Option<Self>, Error> {
        let path = json_path(directory, kind);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|source| Error::Format { path, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file("read", &path)(error)),
        }
    }

    fn curve(&self) -> Curve {
        let point = |size: &Size| Some((size.nodes, size.ratio?));
        Curve { name: self.plan.benchmark.name().to_owned(), points: self.sizes.iter().filter_map(point).collect() }
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let heads = ["statements/s", "ratio", "aborted", "p50 ms", "p99 ms"];
        let _ = writeln!(
            text,
            "nodes {:>13} {:>6} {:>8} {:>8} {:>8}  limited by",
            heads[0], heads[1], heads[2], heads[3], heads[4]
        );
        for size in &self.sizes {
            let ratio = size.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let runs = || size.runs.iter();
            let latency = |of: fn(&Run) -> f64| mean(runs().map(of));
            let _ = writeln!(
                text,
                "{:>5} {:>13.0} {ratio:>6} {:>7.2}% {:>8.2} {:>8.2}  {}",
                size.nodes,
                size.throughput,
                size.abort_rate * 100.0,
                latency(|run| run.latency.p50_ms),
                latency(|run| run.latency.p99_ms),
                limits(runs()),
            );
        }
        for note in self.notes() {
            let _ = writeln!(text, "NOTE: {note}");
        }
        text
    }

    /// What makes the ratios doubtful.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let runs = || self.sizes.iter().flat_map(|size| &size.runs);
        let impossible = |run: &'_ Run| match &run.caps {
            Capping::Impossible(problem) => Some(problem.clone()),
            Capping::Applied(_) => None,
        };
        if let Some(problem) = runs().find_map(impossible) {
            notes.push(format!(
                "the nodes could not be held to {}% of a core each, so they share what there is and the ratios say little: {problem}",
                self.plan.cap_percent
            ));
        }
        let by = |limit: Limit| runs().any(|run| run.limited_by == limit);
        if by(Limit::Generator) {
            notes.push("in some runs the load generator could not keep up: the nodes could have done more".to_owned());
        }
        if runs().any(|run| run.evidence.machine_was_full()) {
            notes.push("in some runs no processor was ever idle: the nodes were in each other's way".to_owned());
        }
        if self.machine.load_average_before > 0.5 {
            let load = self.machine.load_average_before;
            notes.push(format!("other work ran on this machine (load average {load} before the start)"));
        }
        notes
    }
}

fn sizes(runs: Vec<(u16, Run)>) -> Vec<Size> {
    let mut sizes: Vec<Size> = Vec::new();
    for (nodes, run) in runs {
        match sizes.iter_mut().find(|size| size.nodes == nodes) {
            Some(size) => size.runs.push(run),
            None => sizes.push(Size { nodes, throughput: 0.0, ratio: None, abort_rate: 0.0, runs: vec![run] }),
        }
    }
    sizes.sort_by_key(|size| size.nodes);
    for size in &mut sizes {
        size.throughput = mean(size.runs.iter().map(|run| run.throughput));
        size.abort_rate = mean(size.runs.iter().map(|run| run.abort_rate));
    }
    let one = sizes.iter().find(|size| size.nodes == 1).map(|size| size.throughput).filter(|one| *one > 0.0);
    for size in &mut sizes {
        size.ratio = one.map(|one| size.throughput / one);
    }
    sizes
}

/// What limited the runs, each once, with the numbers that say so for the last one.
fn limits<'a>(runs: impl Iterator<Item = &'a Run>) -> String {
    let mut words: Vec<&str> = Vec::new();
    let mut numbers = String::new();
    for run in runs {
        let word = run.limited_by.describe();
        if !words.contains(&word) {
            words.push(word);
        }
        let throttled = run.evidence.throttled_share.iter().flatten().map(|share| format!("{:.0}", share * 100.0));
        let throttled = throttled.collect::<Vec<_>>().join("/");
        let cores = run.nodes.iter().map(|node| format!("{:.2}", node.cpu_cores)).collect::<Vec<_>>().join("/");
        let generator = run.evidence.generator_cores_per_thread * 100.0;
        let idle = run.evidence.machine_idle_share * 100.0;
        numbers = format!("cores {cores}, throttled {throttled}%, generator {generator:.0}% busy, idle {idle:.0}%");
    }
    format!("{} ({numbers})", words.join(", "))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + value));
    if count > 0.0 { sum / count } else { 0.0 }
}

fn json_path(directory: &Path, kind: Kind) -> PathBuf {
    directory.join(format!("bench-{}.json", kind.name()))
}

fn save_plot(directory: &Path, name: &str, curves: &[Curve]) -> Result<PathBuf, Error> {
    let path = directory.join(name);
    std::fs::write(&path, plot::svg(curves)).map_err(file("write", &path))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Latency;
    use crate::caps::{Share, Version};
    use crate::evidence::Evidence;

    fn plan(benchmark: Kind) -> Plan {
        Plan { benchmark, clients_per_node: 8, rows: 1000, warm_up_s: 1, duration_s: 2, cap_percent: 30 }
    }

    const SHARE: Share = Share { cgroup: Version::V1, quota_us: 6000, period_us: 20_000 };

    fn run(throughput: f64) -> Run {
        let evidence = Evidence {
            throttled_share: vec![Some(1.0)],
            used_share: vec![1.0],
            generator_cores_per_thread: 0.25,
            machine_idle_share: 0.5,
        };
        let latency = Latency { mean_ms: 1.0, p50_ms: 1.0, p95_ms: 2.0, p99_ms: 3.0, max_ms: 4.0 };
        let limited_by = Limit::Nodes;
        Run {
            throughput,
            abort_rate: 0.01,
            latency,
            nodes: Vec::new(),
            evidence,
            limited_by,
            caps: Capping::Applied(SHARE),
        }
    }

    fn report(benchmark: Kind, runs: Vec<(u16, Run)>) -> Report {
        Report::new(&plan(benchmark), 2, Machine { processors: 2, load_average_before: 0.0 }, runs)
    }

    #[test]
    fn ratios_are_of_means_to_one_node() {
        let runs = vec![(3, run(280.0)), (1, run(90.0)), (1, run(110.0)), (3, run(280.0))];
        let report = report(Kind::Select, runs);
        let sizes: Vec<_> = report.sizes.iter().map(|size| (size.nodes, size.throughput, size.ratio)).collect();
        assert_eq!(sizes, [(1, 100.0, Some(1.0)), (3, 280.0, Some(2.8))]);
        assert!(report.table().contains("    3           280   2.80    1.00%     1.00     3.00  the nodes' caps"));
        assert!(!report.table().contains("NOTE"));
    }

    #[test]
    fn without_one_node_there_is_no_ratio() {
        assert_eq!(report(Kind::Select, vec![(2, run(1.0))]).sizes[0].ratio, None);
    }

    #[test]
    fn doubts_are_said() {
        let uncapped =
            Run { caps: Capping::Impossible("no cgroups".to_owned()), limited_by: Limit::Generator, ..run(1.0) };
        let report = report(Kind::Mixed, vec![(1, run(1.0)), (2, uncapped)]);
        let table = report.table();
        assert!(table.contains("could not be held to 30%") && table.contains("THE LOAD GENERATOR"), "{table}");
    }

    #[test]
    fn the_files_hold_everything_and_both_benchmarks_meet_in_one_plot() {
        let directory = tempfile::tempdir().unwrap();
        let select = report(Kind::Select, vec![(1, run(1.0)), (2, run(1.9))]);
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let written = |report: &Report| report.save(directory.path()).unwrap().iter().map(name).collect::<Vec<_>>();
        assert_eq!(written(&select), ["bench-select.json", "bench-select.svg"]);
        assert_eq!(Report::find(directory.path(), Kind::Select).unwrap(), Some(select));
        let mixed = report(Kind::Mixed, vec![(1, run(1.0)), (2, run(1.5))]);
        assert_eq!(written(&mixed), ["bench-mixed.json", "bench-mixed.svg", "bench.svg"]);
    }
}
