//! CoreDNS's configuration file: read as CoreDNS reads it, and turned into settings of ours.
//!
//! Pure: whoever calls brings the text, the environment and the files that it imports.

mod parse;
mod takeover;
#[cfg(test)]
mod tests;
mod words;

pub use parse::{Block, CorefileError, Directive, Surroundings, parse};
pub use takeover::{Finding, Takeover, take_over};
pub use words::Place;
