//! One file for each verb of the command line.
//!
//! Exit codes: 0 done, 1 failed, 2 a wrong command line or configuration.

pub mod check;
pub mod cleanup;
pub mod demo;
pub mod dig;
pub mod dns;
pub mod explain;
pub mod import;
mod logging;
pub mod probe;
pub mod run;
pub mod services;

pub use logging::finish;

use crate::config::{ConfigError, RunArgs};
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// One agent per Kubernetes node for service load balancing and cluster DNS.
#[derive(Debug, Parser)]
#[command(name = "waypost", version = crate::VERSION, about, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent of this node, or with --role dns the DNS servers behind the kube-dns Service
    Run(RunArgs),
    /// Show services and DNS at work on this machine: real nftables, real packets, no root, no cluster
    Demo(demo::DemoArgs),
    /// Print the effective configuration and what this host lacks for running with it
    Check(check::CheckArgs),
    /// Say what becomes of a connection, step by step, and which object and field is the cause
    Explain(explain::ExplainArgs),
    /// List the services that are programmed, with their endpoints and new connections per second
    Services(services::ServicesArgs),
    /// Ask the running agent for a name, and say where the answer comes from: which object, the cache, which upstream server
    Dig(dig::DigArgs),
    /// Look into the DNS server of the running agent
    Dns(dns::DnsArgs),
    /// Remove everything that the agent has put into this host's kernel, and nothing else
    Cleanup(cleanup::CleanupArgs),
    /// Turn what kube-proxy is configured with into configuration of ours
    Import(import::ImportArgs),
    /// Ask the agent behind a --probe-socket how it is: for the probes of a kubelet
    Probe(probe::ProbeArgs),
    /// Print the version
    Version,
}

impl Cli {
    /// Does what the command line says.
    ///
    /// # Errors
    /// What went wrong and what to do about it, fit for one line.
    pub fn execute(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Verb::Run(args) => run::run(&args).map(|()| ExitCode::SUCCESS),
            Verb::Demo(args) => demo::run(&args).map(|()| ExitCode::SUCCESS),
            Verb::Check(args) => check::run(&args),
            Verb::Explain(args) => explain::run(&args),
            Verb::Services(args) => services::run(&args).map(|()| ExitCode::SUCCESS),
            Verb::Dig(args) => dig::run(&args),
            Verb::Dns(args) => dns::run(&args).map(|()| ExitCode::SUCCESS),
            Verb::Cleanup(args) => cleanup::run(&args).map(|()| ExitCode::SUCCESS),
            Verb::Import(args) => import::run(&args).map(|()| ExitCode::SUCCESS),
            Verb::Probe(args) => probe::run(&args),
            Verb::Version => {
                println!("waypost {}", crate::VERSION);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The exit code for an error: 2 where the user's configuration is wrong, so that a service manager need not try again; else 1.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<ConfigError>() {
        Some(_) => ExitCode::from(2),
        None => ExitCode::FAILURE,
    }
}

/// An error, and of its causes the first line each; a cause whose words stand there already is not repeated.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        let line = cause.lines().next().unwrap_or_default();
        if !text.contains(line) {
            text += &format!(": {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn causes_follow_an_error_and_nothing_stands_twice() {
        let error = anyhow!("connection refused\n | excerpt").context("no answer").context("cannot list: no answer");
        assert_eq!(describe(&error), "cannot list: no answer: connection refused");
    }

    #[test]
    fn a_wrong_configuration_has_an_exit_code_of_its_own() {
        let wrong = anyhow::Error::from(ConfigError::NoDnsAddress);
        assert_eq!(format!("{:?}", exit_code(&wrong)), format!("{:?}", ExitCode::from(2)));
        assert_eq!(format!("{:?}", exit_code(&anyhow!("other"))), format!("{:?}", ExitCode::FAILURE));
    }
}
