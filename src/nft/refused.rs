//! What the kernel refused: left alone while nothing changes, and tried again less and less often.

use super::change::Part;
use crate::proxy::Element;
use std::collections::{BTreeMap, BTreeSet};

/// However often the kernel has refused something: for no more rounds than this it is left alone.
const MOST_ROUNDS: u32 = 16;

/// What is set aside in one family.
#[derive(Debug, Default)]
pub struct Refusals(BTreeMap<Part, Refusal>);

/// Something that the kernel refused.
#[derive(Debug)]
struct Refusal {
    /// The kernel's reason.
    reason: String,
    /// Whether it is still to be told of.
    untold: bool,
    /// How often in a row it was refused by itself.
    failures: u32,
    /// For how many more rounds it is left alone.
    rounds: u32,
    /// What the kernel holds in its place: what it held before, if that is a destination.
    holds: Vec<Element>,
}

impl Refusals {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is set aside.
    pub fn contains(&self, part: &Part) -> bool {
        self.0.contains_key(part)
    }

    /// Whether this is set aside, and its turn has come.
    pub fn is_due(&self, part: &Part) -> bool {
        self.0.get(part).is_some_and(|refusal| refusal.rounds == 0)
    }

    /// Those whose turn has come, so many at most: first those that were refused least often by themselves. The others wait for the next round.
    pub fn take_turns(&mut self, most: usize) -> BTreeSet<Part> {
        let mut due: Vec<(u32, Part)> = Vec::new();
        due.extend(self.0.iter().filter(|(_, refusal)| refusal.rounds == 0).map(|(part, refusal)| (refusal.failures, *part)));
        due.sort_unstable();
        let later = due.split_off(most.min(due.len()));
        for (_, part) in later {
            self.0.entry(part).and_modify(|refusal| refusal.rounds = 1);
        }
        due.into_iter().map(|(_, part)| part).collect()
    }

    /// Why this was refused, if it was.
    pub fn reason(&self, part: &Part) -> Option<&str> {
        self.0.get(part).map(|refusal| &*refusal.reason)
    }

    /// What the kernel holds in place of what it refused.
    pub fn holds(&self, part: &Part) -> Option<&[Element]> {
        self.0.get(part).map(|refusal| &*refusal.holds)
    }

    /// Something else is wanted now: it is tried at once, and told of again if it fails.
    pub fn changed(&mut self, part: &Part) {
        if let Some(refusal) = self.0.get_mut(part) {
            (refusal.rounds, refusal.failures, refusal.untold) = (0, 0, true);
        }
    }

    /// A round is over.
    pub fn another_round(&mut self) {
        self.0.values_mut().for_each(|refusal| refusal.rounds = refusal.rounds.saturating_sub(1));
    }

    /// The kernel refused this by itself, and holds that in its place. True when it is to be told of.
    pub fn refuse(&mut self, part: Part, reason: String, holds: Vec<Element>) -> bool {
        let refusal = self.set_aside(part, &reason, holds);
        refusal.rounds = (1 << refusal.failures.min(MOST_ROUNDS)).min(MOST_ROUNDS);
        refusal.failures += 1;
        let is_news = refusal.untold || refusal.reason != reason;
        (refusal.untold, refusal.reason) = (false, reason);
        is_news
    }

    /// The kernel refused this, perhaps for others that it was with, or for what somebody else did. For so many rounds it is left alone.
    pub fn suspect(&mut self, part: Part, reason: &str, holds: Vec<Element>, rounds: u32) {
        self.set_aside(part, reason, holds).rounds = rounds;
    }

    /// The kernel has taken it after all.
    pub fn taken(&mut self, part: &Part) {
        self.0.remove(part);
    }

    /// Only these are still wanted.
    pub fn retain(&mut self, is_wanted: impl Fn(&Part) -> bool) {
        self.0.retain(|part, _| is_wanted(part));
    }

    fn set_aside(&mut self, part: Part, reason: &str, holds: Vec<Element>) -> &mut Refusal {
        let new = || Refusal { reason: reason.to_string(), untold: true, failures: 0, rounds: 0, holds: Vec::new() };
        let refusal = self.0.entry(part).or_insert_with(new);
        refusal.holds = holds;
        refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_again_and_again_is_tried_less_and_less_often_and_a_change_of_it_at_once() {
        let part = Part::Element(Element::ClusterIp([10, 96, 0, 1].into()));
        let mut refusals = Refusals::default();
        let refuse = |refusals: &mut Refusals| {
            let told = refusals.refuse(part, "no".into(), Vec::new());
            let rounds = (0..).find(|_| {
                let due = refusals.is_due(&part);
                refusals.another_round();
                due
            });
            (told, rounds.unwrap())
        };
        let waits: Vec<_> = (0..7).map(|_| refuse(&mut refusals)).collect();
        assert_eq!(waits, [(true, 1), (false, 2), (false, 4), (false, 8), (false, 16), (false, 16), (false, 16)]);
        refusals.changed(&part);
        assert!(refusals.is_due(&part));
        assert_eq!(refuse(&mut refusals), (true, 1), "what is wanted now is refused for the first time");
    }
}
