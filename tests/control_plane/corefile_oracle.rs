//! Corefiles obeyed: the agent and the stock CoreDNS do what the same Corefile says, follow the same API server, and get the same questions. The
//! differences that the documents list for kubeadm's Corefile are the only ones.

use super::agent::WAYPOST;
use super::cluster::{Cluster, tool};
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
    template ANY ANY {
        rcode NXDOMAIN
        authority ". 60 IN SOA ns.example.com. hostmaster.example.com. 1 7200 1800 86400 60"
    }
}
"#;

/// Names with types, separated by blanks.
type Asked = &'static [&'static str];

/// Stands for kubeadm's Corefile in the lab.
const KUBEADM: &str = "KUBEADM";

/// What Corefiles that people have are asked.
const OF_OTHERS: Asked = &[
    "web.default.svc.cluster.local A",
    "web.default.svc.cluster.local AAAA",
    "WEB.default.svc.cluster.local SRV",
    "db.data.svc.cluster.local A",
    "db.data.svc.cluster.local SRV",
    "db-0.db.data.svc.cluster.local A",
    "outside.default.svc.cluster.local A",
    "absent.default.svc.cluster.local A",
    "web.default.svc.cluster.local TXT",
    "10-1-2-3.default.pod.cluster.local A",
    "10.0.96.10.in-addr.arpa PTR",
    "1.2.0.192.in-addr.arpa PTR",
    "9.9.9.9.in-addr.arpa PTR",
    "cluster.local SOA",
    "cluster.local NS",
    "dns-version.cluster.local TXT",
    "www.example.com A",
    "www.example.com AAAA",
    "absent.example.com A",
    "host.minikube.internal A",
    "a.b.c.d.internal.cloudapp.net A",
    "a.internal.cloudapp.net A",
    "reddog.microsoft.com A",
    "authors.bind CH",
];

