//! One cluster, one table of questions: asked of the pure answering code, over UDP and over TCP.
//!
//! `questions.txt` holds blocks like this one; sections compare without order, and `SOA` in the authority section stands for
//! the zone's whole SOA record:
//!
//! ```text
//! > web.default.svc.cluster.local A
//! NOERROR
//! answer web.default.svc.cluster.local. 30 A 10.96.0.10
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use waypost::dns::answer::{self, Answer, Code, Data, Owner, Question, Verdict};
use waypost::dns::name::DomainName;
use waypost::dns::records::Records;
use waypost::model::{Endpoint, Family, ObjectKey, Protocol, Service, ServiceKind, ServicePort, Slice, SlicePort};
use waypost::source::{manifests, translate::Translator};
use waypost::store::Store;

/// A question and the lines that are expected in answer.
pub struct Case {
    pub name: String,
    pub rtype: String,
    pub expected: Vec<String>,
}

/// The table. `UPDATE_QUESTIONS=1 cargo test --test dns` writes its answers anew.
pub const QUESTIONS: &str = include_str!("questions.txt");

/// All questions of the table.
pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in QUESTIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("> ") {
            Some(question) => {
                let (name, rtype) = question.split_once(' ').expect("a question is a name and a type");
                cases.push(Case { name: name.into(), rtype: rtype.into(), expected: Vec::new() });
            }
            None => cases.last_mut().expect("the table begins with a question").expected.push(line.into()),
        }
    }
    cases.iter_mut().for_each(|case| case.expected.sort());
    cases
}

/// The number of a record type.
pub fn type_number(rtype: &str) -> u16 {
    match rtype {
        "A" => 1,
        "NS" => 2,
        "CNAME" => 5,
        "SOA" => 6,
        "PTR" => 12,
        "MX" => 15,
        "TXT" => 16,
        "AAAA" => 28,
        "SRV" => 33,
        "HTTPS" => 65,
        "ANY" => 255,
        other => panic!("the table has no number for type {other}"),
    }
}

/// Asks the pure answering code and writes down what it says, as the table does.
pub fn ask(records: &Records, name: &str, rtype: &str) -> Vec<String> {
    let name = DomainName::parse(name).expect("the table's names are names");
    let lower = name.to_lower();
    match answer::answer(records, Question { name: lower.as_wire(), rtype: type_number(rtype) }, 7) {
        Verdict::Elsewhere => vec!["ELSEWHERE".to_string()],
        Verdict::Answer(answer) => lines(&answer, &name),
    }
}

fn lines(answer: &Answer, question: &DomainName) -> Vec<String> {
    let code = match answer.code {
        Code::NoError => "NOERROR",
        Code::NxDomain => "NXDOMAIN",
        Code::ServFail => "SERVFAIL",
    };
    let mut lines = vec![code.to_string()];
    for (section, records) in [("answer", &answer.answers), ("authority", &answer.authority), ("additional", &answer.additional)]
    {
        lines.extend(records.iter().map(|record| line(section, record, question)));
    }
    lines.extend(answer.pursue.iter().map(|target| format!("pursue {target}")));
    lines.sort();
    lines
}

fn line(section: &str, record: &answer::Record, question: &DomainName) -> String {
    let owner = match &record.owner {
        Owner::Question => question,
        Owner::Name(name) => name,
    };
    let data = match &record.data {
        Data::A(address) => format!("A {address}"),
        Data::Aaaa(address) => format!("AAAA {address}"),
        Data::Cname(name) => format!("CNAME {name}"),
        Data::Ns(name) => format!("NS {name}"),
        Data::Ptr(name) => format!("PTR {name}"),
        Data::Srv { priority, weight, port, target } => format!("SRV {priority} {weight} {port} {target}"),
        Data::Txt(text) => format!("TXT \"{text}\""),
        Data::Soa { primary, mailbox, refresh, retry, expire, minimum, .. } => {
            format!("SOA {primary} {mailbox} SERIAL {refresh} {retry} {expire} {minimum}")
        }
    };
    abbreviate(format!("{section} {owner} {} {data}", record.ttl))
}

/// Writes the negative answer's SOA in short.
pub fn abbreviate(line: String) -> String {
    let soa = "authority cluster.local. 30 SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 30";
    if line == soa { "authority SOA".to_string() } else { line }
}

