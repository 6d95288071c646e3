//! What the committer needs of a kernel.

use super::layout::Layout;
use super::made::Made;
use crate::proxy::{AffinityMap, Backend, Difference, Element};
use std::collections::BTreeSet;
use std::io;

/// Holds one table a family. [`super::Netlink`] speaks to the real one, [`super::Memory`] plays one in tests.
pub trait Kernel {
    /// Reads the table back.
    fn read(&mut self, layout: &Layout) -> Result<Reading, NftError>;

    /// Commits a batch: all of it or nothing.
    fn commit(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError>;

    /// Whether the kernel would take a batch: everything of [`Kernel::commit`] but its effect.
    fn would_take(&mut self, layout: &Layout, batch: &Batch) -> Result<(), NftError>;

    /// Makes maps forget clients once more: one that was on its way while a batch was committed may have been remembered after it. Returns in how
    /// many batches.
    fn forget(&mut self, layout: &Layout, usable: &[Usable]) -> Result<usize, NftError>;

    /// How many elements fit into one batch.
    fn batch_limit(&self) -> usize;

    /// A number that every batch of anybody counts up by one; `None` where it cannot be told.
    fn generation(&mut self) -> Option<u32> {
        None
    }
}

/// What one atomic commit changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Remove the table, if there is one, and make its skeleton anew.
    pub rebuild: bool,
    /// What the elements need and is not there yet.
    pub made: Made,
    /// Elements to remove, then elements to add.
    pub elements: Difference,
    /// Clients to forget; with `rebuild`, whom to take over from the table that is removed.
    pub usable: Vec<Usable>,
    /// What nobody needs any more.
    pub gone: Made,
}

/// The endpoints of a map that remembers clients: entries that lead to others are to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usable {
    /// The map.
    pub map: AffinityMap,
    /// Where its entries may lead.
    pub endpoints: BTreeSet<Backend>,
}

impl Batch {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.rebuild && self.made.is_empty() && self.elements.is_empty() && self.usable.is_empty() && self.gone.is_empty()
    }
}

/// What was found in the place of our table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// No such table.
    Absent,
    /// A table of another layout, and why it is one.
    Other(String),
    /// Our table in this layout, but for what somebody else has changed of its rules or declarations: it has to be made anew.
    Edited(String),
    /// Our table in this layout.
    Ours(Contents),
}

/// What our table holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The chains and maps that exist besides the skeleton.
    pub made: Made,
    /// All elements of all sets.
    pub elements: Vec<Element>,
}

/// Why the kernel could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No netlink socket.
    #[error("cannot open a netlink socket for netfilter: {0}; is the kernel built with nf_tables?")]
    Open(#[source] io::Error),
    /// The capability is missing.
    #[error(
        "the kernel does not let us touch nf_tables in this network namespace ({0}): give the agent CAP_NET_ADMIN (the chart's DaemonSet \
         does), or run `waypost run --role dns`, which needs no privileges"
    )]
    NotPermitted(#[source] io::Error),
    /// Sending or receiving failed.
    #[error("the netlink socket failed while {action}: {error}")]
    Socket {
        /// What was being done.
        action: &'static str,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The batch was refused as a whole.
    #[error("the kernel refused a batch: {}", .0.join("; "))]
    Rejected(Vec<String>),
    /// The table kept changing while it was read.
    #[error(
        "the table changed again and again while it was being read: is another program writing nf_tables rules all the time?"
    )]
    Unsettled,
}
