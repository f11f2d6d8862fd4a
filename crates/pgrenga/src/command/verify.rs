//! `pgrenga verify`: whether all nodes hold the same.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use pgrenga_admin::{Client, Marker, MarkerSnapshot, Member};
use pgrenga_postgres::compare::{Comparison, Content, Difference, View, compare, connection};
use pgrenga_writeset::Seq;
use serde::Serialize;

use super::target::Reach;
use crate::cli;
use crate::report::{Problem, failure};

/// How long a node may take to reach the marker.
const PATIENCE: Duration = Duration::from_secs(120);

const IDENTICAL: u8 = 0;
const DIFFERENT: u8 = 1;
const COULD_NOT_COMPARE: u8 = 2;

/// The JSON of `pgrenga verify --json`.
#[derive(Debug, Serialize)]
struct Report {
    result: Outcome,
    /// The position at which all were compared.
    seq: Seq,
    /// The nodes that were compared.
    nodes: Vec<String>,
    /// The members that could not be: detached, or not caught up yet.
    missing: Vec<String>,
    #[serde(flatten)]
    comparison: Comparison,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Identical,
    Different,
    Incomplete,
}

pub(crate) async fn run(arguments: &cli::Verify) -> ExitCode {
    let report = match verify(&arguments.target).await {
        Ok(report) => report,
        Err(error) => {
            let _ = failure(&error);
            return COULD_NOT_COMPARE.into();
        }
    };
    let text =
        if arguments.json { serde_json::to_string(&report).map(|text| text + "\n") } else { Ok(render(&report)) };
    let _ = std::io::stdout().write_all(text.unwrap_or_default().as_bytes());
    match report.result {
        Outcome::Identical => IDENTICAL.into(),
        Outcome::Different => DIFFERENT.into(),
        Outcome::Incomplete => COULD_NOT_COMPARE.into(),
    }
}

async fn verify(target: &cli::Target) -> Result<Report> {
    let reach = Reach::find(target)?;
    let client = Client::new();
    let (members, marker) = begin(&client, &reach).await?;
    progress(format_args!("comparing {} at seq {}", marker.nodes.join(", "), marker.seq));
    let data_nodes = || members.iter().filter(|member| member.postgres.is_some());
    let mut views = Vec::new();
    for member in data_nodes().filter(|member| marker.nodes.contains(&member.name)) {
        let snapshot = reached(&client, member, &marker).await?;
        views.push(open(member, &reach, &snapshot).await?);
    }
    if views.is_empty() {
        return Err(Problem::new("no node could be compared").into());
    }
    let started = Instant::now();
    let comparison = compare(&views, |table| progress(format_args!("comparing table {table}"))).await;
    for member in &members {
        // It ends by itself, too, if this is not heard.
        let _ = client.end_marker(&member.admin_url, marker.id).await;
    }
    let comparison = comparison.context("could not compare")?;
    progress(format_args!("compared {} rows in {:.1} s", comparison.rows, started.elapsed().as_secs_f32()));
    let missing = data_nodes().filter(|member| !marker.nodes.contains(&member.name));
    let missing: Vec<String> = missing.map(|member| member.name.clone()).collect();
    let result = match (comparison.differences.is_empty(), missing.is_empty()) {
        (false, _) => Outcome::Different,
        (true, true) => Outcome::Identical,
        (true, false) => Outcome::Incomplete,
    };
    Ok(Report { result, seq: marker.seq, nodes: marker.nodes, missing, comparison })
}

/// Has the first node that can order a marker.
async fn begin(client: &Client, reach: &Reach) -> Result<(Vec<Member>, Marker)> {
    let mut said = Vec::new();
    for (_, url) in &reach.nodes {
        let asked = async { Ok((client.members(url).await?, client.begin_marker(url).await?)) };
        match asked.await {
            Ok(begun) => return Ok(begun),
            Err::<_, pgrenga_admin::Error>(error) => said.push(error.to_string()),
        }
    }
    Err(Problem::new("no node could order the point at which to compare").detail(said.join("\n")).into())
}

