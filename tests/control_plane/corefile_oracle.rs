//! Corefiles obeyed: the agent and the stock CoreDNS do what the same Corefile says, follow the same API server, and get the same questions. The
//! differences that the documents list for kubeadm's Corefile are the only ones.

use super::agent::WAYPOST;
use super::cluster::{Cluster, tool};
use super::corefile_cases::{Asked, CASES, KUBEADM, OF_OTHERS};
use super::corefile_differences::{Difference, KNOWN, LISTENERS, NOT_COMPARED, without_word};
use super::corefiles::Lab;
use super::dns_differences::RULES;
use super::dns_question::{Field, OptRecord, Question, Said, Transport};
use super::dns_upstream::Upstream;
use super::others::{OTHERS, for_lab};
use super::processes::{Process, eventually};
use super::{corefile_plugin_cases, corefile_times};
use hickory_proto::rr::{DNSClass, RecordType};
use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;

const OURS: &str = "192.0.2.1:5311";
const THEIRS: &str = "192.0.2.1:5312";
/// The first of the ports of `health`, `ready` and `prometheus`.
const OUR_PORT: u16 = 8070;
const THEIR_PORT: u16 = 8060;
const UPSTREAM: &str = "127.0.0.1:5398";
/// Others over TLS, of which the second wants to know its clients.
const TLS_UPSTREAMS: [(&str, &str); 2] = [("TLS_UPSTREAM", "tls://127.0.0.1:5853"), ("TLS_OF_CLIENTS", "tls://127.0.0.1:5854")];
/// One that takes no connections.
const UDP_UPSTREAM: &str = "127.0.0.1:5397";
const TLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dns/tls");
const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dns/cluster");
const DOCUMENT: &str = include_str!("../../docs/differences.md");
const LABELLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control_plane/labelled.yaml");

const UPSTREAM_COREFILE: &str = r#". {
    bind 127.0.0.1
    template IN A example.com {
        match ^(www|a|b|c)[.]
        answer "{{ .Name }} 60 IN A 203.0.113.80"
    }
    template IN A www.example.net a.example.net {
        answer "{{ .Name }} 60 IN A 203.0.113.81"
    }
    template IN A brief.example.net {
        match ^brief
        answer "{{ .Name }} 1 IN A 203.0.113.81"
    }
    template IN A brief.example.net {
        rcode NXDOMAIN
        authority "example.net 1 IN SOA ns.example.net. hostmaster.example.net. 1 7200 1800 86400 1"
    }
    template ANY ANY example.net {
        rcode NXDOMAIN
        authority "example.net 60 IN SOA ns.example.net. hostmaster.example.net. 1 7200 1800 86400 60"
    }
    template ANY ANY {
        rcode NXDOMAIN
        authority ". 60 IN SOA ns.example.com. hostmaster.example.com. 1 7200 1800 86400 60"
    }
}
cut.example {
    bind 127.0.0.1
    bufsize 512
    template IN TXT {
        answer "{{ .Name }} 60 IN TXT LONG-1"
        answer "{{ .Name }} 60 IN TXT LONG-2"
        answer "{{ .Name }} 60 IN TXT LONG-3"
    }
}
tls://.:5853 {
    bind 127.0.0.1
    tls TLS/server.pem TLS/server.key
    template IN A {
        answer "{{ .Name }} 60 IN A 203.0.113.82"
    }
}
tls://.:5854 {
    bind 127.0.0.1
    tls TLS/server.pem TLS/server.key TLS/ca.pem {
        client_auth require_and_verify
    }
    template IN A {
        answer "{{ .Name }} 60 IN A 203.0.113.83"
    }
}
"#;
/// So long is the text for which `LONG` stands.
const LONG: usize = 180;

const IMPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control_plane/imports.yaml");
const IMPORTS_CRD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control_plane/imports-crd.yaml");

/// Pods with their addresses: one of both families, one of IPv6 alone, one that is over, and the one that asks.
const PODS: [(&str, &str, &str, &[&str]); 4] = [
    ("default", "pod-dual", "Running", &["10.244.9.1", "fd00:244::9:1"]),
    ("data", "pod-six", "Running", &["fd00:244::9:2"]),
    ("default", "pod-over", "Succeeded", &["10.244.9.3"]),
    ("default", "pod-client", "Running", &["192.0.2.1"]),
];

fn apply_pods(cluster: &Cluster) {
    for (namespace, name, phase, addresses) in PODS {
        cluster.apply_in(
            namespace,
            &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: main, image: none}}]}}}}"
            ),
        );
        let ips: Vec<String> = addresses.iter().map(|address| format!("{{\"ip\": \"{address}\"}}")).collect();
        let status = format!(
            "{{\"status\": {{\"phase\": \"{phase}\", \"podIP\": \"{}\", \"podIPs\": [{}]}}}}",
            addresses[0],
            ips.join(", ")
        );
        cluster.kubectl(&["--namespace", namespace, "patch", "pod", name, "--subresource=status", "--patch", &status]);
    }
}

