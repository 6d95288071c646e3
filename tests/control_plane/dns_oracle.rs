//! Cluster DNS beside the stock CoreDNS: both follow the same API server and get the same questions. Whatever they answer differently must
//! be one of the differences for which `docs/differences.md` gives a reason, and each of those must still be one.

use super::agent::WAYPOST;
use super::cluster::{Cluster, tool};
use super::corefiles::Lab;
use super::dns_differences::{RULES, Rule};
use super::dns_generated;
use super::dns_metrics::{self, Page};
use super::processes::{Process, eventually};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

/// An endpoint of the Service `kubernetes` has this address, so that this Service is the zone's name server to both.
const OURS: &str = "192.0.2.1:5301";
const THEIRS: &str = "192.0.2.1:5302";
const OUR_METRICS: &str = "192.0.2.1:9301";
const THEIR_METRICS: &str = "192.0.2.1:9302";
const UPSTREAM: &str = "127.0.0.1:5399";
const PATIENCE: Duration = Duration::from_secs(10);
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
/// What the battery has in process only, because no API server would take it.
const IN_PROCESS_ONLY: [&str; 3] = ["portless.default.", "pending.default.", ".gone."];

/// The options of EDNS that CoreDNS sends back: NSID, cookie and padding.
pub const ECHOED_OPTIONS: [u16; 3] = [3, 10, 12];

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
    let questions = questions();
    let mut found = Found::default();
    questions
        .iter()
        .for_each(|question| [Transport::Udp, Transport::Tcp].into_iter().for_each(|transport| found.ask(question, transport)));
    let (ours, theirs) = pages();
    let generated = generated();
    // The other transport is a matter of writing the answer, which the others have shown.
    let transports = [Transport::Udp, Transport::Udp, Transport::Udp, Transport::Tcp].into_iter().cycle();
    generated.iter().zip(transports).for_each(|(question, transport)| found.ask(question, transport));
    let Found { occurred, unexplained } = found;
    println!(
        "{} questions over UDP and TCP, and {} others; fields that differ, by reason: {occurred:#?}",
        questions.len(),
        generated.len()
    );
    fs::write(cluster.directory().join("dns-differences.txt"), unexplained.join("\n")).unwrap();
    let shown = unexplained.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(unexplained.is_empty(), "{} fields differ without a reason:\n{shown}", unexplained.len());
    let gone: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).filter(|id| !occurred.contains_key(id)).collect();
    assert!(gone.is_empty(), "these do not differ any more; take them out of docs/differences.md too: {gone:?}");
    dns_metrics::compare(2 * questions.len(), [ours_before, ours], [theirs_before, theirs]);
    // Whoever needs them next cannot make them while they go.
    cluster.kubectl_with_input(&["delete", "--timeout=180s", "-f", "-"], &own_services());
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

/// A question with everything that may accompany it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name, without the final dot.
    pub name: String,
    /// The type.
    pub kind: RecordType,
    /// The class.
    pub class: DNSClass,
    /// The header's RD, AD and CD.
    pub flags: [bool; 3],
    /// The OPT record.
    pub edns: Option<OptRecord>,
    /// The code of one more option in it.
    pub option: Option<u16>,
}

/// What the OPT record of a question says.
#[derive(Clone, Copy, Debug)]
pub struct OptRecord {
    /// The payload size.
    pub size: u16,
    /// The DO bit.
    pub dnssec_ok: bool,
    /// Whether there is an option that nobody knows.
    pub unknown_option: bool,
}

/// How a question goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// An answer, in a form in which two can be compared: sections without order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// The response code.
    pub code: String,
    /// `aa`, `tc`, `rd`, `ra`, `ad`, `cd`, those that are set.
    pub flags: BTreeSet<&'static str>,
    /// The answer section.
    pub answers: Vec<String>,
    /// The authority section.
    pub authority: Vec<String>,
    /// The additional section but OPT.
    pub additional: Vec<String>,
    /// Payload size, DO and the number of options of the OPT record.
    pub opt: Option<(u16, bool, usize)>,
    /// The length of all of it, bytes: how it is written is each server's own business, but for the limits.
    pub size: usize,
}

/// A part of an answer that is compared on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The response code.
    Code,
    /// The header's flags.
    Flags,
    /// The answer section.
    Answers,
    /// The authority section.
    Authority,
    /// The additional section.
    Additional,
    /// The OPT record.
    Opt,
}

impl Field {
    /// All of them.
    pub const ALL: [Field; 6] = [Field::Code, Field::Flags, Field::Answers, Field::Authority, Field::Additional, Field::Opt];

