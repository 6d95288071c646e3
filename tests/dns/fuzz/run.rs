//! A bounded run of one check.

use super::checks::Check;
use super::mutate::Mutator;
use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

/// Always the same, so that a test run says the same twice.
const SEED: u64 = 20_261_125;

/// Tries all inputs that there are, then changed ones; those that do something new are changed further.
pub fn run<C: Check>() {
    let mut mutator = Mutator::new(SEED, C::LONGEST);
    let mut check = C::new();
    let mut seen = HashSet::new();
    let mut try_one = |input: &[u8]| {
        let outcome = catch_unwind(AssertUnwindSafe(|| check.check(input)));
        seen.insert(outcome.unwrap_or_else(|_| panic!("{} fails on {}", C::NAME, leave(C::NAME, input))))
    };
    let mut kept: Vec<Vec<u8>> = C::seeds().into_iter().chain(corpus(C::NAME)).collect();
    assert!(!kept.is_empty(), "{} has nothing to begin with", C::NAME);
    for input in &kept {
        try_one(input);
    }
    let began = Instant::now();
    for _ in 0..C::CHANGES {
        let (one, other) = (mutator.below(kept.len()), mutator.below(kept.len()));
        let input = mutator.change(&kept[one], &kept[other]);
        if try_one(&input) {
            kept.push(input);
        }
    }
    println!("{}: {} inputs in {:?}, {} kept", C::NAME, C::CHANGES, began.elapsed(), kept.len());
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(crate::ROOT).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Writes an input down, and says where.
fn leave(target: &str, input: &[u8]) -> String {
    let folder = Path::new(crate::ROOT).join("target/fuzz");
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let file = folder.join(format!("{target}-{:016x}", hasher.finish()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&file, input).unwrap();
    file.display().to_string()
}
