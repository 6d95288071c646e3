//! Our own annotations: the one place that says which there are and what their values mean.
//!
//! A bad value is no reason to give up the object: its default applies, and the complaint is told of the object. Only where the default would open
//! what somebody meant to close, the value counts as the one that closes most.

use super::{Complaint, address, network};
use crate::model::{Balance, Selector, ServiceOptions, selector};
use crate::source::objects::ANNOTATION_PREFIX;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// What the annotations of a Service ask for, and what is wrong with them.
pub fn of_service(metadata: &ObjectMeta) -> (ServiceOptions, Vec<Complaint>) {
    let mut given = Given::of(metadata);
    let options = ServiceOptions {
        balance: given.take("balance", "random, round-robin or source-hash", balance).unwrap_or_default(),
        allowed_sources: given.allowed_sources(),
        denied_sources: given.denied_sources(),
        slow_start: given.take("slow-start", "a number of seconds from 1 to 3600", |text| number(text, 1..=3600)),
        exposed_on: given.exposed_on(),
    };
    (options, given.complaints())
}

/// What each endpoint of an EndpointSlice weighs, and what is wrong with its annotations.
pub fn of_slice(metadata: &ObjectMeta) -> (u8, Vec<Complaint>) {
    let mut given = Given::of(metadata);
    let weight = given.take("weight", "a whole number from 1 to 100", |text| number(text, 1..=100));
    (weight.and_then(|weight| u8::try_from(weight).ok()).unwrap_or(1), given.complaints())
}

fn number(text: &str, allowed: RangeInclusive<u32>) -> Option<u32> {
    text.parse().ok().filter(|number| allowed.contains(number))
}

const NETWORKS: &str = "networks or addresses such as 10.244.0.0/16, separated by commas";

/// The networks of a list, and what is none in it. A single address is a network of its own.
fn networks(text: &str) -> (Box<[IpNet]>, Vec<&str>) {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let read = |part: &str| network(String::new, part).or_else(|_| address(String::new, part).map(IpNet::from));
    let (networks, unread): (Vec<_>, Vec<_>) = parts.map(|part| (read(part), part)).partition(|(network, _)| network.is_ok());
    (networks.into_iter().filter_map(|(network, _)| network.ok()).collect(), unread.into_iter().map(|(_, part)| part).collect())
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

    /// Networks that cannot be read allow nobody; the others do.
    fn allowed_sources(&mut self) -> Option<Box<[IpNet]>> {
        let (networks, unread) = networks(self.unread.get("allowed-sources")?);
        self.take("allowed-sources", NETWORKS, |_| unread.is_empty().then_some(()));
        if !unread.is_empty() {
            self.meanwhile("what cannot be read of it allows nobody");
        }
        Some(networks)
    }

    /// Who is meant by a network that cannot be read is not known, so it denies everybody.
    fn denied_sources(&mut self) -> Box<[IpNet]> {
        let Some(text) = self.unread.get("denied-sources") else { return Box::default() };
        let (networks, unread) = networks(text);
        self.take("denied-sources", NETWORKS, |_| unread.is_empty().then_some(()));
        if unread.is_empty() {
            return networks;
        }
        self.meanwhile("nobody may connect");
        Box::new([Ipv4Net::default().into(), Ipv6Net::default().into()])
    }

    fn exposed_on(&mut self) -> Option<Selector> {
        self.unread.get("expose-on-nodes")?;
        let read = self.take("expose-on-nodes", "a label selector such as edge=true, zone in (a, b), !retired", selector);
        if read.is_none() {
            self.meanwhile("no node exposes the Service");
        }
        Some(read.unwrap_or_else(Selector::nothing))
    }

    /// What applies instead of the value of the last complaint.
    fn meanwhile(&mut self, meanwhile: &'static str) {
        self.complaints.iter_mut().last().into_iter().for_each(|complaint| complaint.meanwhile = meanwhile);
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
            assert_eq!(
                read(&[("waypost.dev/balance", value)]),
                (ServiceOptions { balance, ..ServiceOptions::default() }, vec![])
            );
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

    #[test]
    fn lists_of_sources_are_networks_and_addresses() {
        let (options, complaints) = read(&[
            ("waypost.dev/allowed-sources", "10.244.0.7/16, 203.0.113.9 ,fd00::/8"),
            ("waypost.dev/denied-sources", "10.1.0.0/16"),
        ]);
        let texts = |networks: &[IpNet]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&options.allowed_sources.unwrap()), ["10.244.0.0/16", "203.0.113.9/32", "fd00::/8"]);
        assert_eq!((texts(&options.denied_sources), complaints), (vec!["10.1.0.0/16".to_string()], vec![]));
    }

    #[test]
    fn what_cannot_be_read_opens_nothing() {
        let (options, complaints) = read(&[("waypost.dev/allowed-sources", "10.244.0.0/16,10.1.0.0/33")]);
        assert_eq!(options.allowed_sources.map(|networks| networks.len()), Some(1));
        assert!(complaints[0].contains("10.1.0.0/33"), "{complaints:?}");
        assert_eq!(read(&[("waypost.dev/allowed-sources", "office")]).0.allowed_sources, Some(Box::default()));
        let (options, complaints) = read(&[("waypost.dev/denied-sources", "10.1.0.0/16,office")]);
        assert_eq!((options.denied_sources.iter().filter(|network| network.prefix_len() == 0).count(), complaints.len()), (2, 1));
        let (options, complaints) = read(&[("waypost.dev/expose-on-nodes", "edge is true")]);
        assert_eq!((options.exposed_on, complaints.len()), (Some(Selector::nothing()), 1));
    }

    #[test]
    fn weights_and_times_have_bounds() {
        let weight = |value: &str| {
            let annotations = Some([("waypost.dev/weight".to_string(), value.to_string())].into());
            let (weight, complaints) = of_slice(&ObjectMeta { annotations, ..ObjectMeta::default() });
            (weight, complaints.len())
        };
        assert_eq!((weight("1"), weight("100")), ((1, 0), (100, 0)));
        assert_eq!((weight("0"), weight("101"), weight("half")), ((1, 1), (1, 1), (1, 1)));
        assert_eq!(read(&[("waypost.dev/slow-start", "30")]).0.slow_start, Some(30));
        assert_eq!(read(&[("waypost.dev/slow-start", "0")]).0.slow_start, None);
        assert_eq!(read(&[("waypost.dev/weight", "7")]).1.len(), 1, "it belongs to EndpointSlices");
    }
}