    /// This part of an answer.
    pub fn of(self, said: &Said) -> String {
        match self {
            Field::Code => said.code.clone(),
            Field::Flags => format!("{:?}", said.flags),
            Field::Answers => said.answers.join("\n"),
            Field::Authority => said.authority.join("\n"),
            Field::Additional => said.additional.join("\n"),
            Field::Opt => format!("{:?}", said.opt),
        }
    }
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
    for (name, kind) in [
        ("web.default.svc.cluster.local", RecordType::A),
        ("WEB.default.svc.cluster.local", RecordType::AAAA),
        ("absent.default.svc.cluster.local", RecordType::A),
        ("plain.data.svc.cluster.local", RecordType::SRV),
        ("outside.default.svc.cluster.local", RecordType::A),
        ("www.example.com", RecordType::A),
        ("broken.example.com", RecordType::A),
        ("absent.example.com", RecordType::MX),
    ] {
        let plain = Question::plain(name, kind);
        for bits in 0..8_u8 {
            questions.push(Question { flags: [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0], ..plain.clone() });
        }
        for class in [DNSClass::CH, DNSClass::HS, DNSClass::NONE, DNSClass::ANY] {
            questions.push(Question { class, ..plain.clone() });
        }
        for size in [0, 100, 512, 513, 1232, 1400, 4096, u16::MAX] {
            for (dnssec_ok, unknown_option) in [(false, false), (true, false), (false, true)] {
                questions.push(Question { edns: Some(OptRecord { size, dnssec_ok, unknown_option }), ..plain.clone() });
            }
        }
        let edns = Some(OptRecord { size: 1232, dnssec_ok: false, unknown_option: false });
        questions.extend(ECHOED_OPTIONS.map(|option| Question { edns, option: Some(option), ..plain.clone() }));
    }
    for (name, kind) in LONG.iter().flat_map(|(name, _)| {
        let (name, port) = (format!("{name}.data.svc.cluster.local"), format!("_peer._tcp.{name}.data.svc.cluster.local"));
        [(name.clone(), RecordType::A), (name.clone(), RecordType::AAAA), (name, RecordType::SRV), (port, RecordType::SRV)]
    }) {
        let plain = Question::plain(&name, kind);
        for size in [512, 1231, 1232, 1233, 1400, 4096, u16::MAX] {
            let edns = Some(OptRecord { size, dnssec_ok: false, unknown_option: false });
            questions.push(Question { edns, ..plain.clone() });
        }
        questions.push(plain);
    }
    questions
}

impl Question {
    /// A question with RD and nothing else.
    pub fn plain(name: &str, kind: RecordType) -> Question {
        Question { name: name.to_string(), kind, class: DNSClass::IN, flags: [true, false, false], edns: None, option: None }
    }

    /// Whether its name is one.
    pub fn is_askable(&self) -> bool {
        self.asked().is_some()
    }

    fn asked(&self) -> Option<Name> {
        if self.name.is_empty() { Some(Name::root()) } else { Name::from_labels(self.name.split('.').map(str::as_bytes)).ok() }
    }

    /// What a server says to it, or that it says nothing.
    pub fn ask(&self, server: &str, transport: Transport) -> Said {
        self.try_ask(server, transport).unwrap_or_else(|error| Said { code: format!("no answer: {error}"), ..Said::default() })
    }

    /// What a server says to it.
    pub fn try_ask(&self, server: &str, transport: Transport) -> io::Result<Said> {
        let message = self.message();
        let bytes = message.to_vec().map_err(io::Error::other)?;
        let answer = match transport {
            Transport::Udp => over_udp(server, &bytes)?,
            Transport::Tcp => over_tcp(server, &bytes)?,
        };
        let size = answer.len();
        let answer = Message::from_vec(&answer).map_err(io::Error::other)?;
        if answer.metadata.id != message.metadata.id {
            return Err(io::Error::other("another id"));
        }
        Ok(Said { size, ..Said::of(&answer) })
    }

    fn message(&self) -> Message {
        let mut message = Message::query();
        [message.metadata.recursion_desired, message.metadata.authentic_data, message.metadata.checking_disabled] = self.flags;
        let mut query = Query::query(self.asked().expect("it is asked what can be"), self.kind);
        query.set_query_class(self.class);
        message.add_query(query);
        if let Some(opt) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(opt.size).set_dnssec_ok(opt.dnssec_ok);
            if opt.unknown_option {
                edns.options_mut().insert(EdnsOption::Unknown(65_001, vec![1, 2, 3]));
            }
            if let Some(code) = self.option {
                // As long as a client's cookie.
                edns.options_mut().insert(EdnsOption::Unknown(code, vec![1, 2, 3, 4, 5, 6, 7, 8]));
            }
            message.set_edns(edns);
        }
        message
    }
}

impl Said {
    fn of(answer: &Message) -> Said {
        let header = &answer.metadata;
        let flags = [
            ("aa", header.authoritative),
            ("tc", header.truncation),
            ("rd", header.recursion_desired),
            ("ra", header.recursion_available),
            ("ad", header.authentic_data),
            ("cd", header.checking_disabled),
        ];
        let section = |records: &[Record]| {
            let mut lines: Vec<String> = records.iter().map(line).collect();
            lines.sort();
            lines
        };
        Said {
            code: format!("{:?}", header.response_code),
            flags: flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect(),
            answers: section(&answer.answers),
            authority: section(&answer.authorities),
            additional: section(&answer.additionals),
            opt: answer.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok, edns.options().options.len())),
            size: 0,
        }
    }

    /// Whether it has the flag TC.
    pub fn is_cut(&self) -> bool {
        self.flags.contains("tc")
    }

    /// Which of many records an answer that was cut still has, is a choice; how many of which owner and type is none.
    pub fn leave_data_out(&mut self) {
        for section in [&mut self.answers, &mut self.authority, &mut self.additional] {
            for line in section.iter_mut() {
                *line = line.split(' ').take(3).collect::<Vec<_>>().join(" ");
            }
            section.sort();
        }
    }
}

/// The Services of [`LONG`], and [`FAILING`].
fn own_services() -> String {
    let mut objects = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {FAILING}, namespace: data}}\n\
         spec: {{type: ExternalName, externalName: broken.example.com}}\n---\n"
    );
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

/// A record as text, in lower case: whose spelling of a name is repeated where it is not the question's is nobody's business. The serial
/// number is a time, and each server has its own.
fn line(record: &Record) -> String {
    let data = match &record.data {
        RData::SOA(soa) => {
            format!("{} {} serial {} {} {} {}", soa.mname, soa.rname, soa.refresh, soa.retry, soa.expire, soa.minimum)
        }
        data => data.to_string(),
    };
    format!("{} {} {} {data}", record.name, record.ttl, record.record_type()).to_lowercase()
}

fn over_udp(server: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(question)?;
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn over_tcp(server: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
