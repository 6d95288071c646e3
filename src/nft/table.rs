//! One family's table: what was last committed of it, and how it is brought to what is wanted.
//!
//! One bad destination never stops the rest: a batch that the kernel rejects is first compared with the kernel's real table again,
//! then halved until the culprits are found; those are set aside and reported ([`super::refused`]).

use super::change::{Change, Part, Pending, bereft_maps, give_back, node_wide, seats, usable_in, usable_of};
use super::committer::{FamilyOutcome, Held, Rejected};
use super::kernel::{Batch, Kernel, NftError, Reading, Usable};
use super::layout::Layout;
use super::made::{Made, Uses};
use super::refused::Refusals;
use crate::proxy::{AffinityMap, Delta, Dest, Destination, Difference, Element, difference};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Instant;

mod adopt;

/// Somebody who works on nf_tables between our look at the table and our batch makes the look worthless. It is repeated this often before a batch
/// that is refused has its own elements to blame.
const LOOKS: usize = 3;
/// So many refused batches are halved in one commit. A hundred culprits among a thousand destinations take about half of them; where there are more, the
/// rest of what is refused waits for the next round together, so that the search never keeps other changes waiting for long.
const HALVINGS: usize = 1000;
/// A batch has about so many elements at most, although the kernel would take more: with its elements and its message it takes memory, more than all that is
/// known of the cluster. A table that takes the place of another one comes in one batch all the same, as far as the kernel lets it.
const PIECE: usize = 8192;
/// And about so many changes: those of single elements are larger than what they bring.
const CHANGES: usize = 1024;
/// So many of what was refused are tried again in one commit: each can be found out by so many halvings.
const RETRIES: usize = HALVINGS / 2;

/// What one family's table holds and what it should hold.
pub struct Table {
    /// How it is made.
    pub layout: Layout,
    /// False until the kernel's table was read, and after a surprise.
    pub in_step: bool,
    /// Whether the last commit came to nothing. The table is left alone then until that is put back: another try may cost as much as a first start.
    pub failed: bool,
    /// What is wanted and not in place.
    pub wanted: Delta,
    /// What the kernel refused. It stays wanted.
    pub refused: Refusals,
    /// Whether the fields below say what this agent left in the kernel, so that anything else there is somebody else's doing.
    left: bool,
    /// Somebody else's doing was found and could not be put right yet.
    owed: bool,
    destinations: HashMap<Dest, Destination>,
    elements: HashSet<Element>,
    uses: Uses,
}

/// That a table is to be made anew.
struct Rebuild {
    why: String,
    /// Whether services are in use by a table that is there, or was until somebody took it away: then all of it comes at once. In a table that fills
    /// by and by a connection to an address that is known already, and its service is not, is refused.
    replaces: bool,
}

/// The changes of a batch that the kernel refused, and its reasons.
type RefusedBatch = (Vec<Change>, Vec<String>);

/// Who is to blame when the kernel refuses a batch.
#[derive(Clone, Copy)]
enum Blame {
    /// Perhaps somebody who has changed the table.
    Anybody,
    /// Elements of the batch, because the table was just looked at: unless the generation is another one than this and our batches since have counted up. Then
    /// the table is to be looked at again, but for the last time.
    Elements { generation: Option<u32>, last: bool },
}

impl Table {
    /// A table of which nothing is known.
    pub fn new(layout: Layout) -> Table {
        Table {
            layout,
            in_step: false,
            failed: false,
            wanted: Delta::default(),
            refused: Refusals::default(),
            left: false,
            owed: false,
            destinations: HashMap::new(),
            elements: HashSet::new(),
            uses: Uses::default(),
        }
    }

    /// What is committed for a destination.
    pub fn held(&self, dest: &Dest) -> Held {
        Held {
            destination: self.destinations.get(dest).cloned(),
            rejected: self.refused.reason(&Part::Dest(*dest)).map(str::to_string),
            in_step: self.in_step,
        }
    }

