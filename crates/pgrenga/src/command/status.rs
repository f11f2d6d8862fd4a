//! `pgrenga status`: what every node is doing.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use pgrenga_admin::{Client, Status};

use super::target::Reach;
use crate::cli;
use crate::report::{Problem, failure};
use crate::stop::StopSignals;

const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn run(arguments: &cli::Status) -> Result<ExitCode> {
    let client = Client::new().with_timeout(Duration::from_secs(5));
    if !arguments.watch {
        let status = ask(&client, &Reach::find(&arguments.target)?).await?;
        print(&status, arguments.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut signals = StopSignals::listen()?;
    loop {
        let round = async {
            // The demo may have moved meanwhile.
            let status = ask(&client, &Reach::find(&arguments.target)?).await?;
            if std::io::stdout().is_terminal() && !arguments.json {
                let _ = write!(std::io::stdout(), "\x1b[H\x1b[2J");
            }
            print(&status, arguments.json)
        };
        tokio::select! {
            () = signals.next() => return Ok(ExitCode::SUCCESS),
            result = round => if let Err(error) = result {
                let _ = failure(&error);
            },
        }
        tokio::select! {
            () = signals.next() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// The first node that answers speaks for all.
async fn ask(client: &Client, reach: &Reach) -> Result<Status> {
    let mut said = Vec::new();
    for (name, url) in &reach.nodes {
        match client.status(url).await {
            Ok(status) => return Ok(status),
            Err(error) => said.push(format!("{}: {error}", name.as_deref().unwrap_or("a peer"))),
        }
    }
    Err(Problem::new("no node of the cluster answers")
        .detail(said.join("\n"))
        .hint("Are the daemons running ('pgrenga demo' or 'pgrenga node')?")
        .into())
}

fn print(status: &Status, json: bool) -> Result<()> {
    let text = if json { serde_json::to_string(status)? + "\n" } else { render(status) };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn render(status: &Status) -> String {
    let unknown = || "-".to_owned();
    let mut text = String::new();
    let cluster = status.cluster.as_deref().unwrap_or("-");
    let leader = status.leader.as_deref().unwrap_or("none");
    let _ = writeln!(text, "cluster {cluster}: leader {leader}, committed seq {}\n", status.committed_seq);
    let mut rows =
        vec![["NODE", "STATE", "APPLIED", "FLUSHED", "LAG", "POSTGRESQL", "ADMIN"].map(str::to_owned).to_vec()];
    for node in &status.nodes {
        let number = |value: Option<u64>| value.map_or_else(unknown, |value| value.to_string());
        let postgres = node.postgres_host.as_ref().zip(node.postgres_port);
        rows.push(vec![
            node.name.clone(),
            node.state.to_string(),
            number(node.applied_seq.map(|seq| seq.0)),
            number(node.flushed_seq.map(|seq| seq.0)),
            number(node.lag_seq),
            postgres.map_or_else(unknown, |(host, port)| format!("{host}:{port}")),
            node.admin_url.clone(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            // Numbers to the right, words to the left.
            let width = widths[column];
            let _ = if (2..=4).contains(&column) {
                write!(line, "{cell:>width$}  ")
            } else {
                write!(line, "{cell:<width$}  ")
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for node in &status.nodes {
        if let Some(reason) = &node.reason {
            let _ = writeln!(text, "\n{}: {reason}", node.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_shows_what_is_unknown() {
        let json = r#"{"cluster": "demo", "leader": "n1", "committed_seq": 1234, "nodes": [
            {"name": "n1", "id": 1, "state": "serving", "applied_seq": 1234, "flushed_seq": 1200, "lag_seq": 0,
             "committed_seq": 1234, "verdict_hash": "a", "postgres_host": "127.0.0.1", "postgres_port": 6433,
             "admin_url": "http://127.0.0.1:6533", "daemon_pid": 1, "postgres_pid": 2},
            {"name": "n2", "id": 2, "state": "detached", "reason": "does not answer", "applied_seq": null, "flushed_seq": null, "lag_seq": null,
             "committed_seq": null, "verdict_hash": null, "postgres_host": "127.0.0.1", "postgres_port": 6434,
             "admin_url": "http://127.0.0.1:6534", "daemon_pid": null, "postgres_pid": null}]}"#;
        let expected = "\
cluster demo: leader n1, committed seq 1234

NODE  STATE     APPLIED  FLUSHED  LAG  POSTGRESQL      ADMIN
n1    serving      1234     1200    0  127.0.0.1:6433  http://127.0.0.1:6533
n2    detached        -        -    -  127.0.0.1:6434  http://127.0.0.1:6534

n2: does not answer
";
        assert_eq!(render(&serde_json::from_str(json).unwrap()), expected);
    }
}
