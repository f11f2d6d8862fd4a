//! What the balancer says to a server on its own account: it logs a session in, asks, and restores.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::known::{Known, Prepared, Reported};
use super::witness::Proof;
use crate::tls::Stream;
use crate::wire::scram::Login;
use crate::wire::{CancelKey, HEADER_BYTES, Report, client, frame, frame_length, server, sqlstate};

/// No answer to us is longer.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// A server that we talk to, and what it has reported meanwhile.
#[derive(Debug)]
pub(super) struct Errand<'a> {
    server: &'a mut Stream,
    inbox: Vec<u8>,
    pub(super) reported: Reported,
    pub(super) key: Option<CancelKey>,
    /// All that was to be prepared is.
    pub(super) is_whole: bool,
}

impl<'a> Errand<'a> {
    /// `inbox` is what the server has said already.
    pub(super) fn new(server: &'a mut Stream, inbox: Vec<u8>) -> Self {
        Self { server, inbox, reported: Reported::default(), key: None, is_whole: true }
    }

    /// From the server's first message to the first `ReadyForQuery`.
    pub(super) async fn log_in(&mut self, proof: &Proof) -> Result<(), Report> {
        let mut nonce = [0; 18];
        getrandom::fill(&mut nonce).map_err(|error| failed(&error.to_string()))?;
        let login = match proof {
            Proof::Scram(credential) => Some(Login::new(credential, nonce)),
            Proof::None | Proof::Unknown => None,
        };
        loop {
            let (kind, body) = self.next().await?;
            match (kind, body.split_first_chunk(), &login) {
                (server::READY_FOR_QUERY, ..) => return Ok(()),
                (server::AUTHENTICATION, Some((&[0, 0, 0, 0 | 12], _)), _) => {}
                (server::AUTHENTICATION, Some((&[0, 0, 0, 10], _)), Some(login)) => {
                    self.send(&frame(client::AUTHENTICATION, &login.first())).await?;
                }
                (server::AUTHENTICATION, Some((&[0, 0, 0, 11], challenge)), Some(login)) => {
                    let answer = login.last(challenge).ok_or_else(|| failed("it does not speak SCRAM"))?;
                    self.send(&frame(client::AUTHENTICATION, &answer)).await?;
                }
                (server::AUTHENTICATION, ..) => return Err(failed("it wants a proof that only the client can give")),
                (server::BACKEND_KEY_DATA, ..) => self.key = key(&body),
                _ => {}
            }
        }
    }

