//! Cluster DNS beside the stock CoreDNS: both follow the same API server and get the same questions. Whatever they answer differently must
//! be one of the differences for which `docs/differences.md` gives a reason, and each of those must still be one.

use super::agent::WAYPOST;
use super::cluster::{Cluster, tool};
use super::corefiles::Lab;
use super::dns_differences::{RULES, Rule};
use super::dns_generated;
use super::dns_metrics::{self, Page};
use super::dns_question::{Field, NOTIFY, Oddity, OptRecord, Question, Said, Section, Transport, bits};
use super::processes::{Process, eventually};
use hickory_proto::rr::{DNSClass, RecordType};
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

/// An endpoint of the Service `kubernetes` has this address, so that this Service is the zone's name server to both.
const OURS: &str = "192.0.2.1:5301";
const THEIRS: &str = "192.0.2.1:5302";
const OUR_METRICS: &str = "192.0.2.1:9301";
const THEIR_METRICS: &str = "192.0.2.1:9302";
const UPSTREAM: &str = "127.0.0.1:5399";
/// So many questions are made of the battery's names.
const GENERATED: usize = 6000;
const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dns/cluster");
const BATTERY: &str = include_str!("../dns/questions.txt");
const DOCUMENT: &str = include_str!("../../docs/differences.md");
/// Headless Services in the namespace `data` with so many endpoints: addresses and targets of the first do not fit into any datagram, those of the other
/// do, but not with the addresses of the targets.
const LONG: [(&str, usize); 2] = [("hundred", 100), ("eighteen", 18)];
/// An ExternalName service in the same namespace, at whose target the upstream server fails.
const FAILING: &str = "failing";
/// Services in the same namespace, with an address and without, whose first slices come while both servers run.
const TIMED: [(&str, &str); 2] = [("timed", ""), ("timed-headless", "clusterIP: None, ")];
/// What the battery has in process only, because no API server would take it.
const IN_PROCESS_ONLY: [&str; 3] = ["portless.default.", "pending.default.", ".gone."];

/// Options of EDNS as clients send them, by their codes: NSID, client subnet in both families, expire, cookie, keepalive, padding, and one that nobody
/// knows.
pub const OPTIONS: [(u16, &[u8]); 8] = [
    (3, &[]),
    (8, &[0, 1, 24, 0, 203, 0, 113]),
    (8, &[0, 2, 56, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 1]),
    (9, &[]),
    (10, &[1, 2, 3, 4, 5, 6, 7, 8]),
    (11, &[]),
    (12, &[0; 20]),
    (65_001, &[1, 2, 3]),
];
/// Options that say what none may say: a client subnet of no family, one with less than its prefix, a cookie that is too short, and a keepalive of one
/// byte.
pub const WRONG_OPTIONS: [(u16, &[u8]); 4] =
    [(8, &[0, 9, 24, 0, 203, 0, 113]), (8, &[0, 1, 24, 0, 203]), (10, &[1, 2, 3]), (11, &[7])];
/// What may be set in the header of a question besides, and means nothing there.
pub const MORE_BITS: [u16; 7] = [bits::AA, bits::TC, bits::RA, bits::Z, 5, 15, bits::AA | bits::TC | bits::RA | bits::Z];
/// What may be wrong with a question's form.
pub const ODDITIES: [Oddity; 22] = [
    Oddity::Count(Section::Question, 0),
    Oddity::Count(Section::Question, 2),
    Oddity::Count(Section::Question, u16::MAX),
    Oddity::Count(Section::Answer, 1),
    Oddity::Count(Section::Answer, 2),
    Oddity::Count(Section::Authority, 1),
    Oddity::Count(Section::Authority, 2),
    Oddity::Count(Section::Additional, 0),
    Oddity::Count(Section::Additional, 2),
    Oddity::Count(Section::Additional, 3),
    Oddity::Trailing(1),
    Oddity::Trailing(20),
    Oddity::Cut(1),
    Oddity::Cut(12),
    Oddity::Records(Section::Answer, 1),
    Oddity::Records(Section::Answer, 2),
    Oddity::Records(Section::Authority, 1),
    Oddity::Records(Section::Authority, 2),
    Oddity::Records(Section::Additional, 1),
    Oddity::SecondQuestion,
    Oddity::SecondOpt,
    Oddity::OptAmongAnswers,
];

/// Types that are asked for every name.
pub const TYPES: [RecordType; 12] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::TXT,
    RecordType::PTR,
    RecordType::CNAME,
    RecordType::NS,
    RecordType::SOA,
    RecordType::MX,
    RecordType::ANY,
    RecordType::HTTPS,
    RecordType::Unknown(4711),
];