/// Corefiles in which `KUBECONFIG` and `UPSTREAM` stand for the lab's, with questions.
const CASES: &[(&str, &str, Asked)] = &[
    (
        // But for what both cannot have.
        "kubeadm",
        KUBEADM,
        &[
            "web.default.svc.cluster.local A",
            "absent.default.svc.cluster.local A",
            "10-1-2-3.default.pod.cluster.local A",
            "www.example.com A",
        ],
    ),
    (
        "settings of the cluster's names",
        ". {
            kubernetes cluster.local other.local 10.0.0.0/8 {
                kubeconfig KUBECONFIG lab
                namespaces default
            }
            loadbalance
        }",
        &[
            "web.default.svc.cluster.local A",
            "web.default.svc.other.local A",
            "plain.data.svc.cluster.local A",
            "data.svc.cluster.local A",
            "10-1-2-3.default.pod.cluster.local A",
            "web.default.svc.cluster.local TXT",
            "10.0.96.10.in-addr.arpa PTR",
            "9.9.9.10.in-addr.arpa PTR",
            "www.example.com A",
        ],
    ),
    (
        "rewriting",
        r". {
            rewrite name shop.example web.default.svc.cluster.local
            rewrite name suffix .apps.example .default.svc.cluster.local answer auto
            rewrite stop {
                name regex (.*)\.old\.example {1}.default.svc.cluster.local
                answer name (.*)\.default\.svc\.cluster\.local {1}.old.example
            }
            rewrite name prefix pre. post. answer auto
            rewrite name substring .mid. . answer auto
            rewrite ttl exact c.example.com 300
            rewrite type MX TXT
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
            }
            forward . UPSTREAM
        }",
        &[
            "shop.example A",
            "SHOP.example A",
            "shop.example SRV",
            "web.apps.example A",
            "absent.apps.example A",
            "web.old.example A",
            "pre.example.com A",
            "a.mid.example.com A",
            "c.example.com A",
            "web.default.svc.cluster.local MX",
        ],
    ),
    (
        "answers of their own",
        r#"tmpl.example {
            template IN A {
                match "^ip-(?P<a>[0-9]+)-(?P<b>[0-9]+)-(?P<c>[0-9]+)-(?P<d>[0-9]+)[.]"
                answer "{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}"
                fallthrough
            }
            template IN A alias.tmpl.example {
                answer "{{ .Name }} 60 IN CNAME www.example.com"
            }
            template IN ANY {
                rcode NXDOMAIN
                authority "tmpl.example 60 IN SOA ns.tmpl.example hostmaster.tmpl.example 1 7200 1800 86400 60"
            }
        }
        . {
            nsid node-7
            chaos Test-1 one
            any
            dns64 {
                allow_ipv4
            }
            minimal
            header {
                response set ra
            }
            hosts {
                192.0.2.7 printer.example
                2001:db8::7 printer.example
                192.0.2.8 printer.example *.wild.example
                fallthrough
            }
            forward . UPSTREAM {
                except private.example
            }
        }"#,
        &[
            "ip-10-1-2-3.tmpl.example A",
            "ip-10-1-2-3.tmpl.example AAAA",
            "other.tmpl.example A",
            "alias.tmpl.example A",
            "printer.example A",
            "printer.example AAAA",
            "printer.example TXT",
            "printer.example ANY",
            "x.wild.example A",
            "7.2.0.192.in-addr.arpa PTR",
            "9.2.0.192.in-addr.arpa PTR",
            "www.example.com AAAA",
            "a.example.com A",
            "x.private.example A",
            "version.bind CH",
            "authors.bind CH",
        ],
    ),
    (
        "EKS's, with a stub domain, a snippet and a cache before hosts",
        "(common) {
            errors
            cache 30
            loop
            reload
            loadbalance
        }
        . {
            import common
            hosts {
                192.0.2.7 printer.example
                fallthrough
            }
            kubernetes cluster.local in-addr.arpa ip6.arpa {
                kubeconfig KUBECONFIG lab
                pods insecure
                fallthrough in-addr.arpa ip6.arpa
            }
            forward . UPSTREAM
        }
        example.com corp.example {
            import common
            hosts {
                192.0.2.9 a.example.com
                fallthrough example.com
                ttl 7
            }
            forward . UPSTREAM {
                policy sequential
            }
        }
        10.0.0.0/8 {
            hosts {
                10.1.2.3 ten.example
            }
        }",
        &[
            "web.default.svc.cluster.local AAAA",
            "web.default.svc.cluster.local A",
            "outside.default.svc.cluster.local A",
            "printer.example A",
            "a.example.com A",
            "b.example.com A",
            "none.example.com A",
            "x.corp.example A",
            "3.2.1.10.in-addr.arpa PTR",
            "4.2.1.10.in-addr.arpa PTR",
            "10.0.96.10.in-addr.arpa SOA",
            "elsewhere.test A",
        ],
    ),
    (
        "who may ask",
        ". {
            acl blocked.example {
                block type A net 192.0.2.0/24 127.0.0.0/8
                allow
            }
            acl {
                filter type TXT
            }
            forward . UPSTREAM
        }",
        &["x.blocked.example A", "x.blocked.example AAAA", "www.example.com TXT", "www.example.com A"],
    ),
    (
        "pods that exist, and their search paths",
        ". {
            autopath @kubernetes
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
                pods verified
            }
            forward . UPSTREAM
        }",
        &[
            "10-244-9-1.default.pod.cluster.local A",
            "10-244-9-1.default.pod.cluster.local AAAA",
            "10-244-9-1.default.pod.cluster.local SRV",
            "10-244-9-1.DEFAULT.pod.cluster.local A",
            "10-244-9-1.data.pod.cluster.local A",
            "fd00-244--9-1.default.pod.cluster.local AAAA",
            "fd00-244--9-2.data.pod.cluster.local AAAA",
            "fd00-244--9-2.data.pod.cluster.local A",
            "10-244-9-3.default.pod.cluster.local A",
            "10-244-9-9.default.pod.cluster.local A",
            "192-0-2-1.default.pod.cluster.local A",
            "default.pod.cluster.local A",
            "www.example.com.default.svc.cluster.local A",
            "www.example.com.svc.cluster.local A",
            "web.default.default.svc.cluster.local A",
            "absent.example.com.default.svc.cluster.local A",
            "www.example.com.data.svc.cluster.local A",
        ],
    ),
    (
        "labels",
        ". {
            kubernetes cluster.local in-addr.arpa {
                kubeconfig KUBECONFIG lab
                pods insecure
                labels app notin (other, back), app
            }
            loadbalance
        }",
        &[
            "shop.front.svc.cluster.local A",
            "shop.front.svc.cluster.local SRV",
            "shop.back.svc.cluster.local A",
            "other.front.svc.cluster.local A",
            "plain.front.svc.cluster.local A",
            "empty.front.svc.cluster.local A",
            "web.default.svc.cluster.local A",
            "front.svc.cluster.local A",
            "10-8-0-1.shop.front.svc.cluster.local A",
            "10-8-0-9.shop.front.svc.cluster.local A",
            "1.0.8.10.in-addr.arpa PTR",
            "9.0.8.10.in-addr.arpa PTR",
            "1.1.8.10.in-addr.arpa PTR",
            "2.1.8.10.in-addr.arpa PTR",
            "10-8-1-2.other.front.svc.cluster.local A",
            "10-1-2-3.front.pod.cluster.local A",
        ],
    ),
    (
        "labels of namespaces",
        ". {
            kubernetes cluster.local in-addr.arpa {
                kubeconfig KUBECONFIG lab
                pods insecure
                namespace_labels tier, !retired
            }
            loadbalance
        }",
        &[
            "shop.front.svc.cluster.local A",
            "shop.back.svc.cluster.local A",
            "web.default.svc.cluster.local A",
            "front.svc.cluster.local A",
            "back.svc.cluster.local A",
            "default.svc.cluster.local A",
            "10-1-2-3.front.pod.cluster.local A",
            "10-1-2-3.back.pod.cluster.local A",
            "front.pod.cluster.local A",
            "back.pod.cluster.local A",
            "1.0.8.10.in-addr.arpa PTR",
            "1.2.8.10.in-addr.arpa PTR",
        ],
    ),
    (
        "names of pods for endpoints",
        ". {
            kubernetes cluster.local in-addr.arpa {
                kubeconfig KUBECONFIG lab
                endpoint_pod_names
            }
            loadbalance
        }",
        &[
            "shop.front.svc.cluster.local A",
            "shop.front.svc.cluster.local SRV",
            "shop-abc.shop.front.svc.cluster.local A",
            "SHOP-abc.shop.front.svc.cluster.local SRV",
            "10-8-0-1.shop.front.svc.cluster.local A",
            "10-8-0-2.shop.front.svc.cluster.local A",
            "10-8-0-9.shop.front.svc.cluster.local A",
            "shop-0.shop.front.svc.cluster.local A",
            "shop-def.shop.front.svc.cluster.local A",
            "shop-ghi.shop.front.svc.cluster.local A",
            "shop-jkl.shop.front.svc.cluster.local A",
            "other-abc.other.front.svc.cluster.local A",
            "1.0.8.10.in-addr.arpa PTR",
            "2.0.8.10.in-addr.arpa PTR",
            "3.0.8.10.in-addr.arpa PTR",
            "6.0.8.10.in-addr.arpa PTR",
            "shop.v2.shop.front.svc.cluster.local A",
            "10-8-0-6.shop.front.svc.cluster.local A",
            "1.1.8.10.in-addr.arpa PTR",
        ],
    ),
    (
        "names for zones of nodes",
        ". {
            kubernetes cluster.local {
                kubeconfig KUBECONFIG lab
                zonal
            }
            loadbalance
        }",
        &[
            "shop.front.svc.cluster.local A",
            "a.pin._zone.shop.front.svc.cluster.local A",
            "A.PIN._zone.shop.front.svc.cluster.local A",
            "a.pin._zone.shop.front.svc.cluster.local AAAA",
            "a.pin._zone.shop.front.svc.cluster.local SRV",
            "a.pin._zone.shop.front.svc.cluster.local HTTPS",
            "west.example.pin._zone.shop.front.svc.cluster.local A",
            "west.pin._zone.shop.front.svc.cluster.local A",
            "example.pin._zone.shop.front.svc.cluster.local TXT",
            "west.prefer._zone.shop.front.svc.cluster.local A",
            "west.prefer._zone.shop.front.svc.cluster.local SRV",
            "a.prefer._zone.shop.front.svc.cluster.local A",
            "a.other._zone.shop.front.svc.cluster.local A",
            "a.pin.zone.shop.front.svc.cluster.local A",
            "pin._zone.shop.front.svc.cluster.local A",
            "_zone.shop.front.svc.cluster.local A",
            "a.pin._zone.other.front.svc.cluster.local A",
            "a.pin._zone.empty.front.svc.cluster.local A",
            "a.prefer._zone.empty.front.svc.cluster.local A",
            "a.pin._zone.absent.front.svc.cluster.local A",
            "a.pin._zone.shop.absent.svc.cluster.local A",
            "a.pin._zone.shop.front.pod.cluster.local A",
        ],
    ),
    (
        "services of other clusters",
        ". {
            kubernetes cluster.local clusterset.local {
                kubeconfig KUBECONFIG lab
                multicluster clusterset.local
            }
            loadbalance
        }",
        &[
            "web.default.svc.cluster.local A",
            "web.default.svc.clusterset.local A",
            "WEB.default.svc.clusterset.local AAAA",
            "web.default.svc.clusterset.local SRV",
            "_http._tcp.web.default.svc.clusterset.local SRV",
            "_http._tcp.web.default.svc.clusterset.local A",
            "_other._tcp.web.default.svc.clusterset.local SRV",
            "http.tcp.web.default.svc.clusterset.local A",
            "10-9-0-9.east.web.default.svc.clusterset.local A",
            "db.data.svc.clusterset.local A",
            "db.data.svc.clusterset.local AAAA",
            "db.data.svc.clusterset.local SRV",
            "_client._tcp.db.data.svc.clusterset.local SRV",
            "db-0.east.db.data.svc.clusterset.local A",
            "db-0.EAST.db.data.svc.clusterset.local SRV",
            "db-0.west.db.data.svc.clusterset.local A",
            "10-9-0-1.east.db.data.svc.clusterset.local A",
            "10-9-0-2.east.db.data.svc.clusterset.local A",
            "10-9-0-3.west.db.data.svc.clusterset.local A",
            "fd00-9--3.west.db.data.svc.clusterset.local AAAA",
            "db-0.db.data.svc.clusterset.local A",
            "east.db.data.svc.clusterset.local A",
            "a.b.c.db.data.svc.clusterset.local A",
            "db.data.svc.cluster.local A",
            "absent.default.svc.clusterset.local A",
            "web.absent.svc.clusterset.local A",
            "default.svc.clusterset.local A",
            "svc.clusterset.local A",
            "clusterset.local A",
            "clusterset.local SOA",
            "clusterset.local NS",
        ],
    ),
];

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
    let mut unexplained = Vec::new();
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
            let (ours, theirs) = (question.ask(OURS, Transport::Udp), question.ask(THEIRS, Transport::Udp));
            for field in Field::ALL.into_iter().filter(|field| field.of(&ours) != field.of(&theirs)) {
                // Its cache keeps the cluster's names too, and counts down.
                let is_kept = corefile.contains("cache") && !corefile.contains("disable success");
                if is_kept && without_ttls(&field.of(&ours)) == without_ttls(&field.of(&theirs)) {
                    continue;
                }
                if field == Field::Opt && corefile.contains("acl") && without_do(&ours) == without_do(&theirs) {
                    continue;
                }
                let known = [
                    is_second_address,
                    is_name_of_cluster,
                    is_name_server_of_other_clusters,
                    is_at_an_address_of_a_hidden_namespace,
                ];
                if known.iter().any(|explains| explains(&question, &ours, &theirs)) {
                    continue;
                }
                if !RULES.iter().any(|rule| (rule.explains)(field, &question, &ours, &theirs)) {
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
fn is_second_address(question: &Question, ours: &Said, theirs: &Said) -> bool {
    question.name.starts_with("fd00-244--9-1.") && ours.code == "NoError" && theirs.code == "NXDomain"
}

/// The name of a cluster below that of a service: `dns-empty-non-terminal` with names of other clusters.
fn is_name_of_cluster(question: &Question, ours: &Said, theirs: &Said) -> bool {
    question.name.starts_with("east.db.") && ours.code == "NoError" && theirs.code == "NXDomain"
}

/// CoreDNS looks for a Service whose endpoint it is, here `kubernetes`, and names it in whatever zone is asked (`docs/differences.md`).
fn is_name_server_of_other_clusters(question: &Question, ours: &Said, theirs: &Said) -> bool {
    let names = |said: &Said, name: &str| said.answers.iter().any(|line| line.contains(name));
    let (own, service) = ("ns ns.dns.clusterset.local.", "ns kubernetes.default.svc.clusterset.local.");
    question.name == "clusterset.local" && names(ours, own) && names(theirs, service)
}

fn without_ttls(section: &str) -> Vec<String> {
    let without =
        |line: &str| line.split(' ').enumerate().filter(|(place, _)| *place != 1).map(|(_, word)| format!("{word} ")).collect();
    section.lines().map(without).collect()
}

/// CoreDNS names services at addresses whatever the labels of their namespaces, though they have no such name (`docs/differences.md`, namespace_labels).
fn is_at_an_address_of_a_hidden_namespace(question: &Question, ours: &Said, theirs: &Said) -> bool {
    question.name == "1.2.8.10.in-addr.arpa"
        && ours.answers.is_empty()
        && theirs.answers.iter().any(|line| line.contains(".back.svc."))
}

/// The OPT record but for DO, which CoreDNS sets in what acl says, whatever the client has set.
fn without_do(said: &Said) -> Option<(u16, usize)> {
    said.opt.map(|(size, _, options)| (size, options))
}
