//! Clusters of any kind, their histories and questions about them: both paths say the same, and what has been there before leaves nothing behind.

use super::datagrams::judge;
use super::{Check, number};
use crate::battery::{cluster_ip, endpoint, headless, slice};
use crate::both::Both;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use waypost::dns::answer::{self, Answer, Data, Question, Verdict};
use waypost::dns::name::DomainName;
use waypost::dns::records::Records;
use waypost::dns::shape::{PodNames, Shape};
use waypost::model::{Endpoint, Name, ObjectKey, Protocol, Service, ServiceKind, ServicePort, Slice, SlicePort};
use waypost::store::PodMove;

const ZONE: &str = "cluster.local";
/// Names of objects, and labels of questions. The first ones are those of which most is made.
const LABELS: [&str; 27] = [
    "web",
    "default",
    "db",
    "data",
    "_tcp",
    "_http",
    "svc",
    "10-0-0-1",
    "web-0",
    "pod",
    "_udp",
    "http",
    "_",
    "tcp",
    "a",
    "fd00--1",
    "10-0-0-2",
    "2001-db8--0",
    "--1",
    "ns",
    "dns",
    "dns-version",
    "DB-0",
    "\u{e9}",
    "w.e.b",
    "",
    "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghijk",
];
const ADDRESSES: [&str; 9] =
    ["10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.3", "2001:db8::", "::1", "::ffff:10.0.0.1", "fd00::2", "255.255.255.255"];
const PORTS: [&str; 6] = ["http", "", "tcp", "HTTP", "_http", "web"];
const TYPES: [u16; 12] = [1, 28, 33, 12, 5, 6, 2, 16, 255, 65, 64, 0];

/// See the module.
pub struct Clusters {
    listed: Both,
    unlisted: Both,
}

impl Check for Clusters {
    const NAME: &str = "clusters";
    const LONGEST: usize = 1024;
    const CHANGES: usize = 2_000;

    fn seeds() -> Vec<Vec<u8>> {
        // Numbers that lead everywhere: what they mean is found out by whoever changes them.
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (1..=12).map(|length| (0..length * 24).map(|_| next() % 32).collect()).collect()
    }

    fn new() -> Clusters {
        let listed = Records::new(ZONE, 30);
        listed.set_synced();
        listed.set_pods_listed();
        Clusters { listed: Both::over(listed), unlisted: Both::over(Records::new(ZONE, 30)) }
    }

    fn check(&mut self, input: &[u8]) -> u64 {
        let mut bytes = Bytes(input);
        let is_listed = bytes.next() % 8 != 7;
        let both = if is_listed { &mut self.listed } else { &mut self.unlisted };
        both.show(shape(&mut bytes));
        let mut cluster = Cluster::default();
        let mut did = Vec::new();
        while !bytes.0.is_empty() {
            match bytes.next() % 8 {
                0 => cluster.namespace(both.records(), &mut bytes),
                1 | 2 => cluster.service(both.records(), &mut bytes),
                3 | 4 => cluster.slice(both.records(), &mut bytes),
                5 if bytes.next().is_multiple_of(2) => cluster.pod(both.records(), &mut bytes),
                5 => cluster.remove(both.records(), &mut bytes),
                _ => did.extend(ask(both, &cluster, is_listed, &mut bytes)),
            }
        }
        cluster.clear(both.records());
        assert_eq!(both.records().service_count(), 0, "something is left behind");
        number(did)
    }
}

/// Bytes as choices; zeros where there are no more.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn of<T: Copy>(&mut self, among: &[T]) -> T {
        among[usize::from(self.next()) % among.len()]
    }
}

fn shape(bytes: &mut Bytes<'_>) -> Shape {
    let switches = bytes.next();
    let mut shape = Shape::new(DomainName::parse(ZONE).unwrap(), 30);
    shape.pods = match switches & 65 {
        1 => PodNames::Disabled,
        64 => PodNames::Verified,
        _ => PodNames::Insecure,
    };
    shape.endpoints = switches & 2 == 0;
    shape.empty_services = switches & 4 == 0;
    if switches & 8 != 0 {
        shape.falls_through.push(DomainName::parse(ZONE).unwrap());
    }
    if switches & 16 != 0 {
        shape.namespaces = BTreeSet::from([b"default".as_slice().into()]);
    }
    if switches & 32 != 0 {
        shape.reverse.clear();
    }
    shape
}

