//! Inputs that nobody would write: what comes from outside as bytes is changed at random, and must do no harm.
//!
//! Each target has inputs to begin with and a corpus (`tests/dns/fuzz/corpus`), which are all tried; then inputs are mutated, and those that do something that
//! none before has done are kept and mutated further. A run of `make test` is bounded and always the same; `make fuzz` goes on for as long as
//! `FUZZ_SECONDS` says, by chance (`FUZZ_SEED` repeats it). An input that fails is left in `target/fuzz`; put it into the corpus with its repair.

mod datagrams;
mod mutate;
mod run;
mod texts;
