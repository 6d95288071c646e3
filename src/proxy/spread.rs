//! Which endpoint gets how many slots, and which.

use super::Backend;
use crate::model::Balance;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;
use std::net::IpAddr;

/// Lists of weighted endpoints grow no longer than this (and one slot for each endpoint): weights are rounded to fit.
const MOST_WEIGHTED_SLOTS: u64 = 1024;

/// The sizes of hash tables, all prime. From one to the next every client may move, so there are few.
const TABLE_SIZES: [u32; 3] = [1021, 8191, 65521];

/// So many slots an endpoint has in a hash table at least, up to the largest table.
const TABLE_SLOTS_EACH: usize = 100;

/// The endpoints in slots, each as often as its weight says. Weights are above 0; the endpoints are sorted.
pub fn spread(method: Balance, weighted: &[(Backend, u32)]) -> Vec<Backend> {
    match method {
        Balance::Random | Balance::RoundRobin => in_turns(weighted),
        Balance::SourceHash => hash_table(weighted),
    }
}

/// As few slots as the weights' proportions allow, those of one endpoint far from each other: whoever takes one after the other shall not
/// meet one endpoint again and again.
fn in_turns(weighted: &[(Backend, u32)]) -> Vec<Backend> {
    if weighted.windows(2).all(|pair| pair[0].1 == pair[1].1) {
        return weighted.iter().map(|(backend, _)| *backend).collect();
    }
    let divisor = weighted.iter().fold(0, |divisor, (_, weight)| common_divisor(divisor, *weight)).max(1);
    let reduced = weighted.iter().map(|(backend, weight)| (*backend, u64::from(weight / divisor)));
    let sum: u64 = reduced.clone().map(|(_, weight)| weight).sum();
    let fitted = |weight: u64| match sum > MOST_WEIGHTED_SLOTS {
        true => ((weight * MOST_WEIGHTED_SLOTS + sum / 2) / sum).max(1),
        false => weight,
    };
    let mut turns: Vec<(u64, Backend)> = Vec::new();
    for (backend, weight) in reduced {
        let slots = fitted(weight);
        // The middle of each of its equal parts of the whole, as a fraction of 2^32.
        turns.extend((0..slots).map(|turn| (((2 * turn + 1) << 31) / slots, backend)));
    }
    turns.sort();
    turns.into_iter().map(|(_, backend)| backend).collect()
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// Maglev's table (Eisenbud et al., NSDI 2016): each endpoint has its own order of preference among the slots, and they take turns, those of more
/// weight more often. It depends on the endpoints alone, so every node makes the same one.
fn hash_table(weighted: &[(Backend, u32)]) -> Vec<Backend> {
    let wanted = weighted.len() * TABLE_SLOTS_EACH;
    let size = TABLE_SIZES.into_iter().find(|size| *size as usize >= wanted).unwrap_or(TABLE_SIZES[TABLE_SIZES.len() - 1]);
    let most = weighted.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
    let mut takers: Vec<Taker> = weighted.iter().map(|(backend, weight)| Taker::new(*backend, *weight, size)).collect();
    let mut slots: Vec<Option<Backend>> = vec![None; size as usize];
    let mut free = if takers.is_empty() { 0 } else { slots.len() };
    while free > 0 {
        for taker in &mut takers {
            taker.credit += taker.weight;
            if taker.credit < most || free == 0 {
                continue;
            }
            taker.credit -= most;
            while slots[taker.next as usize].is_some() {
                taker.skip();
            }
            slots[taker.next as usize] = Some(taker.backend);
            free -= 1;
        }
    }
    slots.into_iter().flatten().collect()
}

/// An endpoint that takes slots.
struct Taker {
    backend: Backend,
    weight: u32,
    credit: u32,
    /// The slot that it likes best of those that it has not tried.
    next: u32,
    step: u32,
    size: u32,
}

impl Taker {
    fn new(backend: Backend, weight: u32, size: u32) -> Taker {
        let digest = |key: u64, below: u32| (digest(key, backend) % u64::from(below)) as u32;
        Taker { backend, weight, credit: 0, next: digest(1, size), step: digest(2, size - 1) + 1, size }
    }

    /// The size is prime, so that every slot is tried once.
    fn skip(&mut self) {
        self.next = (self.next + self.step) % self.size;
    }
}

fn digest(key: u64, backend: Backend) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(key, 0);
    match backend.address {
        IpAddr::V4(address) => hasher.write(&address.octets()),
        IpAddr::V6(address) => hasher.write(&address.octets()),
    }
    hasher.write(&backend.port.to_be_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backend(number: u16) -> Backend {
        let [high, low] = number.to_be_bytes();
        Backend { address: [10, 244, high, low].into(), port: 8080 }
    }

    fn equal(numbers: impl IntoIterator<Item = u16>) -> Vec<(Backend, u32)> {
        numbers.into_iter().map(|number| (backend(number), 1)).collect()
    }

    fn count(slots: &[Backend], number: u16) -> usize {
        slots.iter().filter(|slot| **slot == backend(number)).count()
    }

    #[test]
    fn endpoints_of_one_weight_have_one_slot_each_whatever_it_is() {
        for weight in [1, 7, 100] {
            let weighted = [(backend(1), weight), (backend(2), weight)];
            assert_eq!(spread(Balance::RoundRobin, &weighted), [backend(1), backend(2)]);
        }
    }

    #[test]
    fn slots_are_in_the_proportion_of_the_weights_and_taken_in_turns() {
        let slots = spread(Balance::Random, &[(backend(1), 90), (backend(2), 10)]);
        assert_eq!((count(&slots, 1), count(&slots, 2)), (9, 1));
        let slots = spread(Balance::RoundRobin, &[(backend(1), 60), (backend(2), 40)]);
        assert_eq!((count(&slots, 1), count(&slots, 2)), (3, 2));
        assert!(slots.windows(3).all(|three| three.iter().any(|slot| *slot != three[0])), "{slots:?}");
    }

    #[test]
    fn many_endpoints_of_odd_weights_do_not_fill_the_kernel() {
        let weighted: Vec<_> = (0..500).map(|number| (backend(number), if number % 2 == 0 { 97 } else { 89 })).collect();
        let slots = spread(Balance::Random, &weighted);
        assert!(slots.len() <= MOST_WEIGHTED_SLOTS as usize + weighted.len(), "{} slots", slots.len());
        assert!((0..500).all(|number| count(&slots, number) > 0));
    }

    #[test]
    fn in_a_hash_table_every_endpoint_has_its_share() {
        for endpoints in [1, 3, 10, 60, 300] {
            let slots = spread(Balance::SourceHash, &equal(0..endpoints));
            assert!(TABLE_SIZES.contains(&(slots.len() as u32)) && slots.len() >= 100 * usize::from(endpoints));
            let share = slots.len() / usize::from(endpoints);
            for number in 0..endpoints {
                let has = count(&slots, number);
                assert!((share - 1..=share + 2).contains(&has), "{has} of {share} slots among {endpoints}");
            }
        }
        let slots = spread(Balance::SourceHash, &[(backend(1), 90), (backend(2), 10)]);
        assert!((count(&slots, 2) as f64 / slots.len() as f64 - 0.1).abs() < 0.005);
        assert_eq!(spread(Balance::SourceHash, &[]), []);
    }

    /// The share of the slots of endpoints that stay which change hands when one goes.
    fn disruption(before: &[Backend], after: &[Backend], gone: Backend) -> f64 {
        let stays = before.iter().zip(after).filter(|(old, _)| **old != gone);
        let (moved, all) = stays.fold((0, 0), |(moved, all), (old, new)| (moved + usize::from(old != new), all + 1));
        moved as f64 / all as f64
    }

    #[test]
    fn an_endpoint_that_goes_moves_its_own_clients_and_hardly_any_other() {
        for endpoints in [3u16, 10, 30, 80, 300] {
            let before = spread(Balance::SourceHash, &equal(0..endpoints));
            for gone in [0, endpoints / 2, endpoints - 1] {
                let after = spread(Balance::SourceHash, &equal((0..endpoints).filter(|number| *number != gone)));
                assert_eq!(before.len(), after.len());
                let moved = disruption(&before, &after, backend(gone));
                println!("{endpoints} endpoints: {:.2} % of the others' clients move", moved * 100.0);
                assert!(moved < 0.03, "{moved} of the others' clients move among {endpoints}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_endpoint_has_a_slot(weights in proptest::collection::vec(1u32..=1000, 1..40)) {
            let weighted: Vec<_> = weights.iter().zip(0..).map(|(weight, number)| (backend(number), *weight)).collect();
            for method in [Balance::Random, Balance::RoundRobin] {
                let slots = spread(method, &weighted);
                prop_assert!(weighted.iter().all(|(backend, _)| slots.contains(backend)));
                prop_assert!(slots.len() <= MOST_WEIGHTED_SLOTS as usize + weighted.len());
            }
        }
    }
}
