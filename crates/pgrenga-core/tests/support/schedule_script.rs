//! Scripts about the dispatcher.
//!
//! ```text
//! workers 3 depth=2 run=1           before anything else; runs have at most 100 bytes
//! push 5 after=2 [bytes=1] [barrier]  a task
//! done 0 5 | failed 0 5             worker 0 says of the run that begins with 5
//! lost 0 | back 0 | visible 5
//! assign                            until there is nothing to assign
//! ```

use std::error::Error;

use goldenscript::{Command, Context, Runner};
use pgrenga_core::schedule::{Bounds, Dispatcher, Task};
use pgrenga_writeset::Seq;

#[derive(Default)]
pub struct ScheduleScript {
    dispatcher: Option<Dispatcher>,
}

impl Runner for ScheduleScript {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut arguments = command.consume_args();
        if command.name == "workers" {
            let workers = arguments.next_pos().ok_or("how many workers?")?.parse()?;
            let depth = arguments.take_key("depth").unwrap_or("2").parse()?;
            let run = arguments.take_key("run").unwrap_or("1").parse()?;
            self.dispatcher = Some(Dispatcher::new(workers, Bounds { depth, run, run_bytes: 100 }));
            return Ok(String::new());
        }
        let dispatcher = self.dispatcher.as_mut().ok_or("begin with workers")?;
        let after = arguments.take_key("after").unwrap_or("0");
        let bytes = arguments.take_key("bytes").unwrap_or("1");
        let barrier = command.args.iter().any(|argument| argument.to_string() == "barrier");
        let mut number =
            || -> Result<u64, Box<dyn Error>> { Ok(arguments.next_pos().ok_or("a number is missing")?.parse()?) };
        match command.name.as_str() {
            "push" => {
                let seq = Seq(number()?);
                let after = Seq(after.parse()?);
                dispatcher.push(Task { seq, after, barrier, bytes: bytes.parse()? });
            }
            "done" => dispatcher.done(number()? as usize, Seq(number()?)),
            "failed" => dispatcher.failed(number()? as usize, Seq(number()?)),
            "lost" => dispatcher.worker_lost(number()? as usize),
            "back" => dispatcher.worker_back(number()? as usize),
            "visible" => dispatcher.visible(Seq(number()?)),
            "assign" => {
                let assigned: Vec<_> = std::iter::from_fn(|| dispatcher.assign())
                    .map(|(worker, run)| match (run.first, run.last) {
                        (first, last) if first == last => format!("worker {worker} takes {first}"),
                        (first, last) => format!("worker {worker} takes {first}..{last} after {}", run.after),
                    })
                    .collect();
                return Ok(if assigned.is_empty() { "nothing to assign".into() } else { assigned.join("\n") });
            }
            other => return Err(format!("no command {other:?}").into()),
        }
        Ok(String::new())
    }
}
