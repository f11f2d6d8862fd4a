//! Prometheus' text format, rendered from one view of the node, so that a
//! scrape never shows positions from two moments.

use std::fmt::Write as _;

use crate::view::{NodeView, State};

pub(crate) fn render(node: &NodeView) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, labels: &str, value: u64| {
        let _ = writeln!(text, "# TYPE pgrenga_{name} {kind}\npgrenga_{name}{labels} {value}");
    };
    let labels = format!("{{cluster=\"{}\",node=\"{}\"}}", escape(&node.cluster), escape(&node.name));
    metric("serving", "gauge", &labels, u64::from(node.state == State::Serving));
    metric("postgres_up", "gauge", &labels, u64::from(node.postgres_pid.is_some()));
    metric("leader", "gauge", &labels, u64::from(node.leader == Some(node.id)));
    metric("applied_seq", "gauge", &labels, node.applied_seq.0);
    metric("flushed_seq", "gauge", &labels, node.flushed_seq.0);
    metric("committed_seq", "gauge", &labels, node.committed_seq.0);
    for (name, value) in &node.counters {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        metric(name, kind, &labels, *value);
    }
    text
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