    /// Another layout: the table is made anew at the next commit.
    pub fn set_layout(&mut self, layout: Layout) {
        if self.layout != layout {
            self.layout = layout;
            (self.in_step, self.left, self.failed) = (false, false, false);
        }
    }

    /// Wants a destination to be like this, or gone.
    pub fn want(&mut self, dest: Dest, destination: Option<Destination>) {
        let part = Part::Dest(dest);
        self.refused.changed(&part);
        // Whatever a table that is to be looked at holds besides is removed. A family that fails for long must not gather all that ever was.
        let is_gone_anyway = !self.in_step && !self.destinations.contains_key(&dest) && !self.refused.contains(&part);
        if destination.is_none() && is_gone_anyway {
            self.wanted.destinations.remove(&dest);
        } else {
            self.wanted.destinations.insert(dest, destination);
        }
    }

    /// Wants an element that belongs to the node as a whole, or not.
    pub fn want_element(&mut self, element: Element, present: bool) {
        self.refused.changed(&Part::of_element(&element));
        self.wanted.elements.insert(element, present);
    }

    /// Brings the table to what is wanted; `None` when there is nothing to do.
    pub fn commit(&mut self, kernel: &mut impl Kernel) -> Option<FamilyOutcome> {
        if self.failed || self.in_step && !self.has_work() {
            return None;
        }
        let mut outcome = FamilyOutcome { full: !self.in_step, ..FamilyOutcome::of(self.layout.family) };
        let start = Instant::now();
        let mut result = if outcome.full { self.catch_up(kernel, &mut outcome) } else { self.follow(kernel, &mut outcome) };
        if matches!(result, Err(NftError::Rejected(_))) && !outcome.full {
            // Somebody may have changed the table. With what it really holds known, only true culprits are left to fail.
            outcome.full = true;
            result = self.catch_up(kernel, &mut outcome);
        }
        outcome.took = start.elapsed();
        outcome.refused = self.refused.len();
        outcome.error = result.err();
        // Who disturbed us may stop at any moment: then the next commit, or the next look, may succeed.
        self.failed = matches!(&outcome.error, Some(error) if !matches!(error, NftError::Unsettled));
        outcome.disturbed |= std::mem::take(&mut self.owed);
        if outcome.error.is_some() {
            (self.in_step, self.left, self.owed) = (false, false, outcome.disturbed);
        }
        Some(outcome)
    }

    /// Whether something is wanted that is not only waiting for its round.
    fn has_work(&self) -> bool {
        let waits = |part: &Part| self.refused.contains(part) && !self.refused.is_due(part);
        self.wanted.destinations.keys().any(|dest| !waits(&Part::Dest(*dest)))
            || self.wanted.elements.keys().any(|element| !waits(&Part::of_element(element)))
    }

    /// Commits what is wanted as a difference from what was committed before.
    fn follow(&mut self, kernel: &mut impl Kernel, outcome: &mut FamilyOutcome) -> Result<(), NftError> {
        let changes = self.changes(|part| !self.refused.contains(part));
        self.commit_changes(kernel, changes, None, Blame::Anybody, outcome)?;
        self.try_refused(kernel, outcome)
    }

    /// Tries again what the kernel refused and whose round has come. Nothing else is wanted by now.
    fn try_refused(&mut self, kernel: &mut impl Kernel, outcome: &mut FamilyOutcome) -> Result<(), NftError> {
        let turns = self.refused.take_turns(RETRIES);
        let changes = self.changes(|part| turns.contains(part));
        let blame = Blame::Elements { generation: generation(kernel, outcome), last: true };
        self.commit_changes(kernel, changes, None, blame, outcome).map(drop)
    }

