//! What the kernel refuses, and what becomes of the rest.

use super::*;
use crate::proxy::{Destination, Entry};
use std::collections::BTreeSet;
use std::sync::Arc;

#[test]
fn a_rejected_destination_is_set_aside_and_the_rest_goes_on() {
    let culprit = Element::Service(dest("10.96.0.2", 80), Chain::Pick(1));
    let kernel = Memory::refusing([culprit]);
    let shapes = (1..=9).map(|number| (number, shape(number, &[number]))).collect();
    let mut agent = Agent::start(kernel, shapes);
    let held = agent.holds();
    assert!(!held.iter().any(|element| element.dest() == Some(dest("10.96.0.2", 80))));
    for number in [1, 3, 9] {
        assert!(held.contains(&Element::Service(dest(&format!("10.96.0.{number}"), 80), Chain::Pick(1))));
    }
    assert!(agent.committer.is_behind());

    let reads = agent.committer.kernel().commits.len();
    agent.set(shape(1, &[1, 7]));
    assert_eq!(agent.committer.kernel().commits.len() - reads, 2, "a known culprit does not disturb later commits");

    agent.committer.kernel().refuses.clear();
    agent.committer.another_round();
    agent.commit(Delta::default());
    assert!(agent.holds().contains(&culprit));
    assert!(!agent.committer.is_behind());
}

#[test]
fn a_culprit_is_reported_once() {
    let culprit = Element::Service(dest("10.96.0.2", 80), Chain::Pick(1));
    let mut committer = Committer::new(Memory::refusing([culprit]), layouts());
    let mut planner = Planner::default();
    let mut delta = statics();
    let (service, slices) = (shape(2, &[1]).service(), shape(2, &[1]).slices());
    planner.update(&service.key, Some(&service), &slices.iter().collect::<Vec<_>>(), &context(), &mut delta);
    let rejected = |committed: Committed| committed.families.into_iter().flat_map(|family| family.rejected).collect::<Vec<_>>();
    let first = rejected(committer.commit(delta));
    assert_eq!(first.iter().map(|one| one.what).collect::<Vec<_>>(), vec![Part::Dest(dest("10.96.0.2", 80))]);
    committer.another_round();
    let tries = committer.kernel().tries;
    assert_eq!(rejected(committer.commit(Delta::default())), vec![]);
    assert!(committer.kernel().tries > tries, "it is tried again");
}

#[test]
fn a_culprit_in_another_layout_leaves_the_old_table_in_force_until_one_batch_replaces_it() {
    let shapes: BTreeMap<u8, Shape> = (1..=9).map(|number| (number, shape(number, &[number]))).collect();
    let mut agent = Agent::start(Memory::default(), shapes);
    let before = agent.holds();
    let culprits = [2, 7].map(|number| Element::Service(dest(&format!("10.96.0.{number}"), 80), Chain::Pick(1)));
    agent.committer.kernel().refuses.extend(culprits);
    agent.committer.kernel().commits.clear();
    agent.lay_out(0x8000);
    let commits = agent.committer.kernel().commits.clone();
    assert_eq!(commits.iter().map(|batch| batch.rebuild).collect::<Vec<_>>(), [true, true], "one batch a family: {commits:#?}");
    let dests = culprits.map(|culprit| culprit.dest());
    let expected: Vec<Element> = before.into_iter().filter(|element| !dests.contains(&element.dest())).collect();
    assert_eq!(agent.holds(), expected);
    assert!(agent.committer.is_behind(), "the culprits are still wanted");
}

#[test]
fn a_new_table_that_is_refused_whatever_it_holds_leaves_the_old_one() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1]))]));
    let before = agent.holds();
    agent.committer.kernel().refuses_rebuild = true;
    layouts().into_iter().for_each(|layout| agent.committer.set_layout(Layout { masquerade_mark: 0x8000, ..layout }));
    let reads = agent.committer.kernel().reads;
    let committed = agent.commit(Delta::default());
    assert!(committed.families.iter().all(|family| family.error.is_some() && family.rejected.is_empty()), "{committed:?}");
    assert_eq!(agent.committer.kernel().reads - reads, 2, "what was just refused is not tried again at once");
    assert_eq!(agent.holds(), before);
}

