//! Clusters of any kind, their histories and questions about them: both paths say the same, and what has been there before leaves nothing behind.

use super::datagrams::judge;
use super::{Check, number};
use crate::battery::{cluster_ip, endpoint, headless, slice};
use crate::both::Both;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use waypost::dns::answer::{self, Answer, Data, Question, Verdict};
use waypost::dns::name::DomainName;
use waypost::dns::records::Records;
use waypost::dns::shape::{PodNames, Shape};
use waypost::model::{
    Details, Endpoint, Import, ImportedSlice, LabelNames, Marks, Name, ObjectKey, Protocol, Requirement, Selector, Service,
    ServiceKind, ServicePort, Slice, SliceDetails, SlicePort,
};
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
/// Names of zones of nodes, of which some are several labels.
const ZONES: [&str; 4] = ["a", "West", "a.west", "w.e.b"];
/// Those of clusters that services are imported from.
const CLUSTERS: [&str; 4] = ["east", "A", "", "10-0-0-1"];

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
        let mut seed = |length: usize| (0..length * 24).map(|place| if place == 0 { next() } else { next() % 32 }).collect();
        (1..=32).map(|number| seed(1 + number % 12)).collect()
    }

    fn new() -> Clusters {
        let listed = Records::new(ZONE, 30);
        listed.set_synced();
        listed.set_pods_listed(true);
        listed.set_imports_listed(true);
        Clusters { listed: Both::over(listed), unlisted: Both::over(Records::new(ZONE, 30)) }
    }

    fn check(&mut self, input: &[u8]) -> u64 {
        let mut bytes = Bytes(input);
        let first = bytes.next();
        let is_listed = first % 8 != 7;
        let both = if is_listed { &mut self.listed } else { &mut self.unlisted };
        let shape = shape(first / 8, &mut bytes);
        let (details, is_multicluster) = (details_for(&shape), !shape.multicluster.is_empty());
        let mut cluster = Cluster { details, is_multicluster, ..Cluster::default() };
        both.show(shape);
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

/// `details` are switches of what needs to know more of the objects than names and addresses.
fn shape(details: u8, bytes: &mut Bytes<'_>) -> Shape {
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
    if details & 1 != 0 {
        shape.labels = Some(selector(bytes));
    }
    if details & 2 != 0 {
        shape.namespace_labels = Some(selector(bytes));
    }
    shape.pod_names = details & 4 != 0;
    shape.zonal = details & 8 != 0;
    if details & 16 != 0 {
        shape.multicluster = shape.zones.clone();
    }
    shape
}

fn details_for(shape: &Shape) -> Details {
    Details {
        labels: shape.labels.as_ref().map(LabelNames::of).unwrap_or_default(),
        namespace_labels: shape.namespace_labels.as_ref().map(LabelNames::of).unwrap_or_default(),
        pod_names: shape.pod_names,
        zones: shape.zonal,
    }
}

fn selector(bytes: &mut Bytes<'_>) -> Selector {
    let key = || "app".into();
    let requirement = match bytes.next() % 8 {
        0 => return Selector::default(),
        1 => Requirement::Exists(key()),
        2 => Requirement::Absent(key()),
        3 | 4 => Requirement::In(key(), ["web".into()].into()),
        5 | 6 => Requirement::NotIn(key(), ["web".into(), "db".into()].into()),
        _ => Requirement::Never,
    };
    Selector([requirement].into())
}

/// Labels of an object as far as they are wanted; of some they are not known yet.
fn labels(wanted: &LabelNames, bytes: &mut Bytes<'_>) -> Option<Arc<Marks>> {
    let known = |labels: &[(&str, &str)]| Marks::read(wanted, labels.iter().copied());
    if *wanted == LabelNames::None {
        return None;
    }
    match bytes.next() % 8 {
        0..4 => known(&[("app", "web")]),
        4 => known(&[("app", "db"), ("tier", "web")]),
        5 | 6 => known(&[]),
        _ => None,
    }
}

/// What there is at present.
#[derive(Default)]
struct Cluster {
    /// What is known of objects, as the shape needs it.
    details: Details,
    is_multicluster: bool,
    objects: BTreeMap<ObjectKey, (Option<Service>, Vec<Slice>)>,
    /// Services of other clusters.
    imports: BTreeMap<ObjectKey, (Option<Import>, Vec<ImportedSlice>)>,
    namespaces: BTreeMap<Name, Option<Arc<Marks>>>,
    /// How many pods of a namespace with the same labels have each address.
    pods: BTreeMap<(Name, IpAddr, Option<Arc<Marks>>), u32>,
}

impl Cluster {
    fn namespace(&mut self, records: &Records, bytes: &mut Bytes<'_>) {
        let name: Name = bytes.of(&LABELS).into();
        let exists = bytes.next() % 4 != 3;
        let labels = labels(&self.details.namespace_labels, bytes);
        records.set_namespace(&name, exists, labels.as_ref());
        if exists {
            self.namespaces.insert(name, labels);
        } else {
            self.namespaces.remove(&name);
        }
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
        service.labels = labels(&self.details.labels, bytes);
        if self.is_multicluster && bytes.next() % 4 != 3 {
            let ports = service.ports.iter().map(|port| (port.name.clone(), port.protocol, port.port)).collect();
            let headless = service.kind == ServiceKind::Headless;
            let import = Import { key: key.clone(), headless, addresses: service.cluster_ips.into(), ports };
            self.imports.entry(key.clone()).or_default().0 = Some(import);
        } else {
            self.objects.entry(key.clone()).or_default().0 = Some(service);
        }
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
        let mut named = |wanted: bool, among: &[&str]| {
            wanted.then(|| {
                one.endpoints.iter().map(|_| Some(bytes.of(among)).filter(|name| *name != "db").map(Name::from)).collect()
            })
        };
        let (pods, zones) = (named(self.details.pod_names, &LABELS), named(self.details.zones, &ZONES));
        let labels = labels(&self.details.labels, bytes);
        if self.details != Details::default() {
            one.details = Some(Arc::new(SliceDetails { labels, pods, zones }));
        }
        if self.is_multicluster && bytes.next() % 4 != 3 {
            let cluster = bytes.of(&CLUSTERS).into();
            self.imports.entry(key.clone()).or_default().1.push(ImportedSlice { slice: one, cluster });
        } else {
            self.objects.entry(key.clone()).or_default().1.push(one);
        }
        self.publish(records, &key);
    }

    fn pod(&mut self, records: &Records, bytes: &mut Bytes<'_>) {
        let (namespace, address) = (Name::from(bytes.of(&LABELS)), bytes.of(&ADDRESSES).parse().unwrap());
        let place = (namespace, address, labels(&self.details.labels, bytes));
        let count = self.pods.entry(place.clone()).or_default();
        let is_there = *count == 0 || bytes.next().is_multiple_of(2);
        *count = if is_there { *count + 1 } else { *count - 1 };
        records.move_pod(&moved(&place, is_there));
    }

    fn remove(&mut self, records: &Records, bytes: &mut Bytes<'_>) {
        let key = key(bytes);
        let (object, import) = (self.objects.entry(key.clone()).or_default(), self.imports.entry(key.clone()).or_default());
        match bytes.next() % 3 {
            0 => (object.0, import.0) = (None, None),
            1 => {
                object.1.clear();
                import.1.clear();
            }
            _ => (*object, *import) = Default::default(),
        }
        self.publish(records, &key);
    }

    fn publish(&self, records: &Records, key: &ObjectKey) {
        if let Some((service, slices)) = self.objects.get(key) {
            records.publish(key, service.as_ref(), &slices.iter().collect::<Vec<_>>());
        }
        if let Some((import, slices)) = self.imports.get(key) {
            records.publish_import(key, import.as_ref(), &slices.iter().collect::<Vec<_>>());
        }
    }

    /// The same, known for the first time.
    fn anew(&self, is_listed: bool) -> Records {
        let records = Records::new(ZONE, 30);
        self.objects.keys().chain(self.imports.keys()).for_each(|key| self.publish(&records, key));
        self.namespaces.iter().for_each(|(name, labels)| records.set_namespace(name, true, labels.as_ref()));
        for (place, count) in &self.pods {
            (0..*count).for_each(|_| records.move_pod(&moved(place, true)));
        }
        if is_listed {
            records.set_synced();
            records.set_pods_listed(true);
            records.set_imports_listed(true);
        }
        records
    }

    fn clear(self, records: &Records) {
        self.objects.keys().for_each(|key| records.publish(key, None, &[]));
        self.imports.keys().for_each(|key| records.publish_import(key, None, &[]));
        self.namespaces.keys().for_each(|name| records.set_namespace(name, false, None));
        for (place, count) in self.pods {
            (0..count).for_each(|_| records.move_pod(&moved(&place, false)));
        }
    }
}

fn moved((namespace, address, labels): &(Name, IpAddr, Option<Arc<Marks>>), is_there: bool) -> PodMove {
    PodMove { namespace: namespace.clone(), address: *address, labels: labels.clone(), is_there }
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
    let zone = |name: &str, directive: &[u8]| -> Vec<Vec<u8>> {
        name.split('.').map(Into::into).chain([directive.to_vec(), b"_zone".to_vec()]).collect()
    };
    if both.shape().zonal && bytes.next().is_multiple_of(2) {
        // What stands before a service and its namespace.
        let before = zone(bytes.of(&ZONES), bytes.of(&[b"pin".as_slice(), b"prefer", b"_"]));
        labels.splice(0..labels.len().saturating_sub(5), before);
    }
    if cluster.is_multicluster && bytes.next().is_multiple_of(2) {
        // The cluster of an endpoint, which stands before the same.
        labels.insert(labels.len().saturating_sub(5), bytes.of(&CLUSTERS).into());
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
