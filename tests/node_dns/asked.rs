//! `waypost dig` and `waypost dns top` ask a running agent.

use crate::world::{Agent, PATIENCE, World, ask};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("dig_says_which_object_cache_or_server_an_answer_comes_from", answers_are_explained),
        Trial::test("dig_searches_as_a_pod_does_and_leaves_the_upstream_servers_in_peace", searches_as_a_pod),
        Trial::test("dns_top_lists_the_busiest_names_and_clients", busiest),
    ]
}

/// An agent whose upstream server gives every name one address.
fn agent(world: &World) -> Agent {
    let socket = world.node.namespace().udp_socket("192.0.2.10:5353".parse().unwrap()).unwrap();
    socket.set_nonblocking(false).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        // It ends with its namespace, at the latest with the tests.
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let mut message = Message::from_vec(&buffer[..length]).unwrap();
            let query = message.queries[0].clone();
            message.metadata.message_type = MessageType::Response;
            match query.query_type() {
                RecordType::HINFO => message.metadata.response_code = ResponseCode::NXDomain,
                _ => message.answers.push(Record::from_rdata(
                    query.name().clone(),
                    60,
                    RData::A(Ipv4Addr::new(203, 0, 113, 80).into()),
                )),
            }
            let _ = socket.send_to(&message.to_vec().unwrap(), client);
        }
    });
    let socket = format!("--socket={}", world.folder.sockets().join("agent.sock").display());
    let agent = Agent::on_node(world, &["--dns-upstream=192.0.2.10:5353", "--dns-forward-policy=sequential", &socket]);
    agent.says("this node answers its own DNS questions");
    agent
}

