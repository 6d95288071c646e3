//! The last known state of the cluster on disk: what a node serves when it starts while the API server cannot be reached.
//!
//! One file, replaced as a whole, with a version and a checksum: it is either the state of one moment, or it is not used.

mod file;
mod format;

pub use file::{FILE, read, write};
pub use format::{Snapshot, SnapshotError, decode, encode};
