//! Our own annotations: the one place that says which there are and what their values mean.
//!
//! A bad value is no reason to give up the object: its default applies, and the complaint is told of the object.

use super::Complaint;
use crate::model::{Balance, ServiceOptions};
use crate::source::objects::ANNOTATION_PREFIX;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// What the annotations of a Service ask for, and what is wrong with them.
pub fn of_service(metadata: &ObjectMeta) -> (ServiceOptions, Vec<Complaint>) {
    let mut given = Given::of(metadata);
    let options =
        ServiceOptions { balance: given.take("balance", "random, round-robin or source-hash", balance).unwrap_or_default() };
    (options, given.complaints())
}

fn balance(text: &str) -> Option<Balance> {
    match text {
        "random" => Some(Balance::Random),
        "round-robin" => Some(Balance::RoundRobin),
        "source-hash" => Some(Balance::SourceHash),
        _ => None,
    }
}

/// The annotations of an object that are ours and not yet read.
struct Given<'a> {
    /// By the name behind the prefix.
    unread: BTreeMap<&'a str, &'a str>,
    complaints: Vec<Complaint>,
}

impl<'a> Given<'a> {
    fn of(metadata: &'a ObjectMeta) -> Given<'a> {
        let all = metadata.annotations.iter().flatten();
        let ours = all.filter_map(|(name, value)| Some((name.strip_prefix(ANNOTATION_PREFIX)?, value.trim())));
        Given { unread: ours.collect(), complaints: Vec::new() }
    }

    /// Reads one annotation: `None` when it is absent or bad. `expected` completes "it must be".
    fn take<T>(&mut self, name: &'static str, expected: &'static str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.unread.remove(name)?;
        let value = read(text);
        if value.is_none() {
            self.complaints.push(complaint(name, text, expected));
        }
        value
    }

    /// What was wrong, a name that nobody has read included: it is misspelt, or belongs to another kind of object.
    fn complaints(mut self) -> Vec<Complaint> {
        let unknown = self.unread.into_iter();
        self.complaints.extend(unknown.map(|(name, text)| complaint(name, text, "absent: there is no such annotation here")));
        self.complaints
    }
}

fn complaint(name: &str, text: &str, expected: &'static str) -> Complaint {
    // An empty value is a value, and no missing field.
    let value = if text.is_empty() { "(empty)" } else { text };
    Complaint::new(format!("annotation {ANNOTATION_PREFIX}{name}"), value, expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> (ServiceOptions, Vec<String>) {
        let annotations = annotations.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let metadata = ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() };
        let (options, complaints) = of_service(&metadata);
        (options, complaints.iter().map(Complaint::to_string).collect())
    }

    #[test]
    fn how_connections_are_spread_is_asked_for_by_name() {
        for (value, balance) in
            [("random", Balance::Random), ("round-robin", Balance::RoundRobin), (" source-hash\n", Balance::SourceHash)]
        {
            assert_eq!(read(&[("waypost.dev/balance", value)]), (ServiceOptions { balance }, vec![]));
        }
        assert_eq!(read(&[]), (ServiceOptions::default(), vec![]));
    }

    #[test]
    fn a_bad_value_gets_the_default_and_a_complaint_that_names_what_is_allowed() {
        for value in ["fastest", ""] {
            let (options, complaints) = read(&[("waypost.dev/balance", value)]);
            assert_eq!(options, ServiceOptions::default());
            assert!(complaints[0].contains("waypost.dev/balance") && complaints[0].contains("round-robin"), "{complaints:?}");
        }
    }

    #[test]
    fn a_misspelt_name_is_complained_about_and_others_annotations_are_not() {
        let (options, complaints) = read(&[("waypost.dev/ballance", "round-robin"), ("example.org/balance", "x")]);
        assert_eq!(options, ServiceOptions::default());
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("waypost.dev/ballance"), "{complaints:?}");
    }
}
