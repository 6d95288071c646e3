//! `waypost import`: what a cluster is configured with today, as configuration of ours.

mod corefile;

use crate::import;
use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use std::io::Read;
use std::path::{Path, PathBuf};

/// What `waypost import` is asked.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Turn a KubeProxyConfiguration, or the ConfigMap kube-system/kube-proxy, into chart values, and name every field without a counterpart
    KubeProxyConfig {
        /// What to print
        #[arg(long, value_enum, default_value = "values")]
        output: Output,
        /// The file; - for standard input
        file: PathBuf,
    },
    /// Turn CoreDNS's Corefile, or the ConfigMap kube-system/coredns, into chart values; a plugin that is not there is an error
    Corefile {
        /// What to print
        #[arg(long, value_enum, default_value = "values")]
        output: Output,
        /// The file; - for standard input
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// Values of the chart
    Values,
    /// The agent's configuration file
    Config,
}

/// Prints the configuration.
///
/// # Errors
/// The file cannot be read, is something else, or has an impossible value.
pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    let (What::KubeProxyConfig { output, file } | What::Corefile { output, file }) = &args.what;
    let text = read(file).with_context(|| format!("cannot read {}", file.display()))?;
    if text.trim().is_empty() {
        bail!("{} is empty", file.display());
    }
    if let What::Corefile { .. } = &args.what {
        print!("{}", corefile::render(&corefile::read(file, &text)?, matches!(output, Output::Values)));
        return Ok(());
    }
    let imported = import::kube_proxy_config(&text)?;
    print!(
        "{}",
        match output {
            Output::Values => imported.as_values(),
            Output::Config => imported.as_config(),
        }
    );
    for field in &imported.unknown {
        eprintln!("warning: there is no field {field}; kube-proxy passes it over as well");
    }
    Ok(())
}

fn read(file: &Path) -> std::io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}
