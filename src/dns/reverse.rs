//! The Services that have names at an address.
//!
//! Nearly all addresses are those of pods, of which there may be hundreds of thousands, side by side in the networks of their nodes. So neighbours are kept
//! together: a list for sixteen addresses takes a third of the memory of sixteen entries of a map, and less where a Service has several of them.

use super::service_record::ServiceLabels;
use papaya::{HashMapRef, LocalGuard};
use std::collections::BTreeSet;
use std::hash::RandomState;
use std::net::IpAddr;

/// How many bits of an address tell neighbours apart.
const BITS: u32 = 4;

/// By address the Services that have names there; see the module's documentation.
#[derive(Debug, Default)]
pub struct Reverse(papaya::HashMap<IpAddr, Neighbours>);

/// The map, held by a reader.
#[derive(Debug)]
pub struct PinnedReverse<'a>(HashMapRef<'a, IpAddr, Neighbours, RandomState, LocalGuard<'a>>);

/// The Services of neighbours, sorted by their names.
#[derive(Debug, Default)]
struct Neighbours(Box<[Claim]>);

/// A Service that has names at some of the neighbours.
#[derive(Clone, Debug)]
struct Claim {
    service: ServiceLabels,
    /// A bit for each of them.
    addresses: u16,
}

impl Reverse {
    /// Begins to read.
    pub fn pin(&self) -> PinnedReverse<'_> {
        PinnedReverse(self.0.pin())
    }

    /// The addresses of a Service were these, and are those. There is one writer, so nothing changes between a look and what follows from it.
    pub fn move_service(&self, labels: &ServiceLabels, before: &BTreeSet<IpAddr>, after: &BTreeSet<IpAddr>) {
        let map = self.0.pin();
        let changed = before.symmetric_difference(after).map(|address| (split(*address), after.contains(address)));
        let changed: Vec<((IpAddr, u16), bool)> = changed.collect();
        for neighbours in changed.chunk_by(|((one, _), _), ((next, _), _)| one == next) {
            let block = neighbours[0].0.0;
            let of = |wanted| {
                let bits = neighbours.iter().filter(|(_, is_there)| *is_there == wanted).map(|((_, bit), _)| bit);
                bits.fold(0, |all, bit| all | bit)
            };
            let (come, gone) = (of(true), of(false));
            let mut claims = map.get(&block).map(|known| known.0.to_vec()).unwrap_or_default();
            match claims.binary_search_by(|claim| claim.service.cmp(labels)) {
                Ok(place) => {
                    claims[place].addresses = claims[place].addresses & !gone | come;
                    if claims[place].addresses == 0 {
                        claims.remove(place);
                    }
                }
                Err(place) if come != 0 => claims.insert(place, Claim { service: labels.clone(), addresses: come }),
                Err(_) => {}
            }
            if claims.is_empty() {
                map.remove(&block);
            } else {
                map.insert(block, Neighbours(claims.into()));
            }
        }
    }

    /// How many addresses of Services are known.
    #[cfg(test)]
    pub fn claims(&self) -> usize {
        self.0.pin().values().flat_map(|neighbours| &neighbours.0).map(|claim| claim.addresses.count_ones() as usize).sum()
    }
}

impl PinnedReverse<'_> {
    /// The Services with names at an address, in the order of their names.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = &ServiceLabels> + Clone {
        let (block, own) = split(address);
        let claims = self.0.get(&block).map(|neighbours| &*neighbours.0).unwrap_or_default();
        claims.iter().filter(move |claim| claim.addresses & own != 0).map(|claim| &claim.service)
    }
}

/// The first one of an address's neighbours, and the bit that tells it from the others.
fn split(address: IpAddr) -> (IpAddr, u16) {
    let mask = (1 << BITS) - 1;
    match address {
        IpAddr::V4(address) => (IpAddr::V4((address.to_bits() & !mask).into()), 1 << (address.to_bits() & mask)),
        IpAddr::V6(address) => {
            let mask = u128::from(mask);
            (IpAddr::V6((address.to_bits() & !mask).into()), 1 << (address.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn at(reverse: &Reverse, address: &str) -> Vec<u8> {
        reverse.pin().at(address.parse().unwrap()).map(|labels| labels[0]).collect()
    }

    #[test]
    fn neighbours_are_told_apart_and_the_services_of_one_address_are_in_order() {
        let reverse = Reverse::default();
        let (first, second): (ServiceLabels, ServiceLabels) = ([1].into(), [2].into());
        let all = ["10.0.0.15", "10.0.0.16", "10.0.0.17", "fd00::1", "fd00::10"];
        reverse.move_service(&second, &addresses(&[]), &addresses(&all));
        reverse.move_service(&first, &addresses(&[]), &addresses(&["10.0.0.16"]));
        assert_eq!(at(&reverse, "10.0.0.16"), [1, 2]);
        for (address, services) in [
            ("10.0.0.15", &[2][..]),
            ("10.0.0.17", &[2]),
            ("10.0.0.0", &[]),
            ("10.0.0.31", &[]),
            ("fd00::1", &[2]),
            ("fd00::11", &[]),
        ] {
            assert_eq!(at(&reverse, address), services, "{address}");
        }
        reverse.move_service(&second, &addresses(&all), &addresses(&["10.0.0.17", "10.0.0.18"]));
        assert_eq!(
            (at(&reverse, "10.0.0.16"), at(&reverse, "10.0.0.17"), at(&reverse, "10.0.0.18")),
            (vec![1], vec![2], vec![2])
        );
        assert_eq!(reverse.claims(), 3);
        reverse.move_service(&second, &addresses(&["10.0.0.17", "10.0.0.18"]), &addresses(&[]));
        reverse.move_service(&first, &addresses(&["10.0.0.16"]), &addresses(&[]));
        assert_eq!((reverse.claims(), reverse.0.len()), (0, 0), "what nobody has takes no memory");
    }
}
