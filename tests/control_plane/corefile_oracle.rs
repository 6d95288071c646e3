//! Corefiles obeyed: the agent and the stock CoreDNS do what the same Corefile says, follow the same API server, and get the same questions. The
//! differences that the documents list for kubeadm's Corefile are the only ones.

use super::agent::WAYPOST;
use super::cluster::{Cluster, tool};
use super::corefile_cases::{CASES, KUBEADM, OF_OTHERS};
use super::corefiles::Lab;
use super::dns_differences::RULES;
use super::dns_oracle::{Field, OptRecord, Question, Said, Transport};
use super::others::{OTHERS, for_lab};
use super::processes::{Process, eventually};
use hickory_proto::rr::{DNSClass, RecordType};
use std::fs;
use std::process::Command;

const OURS: &str = "192.0.2.1:5311";
const THEIRS: &str = "192.0.2.1:5312";
const UPSTREAM: &str = "127.0.0.1:5398";
const OBJECTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dns/cluster");
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
    template ANY ANY example.net {
        rcode NXDOMAIN
        authority "example.net 60 IN SOA ns.example.net. hostmaster.example.net. 1 7200 1800 86400 60"
    }
    template ANY ANY {
        rcode NXDOMAIN
        authority ". 60 IN SOA ns.example.com. hostmaster.example.com. 1 7200 1800 86400 60"
    }
}
"#;

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
    cluster.kubectl(&["apply", "--server-side", "-f", OBJECTS]);
    cluster.kubectl(&["apply", "--server-side", "-f", LABELLED]);
    apply_pods(cluster);
    cluster.kubectl(&["apply", "--server-side", "-f", IMPORTS_CRD]);
    cluster.kubectl(&["wait", "--for=condition=established", "--timeout=60s", "-f", IMPORTS_CRD]);
    cluster.kubectl(&["apply", "--server-side", "-f", IMPORTS]);
    let start = |name: &str, command: &mut Command| Process::start(cluster.namespace(), cluster.directory(), name, command);
    let file = |name: &str, text: &str| {
        let path = cluster.directory().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let upstream = file("corefile-upstream", UPSTREAM_COREFILE);
    let _upstream = start("corefile-upstream", tool("coredns").arg("-conf").arg(upstream).args(["-dns.port", "5398"]));
    let (mut unexplained, mut occurred) = (Vec::new(), [0; KNOWN.len()]);
    let others = OTHERS.map(|(whose, text)| {
        let kubernetes = "kubeconfig KUBECONFIG lab";
        (whose, for_lab(text, "UPSTREAM", kubernetes, ["127.0.0.1:PORT0", "127.0.0.1:PORT1", "127.0.0.1:PORT2"]), OF_OTHERS)
    });
    let cases = CASES.iter().map(|(what, corefile, asked)| (*what, corefile.to_string(), *asked)).chain(others);
    for (number, (what, corefile, asked)) in cases.enumerate() {
        let kubeadm = Lab {
            upstream: "UPSTREAM",
            kubernetes: "kubeconfig KUBECONFIG lab",
            listen: [Some("127.0.0.1:PORT0"), Some("127.0.0.1:PORT1"), Some("127.0.0.1:PORT2")],
        };
        let corefile = corefile.replace(KUBEADM, &kubeadm.text());
        let corefile = corefile.replace("LONG", &"x".repeat(180));
        let corefile = corefile.replace("KUBECONFIG", &cluster.kubeconfig().display().to_string()).replace("UPSTREAM", UPSTREAM);
        let with_ports = |first: u16| {
            (0..3).fold(corefile.clone(), |text, port| text.replace(&format!("PORT{port}"), &(first + port).to_string()))
        };
        let (ours, theirs) = (
            file(&format!("corefile-{number}-ours"), &with_ports(8070)),
            file(&format!("corefile-{number}-theirs"), &with_ports(8060)),
        );
        let _theirs =
            start(&format!("corefile-{number}-theirs"), tool("coredns").arg("-conf").arg(theirs).args(["-dns.port", "5312"]));
        let mut waypost = Command::new(WAYPOST);
        waypost.args(["run", "--role=dns", "--kubeconfig"]).arg(cluster.kubeconfig()).arg("--corefile").arg(ours);
        waypost.args([
            &format!("--dns-address={OURS}"),
            "--dns-health-address=",
            "--dns-ready-address=",
            "--dns-metrics-address=",
        ]);
        let _ours = start(&format!("corefile-{number}-ours"), &mut waypost);
        for server in [OURS, THEIRS] {
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
        for question in asked.iter().map(|text| question(text)) {
            let (mut ours, mut theirs) = (question.ask(OURS, Transport::Udp), question.ask(THEIRS, Transport::Udp));
            if ours.is_cut() && theirs.is_cut() {
                [&mut ours, &mut theirs].into_iter().for_each(Said::leave_data_out);
            }
            for field in Field::ALL.into_iter().filter(|field| field.of(&ours) != field.of(&theirs)) {
                let difference = Difference { corefile: &corefile, field, question: &question, ours: &ours, theirs: &theirs };
                if let Some(known) = KNOWN.iter().position(|(_, explains)| explains(&difference)) {
                    occurred[known] += 1;
                } else if !RULES.iter().any(|rule| (rule.explains)(field, &question, &ours, &theirs)) {
                    unexplained.push(format!("{what}: {question:?}: {field:?}\n  ours   {ours:?}\n  theirs {theirs:?}"));
                }
            }
        }
    }
    // Before anything fails: the cases that follow have the cluster to themselves.
    cluster.kubectl(&["delete", "--timeout=180s", "-f", IMPORTS, "-f", IMPORTS_CRD, "-f", LABELLED]);
    for (namespace, name, ..) in PODS {
        cluster.kubectl(&["--namespace", namespace, "delete", "pod", name, "--force", "--grace-period=0"]);
    }
    cluster.kubectl(&["delete", "--timeout=180s", "-f", OBJECTS]);
    assert!(unexplained.is_empty(), "{} fields differ without a reason:\n{}", unexplained.len(), unexplained.join("\n"));
    // A kept answer looks different only once a second has passed.
    let is_gone = |row: &str, times: usize| times == 0 && row != "cache";
    let gone: Vec<&str> =
        KNOWN.iter().zip(occurred).filter(|((row, _), times)| is_gone(row, *times)).map(|((row, _), _)| *row).collect();
    assert!(gone.is_empty(), "these do not differ any more; take them out of docs/differences.md too: {gone:?}");
}

/// A field that differs.
struct Difference<'a> {
    corefile: &'a str,
    field: Field,
    question: &'a Question,
    ours: &'a Said,
    theirs: &'a Said,
}