    /// What is to be changed to get from what was committed to what is wanted, of some parts.
    fn changes(&self, of: impl Fn(&Part) -> bool) -> Vec<Pending> {
        let wanted = self.wanted.elements.iter().filter(|(element, _)| of(&Part::of_element(element)));
        let wanted = wanted.map(|(element, present)| (*element, *present));
        let mut changes = node_wide(wanted.filter(|(element, present)| self.elements.contains(element) != *present));
        let destinations = self.wanted.destinations.keys().filter(|dest| of(&Part::Dest(**dest)));
        changes.extend(destinations.copied().map(Pending::Dest));
        changes
    }

    /// Takes as many changes as fit into a batch of so many elements, at least one and so many at most, and works them out. What needs no change is done.
    fn next_changes(&mut self, pending: &mut VecDeque<Pending>, limit: usize, most: usize) -> Vec<Change> {
        let (mut changes, mut elements) = (Vec::new(), 0);
        while changes.len() < most {
            let Some(next) = pending.pop_front() else { break };
            let change = match next {
                Pending::Dest(dest) => self.change_of(dest, self.wanted.destinations.get(&dest).and_then(Option::as_ref)),
                Pending::Element(element, present) => Change::of_element(element, present),
                Pending::Change(change) => *change,
            };
            if change.difference.is_empty() {
                self.done(change);
                continue;
            }
            elements += change.difference.len();
            if elements > limit && !changes.is_empty() {
                pending.push_front(Pending::Change(Box::new(change)));
                break;
            }
            changes.push(change);
        }
        changes
    }

    fn change_of(&self, dest: Dest, wanted: Option<&Destination>) -> Change {
        let elements = |of: Option<&Destination>| of.map(|one| one.elements(dest)).unwrap_or_default();
        if let Some(holds) = self.refused.holds(&Part::Dest(dest)) {
            let becomes = wanted.map(|wanted| wanted.clone().seated(Some(&seats(holds))));
            return Change::of_dest(dest, difference(holds.to_vec(), elements(becomes.as_ref())), becomes);
        }
        let before = self.destinations.get(&dest);
        let becomes = wanted.map(|wanted| wanted.clone().seated(before));
        Change::of_dest(dest, difference(elements(before), elements(becomes.as_ref())), becomes)
    }

    /// Reads the kernel's table and commits what differs from all that is wanted; culprits are set aside.
    fn catch_up(&mut self, kernel: &mut impl Kernel, outcome: &mut FamilyOutcome) -> Result<(), NftError> {
        for _ in 1..LOOKS {
            match self.catch_up_once(kernel, false, outcome) {
                Err(NftError::Unsettled) => {}
                result => return result,
            }
        }
        self.catch_up_once(kernel, true, outcome)
    }

    fn catch_up_once(&mut self, kernel: &mut impl Kernel, last: bool, outcome: &mut FamilyOutcome) -> Result<(), NftError> {
        let blame = Blame::Elements { generation: generation(kernel, outcome), last };
        let reading = kernel.read(&self.layout)?;
        let is_edited = matches!(reading, Reading::Edited(_));
        let (contents, rebuild) = match reading {
            Reading::Ours(contents) => (contents, None),
            Reading::Absent => (Default::default(), Some(Rebuild { why: "there was no table".into(), replaces: self.left })),
            Reading::Other(why) | Reading::Edited(why) => (Default::default(), Some(Rebuild { why, replaces: true })),
        };
        self.uses = Uses::found(contents.made, &contents.elements);
        let (changes, is_as_left) = self.adopt(contents.elements);
        outcome.disturbed |= is_edited || self.left && !(is_as_left && rebuild.is_none());
        let is_settled = self.commit_changes(kernel, changes, rebuild, blame, outcome)?;
        outcome.batches += self.forget_gone_endpoints(kernel)?;
        (self.in_step, self.left) = (is_settled, is_settled);
        if is_settled { self.try_refused(kernel, outcome) } else { Ok(()) }
    }

