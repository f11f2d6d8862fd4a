use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong around a PostgreSQL server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("could not {action} \"{}\": {source}", path.display())]
    File {
        /// What was tried, in the infinitive: "create directory".
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program could not be started at all.
    #[error("could not run \"{}\": {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("\"{program}\" failed: {message}")]
    Program {
        /// Its name.
        program: String,
        /// The last lines it wrote.
        message: String,
    },
    /// The operating system does not know this user.
    #[error("operating-system user \"{0}\" does not exist")]
    NoSuchUser(String),
    /// PostgreSQL refuses to run as root, and no other user was named.
    #[error("PostgreSQL cannot be run by root, and no operating-system user was given for it")]
    RunsAsRoot,
    /// The server's user cannot enter the directory that holds its data.
    #[error("user \"{user}\" cannot enter directory \"{}\"", path.display())]
    Unreachable {
        /// Who runs the server.
        user: String,
        /// The directory.
        path: PathBuf,
    },
    /// A new data directory was asked for where something is already.
    #[error("data directory \"{}\" is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The path of the unix socket does not fit into the kernel's address.
    #[error("unix-domain socket path \"{}\" is too long (at most {limit} bytes)", path.display())]
    SocketPathTooLong {
        /// The path that would be needed.
        path: PathBuf,
        /// What the kernel allows.
        limit: usize,
    },
    /// The postmaster ended before it accepted connections.
    #[error("PostgreSQL did not start, see \"{}\"", log.display())]
    NotStarted {
        /// Its log file.
        log: PathBuf,
        /// The end of that log.
        last_lines: String,
    },
    /// The postmaster did not end in time.
    #[error("PostgreSQL (process {pid}) still runs {seconds} s after it was told to stop")]
    StillRunning {
        /// The postmaster.
        pid: i32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A signal could not be sent.
    #[error("could not signal process {pid}: {source}")]
    Signal {
        /// To whom.
        pid: i32,
        /// Why not.
        source: nix::Error,
    },
    /// A snapshot does not show a table's rows as they were.
    #[error("table {0} was truncated or rewritten after the snapshot")]
    Rewritten(String),
    /// A connection or a statement failed.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;

/// For `map_err` on file operations.
pub(crate) fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
    let path = path.as_ref().to_owned();
    move |source| Error::File { action, path, source }
}
