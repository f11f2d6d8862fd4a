//! A session, through `psql`: statements can be started in one and waited for
//! later, while another goes on.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

const END: &str = "--end of statement--";

pub struct Session {
    child: RefCell<Child>,
    input: RefCell<ChildStdin>,
    lines: Receiver<String>,
}

impl Session {
    pub fn open(directory: &Path) -> Self {
        let psql = "exec psql -X -q -A -t -v VERBOSITY=verbose -U postgres postgres 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", psql])
            .env("PGHOST", directory)
            // As the daemon: these servers never serve.
            .env("PGAPPNAME", "pgrenga")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql is installed");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child: RefCell::new(child), input: RefCell::new(input), lines }
    }

    /// Sends a statement without waiting for it.
    pub fn start(&self, sql: &str) {
        // psql ends when its session does; `finish` notices.
        let _ = writeln!(self.input.borrow_mut(), "{sql};\n\\echo {END}");
    }

    /// Waits for what was started: its rows, or the whole report of its error.
    pub fn finish(&self) -> Result<String, String> {
        self.finish_within(Duration::from_secs(30)).expect("the statement ends")
    }

    /// Waits for what was started, however long it takes.
    pub fn finish_at_last(&self) -> Result<String, String> {
        self.finish_within(Duration::from_secs(3600)).expect("the statement ends")
    }

    /// Whether what was started still runs after a while.
    pub fn is_blocked(&self) -> bool {
        match self.finish_within(Duration::from_millis(300)) {
            None => true,
            Some(outcome) => panic!("the statement did not wait: {outcome:?}"),
        }
    }

    fn finish_within(&self, timeout: Duration) -> Option<Result<String, String>> {
        let mut text = Vec::new();
        let whole = loop {
            match self.lines.recv_timeout(timeout) {
                Ok(line) if line == END => break true,
                Ok(line) => text.push(line),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => {
                    assert!(text.is_empty(), "half an answer: {text:?}");
                    return None;
                }
            }
        };
        let text = text.join("\n");
        let failed = !whole || ["ERROR:", "FATAL:"].iter().any(|word| text.contains(word));
        Some(if failed { Err(text) } else { Ok(text) })
    }

    pub fn run(&self, sql: &str) -> Result<String, String> {
        self.start(sql);
        self.finish()
    }

    /// Runs a statement that has to succeed.
    #[track_caller]
    pub fn ok(&self, sql: &str) -> String {
        let shown = &sql[..sql.len().min(200)];
        self.run(sql).unwrap_or_else(|error| panic!("{shown}\n{error}"))
    }

    /// Runs a statement that has to fail with this SQLSTATE.
    #[track_caller]
    pub fn fails(&self, sqlstate: &str, sql: &str) -> String {
        expect_error(self.run(sql), sqlstate)
    }
}

/// The error's report, if it has this SQLSTATE.
#[track_caller]
pub fn expect_error(outcome: Result<String, String>, sqlstate: &str) -> String {
    match outcome {
        Err(error) if error.contains(&format!(" {sqlstate}: ")) => error,
        outcome => panic!("expected {sqlstate}, not {outcome:?}"),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.borrow_mut().kill();
        let _ = self.child.borrow_mut().wait();
    }
}
