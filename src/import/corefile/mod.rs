//! CoreDNS's configuration file: read as CoreDNS reads it, and translated into our model of how DNS answers.
//!
//! Pure: whoever calls brings the text, the environment and the files that it imports.

mod parse;
#[cfg(test)]
mod tests;
mod translate;
mod words;

pub use parse::{Block, CorefileError, Directive, Surroundings, parse};
pub use translate::{Remark, Translation, translate};
pub use words::Place;
