//! What others do to our tables.

use super::*;

#[test]
fn what_a_stranger_does_is_noticed_while_the_kernel_refuses_something_else() {
    let culprit = Element::Service(dest("10.96.0.2", 80), Chain::Pick(1));
    let shapes = (1..=4).map(|number| (number, shape(number, &[number]))).collect();
    let mut agent = Agent::start(Memory::refusing([culprit]), shapes);
    let disturbed = |agent: &mut Agent| {
        agent.committer.distrust();
        let committed = agent.commit(Delta::default());
        committed.families.iter().map(|outcome| outcome.disturbed).collect::<Vec<_>>()
    };
    let before = agent.holds();
    assert_eq!(disturbed(&mut agent), [false, false], "what is refused is nobody's doing");
    let edited = Element::Service(dest("10.96.0.3", 80), Chain::Pick(1));
    assert!(agent.committer.kernel().remove(Family::V4, &edited));
    assert_eq!(disturbed(&mut agent), [true, false]);
    assert_eq!(agent.holds(), before);
    agent.committer.kernel().flush(Family::V6);
    assert_eq!(disturbed(&mut agent), [false, true]);
    assert_eq!(agent.holds(), before);
}

#[test]
fn what_a_stranger_did_and_could_not_be_put_right_at_once_is_told_when_it_is() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1, 2]))]));
    agent.committer.kernel().flush(Family::V4);
    agent.committer.kernel().refuses_rebuild = true;
    agent.committer.distrust();
    let outcomes = |committed: Committed| -> Vec<_> {
        committed.families.iter().map(|outcome| (outcome.disturbed, outcome.error.is_some())).collect()
    };
    assert_eq!(outcomes(agent.commit(Delta::default())), [(true, true), (false, false)]);
    agent.committer.kernel().refuses_rebuild = false;
    agent.committer.retry(&[Family::V4]);
    assert_eq!(outcomes(agent.commit(Delta::default())), [(true, false)]);
    agent.committer.distrust();
    assert_eq!(outcomes(agent.commit(Delta::default())), [(false, false), (false, false)], "it is told once");
}

#[test]
fn rules_that_a_stranger_changed_while_no_agent_ran_are_put_right_and_told_at_the_next_start() {
    let mut agent = Agent::start(Memory::default(), BTreeMap::from([(1, shape(1, &[1, 2]))]));
    let mut kernel = agent.committer.kernel().clone();
    kernel.edit(Family::V6);
    let mut next = Committer::new(kernel, layouts());
    let mut delta = statics();
    agent.planner = Planner::default();
    agent.plan(1, &mut delta);
    let committed = next.commit(delta);
    let told: Vec<_> = committed.families.iter().map(|outcome| (outcome.disturbed, outcome.rebuilt.is_some())).collect();
    assert_eq!(told, [(false, false), (true, true)]);
    assert!(matches!(next.kernel().read(&layouts()[1]), Ok(Reading::Ours(_))));
}

#[test]
fn what_a_stranger_does_between_our_look_and_our_batch_is_blamed_on_no_service() {
    let shapes = (1..=4).map(|number| (number, shape(number, &[number]))).collect();
    let mut agent = Agent::start(Memory::default(), shapes);
    let before = agent.holds();
    // What the batch is about to remove goes away before it.
    agent.shapes.insert(3, Shape { node_port: false, ..shape(3, &[3]) });
    let mut delta = Delta::default();
    agent.plan(3, &mut delta);
    let gone = Element::Service(dest("192.0.2.10", 30003), Chain::Outside);
    assert!(before.contains(&gone));
    agent.committer.kernel().stranger_removes = vec![gone];
    agent.committer.distrust();
    let committed = agent.commit(delta);
    assert!(committed.families.iter().all(|family| family.error.is_none() && family.rejected.is_empty()), "{committed:?}");
    assert!(!agent.committer.is_behind());
    let mut fresh = Agent::start(Memory::default(), agent.shapes.clone());
    assert_eq!(agent.holds(), fresh.holds());
}

#[test]
fn a_stranger_who_is_there_after_each_look_gets_no_service_set_aside_for_longer() {
    let shapes = (1..=4).map(|number| (number, shape(number, &[number]))).collect();
    let mut agent = Agent::start(Memory::default(), shapes);
    let mut delta = Delta::default();
    for number in 1..=3 {
        agent.shapes.insert(number, Shape { node_port: false, ..shape(number, &[number]) });
        agent.plan(number, &mut delta);
    }
    // One more of those that the batch is to remove is gone each time.
    let gone = |number: u16| Element::Service(dest("192.0.2.10", 30000 + number), Chain::Outside);
    agent.committer.kernel().stranger_removes = [1, 2, 3].map(gone).to_vec();
    agent.committer.distrust();
    let committed = agent.committer.commit(delta);
    assert!(committed.families.iter().all(|family| family.rejected.is_empty()), "nobody is told: {committed:?}");
    assert!(agent.committer.kernel().stranger_removes.is_empty() && agent.committer.is_behind());
    // The next look, which the kernel's notice brings, finds nobody at work.
    agent.committer.distrust();
    agent.commit(Delta::default());
    let mut fresh = Agent::start(Memory::default(), agent.shapes.clone());
    assert_eq!(agent.holds(), fresh.holds());
    assert!(!agent.committer.is_behind());
}
