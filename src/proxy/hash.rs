//! The kernel's hash of a client's address: which slot of a hash table a client has.

use std::net::IpAddr;

/// One seed, so that every node, and every reload, hashes alike.
pub const HASH_SEED: u32 = 0x7761_7970;

/// `JHASH_INITVAL`.
const INITIAL: u32 = 0xdead_beef;

/// The slot, counted from 0, that `jhash ip saddr mod SLOTS seed 0x77617970` points to: `jhash()` of the kernel's include/linux/jhash.h, scaled as
/// `reciprocal_scale()` does. A test holds it against the kernel's.
pub fn hashed_slot(source: IpAddr, slots: u32) -> u32 {
    let hash = match source {
        IpAddr::V4(address) => jhash(&address.octets(), HASH_SEED),
        IpAddr::V6(address) => jhash(&address.octets(), HASH_SEED),
    };
    ((u64::from(hash) * u64::from(slots)) >> 32) as u32
}

/// Bob Jenkins' lookup3 of 1 to 16 bytes whose number is a multiple of 4. The kernel reads a first block of 12 as words of its own byte order, and the
/// rest as little-endian ones.
fn jhash(key: &[u8], seed: u32) -> u32 {
    let start = INITIAL.wrapping_add(key.len() as u32).wrapping_add(seed);
    let mut state = [start; 3];
    let (block, rest) = key.split_at(if key.len() > 12 { 12 } else { 0 });
    let words = |bytes: &[u8], read: fn([u8; 4]) -> u32| bytes.as_chunks().0.iter().map(|four| read(*four)).collect::<Vec<_>>();
    let add =
        |state: &mut [u32; 3], words: Vec<u32>| state.iter_mut().zip(words).for_each(|(one, word)| *one = one.wrapping_add(word));
    if !block.is_empty() {
        add(&mut state, words(block, u32::from_ne_bytes));
        mix(&mut state);
    }
    add(&mut state, words(rest, u32::from_le_bytes));
    finish(state)
}

/// `__jhash_mix`.
fn mix([a, b, c]: &mut [u32; 3]) {
    let step = |one: &mut u32, two: &mut u32, three: &mut u32, bits| {
        *one = one.wrapping_sub(*three) ^ three.rotate_left(bits);
        *three = three.wrapping_add(*two);
    };
    step(a, b, c, 4);
    step(b, c, a, 6);
    step(c, a, b, 8);
    step(a, b, c, 16);
    step(b, c, a, 19);
    step(c, a, b, 4);
}

/// `__jhash_final`.
fn finish([mut a, mut b, mut c]: [u32; 3]) -> u32 {
    let step = |one: &mut u32, two: u32, bits| *one = (*one ^ two).wrapping_sub(two.rotate_left(bits));
    step(&mut c, b, 14);
    step(&mut a, c, 11);
    step(&mut b, a, 25);
    step(&mut c, b, 16);
    step(&mut a, c, 4);
    step(&mut b, a, 14);
    step(&mut c, b, 24);
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_somebodys() {
        let slots: std::collections::BTreeSet<u32> =
            (0..=u16::MAX).map(|n| hashed_slot([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]].into(), 1021)).collect();
        assert_eq!((slots.len(), slots.last()), (1021, Some(&1020)));
    }
}
