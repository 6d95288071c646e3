//! What is read of the labels of objects that names are made of.

use super::{Labels, Selector};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Which labels are read. The others of an object are never kept: there may be many, and long ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LabelNames {
    /// None.
    #[default]
    None,
    /// Those of these names.
    These(Arc<BTreeSet<Box<str>>>),
    /// All, whatever they are called.
    All,
}

/// What was read of the labels of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Marks {
    /// Those that would be in `labels` if the object had them.
    read: LabelNames,
    labels: Labels,
}

impl LabelNames {
    /// Those that a selector looks at.
    pub fn of(selector: &Selector) -> LabelNames {
        LabelNames::These(Arc::new(selector.names().map(Into::into).collect()))
    }

    /// Whether the label of this name is among them.
    pub fn has(&self, name: &str) -> bool {
        match self {
            LabelNames::None => false,
            LabelNames::These(names) => names.contains(name),
            LabelNames::All => true,
        }
    }

    /// Whether all of the other ones are among these.
    pub fn have(&self, others: &LabelNames) -> bool {
        match (self, others) {
            (_, LabelNames::None) | (LabelNames::All, _) => true,
            (LabelNames::These(these), LabelNames::These(others)) => others.is_subset(these),
            (LabelNames::None | LabelNames::These(_), _) => false,
        }
    }

    /// These and the other ones.
    pub fn and(&self, others: &LabelNames) -> LabelNames {
        match (self, others) {
            (LabelNames::All, _) | (_, LabelNames::All) => LabelNames::All,
            (some, LabelNames::None) | (LabelNames::None, some) => some.clone(),
            (LabelNames::These(these), LabelNames::These(others)) => LabelNames::These(Arc::new(&**these | &**others)),
        }
    }
}

impl Marks {
    /// What is to be read of these labels; nothing where none is.
    pub fn read<'a>(names: &LabelNames, labels: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Arc<Marks>> {
        let labels = labels.filter(|(name, _)| names.has(name)).map(|(name, value)| (name.into(), value.into()));
        (*names != LabelNames::None).then(|| Arc::new(Marks { read: names.clone(), labels: labels.collect() }))
    }
}

impl FromIterator<(Box<str>, Box<str>)> for Marks {
    /// Of an object that has these and no others.
    fn from_iter<I: IntoIterator<Item = (Box<str>, Box<str>)>>(labels: I) -> Marks {
        Marks { read: LabelNames::All, labels: labels.into_iter().collect() }
    }
}

impl Selector {
    /// Whether an object is selected; `None` when what decides it was not read.
    pub fn judges(&self, marks: &Marks) -> Option<bool> {
        self.names().all(|name| marks.read.has(name)).then(|| self.selects(&marks.labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::selector;

    #[test]
    fn of_many_labels_those_are_kept_that_are_looked_at_and_nothing_is_said_of_others() {
        let labels = [("app", "web"), ("version", "a-long-one"), ("tier", "front")];
        let read = |text: &str| Marks::read(&LabelNames::of(&selector(text).unwrap()), labels.into_iter()).unwrap();
        let marks = read("app=web, !retired");
        assert_eq!(marks.labels.len(), 1);
        let judged = |text: &str| selector(text).unwrap().judges(&marks);
        assert_eq!((judged("app=web"), judged("app=other"), judged("app, !retired")), (Some(true), Some(false), Some(true)));
        assert_eq!((judged("tier=front"), judged("app=web, tier"), judged("!version")), (None, None, None));
        assert_eq!(
            selector("tier=front")
                .unwrap()
                .judges(&labels.map(|(name, value)| (name.into(), value.into())).into_iter().collect()),
            Some(true)
        );
        assert_eq!(Marks::read(&LabelNames::None, labels.into_iter()), None);
    }

    #[test]
    fn names_of_labels_are_joined_and_compared() {
        let of = |text: &str| LabelNames::of(&selector(text).unwrap());
        let (one, both) = (of("app"), of("app").and(&of("tier in (a, b)")));
        assert!(both.have(&one) && !one.have(&both) && LabelNames::All.have(&both) && !both.have(&LabelNames::All));
        assert!(one.have(&LabelNames::None) && !LabelNames::None.have(&one));
        assert_eq!(
            (one.and(&LabelNames::None), LabelNames::None.and(&one), one.and(&LabelNames::All)),
            (one.clone(), one, LabelNames::All)
        );
    }
}