/// Whether it explains a difference.
type Explains = fn(&Difference) -> bool;

/// The rows of `docs/differences.md` that are seen with other Corefiles, and what is each question's own.
const KNOWN: [(&str, Explains); 9] = [
    ("cache", is_kept),
    ("cache, disable", is_ttl_of_what_is_not_kept),
    ("acl, template", is_do_of_extended_error),
    ("bufsize", is_size_of_bufsize),
    ("pods verified", is_second_address),
    ("dns-empty-non-terminal", is_name_of_cluster),
    ("multicluster", is_name_server_of_other_clusters),
    ("namespace_labels", is_at_an_address_of_a_hidden_namespace),
    ("the port of each question's socket", is_port_of_client),
];

/// CoreDNS's cache keeps the cluster's names too, and counts down.
fn is_kept(difference: &Difference) -> bool {
    let Difference { corefile, field, ours, theirs, .. } = difference;
    let keeps_names = corefile.contains("cache") && corefile.contains("kubernetes") && !corefile.contains("disable success");
    keeps_names
        && matches!(field, Field::Answers | Field::Authority | Field::Additional)
        && without_word(&field.of(ours), 1) == without_word(&field.of(theirs), 1)
}

/// CoreDNS cuts the TTLs of what it does not keep to those of what it keeps.
fn is_ttl_of_what_is_not_kept(difference: &Difference) -> bool {
    let Difference { corefile, field, question, ours, theirs } = difference;
    let is_not_kept = ["success", "denial"].iter().any(|kind| corefile.contains(&format!("disable {kind} {}\n", question.name)));
    let (ours, theirs) = (field.of(ours), field.of(theirs));
    is_not_kept && ours.contains(" 60 ") && theirs.contains(". 20 ") && without_word(&ours, 1) == without_word(&theirs, 1)
}

