//! The `waypost` program: arguments in, exit code out.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use clap::Parser;
use std::process::ExitCode;
use waypost::commands::{Cli, describe, exit_code, finish};

/// The C library's allocator keeps what a large listing needed for a moment; this one gives it back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    small_pages();
    let outcome = Cli::parse().execute();
    finish(outcome.as_ref().err().map(describe).as_deref());
    outcome.unwrap_or_else(|error| exit_code(&error))
}

/// With huge pages the allocator holds two megabytes for each page that is touched, eight times what the agent needs. A kernel that knows no
/// such setting has no huge pages to switch off.
fn small_pages() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}
