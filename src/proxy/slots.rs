//! Which endpoint stands in which slot.

use super::Backend;
use std::collections::HashSet;

/// Puts the wanted endpoints into slots `0..wanted.len()` so that as few slots as possible change: who has a slot keeps it, newcomers
/// take the holes, and what is left over at the end moves into holes. One endpoint more or less touches one slot, or two.
pub fn fill_slots(previous: &[Backend], wanted: &[Backend]) -> Vec<Backend> {
    if previous == wanted {
        return wanted.to_vec();
    }
    let still_wanted: HashSet<Backend> = wanted.iter().copied().collect();
    let mut seated = HashSet::with_capacity(wanted.len());
    let mut slots: Vec<Option<Backend>> = vec![None; wanted.len()];
    for (slot, backend) in previous.iter().take(wanted.len()).enumerate() {
        if still_wanted.contains(backend) && seated.insert(*backend) {
            slots[slot] = Some(*backend);
        }
    }
    let mut waiting = wanted.iter().copied().filter(|backend| !seated.contains(backend));
    slots.into_iter().filter_map(|slot| slot.or_else(|| waiting.next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backends(numbers: &[u8]) -> Vec<Backend> {
        numbers.iter().map(|number| Backend { address: [10, 0, 0, *number].into(), port: 80 }).collect()
    }

    fn changed(before: &[Backend], after: &[Backend]) -> usize {
        (0..after.len()).filter(|slot| before.get(*slot) != after.get(*slot)).count()
    }

    #[test]
    fn the_last_slot_moves_into_the_hole() {
        assert_eq!(fill_slots(&backends(&[1, 2, 3, 4]), &backends(&[1, 3, 4])), backends(&[1, 4, 3]));
    }

    #[test]
    fn a_replaced_endpoint_touches_one_slot() {
        assert_eq!(fill_slots(&backends(&[1, 2, 3]), &backends(&[1, 3, 9])), backends(&[1, 9, 3]));
    }

    proptest! {
        #[test]
        fn every_endpoint_has_one_slot_and_one_change_touches_one(
            before in proptest::collection::btree_set(0u8..40, 0..20),
            after in proptest::collection::btree_set(0u8..40, 0..20),
        ) {
            let numbers: Vec<u8> = after.iter().copied().collect();
            let (old, wanted) = (backends(&before.iter().copied().collect::<Vec<_>>()), backends(&numbers));
            let slots = fill_slots(&old, &wanted);
            let mut sorted = slots.clone();
            sorted.sort();
            prop_assert_eq!(&sorted, &wanted);
            let newcomers = after.difference(&before).count();
            let gone = before.difference(&after).count();
            prop_assert!(changed(&old, &slots) <= newcomers.max(gone), "{:?} became {:?}", old, slots);
        }
    }
}
