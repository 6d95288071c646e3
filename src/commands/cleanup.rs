//! `waypost cleanup`: removes what the agent made, and nothing else.

use crate::agent::local_dns;
use crate::nft;

/// Removes the agent's tables and DNS addresses and says what it removed.
pub fn run() -> anyhow::Result<()> {
    let mut removed = nft::cleanup()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let addresses = runtime.block_on(local_dns::remove())?;
    removed.extend(addresses.iter().map(|address| format!("address {address} on lo")));
    removed.iter().for_each(|what| println!("removed {what}"));
    if removed.is_empty() {
        println!("nothing to remove: there is no table and no address of waypost in this network namespace");
    }
    Ok(())
}