/// CoreDNS sets DO beside extended errors, whatever the client has set.
fn is_do_of_extended_error(difference: &Difference) -> bool {
    let without_do = |said: &Said| said.opt.map(|(size, _, options)| (size, options));
    let says_errors = difference.corefile.contains("acl") || difference.corefile.contains("ederror");
    difference.field == Field::Opt && says_errors && without_do(difference.ours) == without_do(difference.theirs)
}

/// CoreDNS repeats the client's size, which `bufsize` has made smaller.
fn is_size_of_bufsize(difference: &Difference) -> bool {
    let Difference { corefile, field, ours, theirs, .. } = difference;
    let is_so = ours.opt == Some((1232, false, 0)) && theirs.opt == Some((512, false, 0));
    *field == Field::Opt && corefile.contains("bufsize 512") && is_so
}

/// Each question has a socket of its own, and whoami names its port.
fn is_port_of_client(difference: &Difference) -> bool {
    let Difference { corefile, field, ours, theirs, .. } = difference;
    let whoami = corefile.contains("whoami") && *field == Field::Additional;
    whoami && without_word(&field.of(ours), 5) == without_word(&field.of(theirs), 5)
}

/// With EDNS, so that extended errors have a place; `CH` stands for TXT of that class.
fn question(text: &str) -> Question {
    let (name, kind) = text.split_once(' ').unwrap();
    let (kind, class) = match kind {
        "CH" => (RecordType::TXT, DNSClass::CH),
        kind => (kind.parse().unwrap(), DNSClass::IN),
    };
    let edns = Some(OptRecord { size: 1232, dnssec_ok: false, unknown_option: false });
    Question { class, edns, ..Question::plain(name, kind) }
}

/// The name of a pod's second address, which CoreDNS does not know (`docs/differences.md`, pods verified).
fn is_second_address(Difference { question, ours, theirs, .. }: &Difference) -> bool {
    question.name.starts_with("fd00-244--9-1.") && ours.code == "NoError" && theirs.code == "NXDomain"
}

/// The name of a cluster below that of a service: `dns-empty-non-terminal` with names of other clusters.
fn is_name_of_cluster(Difference { question, ours, theirs, .. }: &Difference) -> bool {
    question.name.starts_with("east.db.") && ours.code == "NoError" && theirs.code == "NXDomain"
}

/// CoreDNS looks for a Service whose endpoint it is, here `kubernetes`, and names it in whatever zone is asked (`docs/differences.md`).
fn is_name_server_of_other_clusters(Difference { question, ours, theirs, .. }: &Difference) -> bool {
    let names = |said: &Said, name: &str| said.answers.iter().any(|line| line.contains(name));
    let (own, service) = ("ns ns.dns.clusterset.local.", "ns kubernetes.default.svc.clusterset.local.");
    question.name == "clusterset.local" && names(ours, own) && names(theirs, service)
}

fn without_word(section: &str, number: usize) -> Vec<String> {
    let without = |line: &str| {
        line.split(' ').enumerate().filter(|(place, _)| *place != number).map(|(_, word)| format!("{word} ")).collect()
    };
    section.lines().map(without).collect()
}

/// CoreDNS names services at addresses whatever the labels of their namespaces, though they have no such name (`docs/differences.md`, namespace_labels).
fn is_at_an_address_of_a_hidden_namespace(Difference { question, ours, theirs, .. }: &Difference) -> bool {
    question.name == "1.2.8.10.in-addr.arpa"
        && ours.answers.is_empty()
        && theirs.answers.iter().any(|line| line.contains(".back.svc."))
}