pub fn as_corednss(cluster: &Cluster) {
    let listed = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `corefile-")?.split_once('`'));
    let listed: BTreeSet<String> = listed.map(|(id, _)| format!("corefile-{id}")).collect();
    let compared = KNOWN.iter().map(|(id, _)| *id).chain(corefile_times::differences());
    let known = compared.chain([LISTENERS]).chain(NOT_COMPARED).map(str::to_string).collect();
    assert_eq!(listed, known, "docs/differences.md lists what corefile_differences.rs allows");
    let objects = [OBJECTS, LABELLED, IMPORTS_CRD, IMPORTS];
    for path in objects {
        cluster.kubectl(&["apply", "--server-side", "-f", path]);
        if path == IMPORTS_CRD {
            cluster.kubectl(&["wait", "--for=condition=established", "--timeout=60s", "-f", path]);
        }
    }
    apply_pods(cluster);
    let comparison = Comparison::of_all(cluster);
    // Before anything fails: the cases that follow have the cluster to themselves.
    for (namespace, name, ..) in PODS {
        cluster.kubectl(&["--namespace", namespace, "delete", "pod", name, "--force", "--grace-period=0"]);
    }
    for path in objects.into_iter().rev() {
        cluster.kubectl(&["delete", "--timeout=180s", "-f", path]);
    }
    let Comparison { unexplained, occurred, .. } = comparison;
    assert!(unexplained.is_empty(), "{} fields differ without a reason:\n{}", unexplained.len(), unexplained.join("\n"));
    let gone: Vec<&str> = KNOWN.iter().zip(occurred).filter(|(_, times)| *times == 0).map(|((row, _), _)| *row).collect();
    assert!(gone.is_empty(), "these do not differ any more; take them out of docs/differences.md too: {gone:?}");
}

/// Both servers by one Corefile after another.
struct Comparison<'a> {
    cluster: &'a Cluster,
    /// What differs without a reason,
    unexplained: Vec<String>,
    /// and how often for each that is known.
    occurred: [usize; KNOWN.len()],
}

