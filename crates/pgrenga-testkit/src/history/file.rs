//! Stored histories: JSON lines, so that a failed run can be looked at with
//! ordinary tools and checked again. The first line is the header, then comes a
//! line for each transaction (`T0` first) and one for each final read.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

use super::record::{Error, FinalRead, History, Isolation, Step, Transaction};

/// The version of the format, kept in the header.
pub const FORMAT_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Header<T> {
    format: u32,
    workload: String,
    isolation: Isolation,
    seed: u64,
    initial: T,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<S, T> {
    Header(Header<T>),
    Transaction(Transaction<S>),
    Final(FinalRead<T>),
}

/// The name of the workload whose history is stored there, to choose the checker by.
///
/// # Errors
/// If the first line is not a header.
pub fn read_workload_name(input: impl BufRead) -> Result<String, Error> {
    let first = input.lines().next().transpose()?.unwrap_or_default();
    let line: Line<serde_json::Value, serde_json::Value> = parse(1, &first)?;
    match line {
        Line::Header(header) => Ok(header.workload),
        _ => Err(Error::NoHeader),
    }
}

fn parse<T: for<'de> Deserialize<'de>>(line: usize, text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|source| Error::Json { line, source })
}

impl<S: Step> History<S> {
    /// Writes the history as JSON lines.
    ///
    /// # Errors
    /// If `output` fails.
    pub fn write(&self, mut output: impl Write) -> Result<(), Error> {
        let mut put = |line: &Line<&S, &S::State>| -> Result<(), Error> {
            serde_json::to_writer(&mut output, line).map_err(std::io::Error::from)?;
            Ok(output.write_all(b"\n")?)
        };
        put(&Line::Header(Header {
            format: FORMAT_VERSION,
            workload: S::WORKLOAD.to_owned(),
            isolation: self.isolation,
            seed: self.seed,
            initial: &self.initial,
        }))?;
        for t in &self.transactions {
            put(&Line::Transaction(Transaction {
                process: t.process,
                node: t.node,
                invoke: t.invoke,
                commit: t.commit,
                complete: t.complete,
                outcome: t.outcome,
                steps: t.steps.iter().collect(),
                error: t.error.clone(),
            }))?;
        }
        for read in &self.final_reads {
            put(&Line::Final(FinalRead { node: read.node, state: read.state.as_ref(), error: read.error.clone() }))?;
        }
        Ok(output.flush()?)
    }

    /// Reads a history that [`History::write`] stored.
    ///
    /// # Errors
    /// If the lines are not of this workload and format, or `input` fails.
    pub fn read(input: impl BufRead) -> Result<Self, Error> {
        let mut history: Option<Self> = None;
        for (index, text) in input.lines().enumerate() {
            let line: Line<S, S::State> = parse(index + 1, &text?)?;
            match (line, &mut history) {
                (Line::Header(header), None) => {
                    if header.workload != S::WORKLOAD || header.format != FORMAT_VERSION {
                        return Err(Error::OtherWorkload {
                            expected: format!("{}, format {FORMAT_VERSION}", S::WORKLOAD),
                            found: format!("{}, format {}", header.workload, header.format),
                        });
                    }
                    history = Some(Self::new(header.isolation, header.seed, header.initial));
                }
                (Line::Transaction(t), Some(history)) => history.transactions.push(t),
                (Line::Final(read), Some(history)) => history.final_reads.push(read),
                (Line::Header(_), Some(_)) | (_, None) => return Err(Error::NoHeader),
            }
        }
        history.ok_or(Error::NoHeader)
    }
}
