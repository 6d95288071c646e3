//! Which endpoint stands in which slot.

use super::Backend;
use std::collections::HashMap;

/// Puts the wanted endpoints into slots `0..wanted.len()` so that as few slots as possible change: who has a slot keeps it, newcomers
/// take the holes, and what is left over at the end moves into holes. One endpoint more or less touches one slot, or two. An endpoint that is
/// wanted several times gets as many slots.
pub fn fill_slots(previous: &[Backend], wanted: &[Backend]) -> Vec<Backend> {
    if previous == wanted {
        return wanted.to_vec();
    }
    let mut unseated: HashMap<Backend, usize> = HashMap::with_capacity(wanted.len());
    wanted.iter().for_each(|backend| *unseated.entry(*backend).or_default() += 1);
    let mut seat = |backend: &Backend| match unseated.get_mut(backend) {
        Some(left) if *left > 0 => {
            *left -= 1;
            Some(*backend)
        }
        _ => None,
    };
    let mut slots: Vec<Option<Backend>> = previous.iter().take(wanted.len()).map(&mut seat).collect();
    slots.resize(wanted.len(), None);
    let mut waiting = wanted.iter().filter_map(seat);
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

    #[test]
    fn an_endpoint_of_more_weight_has_several_slots_and_keeps_them() {
        assert_eq!(fill_slots(&backends(&[1, 2, 1]), &backends(&[1, 1, 1, 3])), backends(&[1, 1, 1, 3]));
        assert_eq!(fill_slots(&backends(&[1, 1, 2, 1]), &backends(&[1, 1, 2])), backends(&[1, 1, 2]));
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
