//! Checks a stored history again: `cargo run -p pgrenga-testkit --example check
//! -- FILE`. Exits with 0 if it keeps its promises, 1 if not, 2 if it cannot be judged.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use pgrenga_testkit::history::{History, Promise, Report, append, bank, counter, read_workload_name, set};

fn main() -> ExitCode {
    match check() {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(u8::from(!report.is_clean()))
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn check() -> Result<Report> {
    let path = std::env::args().nth(1).context("usage: check FILE")?;
    let mut file = File::open(&path).with_context(|| format!("could not open \"{path}\""))?;
    let workload = read_workload_name(BufReader::new(&file))?;
    file.rewind()?;
    let input = BufReader::new(file);
    let report = match workload.as_str() {
        "list_append" => {
            let history: History<append::Step> = History::read(input)?;
            append::check(&history, Promise::of(history.isolation))?
        }
        "bank" => bank::check(&History::read(input)?)?,
        "counter" => counter::check(&History::read(input)?)?,
        "set" => set::check(&History::read(input)?)?,
        other => bail!("there is no checker for \"{other}\""),
    };
    Ok(report)
}