    /// Looks at all that maps remember: what a client was told while its endpoint went away may have been missed.
    fn forget_gone_endpoints(&self, kernel: &mut impl Kernel) -> Result<usize, NftError> {
        let all = self.destinations.iter().flat_map(usable_of).filter(|usable| self.uses.maps().contains(&usable.map));
        let by_map: BTreeMap<AffinityMap, Usable> = all.map(|usable| (usable.map, usable)).collect();
        kernel.forget(&self.layout, &by_map.into_values().collect::<Vec<_>>())
    }

    /// Commits changes, in the given order. With `rebuild` the first batch makes the table anew. False when something was refused while somebody else wrote, so
    /// that the table is to be looked at again.
    fn commit_changes(
        &mut self,
        kernel: &mut impl Kernel,
        changes: Vec<Pending>,
        mut rebuild: Option<Rebuild>,
        blame: Blame,
        outcome: &mut FamilyOutcome,
    ) -> Result<bool, NftError> {
        let (mut pending, mut is_settled, mut halvings) = (VecDeque::from(changes), true, HALVINGS);
        let replaces = rebuild.as_ref().is_some_and(|rebuild| rebuild.replaces);
        let (piece, most) = if replaces { (usize::MAX, usize::MAX) } else { (PIECE, CHANGES) };
        loop {
            let batch = self.next_changes(&mut pending, kernel.batch_limit().min(piece), most);
            let why = rebuild.take().map(|rebuild| rebuild.why);
            if batch.is_empty() && why.is_none() && !self.uses.has_orphans() {
                break;
            }
            if let Some((batch, reasons)) = self.commit_batch(kernel, batch, why.is_some(), outcome)? {
                let Blame::Elements { generation: seen, last } = blame else { return Err(NftError::Rejected(reasons)) };
                // Without any change nothing but the skeleton, or what nobody needs any more, can be to blame.
                if batch.is_empty() {
                    return Err(NftError::Rejected(reasons));
                }
                if !last && generation(kernel, outcome) != seen {
                    return Err(NftError::Unsettled);
                }
                // What one batch is searched for must not leave the good ones among the others unfound.
                let mut share = halvings / (pending.len() / most + 1);
                halvings -= share;
                let culprits = self.commit_without_culprits(kernel, (batch, reasons), why.is_some(), &mut share, outcome)?;
                halvings += share;
                let is_sure = generation(kernel, outcome) == seen;
                if !last && !is_sure {
                    return Err(NftError::Unsettled);
                }
                is_settled &= is_sure;
                for (changes, reasons) in culprits {
                    self.set_aside(changes, &reasons.join("; "), (why.is_some(), is_sure), outcome);
                }
            }
            outcome.rebuilt = why.or(outcome.rebuilt.take());
        }
        self.keep_refused_wanted();
        Ok(is_settled)
    }