#[test]
fn a_network_takes_the_place_of_another_that_it_overlaps_though_the_kernel_refuses_something_else() {
    let [narrow, wide] = ["10.96.0.0/16", "10.96.0.0/12"].map(|network| Element::ServiceCidr(network.parse().unwrap()));
    let culprit = Element::Service(dest("10.96.0.2", 80), Chain::Pick(1));
    let mut agent = Agent::start(Memory::refusing([culprit]), BTreeMap::from([(1, shape(1, &[1]))]));
    for (before, after) in [(narrow, wide), (wide, narrow)] {
        let mut delta = Delta { elements: [(before, false), (after, true)].into(), ..Delta::default() };
        agent.shapes.insert(2, shape(2, &[after.set() as u8]));
        agent.plan(2, &mut delta);
        let committed = agent.commit(delta);
        let refused: Vec<Part> = committed.families.iter().flat_map(|family| &family.rejected).map(|one| one.what).collect();
        assert!(refused.iter().all(|part| matches!(part, Part::Dest(_))), "{refused:?}");
        let held = agent.holds();
        assert!(held.contains(&after) && !held.contains(&before), "{held:?}");
        agent.committer.distrust();
    }
    let commits = &agent.committer.kernel().commits;
    let halves = commits.iter().filter(|batch| batch.elements.remove.contains(&narrow) != batch.elements.add.contains(&wide));
    assert_eq!(halves.filter(|batch| batch.elements.remove.contains(&narrow)).count(), 0, "never without the one and the other");
}

/// So many Services with an endpoint each.
fn many(count: u16) -> Delta {
    let backend = Backend { address: [10, 244, 0, 1].into(), port: 8080 };
    let served = Destination { entry: Some(Entry::Cluster), cluster: Arc::new([backend]), ..Destination::default() };
    Delta { destinations: (0..count).map(|number| (one_of_many(number), Some(served.clone()))).collect(), ..Delta::default() }
}

fn one_of_many(number: u16) -> Dest {
    let [high, low] = number.to_be_bytes();
    dest(&format!("10.96.{high}.{low}"), 80)
}

#[test]
fn the_search_for_culprits_is_bounded_and_those_that_are_known_are_not_searched_again() {
    for (culprits, most) in [(1, 25), (10, 160), (100, 900)] {
        let refuses = (0..culprits).map(|n| Element::Service(one_of_many(n * (1000 / culprits)), Chain::Pick(1)));
        let mut committer = Committer::new(Memory::refusing(refuses), layouts());
        // Into an empty kernel, where the table is made anew; then into a table that is there.
        for rebuilt in [true, false] {
            let tries = committer.kernel().tries;
            let delta = if rebuilt { many(1000) } else { Delta { destinations: changed(many(1000)), ..Delta::default() } };
            let committed = committer.commit(delta);
            let outcome = &committed.families[0];
            assert_eq!((outcome.rejected.len(), outcome.unsifted), (usize::from(culprits), 0));
            assert!(outcome.error.is_none() && outcome.refused == usize::from(culprits));
            let tries = committer.kernel().tries - tries;
            println!("{culprits} culprits among 1000 Services: {tries} batches, table made anew: {rebuilt}");
            assert!(tries <= most, "{culprits} culprits took {tries} batches");
        }
        assert_eq!(committer.kernel().elements(Family::V4).len(), 2 * (1000 - usize::from(culprits)));

        // Another layout, and a look at the table: nothing is searched.
        let (tries, layout) = (committer.kernel().tries, layouts()[0].clone());
        committer.set_layout(Layout { masquerade_mark: 0x8000, ..layout });
        committer.commit(Delta::default());
        committer.distrust();
        committer.commit(Delta::default());
        assert_eq!(committer.kernel().tries - tries, 1);
        assert_eq!(committer.kernel().elements(Family::V4).len(), 2 * (1000 - usize::from(culprits)));
    }
}

#[test]
fn a_table_that_is_or_was_in_force_is_made_anew_in_one_batch_and_a_first_one_in_several() {
    let mut committer = Committer::new(Memory::default(), layouts());
    let mut batches = |happens: &dyn Fn(&mut Committer<Memory>)| {
        happens(&mut committer);
        committer.kernel().commits.clear();
        let delta = if committer.kernel().elements(Family::V4).is_empty() { many(3000) } else { Delta::default() };
        committer.distrust();
        committer.commit(delta);
        assert_eq!(committer.kernel().elements(Family::V4).len(), 6000);
        let of_family = committer.kernel().commits.iter().filter(|batch| !batch.elements.add.is_empty());
        of_family.map(|batch| batch.rebuild).collect::<Vec<_>>()
    };
    assert_eq!(batches(&|_| ()), [true, false, false], "a first start");
    assert_eq!(batches(&|committer| committer.kernel().edit(Family::V4)), [true], "somebody's rules in it");
    assert_eq!(batches(&|committer| committer.kernel().flush(Family::V4)), [true], "somebody has removed it");
    let other = |committer: &mut Committer<Memory>| {
        let layout = layouts()[0].clone();
        committer.set_layout(Layout { masquerade_mark: 0x8000, ..layout });
    };
    assert_eq!(batches(&other), [true], "another layout");
}

/// The same with another port of the endpoint.
fn changed(delta: Delta) -> BTreeMap<Dest, Option<Destination>> {
    let backend = Backend { address: [10, 244, 0, 1].into(), port: 8081 };
    let change = |destination: Destination| Destination { cluster: Arc::new([backend]), ..destination };
    delta.destinations.into_iter().map(|(dest, destination)| (dest, destination.map(change))).collect()
}