/// What there is at present.
#[derive(Default)]
struct Cluster {
    objects: BTreeMap<ObjectKey, (Option<Service>, Vec<Slice>)>,
    namespaces: BTreeSet<Name>,
    /// How many pods have each address.
    pods: BTreeMap<(Name, IpAddr), u32>,
}

impl Cluster {
    fn namespace(&mut self, records: &Records, bytes: &mut Bytes<'_>) {
        let name: Name = bytes.of(&LABELS).into();
        let exists = bytes.next() % 4 != 3;
        records.set_namespace(&name, exists, None);
        if exists {
            self.namespaces.insert(name)
        } else {
            self.namespaces.remove(&name)
        };
    }

    fn service(&mut self, records: &Records, bytes: &mut Bytes<'_>) {
        let key = key(bytes);
        let mut service = match bytes.next() % 4 {
            0 => headless("x/x"),
            1 => {
                let labels: Vec<&str> = (0..bytes.next() % 6).map(|_| bytes.of(&LABELS)).collect();
                let end = bytes.of(&[".cluster.local", "", ".svc.cluster.local.", ".example.com", "."]);
                Service { kind: ServiceKind::ExternalName((labels.join(".") + end).into()), ..headless("x/x") }
            }
            _ => cluster_ip("x/x", &[], &[]),
        };
        if service.kind == ServiceKind::ClusterIp {
            service.cluster_ips = (0..bytes.next() % 3).map(|_| bytes.of(&ADDRESSES).parse().unwrap()).collect();
        }
        service.key = key.clone();
        service.ports = (0..bytes.next() % 4)
            .map(|_| ServicePort {
                name: bytes.of(&PORTS).into(),
                protocol: bytes.of(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
                port: u16::from(bytes.next()),
                node_port: 0,
            })
            .collect();
        self.objects.entry(key.clone()).or_default().0 = Some(service);
        self.publish(records, &key);
    }

    fn slice(&mut self, records: &Records, bytes: &mut Bytes<'_>) {
        let key = key(bytes);
        let ports: Vec<SlicePort> = (0..bytes.next() % 3)
            .map(|_| SlicePort {
                name: bytes.of(&PORTS).into(),
                protocol: bytes.of(&[Protocol::Tcp, Protocol::Udp]),
                port: u16::from(bytes.next()),
            })
            .collect();
        let how_many = bytes.next();
        // A crowd now and then, so that answers have to be cut.
        let crowd = if how_many >= 240 { 90 } else { 0 };
        let few = (0..how_many % 5).map(|_| Endpoint {
            ready: bytes.next() % 8 != 7,
            hostname: Some(bytes.of(&LABELS)).filter(|_| bytes.next() % 2 == 1).map(Into::into),
            ..endpoint(bytes.of(&ADDRESSES))
        });
        let endpoints: Vec<Endpoint> = few.chain((0..crowd).map(|last| endpoint(&format!("10.9.0.{last}")))).collect();
        let mut one = slice("x/x", &[], endpoints);
        (one.service, one.ports) = (key.clone(), ports.into());
        self.objects.entry(key.clone()).or_default().1.push(one);
        self.publish(records, &key);
    }

    fn pod(&mut self, records: &Records, bytes: &mut Bytes<'_>) {
        let place = (Name::from(bytes.of(&LABELS)), bytes.of(&ADDRESSES).parse().unwrap());
        let count = self.pods.entry(place.clone()).or_default();
        let is_there = *count == 0 || bytes.next().is_multiple_of(2);
        *count = if is_there { *count + 1 } else { *count - 1 };
        records.move_pod(&PodMove { namespace: place.0, address: place.1, labels: None, is_there });
    }

    fn remove(&mut self, records: &Records, bytes: &mut Bytes<'_>) {
        let key = key(bytes);
        let object = self.objects.entry(key.clone()).or_default();
        match bytes.next() % 3 {
            0 => object.0 = None,
            1 => object.1.clear(),
            _ => *object = (None, Vec::new()),
        }
        self.publish(records, &key);
    }

    fn publish(&self, records: &Records, key: &ObjectKey) {
        let (service, slices) = &self.objects[key];
        records.publish(key, service.as_ref(), &slices.iter().collect::<Vec<_>>());
    }

    /// The same, known for the first time.
    fn anew(&self, is_listed: bool) -> Records {
        let records = Records::new(ZONE, 30);
        self.objects.keys().for_each(|key| self.publish(&records, key));
        self.namespaces.iter().for_each(|name| records.set_namespace(name, true, None));
        for ((namespace, address), count) in &self.pods {
            let pod = PodMove { namespace: namespace.clone(), address: *address, labels: None, is_there: true };
            (0..*count).for_each(|_| records.move_pod(&pod));
        }
        if is_listed {
            records.set_synced();
            records.set_pods_listed();
        }
        records
    }

    fn clear(self, records: &Records) {
        self.objects.keys().for_each(|key| records.publish(key, None, &[]));
        self.namespaces.iter().for_each(|name| records.set_namespace(name, false, None));
        for ((namespace, address), count) in self.pods {
            let pod = PodMove { namespace, address, labels: None, is_there: false };
            (0..count).for_each(|_| records.move_pod(&pod));
        }
    }
}

fn key(bytes: &mut Bytes<'_>) -> ObjectKey {
    ObjectKey::new(bytes.of(&LABELS), bytes.of(&LABELS))
}

/// Asks one question. Says what came of it, if it is one.
fn ask(both: &Both, cluster: &Cluster, is_listed: bool, bytes: &mut Bytes<'_>) -> Option<(bool, Vec<u8>)> {
    let mut labels: Vec<Vec<u8>> = (0..bytes.next() % 8).map(|_| bytes.of(&LABELS).into()).collect();
    let end = bytes.next() % 16;
    match end {
        0 => {
            let reverse = ["1.0.0.10.in-addr.arpa", "2.0.0.10.in-addr.arpa", "01.0.0.10.in-addr.arpa", "10.in-addr.arpa"];
            labels = bytes.of(&reverse).split('.').map(Into::into).collect();
        }
        1 => labels.push(b"example".to_vec()),
        _ => labels.extend([b"cluster".to_vec(), b"local".to_vec()]),
    }
    if end & 8 != 0 {
        labels.iter_mut().for_each(|label| label.make_ascii_uppercase());
    }
    let name = DomainName::from_labels(labels.iter().map(Vec::as_slice))?;
    let rtype = bytes.of(&TYPES);
    let edns = bytes.next();
    let mut datagram = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    datagram.extend_from_slice(name.as_wire());
    datagram.extend_from_slice(&rtype.to_be_bytes());
    datagram.extend_from_slice(&[0, 1]);
    if edns % 2 == 1 {
        datagram[11] = 1;
        datagram.extend_from_slice(&[0, 0, 41, edns / 32, 200, 0, 0, (edns & 2) << 6, 0, 0, 0]);
    }
    let is_fast = both.agree_on(&datagram);
    let reply = both.slow(&datagram).expect("a question is answered");
    judge(&datagram, &reply);
    let lower = name.to_lower();
    let question = Question { name: lower.as_wire(), rtype };
    let said = |records: &Records| without_serial(answer::answer_as(records, both.shape(), question, None));
    assert_eq!(said(both.records()), said(&cluster.anew(is_listed)), "after its history and known at once, {name} {rtype}");
    Some((is_fast, reply[2..12].to_vec()))
}

/// The time of the last change is another one each time.
fn without_serial(verdict: Verdict) -> Verdict {
    let Verdict::Answer(mut answer) = verdict else { return verdict };
    let Answer { answers, authority, additional, .. } = &mut answer;
    for record in answers.iter_mut().chain(authority).chain(additional) {
        if let Data::Soa { serial, .. } = &mut record.data {
            *serial = 0;
        }
    }
    Verdict::Answer(answer)
}
