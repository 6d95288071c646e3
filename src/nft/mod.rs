//! The tables: layout, differences, netlink, and an in-memory kernel for tests.
//!
//! [`Committer`] owns what the kernel holds. It takes the plan's [`crate::proxy::Delta`]s, works out the elements that differ and hands
//! them, in atomic batches per family, to a [`Kernel`]: [`Netlink`] in the agent, [`Memory`] in tests.

mod change;
mod committer;
pub mod counters;
mod encode;
mod expr;
mod foreign;
mod kernel;
mod layout;
mod made;
mod memory;
mod monitor;
mod netlink;
mod read_back;
mod refused;
mod remembered;
mod sets;
mod shown;
pub(crate) mod socket;
mod switch;
mod table;
pub(crate) mod wire;

pub use change::Part;
pub use committer::{Committed, Committer, FamilyOutcome, Held, Rejected};
pub use counters::new_connections;
pub use foreign::{ForeignChain, ForeignHook, ForeignTable, remove_table, tables_and_chains};
pub use kernel::{Batch, Contents, Kernel, NftError, Reading, Usable};
pub use layout::{Layout, PICK_BLOCK, TABLE, pick_block};
pub use made::Made;
pub use memory::{Memory, leads_somewhere, without_slots};
pub use monitor::{Disturbance, Membership, Monitor};
pub use netlink::{Netlink, cleanup};
pub use remembered::remembered_clients;
pub use switch::{DnsSwitch, Heart, LAPSE, Tracking, knows_zones};

#[cfg(test)]
mod tests;
