use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A node refused a connection or a statement.
    #[error("node {node} failed under load")]
    Node {
        /// The node's name.
        node: String,
        /// What it said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A node's contents are not what clients were told.
    #[error("node {node} does not hold what was written: {found} instead of {expected} after {waited:?}")]
    Wrong {
        /// The node's name.
        node: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
        /// How long it had to get there.
        waited: Duration,
    },
    /// A process of a node was outside its control group at the end of a run.
    #[error("node {node} was not held to its cap: process {pid} escaped or was started again")]
    Escaped {
        /// The node's name.
        node: String,
        /// The process.
        pid: u32,
    },
    /// The load generator itself.
    #[error("the load generator broke off")]
    Generator,
    /// A file or directory.
    #[error("could not {action} \"{}\"", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A file of results that is not ours.
    #[error("could not understand \"{}\"", path.display())]
    Format {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// Makes the error of an action on a path.
pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}
