//! From services and endpoints to what the kernel should hold; pure.
//!
//! A [`Planner`] turns one service at a time into [`Destination`]s and decides which service wins where two claim the same
//! address and port. A destination expands into [`Element`]s of the table's sets; a change is the difference between two
//! such expansions, and nothing else is ever sent.

mod balancing;
mod destination;
mod detect_local;
mod element;
pub mod explain;
mod hash;
pub mod listing;
mod planner;
mod select;
mod slots;
mod sources;
mod spread;
mod walk;
mod warming;

pub use balancing::{AffinityMap, Balancing, Draw, KnownClient, List, PortId, Remember, Remembered};
pub use destination::{Backend, Dest, Destination, Entry, Refusal, Sources};
pub use detect_local::DetectLocal;
pub use element::{Chain, Difference, Element, Set, difference};
pub use hash::{HASH_SEED, hashed_slot};
pub use planner::{Conflict, Context, Delta, Outcome, Planner, Serving, Traffic};
pub use select::{Candidate, Choice, Hinted, Judgement, Place, Tier, Topology, choose, judge, local_ready};
pub use slots::fill_slots;
pub use walk::{Fate, Kept, Marked, Packet, Says, Step, Target, Trace, Walk};
pub use warming::{SlowStart, Warming};
