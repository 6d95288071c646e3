//! Corefiles obeyed: what their plugins do with questions over the wire.

use crate::battery::{cluster, cluster_ip, endpoint, headless, slice};
use crate::corefiles::{KUBEADM, Lab};
use crate::others::{OTHERS, for_lab};
use crate::wire::{ELSEWHERE, Running, answer_to, fake_upstream, query, tcp, udp, upstream};
use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption, NSIDPayload};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::UdpSocket;
use waypost::dns::records::Records;
use waypost::model::{Endpoint, Marks, Name, ObjectKey, Service, Slice, SliceDetails};
use waypost::store::PodMove;

const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const ANY: u16 = 255;

/// Code and records, sorted, each as `section record`.
fn said(message: &Message) -> Vec<String> {
    let line = |section: &str, record: &Record| {
        // Serials are each server's own.
        let data = if record.record_type() == RecordType::SOA { "SERIAL".to_string() } else { record.data.to_string() };
        format!("{section} {} {} {} {data}", record.name, record.ttl, record.record_type())
    };
    let mut lines: Vec<String> = message.answers.iter().map(|record| line("answer", record)).collect();
    lines.extend(message.authorities.iter().map(|record| line("authority", record)));
    lines.extend(message.additionals.iter().map(|record| line("additional", record)));
    lines.sort();
    lines.insert(0, format!("{:?}", message.metadata.response_code));
    lines
}

async fn ask(server: SocketAddr, name: &str, rtype: u16) -> Vec<String> {
    let question = query(name, rtype);
    let (by_udp, by_tcp) = (udp(server, &question).await, tcp(server, &question).await);
    let (by_udp, by_tcp) = (said(&by_udp), said(&by_tcp));
    assert_eq!(by_udp, by_tcp, "{name} {rtype}: UDP and TCP");
    by_udp
}

