//! A run over one target.

use super::mutate::Mutator;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

/// So many inputs are made where no time is given.
const INPUTS: usize = 20_000;
/// Always the same, so that a run of `make test` says the same twice.
const SEED: u64 = 20_261_125;
/// More are not kept to be changed further.
const MOST_KEPT: usize = 20_000;

/// Tries inputs on `check`, which panics where something is wrong and otherwise says what the input did: what is new is worth changing further.
pub fn run<T: Hash>(target: &str, longest: usize, seeds: Vec<Vec<u8>>, mut check: impl FnMut(&mut Mutator, &[u8]) -> T) {
    let seconds = env::var("FUZZ_SECONDS").ok().map(|seconds| seconds.parse::<u64>().expect("FUZZ_SECONDS is a number"));
    let seed = match env::var("FUZZ_SEED") {
        Ok(seed) => seed.parse().expect("FUZZ_SEED is a number"),
        Err(_) => seconds.map_or(SEED, |_| rand::random()),
    };
    let mut mutator = Mutator::new(seed, longest);
    let mut seen = HashSet::new();
    let mut try_one = |mutator: &mut Mutator, input: &[u8]| {
        let outcome = catch_unwind(AssertUnwindSafe(|| check(mutator, input)));
        let did = outcome.unwrap_or_else(|_| panic!("{target} fails (FUZZ_SEED={seed}) on {}", leave(target, input)));
        let mut hasher = DefaultHasher::new();
        did.hash(&mut hasher);
        seen.insert(hasher.finish())
    };
    let mut kept: Vec<Vec<u8>> = seeds.into_iter().chain(corpus(target)).collect();
    assert!(!kept.is_empty(), "{target} has nothing to begin with");
    for input in &kept {
        try_one(&mut mutator, input);
    }
    let began = Instant::now();
    let goes_on = |made: usize| match seconds {
        Some(seconds) => began.elapsed() < Duration::from_secs(seconds),
        None => made < INPUTS,
    };
    let mut made = 0;
    while goes_on(made) {
        let (one, other) = (mutator.below(kept.len()), mutator.below(kept.len()));
        let input = mutator.change(&kept[one], &kept[other]);
        if try_one(&mut mutator, &input) && kept.len() < MOST_KEPT {
            kept.push(input);
        }
        made += 1;
    }
    println!("{target}: {made} inputs in {:?}, {} kept, seed {seed}", began.elapsed(), kept.len());
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dns/fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Writes an input down, and says where.
fn leave(target: &str, input: &[u8]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let file = folder.join(format!("{target}-{:016x}", hasher.finish()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&file, input).unwrap();
    file.display().to_string()
}
