//! Tasks of the repository. `cargo xtask test` is what CI runs; `cargo xtask tidy` is a part of it.

mod crashes;
mod fuzz;
mod simulate;
mod test;
mod tests;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the Weir repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run everything: format, lints, tidy, tests, documentation, and real clients against the real binary.
    Test(test::Options),
    /// Judge random and damaged selectors in every way for some minutes; stops at the first that disagree.
    FuzzSelectors(fuzz::Options),
    /// Run the models of storage and delivery on the simulated disk for many seeds; stops at the first that fails.
    Simulate(simulate::Options),
    /// Kill the real binary at random moments under the load of a real client, and check all that was confirmed.
    Crashes(crashes::Options),
    /// Run the RocketMQ clients, and write what each of them does to docs/clients.md.
    ClientsTable,
    /// Read damaged bytes of every format on disk for some minutes; stops at the first panic.
    FuzzFormats(fuzz::Options),
    /// Check what lints cannot: file headers, the direction of dependencies, links in the documentation.
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test(options) => test::run(&options),
        Task::FuzzSelectors(options) => fuzz::run(&options),
        Task::Simulate(options) => simulate::run(&options),
        Task::Crashes(options) => crashes::run(&options),
        Task::ClientsTable => test::write_clients_table(),
        Task::FuzzFormats(options) => fuzz::run_formats(&options),
        Task::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
