//! pgrenga: synchronous multi-master replication for stock PostgreSQL.
//!
//! The binary reads the command line and the configuration and puts the other
//! crates together; each subcommand is a module of [`command`].

mod cli;
mod command;
mod config;
mod demo;
mod directory;
mod durable;
mod identity;
mod lock;
mod report;
mod stop;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    report::start_log();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failure(&anyhow::Error::new(error).context("could not start the runtime")),
    };
    let result = runtime.block_on(command::run(arguments.command));
    // A blocked read of the terminal or a slow name server must not keep us.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    }
}
