//! One client's connection, and what its failures mean.

use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::{NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::history::Outcome;

/// A row as text.
pub type Row = SimpleQueryRow;

/// Why a statement failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The server said so.
    #[error("{} ({}): {message}", if *is_fatal { "FATAL" } else { "ERROR" }, code.code())]
    Server {
        /// Its SQLSTATE.
        code: SqlState,
        /// Whether the server ended the session as well.
        is_fatal: bool,
        /// Its primary message.
        message: String,
    },
    /// The connection broke, or could not be made.
    #[error("connection lost: {0}")]
    Lost(String),
    /// No answer in time; the connection was given up.
    #[error("no answer in {0:?}")]
    Patience(Duration),
    /// The answer is not what the statement returns.
    #[error("unexpected answer to {statement}")]
    Unexpected {
        /// The statement.
        statement: String,
    },
}

impl Failure {
    /// What is known of a transaction whose COMMIT failed so.
    ///
    /// An ERROR is the server's word that the transaction was rolled back. That
    /// word is not given by the connection exceptions (class 08, of which 08007
    /// is "transaction resolution unknown"), by 40003 "statement completion
    /// unknown", and by a server that ends the session.
    pub fn outcome_at_commit(&self) -> Outcome {
        match self {
            Self::Server { code, is_fatal, .. } => {
                let unresolved = code.code().starts_with("08") || code.code() == "40003";
                if *is_fatal || unresolved { Outcome::Unknown } else { Outcome::Aborted }
            }
            Self::Lost(_) | Self::Patience(_) | Self::Unexpected { .. } => Outcome::Unknown,
        }
    }

    /// Whether the same transaction may well succeed at once (class 40).
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Server { code, .. } if code.code().starts_with("40"))
    }

    fn ends_session(&self) -> bool {
        match self {
            Self::Server { is_fatal, .. } => *is_fatal,
            Self::Lost(_) | Self::Patience(_) => true,
            Self::Unexpected { .. } => false,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self::Server {
                code: db.code().clone(),
                is_fatal: matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)),
                message: db.message().to_owned(),
            },
            None => Self::Lost(
                std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
            ),
        }
    }
}

/// A connection to one node that is made anew when it is lost.
#[derive(Debug)]
pub struct Session {
    node: tokio_postgres::Config,
    patience: Duration,
    connection: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    client: tokio_postgres::Client,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Closes the socket at once, even if the server does not answer.
        self.task.abort();
    }
}

impl Session {
    /// A session that is not connected yet. `patience` bounds each wait.
    pub fn new(node: &tokio_postgres::Config, patience: Duration) -> Self {
        let mut node = node.clone();
        node.connect_timeout(patience);
        Self { node, patience, connection: None }
    }

    /// Connects if need be.
    ///
    /// # Errors
    /// If the node does not let it.
    pub async fn connect(&mut self) -> Result<(), Failure> {
        let open = self.connection.as_ref();
        if open.is_some_and(|connection| !connection.client.is_closed()) {
            return Ok(());
        }
        let (client, connection) =
            timeout(self.patience, self.node.connect(NoTls)).await.map_err(|_| Failure::Patience(self.patience))??;
        let task = tokio::spawn(async move {
            // Its errors reach the client as failed statements.
            let _ = connection.await;
        });
        self.connection = Some(Connection { client, task });
        Ok(())
    }

    /// Runs one statement, and returns its rows and how many there are, or how
    /// many it changed. A session that was lost is not made anew for this.
    ///
    /// # Errors
    /// If the statement fails, or there is no connection.
    pub async fn query(&mut self, sql: &str) -> Result<(Vec<Row>, u64), Failure> {
        let Some(connection) = &self.connection else {
            return Err(Failure::Lost("not connected".to_owned()));
        };
        let answer = timeout(self.patience, connection.client.simple_query(sql)).await;
        let messages = match answer {
            Ok(Ok(messages)) => messages,
            Ok(Err(error)) => return Err(self.failed(error.into())),
            Err(_) => return Err(self.failed(Failure::Patience(self.patience))),
        };
        let (mut rows, mut count) = (Vec::new(), 0);
        for message in messages {
            match message {
                SimpleQueryMessage::Row(row) => rows.push(row),
                SimpleQueryMessage::CommandComplete(n) => count = n,
                _ => {}
            }
        }
        Ok((rows, count))
    }

    /// Runs COPY .. FROM STDIN with this data.
    ///
    /// # Errors
    /// As [`Session::query`].
    pub async fn copy_in(&mut self, sql: &str, data: &str) -> Result<(), Failure> {
        let Some(connection) = &self.connection else {
            return Err(Failure::Lost("not connected".to_owned()));
        };
        let copy = async {
            let mut sink = std::pin::pin!(connection.client.copy_in(sql).await?);
            sink.send(Bytes::copy_from_slice(data.as_bytes())).await?;
            sink.finish().await
        };
        match timeout(self.patience, copy).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failed(error.into())),
            Err(_) => Err(self.failed(Failure::Patience(self.patience))),
        }
    }

    fn failed(&mut self, failure: Failure) -> Failure {
        if failure.ends_session() {
            self.connection = None;
        }
        failure
    }

    /// Gives the connection up.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, is_fatal: bool) -> Failure {
        Failure::Server { code: SqlState::from_code(code), is_fatal, message: String::new() }
    }

    #[test]
    fn only_a_plain_error_proves_that_commit_failed() {
        for code in ["40001", "40P01", "23505", "53100", "57014"] {
            let outcome = server(code, false).outcome_at_commit();
            assert_eq!(outcome, Outcome::Aborted, "{code}");
        }
        for code in ["08007", "08006", "40003"] {
            let outcome = server(code, false).outcome_at_commit();
            assert_eq!(outcome, Outcome::Unknown, "{code}");
        }
        let terminated = server("57P01", true).outcome_at_commit();
        assert_eq!(terminated, Outcome::Unknown);
        let lost = Failure::Lost(String::new()).outcome_at_commit();
        assert_eq!(lost, Outcome::Unknown);
    }
}