/// Names of all kinds, with a type.
const SOME: [(&str, RecordType); 8] = [
    ("web.default.svc.cluster.local", RecordType::A),
    ("WEB.default.svc.cluster.local", RecordType::AAAA),
    ("absent.default.svc.cluster.local", RecordType::A),
    ("plain.data.svc.cluster.local", RecordType::SRV),
    ("outside.default.svc.cluster.local", RecordType::A),
    ("www.example.com", RecordType::A),
    ("broken.example.com", RecordType::A),
    ("absent.example.com", RecordType::MX),
];

/// What the site's own name server says: one name that exists, one that fails, nothing else.
const UPSTREAM_COREFILE: &str = r#". {
    bind 127.0.0.1
    template IN A www.example.com {
        answer "{{ .Name }} 60 IN A 203.0.113.80"
    }
    template IN AAAA www.example.com {
        answer "{{ .Name }} 60 IN AAAA 2001:db8:113::80"
    }
    template IN ANY www.example.com {
        rcode NOERROR
        authority "example.com 60 IN SOA ns.example.com. hostmaster.example.com. 1 7200 1800 86400 60"
    }
    template ANY ANY broken.example.com {
        rcode SERVFAIL
    }
    template ANY ANY {
        rcode NXDOMAIN
        authority ". 60 IN SOA ns.example.com. hostmaster.example.com. 1 7200 1800 86400 60"
    }
}
"#;

pub fn as_corednss(cluster: &Cluster) {
    let listed =
        DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `dns-")?.split_once('`')).map(|(id, _)| format!("dns-{id}"));
    let known = RULES.iter().map(|rule| rule.id.to_string());
    assert_eq!(listed.collect::<BTreeSet<_>>(), known.collect(), "docs/differences.md lists what dns_differences.rs allows");
    cluster.kubectl(&["apply", "--server-side", "-f", OBJECTS]);
    cluster.apply(&own_services());
    let _servers = Servers::start(cluster);
    let pages = || (Page::of(cluster, OUR_METRICS, OURS), Page::of(cluster, THEIR_METRICS, THEIRS));
    let (ours_before, theirs_before) = pages();
    let timed_slices = timed_slices();
    cluster.apply(&timed_slices);
    let questions = questions();
    let mut found = Found::default();
    questions
        .iter()
        .for_each(|question| [Transport::Udp, Transport::Tcp].into_iter().for_each(|transport| found.ask(question, transport)));
    eventually("both have timed the changes", || {
        let (ours, theirs) = pages();
        dns_metrics::is_complete(&ours, TIMED.len()).and(dns_metrics::is_complete(&theirs, TIMED.len()))
    });
    let (ours, theirs) = pages();
    // Of these CoreDNS counts some and others not.
    let odd = odd_questions();
    odd.iter()
        .for_each(|question| [Transport::Udp, Transport::Tcp].into_iter().for_each(|transport| found.ask(question, transport)));
    let generated = generated();
    // The other transport is a matter of writing the answer, which the others have shown.
    let transports = [Transport::Udp, Transport::Udp, Transport::Udp, Transport::Tcp].into_iter().cycle();
    generated.iter().zip(transports).for_each(|(question, transport)| found.ask(question, transport));
    let Found { occurred, unexplained } = found;
    println!(
        "{} questions over UDP and TCP, and {} others; fields that differ, by reason: {occurred:#?}",
        questions.len() + odd.len(),
        generated.len()
    );
    fs::write(cluster.directory().join("dns-differences.txt"), unexplained.join("\n")).unwrap();
    let shown = unexplained.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(unexplained.is_empty(), "{} fields differ without a reason:\n{shown}", unexplained.len());
    let gone: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).filter(|id| !occurred.contains_key(id)).collect();
    assert!(gone.is_empty(), "these do not differ any more; take them out of docs/differences.md too: {gone:?}");
    dns_metrics::compare(2 * questions.len(), [ours_before, ours], [theirs_before, theirs]);
    // Whoever needs them next cannot make them while they go.
    for objects in [timed_slices, own_services()] {
        cluster.kubectl_with_input(&["delete", "--timeout=180s", "-f", "-"], &objects);
    }
    cluster.kubectl(&["delete", "--timeout=180s", "-f", OBJECTS]);
}

/// What was answered differently.
#[derive(Default)]
struct Found {
    /// How often for each reason that the document lists,
    occurred: BTreeMap<&'static str, usize>,
    /// and for none.
    unexplained: Vec<String>,
}