/// The cluster of the table, fully listed.
pub fn cluster() -> Records {
    let records = Records::new("cluster.local", 30);
    publish_all(&records);
    records.set_synced();
    records
}

/// Fills in the cluster of the table.
pub fn publish_all(records: &Records) {
    for namespace in ["default", "kube-system", "data", "empty", "svc", "pod"] {
        records.set_namespace(&namespace.into(), true, None);
    }
    records.set_name_server(&["127.0.0.1".parse().unwrap()]);
    for (service, slices) in objects() {
        let key = service.as_ref().map_or_else(|| slices[0].service.clone(), |service| service.key.clone());
        records.publish(&key, service.as_ref(), &slices.iter().collect::<Vec<_>>());
    }
}

/// Services with their slices: those of `cluster/objects.yaml`, and what no API server would take.
pub fn objects() -> Vec<(Option<Service>, Vec<Slice>)> {
    let folder = Path::new(crate::ROOT).join("tests/dns/cluster");
    let manifests = manifests::read(&folder).expect("the manifests are right");
    let store: Store = manifests.updates(None, &mut Translator::default()).into_iter().collect();
    let mut keys: BTreeSet<ObjectKey> = store.service_keys().cloned().collect();
    keys.insert(key("default/slices-only"));
    let of = |key: &ObjectKey| (store.service(key).cloned(), store.slices(key).into_iter().cloned().collect());
    let mut objects: Vec<_> = keys.iter().map(of).collect();
    objects.extend([
        // The API server makes this one itself.
        (
            Some(cluster_ip("default/kubernetes", &["10.96.0.1"], &["https/tcp/443"])),
            vec![slice("default/kubernetes", &["https/tcp/6443"], [endpoint("192.0.2.1")])],
        ),
        (Some(cluster_ip("default/portless", &["10.96.0.32"], &[])), vec![]),
        (Some(cluster_ip("default/pending", &[], &["http/tcp/80"])), vec![]),
        (Some(cluster_ip("gone/orphan", &["10.96.0.35"], &["http/tcp/80"])), vec![]),
    ]);
    objects
}

/// A ClusterIP service; ports are `name/protocol/number`.
pub fn cluster_ip(key: &str, addresses: &[&str], ports: &[&str]) -> Service {
    let ports = ports.iter().map(|text| {
        let (name, protocol, port) = port(text);
        ServicePort { name: name.into(), protocol, port, node_port: 0 }
    });
    Service {
        cluster_ips: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ports: ports.collect(),
        ..headless_of_kind(key, ServiceKind::ClusterIp)
    }
}

/// A headless service.
pub fn headless(key: &str) -> Service {
    headless_of_kind(key, ServiceKind::Headless)
}

fn headless_of_kind(name: &str, kind: ServiceKind) -> Service {
    Service::of_kind(key(name), kind)
}

/// A slice of a service.
pub fn slice(service: &str, ports: &[&str], endpoints: impl IntoIterator<Item = Endpoint>) -> Slice {
    let endpoints: Vec<Endpoint> = endpoints.into_iter().collect();
    let family = endpoints.first().map_or(Family::V4, |endpoint| Family::of(endpoint.address));
    let ports = ports.iter().map(|text| {
        let (name, protocol, port) = port(text);
        SlicePort { name: name.into(), protocol, port }
    });
    Slice {
        key: key(&format!("{service}-{family}")),
        service: key(service),
        family,
        ports: ports.collect(),
        endpoints: endpoints.into(),
        headless: false,
        weight: 1,
        triggered: None,
        details: None,
    }
}

/// A ready endpoint.
pub fn endpoint(address: &str) -> Endpoint {
    let address: IpAddr = address.parse().unwrap();
    Endpoint::at(address)
}

fn key(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectKey::new(namespace, name)
}

fn port(text: &str) -> (&str, Protocol, u16) {
    let parts: Vec<&str> = text.split('/').collect();
    let [name, protocol, number] = parts.as_slice() else { panic!("{text} is not name/protocol/number") };
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|known| known.name() == *protocol);
    (name, protocol.expect("a protocol"), number.parse().expect("a port number"))
}
