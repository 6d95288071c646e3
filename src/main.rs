//! The `waypost` program: arguments in, exit code out.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use clap::Parser;
use std::process::ExitCode;
use waypost::commands::{Cli, describe, exit_code};

/// musl's allocator makes the DNS threads wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            exit_code(&error)
        }
    }
}