impl Found {
    fn ask(&mut self, question: &Question, transport: Transport) {
        let (mut ours, mut theirs) = (question.ask(OURS, transport), question.ask(THEIRS, transport));
        if ours.is_cut() || theirs.is_cut() {
            [&mut ours, &mut theirs].into_iter().for_each(Said::leave_data_out);
        }
        for field in Field::ALL.into_iter().filter(|field| field.of(&ours) != field.of(&theirs)) {
            let explains = |rule: &&Rule| (rule.explains)(field, question, &ours, &theirs);
            match RULES.iter().find(explains) {
                Some(rule) => *self.occurred.entry(rule.id).or_default() += 1,
                None => {
                    let differs = format!("{question:?} {transport:?}: {field:?}\n  ours   {ours:?}\n  theirs {theirs:?}");
                    self.unexplained.push(differs);
                }
            }
        }
    }
}

/// The agent as a DNS server, the stock CoreDNS with kubeadm's Corefile, and the name server to which both forward.
struct Servers {
    _processes: [Process; 3],
}

impl Servers {
    fn start(cluster: &Cluster) -> Servers {
        let start = |name: &str, command: &mut Command| Process::start(cluster.namespace(), cluster.directory(), name, command);
        let coredns = |name: &str, port: &str, corefile: String| {
            let path = cluster.directory().join(format!("{name}.Corefile"));
            fs::write(&path, corefile).unwrap();
            start(name, tool("coredns").arg("-conf").arg(&path).args(["-dns.port", port.rsplit(':').next().unwrap()]))
        };
        let upstream = coredns("dns-upstream", UPSTREAM, UPSTREAM_COREFILE.to_string());
        let corefile = kubeadms_corefile(&cluster.kubeconfig().display().to_string(), [None, None, Some(THEIR_METRICS)]);
        let theirs = coredns("dns-theirs", THEIRS, corefile);
        let mut waypost = Command::new(WAYPOST);
        waypost.args(["run", "--role=dns", "--kubeconfig"]).arg(cluster.kubeconfig());
        waypost.args([format!("--dns-address={OURS}"), format!("--dns-upstream={UPSTREAM}")]);
        waypost.args(["--dns-health-address=", "--dns-ready-address=", &format!("--dns-metrics-address={OUR_METRICS}")]);
        let servers = Servers { _processes: [upstream, theirs, start("dns-ours", &mut waypost)] };
        for server in [OURS, THEIRS] {
            for (name, kind) in [("web.default.svc.cluster.local", RecordType::A), ("1.0.3.10.in-addr.arpa", RecordType::PTR)] {
                eventually(&format!("{server} knows {name}"), || {
                    match Question::plain(name, kind).try_ask(server, Transport::Udp) {
                        Ok(said) if !said.answers.is_empty() => Ok(()),
                        other => Err(format!("{other:?}")),
                    }
                });
            }
            for (name, count) in LONG {
                eventually(&format!("{server} knows all of {name}"), || {
                    match Question::plain(&format!("{name}.data.svc.cluster.local"), RecordType::A)
                        .try_ask(server, Transport::Tcp)
                    {
                        Ok(said) if said.answers.len() == count => Ok(()),
                        other => Err(format!("{other:?}")),
                    }
                });
            }
            eventually(&format!("{server} has listed everything"), || {
                match Question::plain("absent.default.svc.cluster.local", RecordType::A).try_ask(server, Transport::Udp) {
                    Ok(said) if said.code == "NXDomain" => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
        servers
    }
}

/// kubeadm's Corefile for this API server, with the upstream above. Where it listens beside DNS is said as in [`Lab`].
pub fn kubeadms_corefile(kubeconfig: &str, listen: [Option<&str>; 3]) -> String {
    Lab { upstream: UPSTREAM, kubernetes: &format!("kubeconfig {kubeconfig} lab"), listen }.text()
}

/// Names of the battery that an API server can have.
fn names() -> BTreeSet<&'static str> {
    let names = BATTERY.lines().filter_map(|line| line.strip_prefix("> ")?.split_once(' ')).map(|(name, _)| name);
    names.filter(|name| !IN_PROCESS_ONLY.iter().any(|part| name.contains(part))).collect()
}

/// Thousands more, made of those names.
fn generated() -> Vec<Question> {
    let long: Vec<String> = LONG.iter().map(|(name, _)| format!("{name}.data.svc.cluster.local")).collect();
    let names: Vec<&str> = names().into_iter().chain(long.iter().map(String::as_str)).collect();
    dns_generated::questions(&names, GENERATED)
}

/// Every name of the battery with every type, some with flags, classes and EDNS of all kinds, and such as have long answers.
fn questions() -> Vec<Question> {
    let mut questions: Vec<Question> = Vec::new();
    for name in names() {
        questions.extend(TYPES.map(|kind| Question::plain(name, kind)));
    }
    questions.extend(TYPES.map(|kind| Question::plain(&format!("{FAILING}.data.svc.cluster.local"), kind)));
    questions.push(Question::plain("ns.dns.cluster.local.default.svc.cluster.local", RecordType::A));
    questions.push(Question::plain("svc.ip6.arpa", RecordType::SRV));
    questions.push(Question::plain("web.default.svc.in-addr.arpa", RecordType::A));
    for (name, kind) in SOME {
        let plain = Question::plain(name, kind);
        for bits in 0..8_u8 {
            questions.push(Question { flags: [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0], ..plain.clone() });
        }
        for class in [DNSClass::CH, DNSClass::HS, DNSClass::NONE, DNSClass::ANY] {
            questions.push(Question { class, ..plain.clone() });
        }
        for size in [0, 100, 512, 513, 1232, 1400, 4096, u16::MAX] {
            for dnssec_ok in [false, true] {
                questions.push(Question { edns: Some(OptRecord { dnssec_ok, ..OptRecord::of_size(size) }), ..plain.clone() });
            }
        }
        questions.extend(OPTIONS.map(|(code, data)| Question { edns: Some(OptRecord::with(code, data)), ..plain.clone() }));
    }
    for (name, kind) in LONG.iter().flat_map(|(name, _)| {
        let (name, port) = (format!("{name}.data.svc.cluster.local"), format!("_peer._tcp.{name}.data.svc.cluster.local"));
        [(name.clone(), RecordType::A), (name.clone(), RecordType::AAAA), (name, RecordType::SRV), (port, RecordType::SRV)]
    }) {
        let plain = Question::plain(&name, kind);
        for size in [512, 1231, 1232, 1233, 1400, 4096, u16::MAX] {
            questions.push(Question { edns: Some(OptRecord::of_size(size)), ..plain.clone() });
        }
        questions.push(plain);
    }
    questions
}

/// What is no query of EDNS version 0 with its parts in order: other operations, other versions, wrong options, bits and counts.
fn odd_questions() -> Vec<Question> {
    let mut questions = Vec::new();
    for (name, kind) in SOME {
        let plain = Question::plain(name, kind);
        let bare = Question { edns: Some(OptRecord::of_size(1232)), ..plain.clone() };
        let with_bits = |more: u16| [&plain, &bare].map(|question| Question { bits: more, ..question.clone() });
        questions.extend((1..16).map(bits::opcode).chain(MORE_BITS).chain([bits::QR, bits::QR | bits::AA]).flat_map(with_bits));
        questions.push(Question { bits: bits::opcode(NOTIFY), flags: [true; 3], ..bare.clone() });
        for version in [1, 2, 255] {
            for (dnssec_ok, options) in [(false, vec![]), (true, vec![]), (false, vec![(10, vec![1; 8])])] {
                let edns = Some(OptRecord { size: 1400, version, dnssec_ok, options });
                questions.push(Question { edns, ..plain.clone() });
            }
        }
        questions.extend(WRONG_OPTIONS.map(|(code, data)| Question { edns: Some(OptRecord::with(code, data)), ..plain.clone() }));
        for oddity in ODDITIES {
            questions.extend([&plain, &bare].map(|question| Question { oddity: Some(oddity), ..question.clone() }));
        }
    }
    questions
}

/// The first slices of [`TIMED`], which say that their Services have changed just now.
fn timed_slices() -> String {
    let now = Timestamp::now();
    let slice = |(name, _)| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: data, labels: {{kubernetes.io/service-name: {name}}}, \
             annotations: {{endpoints.kubernetes.io/last-change-trigger-time: \"{now}\"}}}}\n\
             addressType: IPv4\nports: [{{name: peer, port: 7000, protocol: TCP}}]\nendpoints: [{{addresses: [10.9.9.1]}}]\n---\n"
        )
    };
    TIMED.map(slice).concat()
}

/// The Services of [`LONG`] and [`TIMED`], and [`FAILING`].
fn own_services() -> String {
    let mut objects = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {FAILING}, namespace: data}}\n\
         spec: {{type: ExternalName, externalName: broken.example.com}}\n---\n"
    );
    for (name, kind) in TIMED {
        objects += &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: data}}\nspec: {{{kind}ports: [{{name: peer, port: 7000}}]}}\n---\n"
        );
    }
    for (place, (name, count)) in LONG.into_iter().enumerate() {
        objects += &format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: data}}\nspec: {{clusterIP: None, ports: [{{name: peer, port: 7000}}]}}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: data, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\n\
             ports: [{{name: peer, port: 7000, protocol: TCP}}]\nendpoints:\n"
        );
        (1..=count).for_each(|last| objects += &format!("- {{addresses: [10.9.{place}.{last}]}}\n"));
        objects += "---\n";
    }
    objects
}
