//! What must hold of every input.

mod clusters;
mod datagrams;
mod kept;
mod replies;
mod streams;
mod texts;

pub use clusters::Clusters;
pub use datagrams::Datagrams;
pub use kept::{Snapshots, Zones};
pub use replies::Replies;
pub use streams::Streams;
pub use texts::{Corefiles, Names};

use std::hash::{DefaultHasher, Hash, Hasher};

/// Something that gets bytes from outside.
pub trait Check {
    /// The name of the target, and of the folder with its corpus.
    const NAME: &'static str;
    /// Longer inputs find nothing more.
    const LONGEST: usize;
    /// So many changed inputs are tried where libFuzzer does not make them.
    const CHANGES: usize = 20_000;

    /// Inputs to begin with, besides the corpus.
    fn seeds() -> Vec<Vec<u8>>;

    /// Ready to check.
    fn new() -> Self;

    /// Panics where something is wrong. Otherwise a number for what the input did: one that did something new is worth changing further. (libFuzzer
    /// knows that better, by the code that ran.)
    fn check(&mut self, input: &[u8]) -> u64;
}

/// What an input did, as a number.
fn number(did: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    did.hash(&mut hasher);
    hasher.finish()
}
