//! The owner of what the kernel holds.
//!
//! It keeps what was last committed, works out the elements that differ from what is wanted, and commits them, each family on its
//! own. One bad destination never stops the rest: a batch that the kernel rejects is first compared with the kernel's real table again,
//! then halved until the culprit is found; that one is set aside and reported.

use super::change::{Change, Part, batch_end, bereft_maps, family_of, give_back, node_wide, seats, usable_in, usable_of};
use super::kernel::{Batch, Kernel, NftError, Reading, Usable};
use super::layout::Layout;
use super::made::{Made, Uses};
use crate::model::Family;
use crate::proxy::{AffinityMap, Delta, Dest, Destination, Difference, Element, difference};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// What was done, family by family.
#[derive(Debug, Default)]
pub struct Committed {
    /// The outcome of each family that had something to do.
    pub families: Vec<FamilyOutcome>,
}

/// What was done in one family.
#[derive(Debug)]
pub struct FamilyOutcome {
    /// The family.
    pub family: Family,
    /// How many elements were added or removed.
    pub elements: usize,
    /// How many batches that took.
    pub batches: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether the whole table was compared, and not only what has changed.
    pub full: bool,
    /// Why the table was made anew, if it was.
    pub rebuilt: Option<String>,
    /// Whether somebody else had changed the table since this agent left it, or since an earlier one made it. It is put right, unless there is an error.
    pub disturbed: bool,
    /// Destinations that the kernel refused; the rest is in place. Reported when they fail first, and tried again.
    pub rejected: Vec<Rejected>,
    /// Why nothing (more) could be committed. What is missing stays wanted.
    pub error: Option<NftError>,
}

impl FamilyOutcome {
    /// Nothing was done yet.
    pub fn of(family: Family) -> FamilyOutcome {
        FamilyOutcome {
            family,
            elements: 0,
            batches: 0,
            took: Duration::ZERO,
            full: false,
            rebuilt: None,
            disturbed: false,
            rejected: Vec::new(),
            error: None,
        }
    }
}

/// Something that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// What it belongs to: a destination, or an element of the node as a whole.
    pub what: Part,
    /// The kernel's reason.
    pub reason: String,
}

/// What is committed for a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// What it holds.
    pub destination: Option<Destination>,
    /// Why the kernel refused it, if it did.
    pub rejected: Option<String>,
    /// Whether the table is as it was committed, as far as is known.
    pub in_step: bool,
}

/// Owns the tables of both families.
pub struct Committer<K> {
    kernel: K,
    families: Vec<Table>,
}

/// What one family's table holds and what it should hold.
struct Table {
    layout: Layout,
    /// False until the kernel's table was read, and after a surprise.
    in_step: bool,
    /// Whether the fields below say what this agent left in the kernel, so that anything else there is somebody else's doing.
    left: bool,
    destinations: HashMap<Dest, Destination>,
    elements: HashSet<Element>,
    uses: Uses,
    wanted: Delta,
    /// What the kernel refused and why. It is left alone until its object changes or the whole table is compared again.
    rejected: BTreeMap<Part, String>,
}

impl<K: Kernel> Committer<K> {
    /// One table for each layout; what is wanted in a family without one is left out. Nothing is read or written before the first
    /// [`Committer::commit`].
    pub fn new(kernel: K, layouts: impl IntoIterator<Item = Layout>) -> Committer<K> {
        Committer { kernel, families: layouts.into_iter().map(Table::new).collect() }
    }

    /// Makes the kernel hold what `delta` wants, besides what earlier deltas wanted. The first call must carry the whole plan: whatever
    /// else our tables hold is removed.
    pub fn commit(&mut self, delta: Delta) -> Committed {
        self.gather(delta);
        let kernel = &mut self.kernel;
        Committed { families: self.families.iter_mut().filter_map(|table| table.commit(kernel)).collect() }
    }

    /// Whether something is wanted that is not in place, because the kernel refused it or could not be reached.
    pub fn is_behind(&self) -> bool {
        self.families.iter().any(|table| !table.in_step || !table.wanted.is_empty())
    }

