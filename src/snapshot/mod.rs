//! The last known state of the cluster on disk: what a node serves when it starts while the API server cannot be reached.
//!
//! Files that are replaced as a whole, each with a version and a checksum: one is either the state of one moment, or it is not used. One has the
//! cluster's objects, another one how DNS was told to answer.

mod file;
mod format;
mod seal;
mod zones;

pub use file::{FILE, ZONES_FILE, is_there, read, read_zones, write, write_zones};
pub use format::{Snapshot, decode, encode};
pub use seal::SnapshotError;
pub use zones::{Zones, decode_zones, encode_zones};