async fn reached(client: &Client, member: &Member, marker: &Marker) -> Result<MarkerSnapshot> {
    let late = || format!("node \"{}\" did not come to seq {}", member.name, marker.seq);
    let snapshot = client.reached(&member.admin_url, marker.id, PATIENCE).await.with_context(late)?;
    snapshot.ok_or_else(|| {
        let detail = format!("It was waited for {} s.", PATIENCE.as_secs());
        Problem::new(late()).detail(detail).hint("See 'pgrenga status'.").into()
    })
}

async fn open(member: &Member, reach: &Reach, snapshot: &MarkerSnapshot) -> Result<View> {
    let address = member.postgres.as_ref().context("a witness has nothing to look into")?;
    let config = connection(&address.host, address.port, &reach.superuser, &reach.database, "pgrenga verify");
    let view = View::open(&member.name, &config, &snapshot.snapshot).await;
    view.with_context(|| format!("could not look into node \"{}\"", member.name))
}

fn progress(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    for difference in &report.comparison.differences {
        describe(&mut text, difference);
    }
    let Comparison { objects, tables, rows, differences } = &report.comparison;
    let nodes = report.nodes.join(", ");
    let outcome = match report.result {
        Outcome::Identical => format!("identical: {nodes}"),
        Outcome::Different => format!("different: {} differences between {nodes}", differences.len()),
        Outcome::Incomplete => format!("identical: {nodes}; not compared: {}", report.missing.join(", ")),
    };
    let _ = writeln!(text, "{outcome} ({objects} objects, {tables} tables, {rows} rows, at seq {})", report.seq);
    text
}

fn describe(text: &mut String, difference: &Difference) {
    let Difference { object, node, reference, content } = difference;
    let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "(missing)".to_owned());
    match content {
        Content::Definition { on_node, on_reference } => {
            let _ = writeln!(text, "{object} is not the same on {node} as on {reference}:");
            let _ = writeln!(text, "  {node}: {}", side(on_node).replace('\n', "\n      "));
            let _ = writeln!(text, "  {reference}: {}", side(on_reference).replace('\n', "\n      "));
        }
        Content::Rows { count_on_node, count_on_reference, rows } => {
            let _ = writeln!(
                text,
                "{object} has other rows on {node} ({count_on_node}) than on {reference} ({count_on_reference}); among them:"
            );
            for row in rows {
                let _ = writeln!(text, "  key {}", row.key);
                let _ = writeln!(text, "    {node}: {}", side(&row.on_node));
                let _ = writeln!(text, "    {reference}: {}", side(&row.on_reference));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pgrenga_postgres::compare::RowDifference;

    use super::*;

    #[test]
    fn differences_are_named_with_both_versions() {
        let row = RowDifference { key: "(1)".to_owned(), on_node: None, on_reference: Some("(1,one)".to_owned()) };
        let difference = Difference {
            object: "table public.t".to_owned(),
            node: "n3".to_owned(),
            reference: "n1".to_owned(),
            content: Content::Rows { count_on_node: 0, count_on_reference: 1, rows: vec![row] },
        };
        let comparison = Comparison { objects: 2, tables: 1, rows: 1, differences: vec![difference] };
        let report = Report {
            result: Outcome::Different,
            seq: Seq(9),
            nodes: vec!["n1".to_owned(), "n3".to_owned()],
            missing: Vec::new(),
            comparison,
        };
        let expected = "\
table public.t has other rows on n3 (0) than on n1 (1); among them:
  key (1)
    n3: (missing)
    n1: (1,one)
different: 1 differences between n1, n3 (2 objects, 1 tables, 1 rows, at seq 9)
";
        assert_eq!(render(&report), expected);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((json["result"].as_str(), json["seq"].as_u64()), (Some("different"), Some(9)));
        assert_eq!(json["differences"][0]["kind"], "rows");
    }
}