impl<'a> Comparison<'a> {
    fn of_all(cluster: &'a Cluster) -> Comparison<'a> {
        let mut comparison = Comparison { cluster, unexplained: Vec::new(), occurred: [0; KNOWN.len()] };
        let _udp_upstream = Upstream::start(UDP_UPSTREAM);
        let upstream = comparison.file("corefile-upstream", &with_texts(UPSTREAM_COREFILE));
        let _upstream =
            comparison.start("corefile-upstream", tool("coredns").arg("-conf").arg(upstream).args(["-dns.port", "5398"]));
        let others = OTHERS.map(|(whose, text)| {
            let listen = ["127.0.0.1:PORT0", "127.0.0.1:PORT1", "127.0.0.1:PORT2"];
            (whose, for_lab(text, "UPSTREAM", "kubeconfig KUBECONFIG lab", listen), OF_OTHERS)
        });
        let cases = CASES.iter().chain(corefile_plugin_cases::CASES);
        let cases = cases.map(|(what, corefile, asked)| (*what, corefile.to_string(), *asked)).chain(others);
        for (number, (what, corefile, asked)) in cases.enumerate() {
            let corefile = comparison.placed(&corefile);
            comparison.obey(number, what, &corefile, asked);
        }
        comparison
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.cluster.directory().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn start(&self, name: &str, command: &mut Command) -> Process {
        Process::start(self.cluster.namespace(), self.cluster.directory(), name, command)
    }

    /// The Corefile with what the lab has in the places of what stands for it, but for `PORT0` to `PORT2`, of which each server has its own.
    fn placed(&self, corefile: &str) -> String {
        let kubeadm = Lab {
            upstream: "UPSTREAM",
            kubernetes: "kubeconfig KUBECONFIG lab",
            listen: [Some("127.0.0.1:PORT0"), Some("127.0.0.1:PORT1"), Some("127.0.0.1:PORT2")],
        };
        let search = self.file("corefile-search", "search first.example second.example\n").display().to_string();
        let hosts = "192.0.2.7 of-file.hosts.example second.hosts.example elsewhere.example\n2001:db8::7 OF-FILE.hosts.example\n";
        let hosts = self.file("corefile-hosts", hosts).display().to_string();
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        // The longer ones come before those that they end with.
        let placed = [(KUBEADM, &*kubeadm.text()), ("SEARCH", &search), ("HOSTS", &hosts), ("KUBECONFIG", &kubeconfig)]
            .into_iter()
            .chain(TLS_UPSTREAMS)
            .chain([("UDP_UPSTREAM", UDP_UPSTREAM), ("UPSTREAM", UPSTREAM)])
            .fold(corefile.to_string(), |text, (name, value)| text.replace(name, value));
        with_texts(&placed)
    }

    /// Starts both with this Corefile, and asks both.
    fn obey(&mut self, number: usize, what: &str, corefile: &str, asked: Asked) {
        let with_ports = |first: u16| {
            (0..3).fold(corefile.to_string(), |text, port| text.replace(&format!("PORT{port}"), &(first + port).to_string()))
        };
        let listening = |first: u16| {
            let named = (0..3).filter(|port| corefile.contains(&format!("PORT{port}"))).map(|port| first + port);
            named.map(|port| TcpStream::connect(("127.0.0.1", port)).is_ok()).collect::<Vec<_>>()
        };
        let [our_name, their_name] = ["ours", "theirs"].map(|whose| format!("corefile-{number}-{whose}"));
        let (ours, theirs) = (self.file(&our_name, &with_ports(OUR_PORT)), self.file(&their_name, &with_ports(THEIR_PORT)));
        let _theirs = self.start(&their_name, tool("coredns").arg("-conf").arg(theirs).args(["-dns.port", "5312"]));
        let mut waypost = Command::new(WAYPOST);
        waypost.args(["run", "--role=dns", "--kubeconfig"]).arg(self.cluster.kubeconfig()).arg("--corefile").arg(ours);
        waypost.arg(format!("--dns-address={OURS}"));
        waypost.args(["--dns-health-address=", "--dns-ready-address=", "--dns-metrics-address="]);
        let _ours = self.start(&our_name, &mut waypost);
        for server in [OURS, THEIRS] {
            wait_for(server, what, corefile);
        }
        eventually(&format!("CoreDNS listens where the Corefile of {what} says ({LISTENERS})"), || {
            let all = listening(THEIR_PORT);
            if all.contains(&false) { Err(format!("{all:?}")) } else { Ok(()) }
        });
        assert!(!listening(OUR_PORT).contains(&true), "Waypost listens where the settings say, and not the Corefile of {what}");
        for (question, transport) in asked.iter().map(|text| question(text)) {
            self.ask(what, corefile, &question, transport);
        }
    }

    fn ask(&mut self, what: &str, corefile: &str, question: &Question, transport: Transport) {
        let (mut ours, mut theirs) = (question.ask(OURS, transport), question.ask(THEIRS, transport));
        if ours.is_cut() && theirs.is_cut() {
            [&mut ours, &mut theirs].into_iter().for_each(Said::leave_data_out);
        }
        for field in Field::ALL.into_iter().filter(|field| field.of(&ours) != field.of(&theirs)) {
            let difference = Difference { corefile, field, question, ours: &ours, theirs: &theirs };
            let is_expected =
                || is_port_of_client(&difference) || RULES.iter().any(|rule| (rule.explains)(field, question, &ours, &theirs));
            if let Some(known) = KNOWN.iter().position(|(_, explains)| explains(&difference)) {
                self.occurred[known] += 1;
            } else if !is_expected() {
                self.unexplained.push(format!("{what}: {question:?}: {field:?}\n  ours   {ours:?}\n  theirs {theirs:?}"));
            }
        }
    }
}

/// A Corefile with long texts, and with the certificates of the tests.
fn with_texts(corefile: &str) -> String {
    corefile.replace("LONG", &"x".repeat(LONG)).replace("TLS/", &format!("{TLS}/"))
}

/// Waits until a server obeys the Corefile and has listed everything.
fn wait_for(server: &str, what: &str, corefile: &str) {
    let listed = corefile.contains("kubernetes");
    let chosen = corefile.contains("labels ") && what != "gke";
    let name = match (listed, chosen) {
        (false, _) => "warm.example.com",
        (true, false) => "web.default.svc.cluster.local",
        (true, true) => "shop.front.svc.cluster.local",
    };
    eventually(&format!("{server} answers with the Corefile of {what}"), || {
        match Question::plain(name, RecordType::A).try_ask(server, Transport::Udp) {
            Ok(said) if !listed || !said.answers.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    if listed {
        eventually(&format!("{server} has listed everything"), || {
            match Question::plain("absent.default.svc.cluster.local", RecordType::A).try_ask(server, Transport::Udp) {
                Ok(said) if said.code == "NXDomain" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

/// Each question has a socket of its own, and whoami names its port.
fn is_port_of_client(difference: &Difference) -> bool {
    let Difference { corefile, field, ours, theirs, .. } = difference;
    let whoami = corefile.contains("whoami") && *field == Field::Additional;
    whoami && without_word(&field.of(ours), 5) == without_word(&field.of(theirs), 5)
}

/// What is asked, and how. Behind name and type: `plain` stands for a question without EDNS, which otherwise has it, so that extended errors have a place;
/// `CH` for that class, `nsid` for that option, `tcp` for that transport, and `silent` says that there may be no answer.
fn question(text: &str) -> (Question, Transport) {
    let mut words = text.split(' ');
    let (name, kind) = words.next().zip(words.next()).expect("a name and a type");
    let plain = Question::plain(name, kind.parse().expect("a type"));
    let mut question = Question { edns: Some(OptRecord::of_size(1232)), ..plain };
    let mut transport = Transport::Udp;
    for word in words {
        match word {
            "plain" => question.edns = None,
            "CH" => question.class = DNSClass::CH,
            "nsid" => question.edns = Some(OptRecord::with(3, &[])),
            "tcp" => transport = Transport::Tcp,
            "silent" => question.may_be_silent = true,
            other => panic!("{text}: {other:?}"),
        }
    }
    (question, transport)
}
