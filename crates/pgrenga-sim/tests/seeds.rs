//! The core and the log keep their promises under every fault that a seed can think of.
//!
//! `SIM_SEED=n` runs one seed; `SIM_SEEDS=n` so many, from `SIM_FROM` (0) on.

use pgrenga_sim::{Failure, Report, run};

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not \"{value}\"")))
}

fn check(seed: u64) -> Report {
    run(seed).unwrap_or_else(|Failure { reason, tail }| {
        eprintln!("{}", tail.join("\n"));
        panic!(
            "seed {seed}: {reason}\nHINT: again with SIM_SEED={seed} cargo test --release -p pgrenga-sim --test seeds"
        );
    })
}

#[test]
fn every_seed_holds() {
    let (from, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (number("SIM_FROM").unwrap_or(0), number("SIM_SEEDS").unwrap_or(150)),
    };
    let reports: Vec<Report> = (from..from + count).map(check).collect();
    let committed: u64 = reports.iter().map(|report| report.committed).sum();
    println!("{count} seeds, {committed} acknowledged commits");
    assert!(count == 1 || committed >= 10 * count, "only {committed} commits were acknowledged: this proves nothing");
}

#[test]
fn the_same_seed_does_the_same() {
    for seed in 0..4 {
        assert_eq!(check(seed), check(seed), "seed {seed}");
    }
}
