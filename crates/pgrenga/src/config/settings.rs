//! What PostgreSQL is set to: our own needs, then the file's `[settings]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Settings that the cluster's working depends on, or that have a key of their own in the file.
const OURS: [&str; 11] = [
    "config_file",
    "data_directory",
    "listen_addresses",
    "logging_collector",
    "max_prepared_transactions",
    "max_replication_slots",
    "pgrenga.database",
    "pgrenga.socket",
    "port",
    "unix_socket_directories",
    "wal_level",
];

/// Replication slots beyond the ones that hold our progress, for whoever needs some.
const SPARE_SLOTS: u32 = 10;

/// PostgreSQL's settings, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    values: BTreeMap<String, String>,
    origins: u32,
    /// Those that the file has.
    given: BTreeSet<String>,
}

impl Settings {
    /// All that is wrong with `given`, if anything is.
    pub(super) fn new(given: &toml::Table, socket: &Path, database: &str) -> Result<Self, Vec<String>> {
        let mut values: BTreeMap<String, String> = [
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("synchronous_commit", "on"),
            ("max_connections", "100"),
            ("max_worker_processes", "16"),
            ("max_wal_senders", "10"),
            ("autovacuum_max_workers", "3"),
            ("log_destination", "stderr"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let mut problems = Vec::new();
        let given = flatten(given, &mut problems);
        let names = given.iter().map(|(name, _)| name.clone()).collect();
        for (name, value) in given {
            if OURS.contains(&name.as_str()) {
                problems.push(format!("settings: \"{name}\" is pgrenga's own"));
            }
            values.insert(name, value);
        }
        let origins = count_origins(&values, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let own = [
            // The first one's callback runs last before a commit, and it must be ours.
            ("shared_preload_libraries", preload(values.get("shared_preload_libraries"))),
            ("wal_level", "replica".to_owned()),
            ("logging_collector", "off".to_owned()),
            ("max_prepared_transactions", "0".to_owned()),
            ("max_replication_slots", (origins + SPARE_SLOTS).to_string()),
            ("pgrenga.socket", socket.display().to_string()),
            ("pgrenga.database", database.to_owned()),
        ];
        values.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Ok(Self { values, origins, given: names })
    }

    /// For `Server::configure`.
    pub(crate) fn as_pairs(&self) -> Vec<(&str, String)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
    }

    /// Whether the file says something of it.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// How many replication origins there must be: each backend that may commit holds one.
    pub(crate) fn origins(&self) -> u32 {
        self.origins
    }
}

fn preload(others: Option<&String>) -> String {
    let others = others.map_or("", |others| others.as_str());
    let others = others.split(',').map(str::trim).filter(|library| !library.is_empty() && *library != "pgrenga");
    std::iter::once("pgrenga").chain(others).collect::<Vec<_>>().join(",")
}

/// `MaxBackends` as `InitializeMaxBackends` in `postinit.c` computes it.
fn count_origins(values: &BTreeMap<String, String>, problems: &mut Vec<String>) -> u32 {
    let mut count = |name: &str| {
        let value = values.get(name).map_or("", String::as_str);
        value.parse::<u32>().ok().filter(|count| *count <= 10_000).unwrap_or_else(|| {
            problems.push(format!("settings: \"{name}\" must be a number up to 10000, not \"{value}\""));
            0
        })
    };
    let kinds = ["max_connections", "autovacuum_max_workers", "max_worker_processes", "max_wal_senders"];
    kinds.map(&mut count).iter().sum::<u32>() + 1
}

/// TOML reads `pgrenga.ack = "all"` as a table in a table.
fn flatten(given: &toml::Table, problems: &mut Vec<String>) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    for (name, value) in given {
        let name = name.to_ascii_lowercase();
        match value {
            toml::Value::Table(inner) => {
                let inner = flatten(inner, problems);
                flat.extend(inner.into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value)));
            }
            toml::Value::String(value) => flat.push((name, value.clone())),
            toml::Value::Integer(value) => flat.push((name, value.to_string())),
            toml::Value::Float(value) => flat.push((name, value.to_string())),
            toml::Value::Boolean(value) => flat.push((name, if *value { "on" } else { "off" }.to_owned())),
            toml::Value::Array(_) | toml::Value::Datetime(_) => {
                problems.push(format!("settings: \"{name}\" must be a string, a number or a boolean"));
            }
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Result<Settings, Vec<String>> {
        Settings::new(&toml::from_str(text).unwrap(), Path::new("/n1/port.sock"), "postgres")
    }

    fn value<'a>(settings: &'a Settings, name: &str) -> &'a str {
        &settings.values[name]
    }

    #[test]
    fn every_backend_has_an_origin() {
        let plain = settings("").unwrap();
        assert_eq!(plain.origins(), 130);
        assert_eq!(value(&plain, "max_replication_slots"), "140");
        let more = settings("max_connections = 500").unwrap();
        assert_eq!((more.origins(), value(&more, "max_connections")), (530, "500"));
    }

    #[test]
    fn our_library_comes_first() {
        assert_eq!(value(&settings("").unwrap(), "shared_preload_libraries"), "pgrenga");
        let with = settings("shared_preload_libraries = 'pg_stat_statements, pgrenga,x'").unwrap();
        assert_eq!(value(&with, "shared_preload_libraries"), "pgrenga,pg_stat_statements,x");
    }

    #[test]
    fn values_of_all_kinds_pass_through() {
        let given = settings("jit = false\nrandom_page_cost = 1.5\nwork_mem = '8MB'\npgrenga.ack = 'all'").unwrap();
        let values = ["jit", "random_page_cost", "work_mem", "pgrenga.ack"].map(|name| value(&given, name));
        assert_eq!(values, ["off", "1.5", "8MB", "all"]);
    }

    #[test]
    fn what_would_break_the_cluster_is_refused() {
        let problems =
            settings("Port = 1\nmax_prepared_transactions = 5\nmax_connections = 'many'\nx = [1]").unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
