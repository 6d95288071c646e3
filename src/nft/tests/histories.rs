//! Whatever happened before: the kernel ends up with what a fresh start makes.

use super::*;
use proptest::prelude::*;

fn any_shape() -> impl Strategy<Value = Shape> {
    let endpoints = proptest::collection::vec((0u8..12, any::<bool>(), any::<bool>()), 0..8);
    let affinity = proptest::option::of(1u32..3);
    let balance = prop_oneof![8 => Just(Balance::Random), 4 => Just(Balance::RoundRobin), 1 => Just(Balance::SourceHash)];
    (0u8..4, any::<(bool, bool, bool, bool)>(), 0u8..4, (affinity, balance), endpoints).prop_map(
        |(number, (node_port, local_outside, local_inside, ranges), external, (affinity, balance), mut endpoints)| {
            endpoints.sort();
            endpoints.dedup_by_key(|endpoint| endpoint.0);
            Shape { number, node_port, external, local_outside, local_inside, ranges, affinity, balance, endpoints }
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Set(Shape),
    Connect { number: u8, inside: bool, client: u8 },
    Delete(u8),
    Restart,
    Relayout(u32),
    Flush,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any_shape().prop_map(Step::Set),
        6 => (0u8..4, any::<bool>(), 1u8..4).prop_map(|(number, inside, client)| Step::Connect { number, inside, client }),
        2 => (0u8..4).prop_map(Step::Delete),
        1 => Just(Step::Restart),
        1 => (20u32..24).prop_map(Step::Relayout),
        1 => Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happened before, the kernel ends up with what a fresh start makes, and never holds a verdict to unfilled slots.
    #[test]
    fn every_history_ends_in_the_state_of_a_fresh_start(steps in proptest::collection::vec(any_step(), 1..25), limit in 0usize..40) {
        let mut agent = Agent::start(Memory::with_limit(limit), BTreeMap::new());
        for step in steps {
            match step {
                Step::Set(shape) => agent.set(shape),
                Step::Connect { number, inside, client } => drop(agent.connect(number, inside, client)),
                Step::Delete(number) => {
                    agent.shapes.remove(&number);
                    agent.replan(number);
                }
                Step::Restart => agent = Agent::start(agent.committer.kernel().clone(), agent.shapes),
                Step::Relayout(bit) => agent.lay_out(1 << bit),
                Step::Flush => {
                    agent.committer.kernel().flush(Family::V4);
                    agent.committer.distrust();
                    agent.commit(Delta::default());
                }
            }
        }
        let mut fresh = Agent::start(Memory::default(), agent.shapes.clone());
        prop_assert_eq!(without_slots(agent.holds()), without_slots(fresh.holds()));
        for family in Family::BOTH {
            let own = |agent: &mut Agent| own_chains(&agent.committer.kernel().made(family));
            prop_assert_eq!(own(&mut agent), own(&mut fresh));
        }
        prop_assert!(!agent.committer.is_behind());
    }
}
