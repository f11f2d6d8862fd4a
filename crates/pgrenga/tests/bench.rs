//! `pgrenga bench` as its users meet it: it measures, says on what terms, and leaves nothing behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Told to stop when the test is over, however that came about.
struct Bench {
    child: Child,
    output: BufReader<ChildStdout>,
    said: String,
}

impl Bench {
    fn start(arguments: &[&str], out: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgrenga"));
        command.arg("bench").args(arguments).args(["--rounds", "1", "--out"]).arg(out);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output, said: String::new() }
    }

    fn wait_until_it_says(&mut self, line: &str) {
        let mut read = 1;
        while read > 0 && self.said.lines().last() != Some(line) {
            read = self.output.read_line(&mut self.said).unwrap();
        }
        assert!(read > 0, "it ended without \"{line}\":\n{}", self.said);
    }

    fn stop(&self) {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).unwrap();
    }

    /// Exit code, everything that it said, and where its clusters were.
    fn finish(mut self) -> (Option<i32>, String, Vec<PathBuf>) {
        self.output.read_to_string(&mut self.said).unwrap();
        let code = self.child.wait().unwrap().code();
        let directories = self.said.lines().filter_map(|line| line.strip_prefix("n1: making the data directory "));
        let directories = directories.map(|directory| directory.trim_matches('"').trim_end_matches("/n1/data").into());
        (code, self.said.clone(), directories.collect())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
            let _ = self.child.wait();
        }
    }
}

fn assert_nothing_is_left(pid: u32, directories: &[PathBuf]) {
    assert!(!directories.is_empty());
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/cpu"] {
        assert!(!Path::new(hierarchy).join(format!("pgrenga-bench.{pid}")).exists());
    }
    for directory in directories {
        let made = directory.parent().unwrap();
        assert!(!made.exists(), "{}", made.display());
        let works_there = |process: &PathBuf| process.join("cwd").read_link().is_ok_and(|cwd| cwd.starts_with(made));
        let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        assert_eq!(processes.filter(works_there).count(), 0);
    }
}

#[test]
fn it_measures_every_size_and_leaves_only_its_results() {
    let out = tempfile::tempdir().unwrap();
    let bench = Bench::start(&["mixed", "--nodes", "1,2", "--duration", "3", "--clients", "4"], out.path());
    let pid = bench.child.id();
    let (code, said, directories) = bench.finish();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(directories.len(), 2);
    assert_nothing_is_left(pid, &directories);

    let text = std::fs::read(out.path().join("bench-mixed.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((json["plan"]["benchmark"].as_str(), json["plan"]["duration_s"].as_u64()), (Some("mixed"), Some(3)));
    let sizes = json["sizes"].as_array().unwrap();
    assert_eq!(sizes.iter().map(|size| size["nodes"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for size in sizes {
        assert!(size["throughput"].as_f64().unwrap() > 0.0 && size["ratio"].as_f64().unwrap() > 0.0);
        let run = &size["runs"][0];
        let nodes = run["nodes"].as_array().unwrap();
        assert_eq!(nodes.len() as u64, size["nodes"].as_u64().unwrap());
        let sum: f64 = nodes.iter().map(|node| node["throughput"].as_f64().unwrap()).sum();
        assert!((sum - run["throughput"].as_f64().unwrap()).abs() < 1e-3, "{size}");
        assert!(run["caps"]["applied"].is_object() || said.contains("could not be held to 30%"), "{said}");
        assert!(!said.contains("was not held to its cap"), "{said}");
        assert!(run["latency"]["p99_ms"].as_f64() >= run["latency"]["p50_ms"].as_f64());
        if run["caps"]["applied"].is_object() {
            // What is used within one period may be a little more than the quota.
            let cores = |node: &serde_json::Value| node["cpu_cores"].as_f64().unwrap();
            assert!(nodes.iter().all(|node| cores(node) > 0.0 && cores(node) < 0.36), "{size}");
        }
    }
    assert!(std::fs::read_to_string(out.path().join("bench-mixed.svg")).unwrap().starts_with("<svg "));
    assert!(said.contains("nodes  statements/s  ratio"), "{said}");
}

#[test]
fn interrupted_it_leaves_nothing_behind() {
    let out = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(&["select", "--nodes", "1", "--duration", "600"], out.path());
    bench.wait_until_it_says("measuring");
    std::thread::sleep(std::time::Duration::from_millis(500));
    bench.stop();
    let pid = bench.child.id();
    let (code, said, directories) = bench.finish();
    assert_eq!(code, Some(1), "{said}");
    assert_nothing_is_left(pid, &directories);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}