    /// What is committed for a destination.
    pub fn held(&self, dest: &Dest) -> Held {
        let table = self.families.iter().find(|table| table.layout.family == dest.family());
        table.map_or(Held::default(), |table| Held {
            destination: table.destinations.get(dest).cloned(),
            rejected: table.rejected.get(&Part::Dest(*dest)).cloned(),
            in_step: table.in_step,
        })
    }

    /// Compares the kernel's tables with what they should hold at the next commit.
    pub fn distrust(&mut self) {
        self.families.iter_mut().for_each(|table| table.in_step = false);
    }

    /// Gives a family's table another layout: at the next commit it is made anew, in one batch with all that it holds.
    pub fn set_layout(&mut self, layout: Layout) {
        if let Some(table) = self.table(layout.family)
            && table.layout != layout
        {
            table.layout = layout;
            (table.in_step, table.left) = (false, false);
        }
    }

    /// The kernel.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    fn gather(&mut self, delta: Delta) {
        for (dest, destination) in delta.destinations {
            let Some(table) = self.table(dest.family()) else { continue };
            table.rejected.remove(&Part::Dest(dest));
            table.wanted.destinations.insert(dest, destination);
        }
        for (element, present) in delta.elements {
            let Some(table) = self.table(family_of(&element)) else { continue };
            table.rejected.remove(&Part::of_element(&element));
            table.wanted.elements.insert(element, present);
        }
    }

    fn table(&mut self, family: Family) -> Option<&mut Table> {
        self.families.iter_mut().find(|table| table.layout.family == family)
    }
}

impl Table {
    fn new(layout: Layout) -> Table {
        Table {
            layout,
            in_step: false,
            left: false,
            destinations: HashMap::new(),
            elements: HashSet::new(),
            uses: Uses::default(),
            wanted: Delta::default(),
            rejected: BTreeMap::new(),
        }
    }