#[test]
fn where_nearly_everything_is_refused_the_search_ends_and_goes_on_in_the_next_round() {
    let refuses = (0..4000).map(|number| Element::Service(one_of_many(number), Chain::Pick(1)));
    let mut committer = Committer::new(Memory::refusing(refuses), layouts());
    let mut delta = many(4001);
    let committed = committer.commit(std::mem::take(&mut delta));
    let outcome = &committed.families[0];
    assert!(outcome.error.is_none() && outcome.unsifted > 1000, "{outcome:?}");
    assert!(committer.kernel().tries < 2100, "{}", committer.kernel().tries);
    // What is good among them is found in a few rounds.
    let good = Element::Service(one_of_many(4000), Chain::Pick(1));
    let rounds = (1..20).find(|_| {
        committer.another_round();
        let tries = committer.kernel().tries;
        let outcome = committer.commit(Delta::default());
        assert!(outcome.families.iter().all(|family| family.error.is_none()));
        assert!(committer.kernel().tries - tries < 2100);
        committer.kernel().elements(Family::V4).contains(&good)
    });
    assert!(rounds.is_some());
}

#[test]
fn what_one_batch_is_searched_for_leaves_enough_for_the_others() {
    let refuses = (0..1024).chain([2500]).map(|number| Element::Service(one_of_many(number), Chain::Pick(1)));
    let mut committer = Committer::new(Memory::refusing(refuses), layouts());
    committer.commit(many(3000));
    let held: BTreeSet<Dest> = committer.kernel().elements(Family::V4).iter().filter_map(Element::dest).collect();
    assert_eq!((1024..3000).filter(|number| !held.contains(&one_of_many(*number))).collect::<Vec<_>>(), [2500]);
}

#[test]
fn what_was_served_before_the_kernel_refused_its_change_stays_as_it_was() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1])), (2, shape(2, &[2]))]));
    let before = agent.holds();
    let to = dest("10.96.0.2", 80);
    let of_it = |held: &[Element]| held.iter().filter(|element| element.dest() == Some(to)).copied().collect::<Vec<_>>();
    let refused = Element::Service(to, Chain::Pick(2));
    agent.committer.kernel().refuses = [refused].into();
    agent.set(shape(2, &[2, 3]));
    assert_eq!(of_it(&agent.holds()), of_it(&before), "it still goes to the endpoint that it had");
    // Neither a comparison nor a table that somebody removed changes that, and nobody is told that it was disturbed.
    agent.committer.distrust();
    assert!(agent.commit(Delta::default()).families.iter().all(|family| !family.disturbed && family.elements == 0));
    agent.committer.kernel().flush(Family::V4);
    agent.committer.distrust();
    agent.commit(Delta::default());
    assert_eq!(of_it(&agent.holds()), of_it(&before));
    // The next agent knows what it finds, and not where that came from.
    let mut next = Agent::start(agent.committer.kernel().clone(), agent.shapes.clone());
    assert_eq!(of_it(&next.holds()), of_it(&before));
    next.committer.distrust();
    next.commit(Delta::default());
    assert_eq!(of_it(&next.holds()), of_it(&before));
    next.committer.kernel().refuses.clear();
    next.set(shape(2, &[2, 3, 4]));
    assert!(next.holds().contains(&Element::Service(to, Chain::Pick(3))) && !next.committer.is_behind());
}

#[test]
fn a_family_that_fails_is_left_alone_until_it_is_tried_again_and_the_other_one_goes_on_by_differences() {
    let mut agent = Agent::start(Memory::lacking(Family::V6), BTreeMap::from([(1, shape(1, &[1]))]));
    let reads = agent.committer.kernel().reads;
    for number in 2..10 {
        agent.shapes.insert(number, shape(number, &[number]));
        let mut delta = Delta::default();
        agent.plan(number, &mut delta);
        let committed = agent.commit(delta);
        let done: Vec<_> = committed.families.iter().map(|family| (family.family, family.full, family.batches)).collect();
        assert_eq!(done, [(Family::V4, false, 1)]);
    }
    assert!(!agent.committer.is_to_compare());
    // What is there and gone again meanwhile is not gathered for ever.
    agent.shapes.remove(&9);
    agent.replan(9);
    assert_eq!(agent.committer.kernel().reads, reads, "neither table was looked at");

    agent.committer.retry(&[Family::V6]);
    let again = agent.commit(Delta::default());
    assert!(matches!(&again.families[..], [failed] if failed.family == Family::V6 && failed.error.is_some()), "{again:?}");
    agent.committer.kernel().lacks = None;
    assert!(agent.commit(Delta::default()).families.is_empty(), "it is not tried unasked");
    agent.committer.retry(&[Family::V6]);
    agent.commit(Delta::default());
    let mut fresh = Agent::start(Memory::default(), agent.shapes.clone());
    assert_eq!(agent.holds(), fresh.holds());
    assert!(!agent.committer.is_behind());
}
