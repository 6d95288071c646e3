//! Which nodes are meant: a label selector.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The labels of an object.
pub type Labels = BTreeMap<Box<str>, Box<str>>;

/// A label selector: all of its requirements must be met. One without requirements selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector(pub Box<[Requirement]>);

/// What a label must be like (Kubernetes' equality and set forms).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Requirement {
    /// `key`: it is there.
    Exists(Box<str>),
    /// `!key`: it is not there.
    Absent(Box<str>),
    /// `key = value`, `key in (a, b)`: it has one of these values.
    In(Box<str>, Box<[Box<str>]>),
    /// `key != value`, `key notin (a, b)`: it has none of these values, or is not there.
    NotIn(Box<str>, Box<[Box<str>]>),
    /// Never met: a selector that cannot be read selects nothing.
    Never,
}

impl Selector {
    /// Selects nothing.
    pub fn nothing() -> Selector {
        Selector(Box::new([Requirement::Never]))
    }

    /// The names of the labels that it looks at.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|requirement| match requirement {
            Requirement::Exists(key) | Requirement::Absent(key) | Requirement::In(key, _) | Requirement::NotIn(key, _) => {
                Some(&**key)
            }
            Requirement::Never => None,
        })
    }

    /// Whether an object with these labels is selected.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
            Requirement::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|value| !values.contains(value)),
            Requirement::Never => false,
        })
    }
}
