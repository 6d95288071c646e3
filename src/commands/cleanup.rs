//! `waypost cleanup`: removes what the agent made, and nothing else.

use crate::agent::local_dns;
use crate::nft;
use anyhow::bail;

/// Removes the agent's tables and DNS addresses and says what it removed. One that cannot be removed does not keep the others.
///
/// # Errors
/// Everything that could not be removed, and why.
pub fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    match nft::cleanup() {
        Ok(tables) => removed.extend(tables),
        Err(error) => failures.push(error.to_string()),
    }
    match runtime.block_on(local_dns::remove()) {
        Ok(addresses) => removed.extend(addresses.iter().map(|address| format!("address {address} on lo"))),
        Err(error) => failures.push(error.to_string()),
    }
    removed.iter().for_each(|what| println!("removed {what}"));
    if !failures.is_empty() {
        bail!("not everything is removed: {}", failures.join("; "));
    }
    if removed.is_empty() {
        println!("nothing to remove: there is no table and no address of waypost in this network namespace");
    }
    Ok(())
}
