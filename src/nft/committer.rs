//! The owner of what the kernel holds.
//!
//! It keeps what was last committed, works out the elements that differ from what is wanted, and commits them, each family on its
//! own ([`super::table`]). A family whose commit failed is left alone until [`Committer::retry`], so that it costs the other one nothing.

use super::change::{Part, family_of};
use super::kernel::{Kernel, NftError};
use super::layout::Layout;
use super::table::Table;
use crate::model::Family;
use crate::proxy::{Delta, Dest, Destination};
use std::time::Duration;

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
    /// How many more were set aside together, because the kernel refuses too many to look for each of them at once. They are tried again, too.
    pub unsifted: usize,
    /// What is set aside after this commit, however long ago it was refused.
    pub refused: usize,
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
            unsifted: 0,
            refused: 0,
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

impl<K: Kernel> Committer<K> {
    /// One table for each layout; what is wanted in a family without one is left out. Nothing is read or written before the first
    /// [`Committer::commit`].
    pub fn new(kernel: K, layouts: impl IntoIterator<Item = Layout>) -> Committer<K> {
        Committer { kernel, families: layouts.into_iter().map(Table::new).collect() }
    }

    /// Makes the kernel hold what `delta` wants, besides what earlier deltas wanted. The first call must carry the whole plan: whatever
    /// else our tables hold is removed. What a family wants whose last commit failed waits for [`Committer::retry`].
    pub fn commit(&mut self, delta: Delta) -> Committed {
        self.gather(delta);
        let kernel = &mut self.kernel;
        Committed { families: self.families.iter_mut().filter_map(|table| table.commit(kernel)).collect() }
    }

    /// Has the next commit try these families again whose last commit failed.
    pub fn retry(&mut self, families: &[Family]) {
        let again = self.families.iter_mut().filter(|table| families.contains(&table.layout.family));
        again.for_each(|table| table.failed = false);
    }

    /// Counts one round for what the kernel refused; the next commit tries again what has sat out its rounds: one after the first time, and twice as
    /// many after each further time.
    pub fn another_round(&mut self) {
        self.families.iter_mut().for_each(|table| table.refused.another_round());
    }

    /// Whether something is set aside that the kernel refused.
    pub fn has_refused(&self) -> bool {
        self.families.iter().any(|table| table.refused.len() > 0)
    }

    /// Whether something is wanted that is not in place, because the kernel refused it or could not be reached.
    pub fn is_behind(&self) -> bool {
        self.families.iter().any(|table| !table.in_step || !table.wanted.is_empty())
    }

    /// Whether the next commit begins with a look at a whole table.
    pub fn is_to_compare(&self) -> bool {
        self.families.iter().any(|table| !table.in_step && !table.failed)
    }

    /// What is committed for a destination.
    pub fn held(&self, dest: &Dest) -> Held {
        let table = self.families.iter().find(|table| table.layout.family == dest.family());
        table.map_or(Held::default(), |table| table.held(dest))
    }

    /// Compares the kernel's tables with what they should hold at the next commit.
    pub fn distrust(&mut self) {
        self.families.iter_mut().for_each(|table| table.in_step = false);
    }

    /// Gives a family's table another layout: at the next commit it is made anew, in one batch with all that it holds.
    pub fn set_layout(&mut self, layout: Layout) {
        if let Some(table) = self.table(layout.family) {
            table.set_layout(layout);
        }
    }

    /// The kernel.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    fn gather(&mut self, delta: Delta) {
        for (dest, destination) in delta.destinations {
            if let Some(table) = self.table(dest.family()) {
                table.want(dest, destination);
            }
        }
        for (element, present) in delta.elements {
            if let Some(table) = self.table(family_of(&element)) {
                table.want_element(element, present);
            }
        }
    }

    fn table(&mut self, family: Family) -> Option<&mut Table> {
        self.families.iter_mut().find(|table| table.layout.family == family)
    }
}
