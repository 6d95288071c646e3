//! `waypost cleanup`: removes what the agent made, and nothing else; or with `--kube-proxy` what kube-proxy left, and nothing else.

use crate::agent::{local_dns, presence};
use crate::{leftovers, nft};
use anyhow::bail;

/// What `waypost cleanup` is asked.
#[derive(Debug, clap::Args)]
pub struct CleanupArgs {
    /// Remove what kube-proxy has left behind, in any of its modes, instead of what the agent made
    #[arg(long)]
    kube_proxy: bool,
}

/// Removes what was asked for and says what it removed. One that cannot be removed does not keep the others.
///
/// # Errors
/// An agent runs here: nothing is removed then. Or everything that could not be removed, and why.
pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.kube_proxy {
        let leftovers::Removal { removed, left } = runtime.block_on(leftovers::remove_kube_proxy());
        return finish(&removed, &left, "nothing of kube-proxy");
    }
    if presence::is_announced()? {
        bail!(
            "an agent runs here, and would put back at once what is removed: end it first (helm uninstall; or whatever keeps its pod \
             off this node), and wait until its process is gone"
        );
    }
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    match nft::cleanup() {
        Ok(tables) => removed.extend(tables),
        Err(error) => failures.push(error.to_string()),
    }
    match runtime.block_on(local_dns::remove()) {
        Ok(addresses) => removed.extend(addresses.iter().map(|address| format!("address {address} on lo"))),
        Err(error) => failures.push(error.to_string()),
    }
    finish(&removed, &failures, "no table and no address of waypost")
}

fn finish(removed: &[String], failures: &[String], nothing: &str) -> anyhow::Result<()> {
    removed.iter().for_each(|what| println!("removed {what}"));
    if !failures.is_empty() {
        bail!("not everything is removed: {}", failures.join("; "));
    }
    if removed.is_empty() {
        println!("nothing to remove: there is {nothing} in this network namespace");
    }
    Ok(())
}