/// Exit code, standard output and standard error.
fn waypost(world: &World, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(words).env("WAYPOST_SOCKET", world.folder.sockets().join("agent.sock"));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn attempts(world: &World, words: &[&str]) -> Vec<Value> {
    let (code, text, error) = waypost(world, &[&["dig", "--json"], words].concat());
    let dug: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{code}: {text}{error}"));
    dug["attempts"].as_array().unwrap().clone()
}

fn answers_are_explained() -> Result<(), Failed> {
    let world = World::new("dug");
    let _agent = agent(&world);
    for (words, code, parts) in [
        (&["web.shop.svc.cluster.local"][..], 0, &["NOERROR", "A  10.96.0.1", "from memory: Service shop/web (ClusterIP)"][..]),
        (&["Web.Shop.svc.cluster.local.", "aaaa"], 0, &["AAAA", "fd00:96::1"]),
        (&["10.96.0.1"], 0, &["1.0.96.10.in-addr.arpa. PTR", "web.shop.svc.cluster.local.", "Service shop/web (ClusterIP)"]),
        (&["10.244.0.3"], 0, &["endpoint 10.244.0.3 of Service shop/web"]),
        (&["_http._tcp.web.shop.svc.cluster.local", "SRV"], 0, &["0 50 80", "port _http/_tcp of Service shop/web (ClusterIP)"]),
        (&["nobody.shop.svc.cluster.local"], 5, &["NXDOMAIN", "(authority)", "nothing in cluster.local. has this name"]),
        (&["web.shop.svc.cluster.local", "MX"], 5, &["NOERROR", "(authority)"]),
        (&["www.example.com"], 0, &["203.0.113.80", "asked 192.0.2.10:5353, for zone .: NOERROR in "]),
        (&["www.example.com"], 0, &["203.0.113.80", "from the cache: ", " s old, for another "]),
        (&["web.shop", "NONSENSE"], 1, &["\"NONSENSE\" is no record type"]),
        (&["a..b"], 1, &["\"a..b\" is no domain name"]),
    ] {
        let (exit, text, error) = waypost(&world, &[&["dig"], words].concat());
        assert_eq!(exit, code, "{words:?}: {text}{error}");
        let said = text + &error;
        assert!(parts.iter().all(|part| said.contains(part)), "{words:?}, {parts:?}: {said}");
    }
    Ok(())
}

fn searches_as_a_pod() -> Result<(), Failed> {
    let world = World::new("searched");
    let _agent = agent(&world);
    let names = |attempts: &[Value]| attempts.iter().map(|one| one["name"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    let asked = |attempts: &[Value]| {
        let steps = attempts.iter().flat_map(|one| one["steps"].as_array().unwrap());
        steps.filter(|step| step["step"] == "upstream").count()
    };
    let of_cluster = attempts(&world, &["kube-dns.kube-system", "--namespace=shop", "--search=corp.example"]);
    assert_eq!(names(&of_cluster), ["kube-dns.kube-system.shop.svc.cluster.local.", "kube-dns.kube-system.svc.cluster.local."]);
    assert_eq!((&of_cluster[0]["code"], &of_cluster[1]["records"][0]["data"]), (&json!("NXDOMAIN"), &json!("10.96.0.10")));
    assert_eq!(asked(&of_cluster), 0);
    // Only the last one of these leaves the node: the search domains of the cluster never do.
    let outside = attempts(&world, &["www.example.org", "--namespace=shop"]);
    let expected = ["shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", ""];
    assert_eq!(names(&outside), expected.map(|domain| format!("www.example.org.{domain}")));
    assert_eq!((asked(&outside[..3]), &outside[3]["code"]), (0, &json!("NOERROR")), "{outside:#?}");
    assert!(asked(&outside[3..]) >= 1);
    assert_eq!(names(&attempts(&world, &["web.shop.svc.cluster.local.", "--namespace=shop"])), ["web.shop.svc.cluster.local."]);
    Ok(())
}

fn busiest() -> Result<(), Failed> {
    let world = World::new("busiest");
    let _agent = agent(&world);
    let stop = Arc::new(AtomicBool::new(false));
    let (namespace, until) = (world.client.namespace().clone(), stop.clone());
    let asking = thread::spawn(move || {
        let ask = || {
            while !until.load(Ordering::Relaxed) {
                for tcp in [false, true] {
                    ask("10.96.0.10:53".parse().unwrap(), tcp).unwrap();
                }
                thread::sleep(Duration::from_millis(5));
            }
        };
        namespace.run(ask).unwrap();
    });
    let began = Instant::now();
    let listed = loop {
        let (code, text, error) = waypost(&world, &["dns", "top", "--seconds=1", "--count=3", "--json"]);
        let listed: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{code}: {text}{error}"));
        if listed["questions"].as_u64().unwrap() > 10 {
            break listed;
        }
        assert!(began.elapsed() < PATIENCE, "{listed:#}");
    };
    assert_eq!(listed["names"][0]["what"], "kube-dns.kube-system.svc.cluster.local.", "{listed:#}");
    assert_eq!(listed["clients"][0], json!({"what": "10.244.0.2", "questions": listed["questions"]}), "{listed:#}");
    // On a busy machine the first may have counted before the second asks: then both are told, and it is tried again.
    let began = Instant::now();
    loop {
        let counting = thread::scope(|scope| {
            let both: Vec<_> = (0..2).map(|_| scope.spawn(|| waypost(&world, &["dns", "top", "--seconds=3"]))).collect();
            both.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        let said = counting.iter().filter(|(code, text, _)| *code == 0 && text.contains("CLIENT")).count();
        let refused =
            counting.iter().filter(|(code, _, error)| *code == 1 && error.contains("somebody else is counting")).count();
        assert_eq!(said + refused, 2, "{counting:?}");
        if refused == 1 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "two may count at once: {counting:?}");
    }
    let (code, _, error) = waypost(&world, &["dns", "top", "--seconds=60"]);
    assert!(code == 1 && error.contains("give 1 to 15"), "{error}");
    stop.store(true, Ordering::Relaxed);
    asking.join().unwrap();
    Ok(())
}
