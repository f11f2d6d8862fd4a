//! How we speak: progress on standard output, the log on standard error, and
//! failures in PostgreSQL's three parts.

use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

/// Something went wrong that the user can do something about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Problem {
    message: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Problem {
    /// The primary message: lower case, no full stop.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), ..Self::default() }
    }

    /// Particulars, in whole sentences.
    pub(crate) fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// What can be done, in whole sentences.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// A line of progress. A closed standard output is no reason to stop.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a failure; the exit code that goes with it.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    let _ = write!(std::io::stderr(), "{}", describe(error));
    ExitCode::FAILURE
}

/// The outermost message, what caused it, and what to do.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = part("ERROR:  ", &error.to_string());
    let mut details: Vec<String> = Vec::new();
    let mut hint = None;
    for (depth, cause) in error.chain().enumerate() {
        let (detail, its_hint) = particulars(cause);
        if depth > 0 && !cause.to_string().is_empty() {
            details.push(cause.to_string());
        }
        details.extend(detail);
        hint = hint.or(its_hint);
    }
    details.dedup();
    if !details.is_empty() {
        text += &part("DETAIL:  ", &details.join("\n"));
    }
    if let Some(hint) = hint {
        text += &part("HINT:  ", &hint);
    }
    text
}

/// Continuation lines are indented by a tab, as in PostgreSQL's log.
fn part(tag: &str, text: &str) -> String {
    format!("{tag}{}\n", text.trim_end().replace('\n', "\n\t"))
}

/// What an error of ours says beyond its message.
fn particulars(error: &(dyn std::error::Error + 'static)) -> (Option<String>, Option<String>) {
    use pgrenga_postgres::Error as Postgres;
    let hint = |text: &str| Some(text.to_owned());
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return (problem.detail.clone(), problem.hint.clone());
    }
    if let Some(pgrenga_admin::Error::Refused { problem, .. }) = error.downcast_ref() {
        return (problem.detail.clone(), problem.hint.clone());
    }
    if let Some(error) = error.downcast_ref::<tokio_postgres::error::DbError>() {
        return (error.detail().map(str::to_owned), error.hint().map(str::to_owned));
    }
    if let Some(pgrenga_node::Error::Overtaken { .. } | pgrenga_node::Error::Gap { .. }) = error.downcast_ref() {
        return (
            None,
            hint("Start it again: it goes on by itself, with a copy of another node's data if it needs one."),
        );
    }
    match error.downcast_ref() {
        Some(Postgres::Program { program, message }) if program == "pg_basebackup" && is_turned_away(message) => (
            None,
            hint(
                "The donor's pg_hba.conf has to let the superuser in from this machine, for replication too; \
                 a password comes from PGPASSWORD or PGPASSFILE. Then run this again.",
            ),
        ),
        Some(Postgres::NotStarted { last_lines, .. }) => (Some(last_lines.clone()), None),
        Some(Postgres::RunsAsRoot) => (None, hint("Set os_user in [postgres], or start pgrenga as another user.")),
        Some(Postgres::NoSuchUser(_)) => {
            (None, hint("Install PostgreSQL ('make setup'), or set os_user in [postgres]."))
        }
        Some(Postgres::Unreachable { .. }) => {
            (None, hint("Choose a directory whose parents that user may enter, or give it the right to."))
        }
        Some(Postgres::NotEmpty(_)) => (None, hint("Choose another directory, or empty this one if nobody needs it.")),
        Some(Postgres::SocketPathTooLong { .. }) => (None, hint("Set socket_dir in [postgres] to a shorter path.")),
        _ => (None, None),
    }
}

/// Whether it is `pg_hba.conf` or the password that stands in the way.
fn is_turned_away(message: &str) -> bool {
    ["password", "pg_hba.conf", "authentication"].iter().any(|word| message.contains(word))
}

/// The log goes to standard error. openraft warns of each message that a member does not get: of the outage
/// itself the connection tells.
pub(crate) fn start_log() {
    let filter = EnvFilter::try_from_env("PGRENGA_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_postgresqls_three_parts() {
        let problem = Problem::new("port 6433 is in use").detail("node n1 needs it.\nAnother line.").hint("Free it.");
        let text = describe(&anyhow::Error::new(problem).context("could not start the demo"));
        let expected = "ERROR:  could not start the demo\nDETAIL:  port 6433 is in use\n\tnode n1 needs it.\n\tAnother line.\nHINT:  Free it.\n";
        assert_eq!(text, expected);
        assert_eq!(describe(&Problem::new("plain").into()), "ERROR:  plain\n");
    }

    #[test]
    fn what_a_crate_knows_reaches_the_user() {
        let error = pgrenga_postgres::Error::NotStarted { log: "/x".into(), last_lines: "FATAL:  no".to_owned() };
        let text = describe(&error.into());
        assert_eq!(text, "ERROR:  PostgreSQL did not start, see \"/x\"\nDETAIL:  FATAL:  no\n");
    }
}