    /// Commits one batch. When the kernel refuses it, the changes come back with the kernel's reasons.
    fn commit_batch(
        &mut self,
        kernel: &mut impl Kernel,
        mut changes: Vec<Change>,
        rebuild: bool,
        outcome: &mut FamilyOutcome,
    ) -> Result<Option<RefusedBatch>, NftError> {
        let mut batch = self.batch(&mut changes, rebuild);
        if !rebuild && let Some(reasons) = self.make_first(kernel, &mut batch, outcome)? {
            give_back(&mut changes, &batch.elements);
            return Ok(Some((changes, reasons)));
        }
        match kernel.commit(&self.layout, &batch) {
            Ok(()) => {
                outcome.batches += 1;
                outcome.elements += batch.elements.len();
                self.uses.changed(&batch.elements, batch.made, &batch.gone, rebuild);
                changes.into_iter().for_each(|change| self.done(change));
                outcome.batches += kernel.forget(&self.layout, &batch.usable)?;
                Ok(None)
            }
            Err(NftError::Rejected(reasons)) => {
                give_back(&mut changes, &batch.elements);
                Ok(Some((changes, reasons)))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the chains and maps that a batch needs, before it: a packet that is on its way through the rules while a batch comes into force goes by the
    /// elements that it brings and by the rules that were there before, and a chain of the same batch is empty to it. When the kernel refuses
    /// them, its reasons come back.
    fn make_first(
        &mut self,
        kernel: &mut impl Kernel,
        batch: &mut Batch,
        outcome: &mut FamilyOutcome,
    ) -> Result<Option<Vec<String>>, NftError> {
        if batch.made.is_empty() || batch.elements.add.is_empty() {
            return Ok(None);
        }
        let made = std::mem::take(&mut batch.made);
        match kernel.commit(&self.layout, &Batch { made: made.clone(), ..Batch::default() }) {
            Ok(()) => {
                outcome.batches += 1;
                self.uses.made(made);
                Ok(None)
            }
            Err(NftError::Rejected(reasons)) => Ok(Some(reasons)),
            Err(error) => Err(error),
        }
    }

    /// Commits what the kernel takes of a batch that it refused, and returns the rest. The batch is halved, and so is each half that is refused in its turn; so no change is in more
    /// batches than there are halvings between the whole and one change. Where a table is to be made anew, the old one stays in force until
    /// one batch replaces it: halves are only tried.
    fn commit_without_culprits(
        &mut self,
        kernel: &mut impl Kernel,
        refused: RefusedBatch,
        rebuild: bool,
        halvings: &mut usize,
        outcome: &mut FamilyOutcome,
    ) -> Result<Vec<RefusedBatch>, NftError> {
        if rebuild && let Some((_, reasons)) = self.try_rebuild(kernel, Vec::new(), &mut Vec::new())? {
            // The skeleton alone is refused, and no destination is to blame.
            return Err(NftError::Rejected(reasons));
        }
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let mut pending = VecDeque::new();
        let mut refused = Some(refused);
        loop {
            match refused.take() {
                Some((mut changes, _)) if changes.len() > 1 && *halvings > 0 => {
                    *halvings -= 1;
                    let later = changes.split_off(changes.len() / 2);
                    pending.extend([changes, later]);
                }
                Some(refused) => bad.push(refused),
                None => {}
            }
            // The larger ones first, so that what is good among many is in place before the last culprits are found.
            let Some(next) = pending.pop_front() else { break };
            refused = match rebuild {
                true => self.try_rebuild(kernel, next, &mut good)?,
                false => self.commit_batch(kernel, next, false, outcome)?,
            };
        }
        if rebuild && let Some((_, reasons)) = self.commit_batch(kernel, good, true, outcome)? {
            return Err(NftError::Rejected(reasons));
        }
        Ok(bad)
    }

    /// Adds those changes to `good` that the kernel would take in a new table; otherwise they come back with its reasons.
    fn try_rebuild(
        &self,
        kernel: &mut impl Kernel,
        mut changes: Vec<Change>,
        good: &mut Vec<Change>,
    ) -> Result<Option<RefusedBatch>, NftError> {
        let batch = self.batch(&mut changes, true);
        let result = kernel.would_take(&self.layout, &batch);
        give_back(&mut changes, &batch.elements);
        match result {
            Ok(()) => good.append(&mut changes),
            Err(NftError::Rejected(reasons)) => return Ok(Some((changes, reasons))),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Notes what the kernel refused, and what it holds in its place. Where it is not sure that the table was as it was seen, the next commit tries again.
    fn set_aside(&mut self, changes: Vec<Change>, reason: &str, (rebuilt, is_sure): (bool, bool), outcome: &mut FamilyOutcome) {
        let together = changes.len() > 1;
        for change in changes {
            let what = change.part;
            let holds = match what {
                Part::Dest(dest) if !rebuilt => change.found(dest),
                Part::Dest(dest) => {
                    self.destinations.remove(&dest);
                    Vec::new()
                }
                Part::Element(_) | Part::Networks(_) => Vec::new(),
            };
            if together || !is_sure {
                outcome.unsifted += 1;
                self.refused.suspect(what, reason, holds, u32::from(is_sure));
            } else if self.refused.refuse(what, reason.to_string(), holds) {
                outcome.rejected.push(Rejected { what, reason: reason.to_string() });
            }
            if change.instead.is_some() {
                continue;
            }
            // What was found and is to go is wanted by nobody yet.
            if let Part::Dest(dest) = what {
                self.wanted.destinations.entry(dest).or_insert(change.becomes);
            }
            for (element, present) in change.elements {
                self.wanted.elements.entry(element).or_insert(present);
            }
        }
    }

    /// The batch takes the elements out of the changes, so that those of a first commit are not in memory twice.
    fn batch(&self, changes: &mut [Change], rebuild: bool) -> Batch {
        let bereft: BTreeSet<AffinityMap> = changes.iter().flat_map(bereft_maps).collect();
        let count = |of: fn(&Difference) -> usize| changes.iter().map(|change| of(&change.difference)).sum();
        let mut elements = Difference {
            remove: Vec::with_capacity(count(|difference| difference.remove.len())),
            add: Vec::with_capacity(count(|difference| difference.add.len())),
        };
        for change in changes.iter_mut() {
            let Difference { remove, add } = std::mem::take(&mut change.difference);
            change.taken = (remove.len(), add.len());
            elements.remove.extend(remove);
            elements.add.extend(add);
        }
        let (made, gone) = self.uses.change(&elements, rebuild);
        let usable = if rebuild { usable_in(changes) } else { self.usable(bereft, changes, &gone) };
        Batch { rebuild, made, elements, usable, gone }
    }

    /// Where clients may be sent again, for each map that stays and from whose list these changes take something away.
    fn usable(&self, mut maps: BTreeSet<AffinityMap>, changes: &[Change], gone: &Made) -> Vec<Usable> {
        maps.retain(|map| self.uses.maps().contains(map) && !gone.maps.contains(map));
        if maps.is_empty() {
            return Vec::new();
        }
        let changed: HashMap<Dest, Option<&Destination>> = changes
            .iter()
            .filter_map(|change| match change.part {
                Part::Dest(dest) => Some((dest, change.becomes.as_ref())),
                Part::Element(_) | Part::Networks(_) => None,
            })
            .collect();
        let others = self.destinations.iter().filter(|(dest, _)| !changed.contains_key(dest));
        let after = changed.iter().filter_map(|(dest, becomes)| Some((dest, (*becomes)?))).chain(others);
        // All destinations of a service port have the same lists.
        after.flat_map(usable_of).filter(|usable| maps.remove(&usable.map)).collect()
    }

    fn done(&mut self, change: Change) {
        let is_as_wanted = change.instead.is_none();
        if is_as_wanted {
            self.refused.taken(&change.part);
        }
        if let Part::Dest(dest) = change.part {
            if is_as_wanted {
                self.wanted.destinations.remove(&dest);
            }
            match change.becomes {
                Some(destination) => self.destinations.insert(dest, destination),
                None => self.destinations.remove(&dest),
            };
        }
        for (element, present) in change.elements {
            if is_as_wanted {
                self.wanted.elements.remove(&element);
            }
            if present {
                self.elements.insert(element);
            } else {
                self.elements.remove(&element);
            }
        }
    }

    /// Of the elements that are still wanted now, those are kept that the kernel refused; others needed no change. And nothing is refused that is not wanted.
    fn keep_refused_wanted(&mut self) {
        let elements = &self.elements;
        self.wanted.elements.retain(|element, present| elements.contains(element) != *present);
        let wanted: BTreeSet<Part> = self.wanted.elements.keys().map(Part::of_element).collect();
        self.refused.retain(|part| matches!(part, Part::Dest(_)) || wanted.contains(part));
    }
}

/// The generation before the batches of this outcome, if nobody else has written since.
fn generation(kernel: &mut impl Kernel, outcome: &FamilyOutcome) -> Option<u32> {
    kernel.generation().map(|generation| generation.wrapping_sub(outcome.batches as u32))
}
