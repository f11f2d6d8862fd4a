//! How fast the list-append checker is: `cargo run --release -p pgrenga-testkit
//! --example speed -- 1000000` simulates that many transactions and checks them.

use std::time::Instant;

use pgrenga_testkit::history::simulate::{self, Options};
use pgrenga_testkit::history::{Isolation, Promise, append};

fn main() -> anyhow::Result<()> {
    let transactions = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let history = simulate::run(&Options { transactions, processes: 30, keys: 32, ..Options::default() });
    let start = Instant::now();
    let report = append::check(&history, Promise::of(Isolation::RepeatableRead))?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{report}");
    println!("{:.0} transactions checked per second", transactions as f64 / seconds);
    Ok(())
}