    /// Runs a statement; the first value of its first row.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<Option<String>, Report> {
        self.send(&query(sql)).await?;
        let (mut value, mut error) = (None, None);
        loop {
            match self.message().await? {
                (server::READY_FOR_QUERY, _) => break,
                (server::DATA_ROW, row) => value = value.or_else(|| first_value(&row)),
                (server::ERROR_RESPONSE, body) => error = Some(Report::decode(&body)),
                _ => {}
            }
        }
        error.map_or(Ok(value), Err)
    }

    /// Prepares what was prepared by the protocol.
    pub(super) async fn prepare(&mut self, wanted: &Prepared) -> Result<(), Report> {
        let (messages, answers) = changes(&Prepared::default(), wanted);
        self.exchange(&messages, answers).await
    }

    /// Makes of another session's connection, with these statements, one with what is `known` of this one and nothing
    /// else. It shows this one's last commit already if that `is_current`.
    pub(super) async fn hand_over(&mut self, known: &Known, held: &Prepared, is_current: bool) -> Result<(), Report> {
        let wanted = known.reported.session.as_ref().map_or("", |report| &*report.state);
        let is_same = self.reported.session.as_ref().is_some_and(|report| report.state == wanted);
        let commit_seq = if is_current { 0 } else { known.reported.commit_seq };
        let (state, discard) = if is_same { ("", "DISCARD SEQUENCES") } else { (wanted, "DISCARD ALL") };
        let mut messages = query(discard);
        let mut answers = 1;
        if commit_seq > 0 || !state.is_empty() {
            self.exchange(&std::mem::take(&mut messages), std::mem::take(&mut answers)).await?;
            self.ask(&format!("SELECT pgrenga.restore_session('{state}', {commit_seq})")).await?;
        }
        let nothing = Prepared::default();
        let (changes, more) = changes(if is_same { held } else { &nothing }, &known.statements.prepared());
        messages.extend(changes);
        self.exchange(&messages, answers + more).await
    }

    /// Sends what gets so many answers. What fails is left out.
    async fn exchange(&mut self, messages: &[u8], mut answers: usize) -> Result<(), Report> {
        if answers > 0 {
            self.send(messages).await?;
        }
        while answers > 0 {
            match self.message().await? {
                (server::READY_FOR_QUERY, _) => answers -= 1,
                (server::ERROR_RESPONSE, _) => self.is_whole = false,
                _ => {}
            }
        }
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Report> {
        let sending = async {
            self.server.write_all(bytes).await?;
            self.server.flush().await
        };
        sending.await.map_err(|error: std::io::Error| failed(&error.to_string()))
    }

    /// The next message, which is no error.
    async fn next(&mut self) -> Result<(u8, Vec<u8>), Report> {
        match self.message().await? {
            (server::ERROR_RESPONSE, body) => Err(Report::decode(&body)),
            message => Ok(message),
        }
    }

    async fn message(&mut self) -> Result<(u8, Vec<u8>), Report> {
        loop {
            if let Some(header) = self.inbox.first_chunk::<HEADER_BYTES>() {
                let kind = header[0];
                let length = frame_length(header).ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
                let length = length.ok_or_else(|| failed("it does not speak PostgreSQL's protocol"))?;
                if let Some(body) = self.inbox.get(HEADER_BYTES..length) {
                    let body = body.to_vec();
                    self.inbox.drain(..length);
                    if kind == server::PARAMETER_STATUS {
                        self.reported.parameter(&body);
                    }
                    return Ok((kind, body));
                }
            }
            match self.server.read_buf(&mut self.inbox).await {
                Ok(bytes) if bytes > 0 => {}
                Ok(_) => return Err(failed("it has closed the connection")),
                Err(error) => return Err(failed(&error.to_string())),
            }
        }
    }
}

fn query(sql: &str) -> Vec<u8> {
    frame(client::QUERY, &[sql.as_bytes(), b"\0"].concat())
}

/// Messages that make of a session with these statements `held` one with those `wanted`, and how many answers they get:
/// one for each statement, since one that cannot be prepared any more takes what is in its request along. The
/// statement without a name may be gone: what ends it passes unseen.
fn changes(held: &Prepared, wanted: &Prepared) -> (Vec<u8>, usize) {
    let (mut messages, mut answers) = (Vec::new(), 0);
    let gone = held.iter().filter(|(name, body)| wanted.get(*name) != Some(body));
    for (name, _) in gone {
        messages.extend([frame(client::CLOSE, &[b"S", &**name, b"\0"].concat()), frame(client::SYNC, b"")].concat());
        answers += 1;
    }
    let new = wanted.iter().filter(|(name, body)| name.is_empty() || held.get(*name) != Some(body));
    for (_, body) in new {
        messages.extend([frame(client::PARSE, body), frame(client::SYNC, b"")].concat());
        answers += 1;
    }
    (messages, answers)
}

/// The connection is of no use; `why` is part of a sentence.
fn failed(why: &str) -> Report {
    Report::fatal(sqlstate::CONNECTION_FAILURE, why)
}

fn key(body: &[u8]) -> Option<CancelKey> {
    let (pid, secret) = (body.first_chunk()?, body.last_chunk()?);
    Some(CancelKey { pid: u32::from_be_bytes(*pid), secret: u32::from_be_bytes(*secret) })
}

/// Of a `DataRow`.
fn first_value(row: &[u8]) -> Option<String> {
    let (length, rest) = row.get(2..)?.split_first_chunk()?;
    let value = rest.get(..usize::try_from(i32::from_be_bytes(*length)).ok()?)?;
    Some(String::from_utf8_lossy(value).into_owned())
}