    fn commit(&mut self, kernel: &mut impl Kernel) -> Option<FamilyOutcome> {
        if self.in_step && self.wanted.is_empty() {
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
        outcome.error = result.err();
        if outcome.error.is_some() {
            (self.in_step, self.left) = (false, false);
        }
        Some(outcome)
    }

    /// Commits what is wanted as a difference from what was committed before.
    fn follow(&mut self, kernel: &mut impl Kernel, outcome: &mut FamilyOutcome) -> Result<(), NftError> {
        let wanted = self.wanted.elements.iter().map(|(element, present)| (*element, *present));
        let mut changes = node_wide(wanted.filter(|(element, present)| self.elements.contains(element) != *present));
        for (dest, destination) in &self.wanted.destinations {
            let before = self.destinations.get(dest);
            let becomes = destination.clone().map(|destination| destination.seated(before));
            let elements = |of: Option<&Destination>| of.map(|one| one.elements(*dest)).unwrap_or_default();
            let difference = difference(elements(before), elements(becomes.as_ref()));
            changes.push(Change::of_dest(*dest, difference, becomes));
        }
        changes.retain(|change| !self.rejected.contains_key(&change.part));
        self.commit_changes(kernel, changes, None, false, outcome)
    }

    /// Reads the kernel's table and commits what differs from all that is wanted; culprits are set aside.
    fn catch_up(&mut self, kernel: &mut impl Kernel, outcome: &mut FamilyOutcome) -> Result<(), NftError> {
        let reading = kernel.read(&self.layout)?;
        let is_edited = matches!(reading, Reading::Edited(_));
        let (contents, rebuild) = match reading {
            Reading::Ours(contents) => (contents, None),
            Reading::Absent => (Default::default(), Some("there was no table".to_string())),
            Reading::Other(why) | Reading::Edited(why) => (Default::default(), Some(why)),
        };
        let wanted = self.everything_wanted();
        self.uses = Uses::found(contents.made, &contents.elements);
        let known = std::mem::take(&mut self.rejected);
        let (changes, is_as_left) = self.adopt(contents.elements, wanted);
        outcome.disturbed |= is_edited || self.left && !(is_as_left && rebuild.is_none());
        self.commit_changes(kernel, changes, rebuild, true, outcome)?;
        outcome.batches += self.forget_gone_endpoints(kernel)?;
        (self.in_step, self.left) = (true, true);
        for rejected in &outcome.rejected {
            self.rejected.insert(rejected.what, rejected.reason.clone());
        }
        outcome.rejected.retain(|rejected| known.get(&rejected.what) != Some(&rejected.reason));
        Ok(())
    }

    /// Looks at all that maps remember: what a client was told while its endpoint went away may have been missed.
    fn forget_gone_endpoints(&self, kernel: &mut impl Kernel) -> Result<usize, NftError> {
        let all = self.destinations.iter().flat_map(usable_of).filter(|usable| self.uses.maps().contains(&usable.map));
        let by_map: BTreeMap<AffinityMap, Usable> = all.map(|usable| (usable.map, usable)).collect();
        kernel.forget(&self.layout, &by_map.into_values().collect::<Vec<_>>())
    }

    /// What was committed, overlaid with what is wanted since. It stays wanted until a commit succeeds.
    fn everything_wanted(&mut self) -> Delta {
        for (dest, destination) in &self.destinations {
            self.wanted.destinations.entry(*dest).or_insert_with(|| Some(destination.clone()));
        }
        for element in &self.elements {
            self.wanted.elements.entry(*element).or_insert(true);
        }
        std::mem::take(&mut self.wanted)
    }

    /// Takes what the kernel holds for what was committed, and says how to get from there to what is wanted, and whether it was what this agent
    /// had left there.
    fn adopt(&mut self, actual: Vec<Element>, wanted: Delta) -> (Vec<Change>, bool) {
        let mut of_dest: HashMap<Dest, Vec<Element>> = HashMap::new();
        let (left_elements, mut left) = (std::mem::take(&mut self.elements), std::mem::take(&mut self.destinations));
        for element in actual {
            match element.dest() {
                Some(dest) => of_dest.entry(dest).or_default().push(element),
                None => drop(self.elements.insert(element)),
            }
        }
        let mut is_as_left = left_elements == self.elements;
        let unwanted =
            self.elements.iter().filter(|element| !wanted.elements.contains_key(element)).map(|element| (*element, false));
        let asked = wanted.elements.iter().map(|(element, present)| (*element, *present));
        let mut changes =
            node_wide(asked.filter(|(element, present)| self.elements.contains(element) != *present).chain(unwanted));
        changes.reserve(wanted.destinations.len() + of_dest.len());
        for (dest, destination) in &wanted.destinations {
            let elements = of_dest.remove(dest).unwrap_or_default();
            let becomes = destination.clone().map(|destination| destination.seated(Some(&seats(&elements))));
            let before = left.remove(dest);
            let expand = |one: Option<&Destination>| one.map(|one| one.elements(*dest)).unwrap_or_default();
            // Where a change is outstanding (the kernel refused it, say), what is there is to be compared with what was there before it.
            let found = (before != becomes).then(|| elements.clone());
            let change = difference(elements, expand(becomes.as_ref()));
            is_as_left &= match found {
                Some(found) => difference(found, expand(before.as_ref())).is_empty(),
                None => change.is_empty(),
            };
            changes.push(Change::of_dest(*dest, change, becomes));
        }
        is_as_left &= of_dest.is_empty();
        for (dest, elements) in of_dest {
            changes.push(Change::of_dest(dest, difference(elements, Vec::new()), None));
        }
        self.wanted = wanted;
        (changes, is_as_left)
    }

    /// Commits changes in as few batches as the kernel takes, in the given order. With `rebuild` the first batch makes the table anew.
    fn commit_changes(
        &mut self,
        kernel: &mut impl Kernel,
        changes: Vec<Change>,
        mut rebuild: Option<String>,
        set_culprits_aside: bool,
        outcome: &mut FamilyOutcome,
    ) -> Result<(), NftError> {
        let mut rest = changes;
        for idle in rest.extract_if(.., |change| change.difference.is_empty()) {
            self.done(idle);
        }
        while rebuild.is_some() || !rest.is_empty() || self.uses.has_orphans() {
            let next = rest.split_off(batch_end(&rest, kernel.batch_limit()));
            let batch = std::mem::replace(&mut rest, next);
            let why = rebuild.take();
            self.commit_batch(kernel, batch, why.is_some(), set_culprits_aside, outcome)?;
            outcome.rebuilt = why.or(outcome.rebuilt.take());
        }
        self.keep_rejected_wanted();
        Ok(())
    }

    fn commit_batch(
        &mut self,
        kernel: &mut impl Kernel,
        mut changes: Vec<Change>,
        rebuild: bool,
        set_culprits_aside: bool,
        outcome: &mut FamilyOutcome,
    ) -> Result<(), NftError> {
        let batch = self.batch(&mut changes, rebuild);
        let result = kernel.commit(&self.layout, &batch);
        if result.is_err() {
            give_back(&mut changes, &batch.elements);
        }
        match result {
            Ok(()) => {
                outcome.batches += 1;
                outcome.elements += batch.elements.len();
                self.uses.changed(&batch.elements, batch.made, &batch.gone, rebuild);
                changes.into_iter().for_each(|change| self.done(change));
                outcome.batches += kernel.forget(&self.layout, &batch.usable)?;
                Ok(())
            }
            Err(NftError::Rejected(reasons)) if set_culprits_aside && !changes.is_empty() => {
                if rebuild {
                    return self.rebuild_without_culprits(kernel, changes, outcome);
                }
                if changes.len() > 1 {
                    let later = changes.split_off(changes.len() / 2);
                    self.commit_batch(kernel, changes, false, true, outcome)?;
                    return self.commit_batch(kernel, later, false, true, outcome);
                }
                let what = changes[0].part;
                outcome.rejected.push(Rejected { what, reason: reasons.join("; ") });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the table anew without what the kernel refuses. The old one stays in force until then: culprits are found by batches that are only tried.
    fn rebuild_without_culprits(
        &mut self,
        kernel: &mut impl Kernel,
        changes: Vec<Change>,
        outcome: &mut FamilyOutcome,
    ) -> Result<(), NftError> {
        let mut good = Vec::with_capacity(changes.len());
        // If the skeleton alone is refused, no destination is to blame.
        self.try_rebuild(kernel, &mut good)?;
        let mut refused = Vec::new();
        self.sift(kernel, changes, &mut good, &mut refused)?;
        self.commit_batch(kernel, good, true, false, outcome)?;
        outcome.rejected.extend(refused);
        Ok(())
    }

    /// Adds those changes to `good` that the kernel takes beside them in a new table.
    fn sift(
        &self,
        kernel: &mut impl Kernel,
        mut candidates: Vec<Change>,
        good: &mut Vec<Change>,
        refused: &mut Vec<Rejected>,
    ) -> Result<(), NftError> {
        let before = good.len();
        good.append(&mut candidates);
        let Err(error) = self.try_rebuild(kernel, good) else { return Ok(()) };
        let NftError::Rejected(reasons) = error else { return Err(error) };
        let mut candidates = good.split_off(before);
        if let [culprit] = &candidates[..] {
            refused.push(Rejected { what: culprit.part, reason: reasons.join("; ") });
            return Ok(());
        }
        let later = candidates.split_off(candidates.len() / 2);
        self.sift(kernel, candidates, good, refused)?;
        self.sift(kernel, later, good, refused)
    }

    fn try_rebuild(&self, kernel: &mut impl Kernel, changes: &mut [Change]) -> Result<(), NftError> {
        let batch = self.batch(changes, true);
        let result = kernel.would_take(&self.layout, &batch);
        give_back(changes, &batch.elements);
        result
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
        if let Part::Dest(dest) = change.part {
            self.wanted.destinations.remove(&dest);
            match change.becomes {
                Some(destination) => self.destinations.insert(dest, destination),
                None => self.destinations.remove(&dest),
            };
        }
        for (element, present) in change.elements {
            self.wanted.elements.remove(&element);
            if present {
                self.elements.insert(element);
            } else {
                self.elements.remove(&element);
            }
        }
    }

    /// What is still wanted now is what the kernel refused, or what needed no change.
    fn keep_rejected_wanted(&mut self) {
        let elements = &self.elements;
        self.wanted.elements.retain(|element, present| elements.contains(element) != *present);
    }
}
