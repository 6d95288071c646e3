//! The rows, by what they are about. A row names every rule that would have to be broken for it to fail alone.

mod addresses;
mod affinity;
mod beyond;
mod choice;
mod masquerade;
mod policies;
mod ranges;
mod selection;
mod verdicts;

use super::Group;

/// All rows, file by file.
pub const GROUPS: &[&[Group]] = &[
    selection::GROUPS,
    choice::GROUPS,
    policies::GROUPS,
    verdicts::GROUPS,
    addresses::GROUPS,
    ranges::GROUPS,
    affinity::GROUPS,
    masquerade::GROUPS,
    beyond::GROUPS,
];

/// Two endpoints on two nodes.
const BOTH: &[&str] = &["near", "far"];
/// The endpoint on the node.
const NEAR: &[&str] = &["near"];
/// The endpoint elsewhere.
const FAR: &[&str] = &["far"];
/// The pod from which is connected.
const SELF: &[&str] = &["client"];
