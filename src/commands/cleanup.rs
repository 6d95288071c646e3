//! `waypost cleanup`: removes what the agent made, and nothing else.

use crate::nft;

/// Removes the agent's tables and says what it removed.
pub fn run() -> anyhow::Result<()> {
    let removed = nft::cleanup()?;
    removed.iter().for_each(|what| println!("removed {what}"));
    if removed.is_empty() {
        println!("nothing to remove: there is no table of waypost in this network namespace");
    }
    Ok(())
}
