//! The subcommands.

mod adopt;
mod balancer;
mod bench;
mod daemon;
mod init;
mod join;
mod members;
mod node;
mod recover;
mod status;
mod target;
mod verify;
mod witness;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::Command;
use crate::config::{self, Config};
use crate::demo;

/// Runs one subcommand to its end.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(arguments) => demo::run(arguments).await?,
        Command::Bench(arguments) => bench::run(arguments).await?,
        Command::Init(arguments) => init::run(&Config::load(&arguments.config)?, &arguments).await?,
        Command::Join(arguments) if arguments.witness => {
            join::run_witness(&config::load_witness(&arguments.config)?, &arguments.peer).await?;
        }
        Command::Join(arguments) => join::run(&Config::load(&arguments.config)?, &arguments.peer).await?,
        Command::Node(arguments) => node::run(&Config::load(&arguments.config)?).await?,
        Command::Witness(arguments) => witness::run(&config::load_witness(&arguments.config)?).await?,
        Command::Balancer(arguments) => balancer::run(&arguments.config).await?,
        Command::Recover(arguments) => recover::run(&Config::load(&arguments.config)?, &arguments).await?,
        Command::Detach(arguments) => members::detach(&arguments).await?,
        Command::Attach(arguments) => members::attach(&arguments).await?,
        Command::Remove(arguments) => members::remove(&arguments).await?,
        Command::Status(arguments) => return status::run(&arguments).await,
        Command::Verify(arguments) => return Ok(verify::run(&arguments).await),
    }
    Ok(ExitCode::SUCCESS)
}
