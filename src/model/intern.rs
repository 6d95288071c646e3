//! One allocation for each distinct string.

use super::Name;
use std::collections::HashSet;

/// Hands out one shared [`Name`] for each distinct string and forgets those that nobody else holds.
#[derive(Debug, Default)]
pub struct Interner {
    names: HashSet<Name>,
    sweep_at: usize,
}

impl Interner {
    /// The shared name for `text`.
    pub fn intern(&mut self, text: &str) -> Name {
        if let Some(name) = self.names.get(text) {
            return name.clone();
        }
        if self.names.len() >= self.sweep_at.max(1024) {
            self.names.retain(|name| Name::strong_count(name).is_some_and(|count| count > 1));
            self.sweep_at = self.names.len() * 2;
        }
        let name: Name = text.into();
        self.names.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_one_allocation() {
        let mut interner = Interner::default();
        let (first, second) = (interner.intern("web"), interner.intern("web"));
        assert!(Name::ptr_eq(&first, &second));
    }

    #[test]
    fn names_that_nobody_holds_are_forgotten() {
        let mut interner = Interner::default();
        let kept = interner.intern("kept");
        for number in 0..5000 {
            interner.intern(&format!("pod-{number}"));
        }
        assert!(interner.names.len() < 2100, "{} names are still held", interner.names.len());
        assert!(Name::ptr_eq(&kept, &interner.intern("kept")));
    }
}