/// Serves by a Corefile in which `UPSTREAM` stands for a server that answers everything, and asks.
async fn check(corefile: &str, questions: &[(&str, u16, &[&str])]) {
    let corefile = corefile.replace("UPSTREAM", &upstream().await.to_string());
    let running = Running::by_corefile(cluster(), &corefile);
    for (name, rtype, expected) in questions {
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(ask(running.ipv4(), name, *rtype).await, expected, "{name} {rtype}\n{corefile}");
    }
    running.serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubeadms_corefile_answers_cluster_names_and_forwards_others() {
    let corefile = Lab { upstream: "UPSTREAM", kubernetes: "", listen: [Some(""); 3] }.text();
    check(
        &corefile,
        &[
            ("web.default.svc.cluster.local", A, &["NoError", "answer web.default.svc.cluster.local. 30 A 10.96.0.10"]),
            ("10-1-2-3.default.pod.cluster.local", A, &["NoError", "answer 10-1-2-3.default.pod.cluster.local. 30 A 10.1.2.3"]),
            ("www.example.com", A, &["NoError", "answer www.example.com. 30 A 203.0.113.9"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_block_has_its_own_zones_and_settings() {
    let corefile = "cluster.local {
        kubernetes {
            ttl 7
        }
    }
    corp.example {
        hosts {
            192.0.2.7 printer.corp.example
            fallthrough
        }
        forward . UPSTREAM
    }
    other.example {
        kubernetes cluster.local {
            namespaces data
        }
    }";
    check(
        corefile,
        &[
            ("web.default.svc.cluster.local", A, &["NoError", "answer web.default.svc.cluster.local. 7 A 10.96.0.10"]),
            ("10-1-2-3.default.pod.cluster.local", A, &["NXDomain", SOA]),
            ("printer.corp.example", A, &["NoError", "answer printer.corp.example. 3600 A 192.0.2.7"]),
            ("printer.corp.example", AAAA, &["NoError"]),
            ("x.corp.example", A, &["NoError", "answer x.corp.example. 60 A 203.0.113.9"]),
            ("x.other.example", A, &["ServFail"]),
            ("www.example.com", A, &["Refused"]),
        ],
    )
    .await;
}

const SOA: &str = "authority cluster.local. 7 SOA SERIAL";

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_rewritten_and_their_answers_back() {
    let corefile = r#". {
        rewrite name shop.example web.default.svc.cluster.local
        rewrite name suffix .apps.example .default.svc.cluster.local answer auto
        rewrite stop {
            name regex (.*)\.old\.example {1}.default.svc.cluster.local
            answer name (.*)\.default\.svc\.cluster\.local {1}.old.example
        }
        rewrite continue ttl exact ttl.example 300
        rewrite name exact ttl.example www.example.com
        kubernetes cluster.local
        forward . UPSTREAM
    }"#;
    check(
        corefile,
        &[
            ("shop.example", A, &["NoError", "answer shop.example. 5 A 10.96.0.10"]),
            ("web.apps.example", A, &["NoError", "answer web.apps.example. 5 A 10.96.0.10"]),
            ("web.old.example", A, &["NoError", "answer web.old.example. 5 A 10.96.0.10"]),
            ("ttl.example", A, &["NoError", "answer ttl.example. 300 A 203.0.113.9"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_hosts_any_and_dns64_answer_by_themselves() {
    let corefile = r#"tmpl.example {
        template IN A {
            match ^ip-(?P<a>\d+)-(?P<b>\d+)-(?P<c>\d+)-(?P<d>\d+)[.]
            answer "{{ .Name }} 60 IN A {{ .Group.a }}.{{ .Group.b }}.{{ .Group.c }}.{{ .Group.d }}"
            fallthrough
        }
        template IN ANY {
            rcode NXDOMAIN
            authority "tmpl.example 60 IN SOA ns.tmpl.example hostmaster.tmpl.example 1 7200 1800 86400 60"
        }
    }
    . {
        any
        hosts {
            192.0.2.7 printer.example
            2001:db8::7 printer.example
            fallthrough
        }
        dns64 {
            allow_ipv4
        }
        template IN AAAA only4.example {
            rcode NOERROR
        }
        template IN A only4.example {
            answer "{{ .Name }} 60 IN A 192.0.2.33"
        }
    }"#;
    let nothing = "authority tmpl.example. 60 SOA SERIAL";
    check(
        corefile,
        &[
            ("ip-10-1-2-3.tmpl.example", A, &["NoError", "answer ip-10-1-2-3.tmpl.example. 60 A 10.1.2.3"]),
            ("other.tmpl.example", A, &["NXDomain", nothing]),
            ("printer.example", AAAA, &["NoError", "answer printer.example. 3600 AAAA 2001:db8::7"]),
            ("7.2.0.192.in-addr.arpa", PTR, &["NoError", "answer 7.2.0.192.in-addr.arpa. 3600 PTR printer.example."]),
            ("only4.example", AAAA, &["NoError", "answer only4.example. 60 AAAA 64:ff9b::c000:221"]),
            ("printer.example", ANY, &["NoError", "answer printer.example. 8482 HINFO ANY obsoleted See RFC 8482"]),
            ("nobody.example", A, &["ServFail"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acl_minimal_whoami_chaos_and_nsid_do_as_they_say() {
    let corefile = ". {
        nsid node-7
        chaos Test-1 one
        acl drop.example {
            drop
        }
        acl {
            block type A net 127.0.0.0/8
            filter type TXT
        }
        whoami
    }";
    let running = Running::by_corefile(cluster(), corefile);
    assert_eq!(ask(running.ipv4(), "www.example", A).await, ["Refused"]);
    assert_eq!(ask(running.ipv4(), "www.example", TXT).await, ["NoError"]);
    let mut question = query("www.example", AAAA);
    let mut edns = Edns::new();
    edns.options_mut().insert(EdnsOption::NSID(NSIDPayload::new(Vec::new()).unwrap()));
    question.set_edns(edns);
    let reply = udp(running.ipv4(), &question).await;
    let additional: Vec<String> = reply.additionals.iter().map(|record| record.name.to_string()).collect();
    assert_eq!((reply.metadata.authoritative, additional), (true, vec!["www.example.".into(), "_udp.www.example.".into()]));
    let nsid = reply.edns.as_ref().and_then(|edns| edns.option(EdnsCode::NSID)).unwrap();
    assert_eq!(*nsid, EdnsOption::NSID(NSIDPayload::new(b"node-7".to_vec()).unwrap()));
    let mut question = query("version.bind", TXT);
    question.queries[0].set_query_class(DNSClass::CH);
    let reply = udp(running.ipv4(), &question).await;
    assert_eq!((reply.answers.len(), reply.answers[0].data.to_string()), (1, "Test-1".to_string()));
    question.queries[0].set_query_class(DNSClass::HS);
    assert_eq!(udp(running.ipv4(), &question).await.metadata.response_code, ResponseCode::Refused);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(running.ipv4()).await.unwrap();
    let (dropped, answered) = (query("x.drop.example", TXT), query("www.example", TXT));
    for question in [&dropped, &answered] {
        socket.send(&question.to_vec().unwrap()).await.unwrap();
    }
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).await.unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (answered.metadata.id, ResponseCode::NoError));
    running.serving.shutdown().await;
    let nothing_more = socket.try_recv(&mut buffer).unwrap_err();
    assert_eq!(nothing_more.kind(), std::io::ErrorKind::WouldBlock, "two questions, one reply");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_named_with_its_line() {
    for (corefile, problem) in [
        (". {\n    kubernetes\n    dnstap /run/tap\n}", "Corefile:3: the plugin dnstap is not there"),
        (". {\n    forward . 192.0.2.1 {\n        nonsense\n    }\n}", "Corefile:3: forward has no option \"nonsense\""),
        (". {\n    whoami\n    rewrite name regex ( a\n}", "Corefile:3: rewrite: \"(\" is no regular expression"),
        (". {\n    whoami\n}\n. {\n    whoami\n}", "Corefile:4: zones: another block answers for ."),
        (". {\n    forward . quic://192.0.2.1\n}", "Corefile:2: forward: servers are not asked over quic"),
        ("tls://. {\n    whoami\n}", "Corefile:1: tls://.: DNS is served over UDP and TCP only"),
        (". {\n    template IN A {\n        answer \"{{ range .Match }}\"\n    }\n}", "Corefile:2: template: "),
        (". {\n    template IN A {\n        answer \"{{ .Name }} 1y IN A 192.0.2.1\"\n    }\n}", "Corefile:2: template: "),
        (". {\n    whoami\n    rewrite class CH IN\n}", "Corefile:3: rewrite class is not there: questions of other classes"),
        (". {\n    chaos\n    template CH TXT\n}", "Corefile:3: template: CH: questions of other classes"),
    ] {
        let error = Running::plan_of(corefile).err().unwrap();
        assert!(error.starts_with(problem), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_that_fails_becomes_no_empty_answer_by_dns64() {
    let corefile = ". {
        dns64 {
            allow_ipv4
        }
        template IN AAAA fails.example none.example {
            rcode NOERROR
        }
        template IN A fails.example {
            rcode SERVFAIL
        }
        template IN A none.example {
            rcode NXDOMAIN
        }
    }";
    check(corefile, &[("fails.example", AAAA, &["ServFail"]), ("none.example", AAAA, &["NXDomain"])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_alias_to_what_was_found_on_the_search_path_is_said_once() {
    let path = std::env::temp_dir().join(format!("waypost-autopath-{}", std::process::id()));
    std::fs::write(&path, "search first.example second.example\n").unwrap();
    let corefile = r#". {
        autopath PATH
        template IN A first.example {
            match ^www[.]
            answer "{{ .Name }} 60 IN CNAME target.example."
        }
        template IN A first.example {
            rcode NXDOMAIN
        }
        template IN A second.example {
            answer "{{ .Name }} 60 IN A 192.0.2.2"
        }
        template IN A target.example {
            answer "{{ .Name }} 60 IN A 192.0.2.1"
        }
    }"#
    .replace("PATH", path.to_str().unwrap());
    check(
        &corefile,
        &[
            (
                "www.first.example",
                A,
                &["NoError", "answer target.example. 60 A 192.0.2.1", "answer www.first.example. 60 CNAME target.example."],
            ),
            (
                "other.first.example",
                A,
                &[
                    "NoError",
                    "answer other.first.example. 60 CNAME other.second.example.",
                    "answer other.second.example. 60 A 192.0.2.2",
                ],
            ),
        ],
    )
    .await;
    std::fs::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn corefiles_that_people_have_are_obeyed_unedited() {
    for (whose, text) in OTHERS.into_iter().chain([("kubeadm", KUBEADM)]) {
        Running::plan_of(text).unwrap_or_else(|error| panic!("{whose}: {error}"));
        let ttl = if text.contains("ttl 30") { 30 } else { 5 };
        let name = |name: &str, data: &str| format!("answer {name} {ttl} A {data}");
        let web = name("web.default.svc.cluster.local.", "10.96.0.10");
        let corefile = for_lab(text, "UPSTREAM", "", ["127.0.0.1:0"; 3]);
        // Namespaces are chosen by labels there, which these records do not have.
        let web: &[&str] = if whose == "gke" { &["ServFail"] } else { &["NoError", &web] };
        check(&corefile, &[("web.default.svc.cluster.local", A, web)]).await;
        // The upstream server's 60, or what the cache makes of it.
        let kept = if text.contains("cache 30") || text.contains("cache  30") { 30 } else { 60 };
        let www = format!("answer www.example.com. {kept} A 203.0.113.9");
        check(&corefile, &[("www.example.com", A, &["NoError", &www])]).await;
    }
}

/// Whose custom parts lie beside the Corefile, as AKS and k3s mount them.
#[tokio::test(flavor = "multi_thread")]
async fn custom_parts_beside_a_corefile_are_obeyed() {
    let folder = std::env::temp_dir().join(format!("waypost-custom-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("custom")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let (_, aks) = OTHERS.into_iter().find(|(whose, _)| *whose == "aks").unwrap();
    write("Corefile", &for_lab(aks, &upstream().await.to_string(), "", ["127.0.0.1:0"; 3]));
    write("custom/log.override", "hosts {\n    192.0.2.7 seven.example\n    fallthrough\n}\n");
    write(
        "custom/corp.server",
        "corp.example {\n    template IN A {\n        answer \"{{ .Name }} 60 IN A 192.0.2.8\"\n    }\n}\n",
    );
    let running = Running::by_file(cluster(), &folder.join("Corefile"));
    for (name, expected) in [
        ("seven.example", "answer seven.example. 30 A 192.0.2.7"),
        ("www.corp.example", "answer www.corp.example. 60 A 192.0.2.8"),
        ("www.example.com", "answer www.example.com. 30 A 203.0.113.9"),
    ] {
        assert_eq!(ask(running.ipv4(), name, A).await, ["NoError", expected]);
    }
    for (name, code) in [
        ("a.b.c.d.internal.cloudapp.net", "NXDomain"),
        ("reddog.microsoft.com", "NXDomain"),
        ("a.internal.cloudapp.net", "NoError"),
    ] {
        assert_eq!(ask(running.ipv4(), name, A).await[0], code, "{name}");
    }
    running.serving.shutdown().await;
    std::fs::remove_dir_all(folder).unwrap();
}

fn marked(labels: &[(&str, &str)]) -> Option<Arc<Marks>> {
    Some(Arc::new(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()))
}

/// A headless service of two slices, one of which has no label, with pods and zones.
fn shop(records: &Records, namespace: &str) {
    let name = format!("{namespace}/shop");
    let names =
        |names: &[&str]| Some(names.iter().map(|name| Some((*name).into()).filter(|name: &Name| !name.is_empty())).collect());
    let details = |labels: &[(&str, &str)], pods: &[&str], zones: &[&str]| {
        Some(Arc::new(SliceDetails { labels: marked(labels), pods: names(pods), zones: names(zones) }))
    };
    let ends = [endpoint("10.8.0.1"), Endpoint { hostname: Some("shop-0".into()), ..endpoint("10.8.0.2") }];
    let first = Slice {
        details: details(&[("app", "shop")], &["shop-abc", "shop-def"], &["a", "west.example"]),
        ..slice(&name, &["http/tcp/80"], ends)
    };
    let mut second = Slice { details: details(&[], &["x.y"], &[""]), ..slice(&name, &["http/tcp/80"], [endpoint("10.8.0.3")]) };
    second.key = ObjectKey::new(namespace, "shop-2");
    let service = Service { labels: marked(&[("app", "shop")]), ..headless(&name) };
    records.publish(&ObjectKey::new(namespace, "shop"), Some(&service), &[&first, &second]);
}

/// `control_plane` compares these with CoreDNS's.
#[tokio::test(flavor = "multi_thread")]
async fn objects_are_chosen_by_their_labels_and_endpoints_named_by_pods_and_zones() {
    let records = Records::new("cluster.local", 30);
    for (namespace, labels) in [("front", marked(&[("tier", "front")])), ("back", marked(&[])), ("unheard", None)] {
        records.set_namespace(&namespace.into(), true, labels.as_ref());
        shop(&records, namespace);
    }
    let key = ObjectKey::new("front", "unmarked");
    records.publish(&key, Some(&cluster_ip("front/unmarked", &["10.96.0.9"], &[])), &[]);
    records.set_synced();
    let records = Arc::new(records);
    for (options, questions) in [
        (
            "labels app=shop",
            &[
                ("shop.front.svc", "NoError 10.8.0.1 10.8.0.2"),
                ("10-8-0-3.shop.front.svc", "NXDomain"),
                ("shop.back.svc", "NoError 10.8.0.1 10.8.0.2"),
                // Its labels are not known.
                ("unmarked.front.svc", "ServFail"),
                ("absent.front.svc", "NXDomain"),
            ][..],
        ),
        ("labels app in (a, b)", &[("shop.front.svc", "NXDomain"), ("front.svc", "NoError")]),
        (
            "namespace_labels tier=front",
            &[
                ("shop.front.svc", "NoError 10.8.0.1 10.8.0.2 10.8.0.3"),
                ("shop.back.svc", "NXDomain"),
                ("back.svc", "NXDomain"),
                ("10-1-1-1.front.pod", "NoError 10.1.1.1"),
                ("10-1-1-1.back.pod", "NXDomain"),
                ("unheard.svc", "ServFail"),
                ("shop.unheard.svc", "ServFail"),
                ("absent.svc", "NXDomain"),
            ],
        ),
        (
            "endpoint_pod_names",
            &[
                ("shop-abc.shop.front.svc", "NoError 10.8.0.1"),
                ("10-8-0-1.shop.front.svc", "NXDomain"),
                ("shop-0.shop.front.svc", "NoError 10.8.0.2"),
                ("shop-def.shop.front.svc", "NXDomain"),
                ("10-8-0-3.shop.front.svc", "NXDomain"),
                ("x.y.shop.front.svc", "NXDomain"),
                (r"x\.y.shop.front.svc", "NXDomain"),
            ],
        ),
        (
            "zonal",
            &[
                ("A.pin._zone.shop.front.svc", "NoError 10.8.0.1"),
                ("west.example.pin._zone.shop.front.svc", "NoError 10.8.0.2"),
                ("west.pin._zone.shop.front.svc", "NoError"),
                ("west.prefer._zone.shop.front.svc", "NoError 10.8.0.1 10.8.0.2 10.8.0.3"),
                ("a.prefer._zone.shop.front.svc", "NoError 10.8.0.1"),
                ("a.other._zone.shop.front.svc", "NXDomain"),
                ("a.pin._zone.unmarked.front.svc", "NXDomain"),
                ("a.pin._zone.absent.front.svc", "NXDomain"),
                ("pin._zone.shop.front.svc", "NXDomain"),
            ],
        ),
        ("", &[("a.pin._zone.shop.front.svc", "NXDomain"), ("shop-abc.shop.front.svc", "NXDomain")]),
    ] {
        let corefile = format!(
            ". {{\n    kubernetes cluster.local {{\n        pods insecure\n        {options}\n    }}\n    loadbalance\n}}"
        );
        let running = Running::by_corefile(records.clone(), &corefile);
        for (name, expected) in questions {
            let lines = ask(running.ipv4(), &format!("{name}.cluster.local"), A).await;
            let addresses = lines.iter().filter(|line| line.starts_with("answer")).filter_map(|line| line.rsplit(' ').next());
            let said = [lines[0].as_str()].into_iter().chain(addresses).collect::<Vec<_>>().join(" ");
            assert_eq!(said, *expected, "{options}: {name}");
        }
        running.serving.shutdown().await;
    }
    for (options, complaint) in [
        ("labels =", "is no label selector"),
        ("namespaces front\n namespace_labels tier=front", "by name or by labels"),
        ("zonal\n noendpoints", "leave one of zonal and noendpoints out"),
    ] {
        let error = Running::plan_of(&format!(". {{\n kubernetes cluster.local {{\n {options}\n }}\n}}")).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
}

/// `control_plane` compares these with CoreDNS's as well.
#[tokio::test(flavor = "multi_thread")]
async fn names_at_addresses_are_chosen_by_the_labels_of_slices_and_fail_while_those_are_not_known() {
    let records = Records::new("cluster.local", 30);
    let namespace = marked(&[("tier", "front")]);
    records.set_namespace(&"front".into(), true, namespace.as_ref());
    records.set_namespace(&"unheard".into(), true, None);
    shop(&records, "front");
    let of = |name: &str, labels: Option<Arc<Marks>>, service: Service, address: &str| {
        let details = labels.map(|labels| Arc::new(SliceDetails { labels: Some(labels), ..SliceDetails::default() }));
        let slice = Slice { details, ..slice(name, &["http/tcp/80"], [endpoint(address)]) };
        records.publish(&service.key, Some(&service), &[&slice]);
    };
    let hidden = cluster_ip("front/hidden", &["10.96.0.20"], &[]);
    of("front/hidden", marked(&[("app", "shop")]), Service { labels: marked(&[]), ..hidden }, "10.8.1.1");
    let late = cluster_ip("front/late", &["10.96.0.9"], &[]);
    of("front/late", None, late, "10.8.1.2");
    of("unheard/far", marked(&[("app", "shop")]), Service { labels: marked(&[]), ..headless("unheard/far") }, "10.8.1.3");
    records.set_synced();
    let records = Arc::new(records);
    for (options, questions) in [
        (
            "labels app=shop",
            &[
                ("10.8.0.1", "NoError 10-8-0-1.shop.front.svc.cluster.local."),
                ("10.8.0.3", "NXDomain"),
                ("10.96.0.20", "NXDomain"),
                ("10.8.1.1", "NoError 10-8-1-1.hidden.front.svc.cluster.local."),
                ("10.96.0.9", "ServFail"),
                ("10.8.1.2", "ServFail"),
                ("10.8.9.9", "NXDomain"),
            ][..],
        ),
        (
            "namespace_labels tier=front",
            &[
                ("10.8.1.1", "NoError 10-8-1-1.hidden.front.svc.cluster.local."),
                ("10.96.0.20", "NoError hidden.front.svc.cluster.local."),
                ("10.8.1.3", "ServFail"),
            ],
        ),
        (
            "endpoint_pod_names",
            &[
                ("10.8.0.1", "NoError shop-abc.shop.front.svc.cluster.local."),
                ("10.8.0.3", "NoError x.y.shop.front.svc.cluster.local."),
            ],
        ),
    ] {
        let corefile =
            format!(". {{\n    kubernetes cluster.local in-addr.arpa {{\n        {options}\n    }}\n    loadbalance\n}}");
        let running = Running::by_corefile(records.clone(), &corefile);
        for (address, expected) in questions {
            let reversed: Vec<&str> = address.rsplit('.').collect();
            let lines = ask(running.ipv4(), &format!("{}.in-addr.arpa", reversed.join(".")), PTR).await;
            let names = lines.iter().filter(|line| line.starts_with("answer")).filter_map(|line| line.rsplit(' ').next());
            let said = [lines[0].as_str()].into_iter().chain(names).collect::<Vec<_>>().join(" ");
            assert_eq!(said, *expected, "{options}: {address}");
        }
        running.serving.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolv_conf_and_servers_stand_beside_each_other_in_forward() {
    let path = std::env::temp_dir().join(format!("waypost-forward-{}.conf", std::process::id()));
    std::fs::write(&path, "# nobody yet\n").unwrap();
    let corefile = ". {\n    forward . PATH UPSTREAM\n}".replace("PATH", path.to_str().unwrap());
    check(&corefile, &[("www.example.com", A, &["NoError", "answer www.example.com. 60 A 203.0.113.9"])]).await;
    std::fs::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn search_paths_of_pods_that_are_known_are_walked_here_and_what_that_saves_is_counted() {
    let records = cluster();
    let address = "127.0.0.1".parse().unwrap();
    records.move_pod(&PodMove { namespace: "default".into(), address, labels: None, is_there: true });
    records.set_pods_listed(true);
    let corefile = ". {
        autopath @kubernetes
        kubernetes cluster.local {
            pods verified
        }
        forward . UPSTREAM
    }";
    // It has this one name, so that it does not matter what this host searches.
    let upstream = fake_upstream(|question, _| {
        let mut answer = answer_to(question, ELSEWHERE);
        if question.queries[0].name().to_string() != "www.example.com." {
            answer.answers.clear();
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        vec![answer]
    });
    let running = Running::by_corefile(records, &corefile.replace("UPSTREAM", &upstream.await.to_string()));
    let saved = |how: &str| running.counted("waypost_dns_saved_questions_total", how);
    let question = query("www.example.com.default.svc.cluster.local", A);
    let reply = udp(running.ipv4(), &question).await;
    assert_eq!(
        said(&reply)[..3],
        [
            "NoError",
            "answer www.example.com. 60 A 203.0.113.9",
            "answer www.example.com.default.svc.cluster.local. 60 CNAME www.example.com."
        ]
    );
    assert!(saved("autopath") >= 3, "the pod's three domains were tried here, and perhaps those of this host");
    // Without a pod's address, or in the second domain of the path, a miss is a miss, answered from memory.
    assert_eq!(saved("memory"), 0);
    let missed = udp(running.ipv4(), &query("www.example.com.svc.cluster.local", A)).await;
    let stranger = udp(running.ipv6(), &question).await;
    assert_eq!([missed.metadata.response_code, stranger.metadata.response_code], [ResponseCode::NXDomain; 2]);
    assert_eq!(saved("memory"), 2);
    running.serving.shutdown().await;
}
