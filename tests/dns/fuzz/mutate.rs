//! Changes at random.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Numbers at which lengths and counts go wrong.
const INTERESTING: [u16; 12] = [0, 1, 2, 12, 63, 64, 127, 255, 256, 512, 0xc00c, 0xffff];

/// Where the changes come from.
pub struct Mutator {
    random: StdRng,
    longest: usize,
}

impl Mutator {
    /// Equal seeds make equal changes. Nothing gets longer than this.
    pub fn new(seed: u64, longest: usize) -> Mutator {
        Mutator { random: StdRng::seed_from_u64(seed), longest }
    }

    /// A number below this one.
    pub fn below(&mut self, limit: usize) -> usize {
        self.random.random_range(0..limit.max(1))
    }

    /// The input, changed once or a few times; `other` may lend a part.
    pub fn change(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(4) {
            self.change_once(&mut bytes, other);
        }
        bytes.truncate(self.longest);
        bytes
    }

    fn change_once(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        match self.below(9) {
            _ if bytes.is_empty() => bytes.push(self.random.random()),
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.random.random(),
            2 => {
                let number = INTERESTING[self.below(INTERESTING.len())].to_be_bytes();
                let place = bytes.get_mut(at..at + 2);
                place.into_iter().for_each(|place| place.copy_from_slice(&number));
            }
            3 => bytes.insert(at, self.random.random()),
            4 => drop(bytes.remove(at)),
            5 => bytes.truncate(at),
            6 => {
                // A part again, at its place or elsewhere.
                let end = at + self.below(bytes.len() - at + 1).min(64);
                let part = bytes[at..end].to_vec();
                let place = self.below(bytes.len());
                bytes.splice(place..place, part);
            }
            7 => {
                let from = self.below(other.len());
                let part: Vec<u8> = other[from..].iter().copied().take(self.below(64)).collect();
                let end = (at + self.below(8)).min(bytes.len());
                bytes.splice(at..end, part);
            }
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
}
