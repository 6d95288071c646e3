//! A running agent is asked over its local socket.

use super::{CLUSTER, World};
use crate::load::Load;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use waypost::lab::Outcome;

const FLAGS: &[&str] = &["--cluster-cidr=10.244.0.0/16,fd00:244::/64", "--service-cidr=10.96.0.0/16"];

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("a_running_agent_explains_over_its_socket_and_knows_what_the_kernel_holds", answers),
        Trial::test("a_running_agent_says_where_a_client_that_is_remembered_or_hashed_goes", tells_where_a_client_goes),
        Trial::test("a_running_agent_lists_services_with_their_connections", lists_with_connections),
        Trial::test("connections_per_second_are_those_that_clients_made_between_two_looks", connections_per_second),
        Trial::test(
            "the_socket_is_for_its_user_alone_and_says_what_it_does_not_understand",
            only_its_user_and_only_what_it_knows,
        ),
        Trial::test("of_two_agents_the_newest_one_answers", the_newest_agent_answers),
    ]
}

/// Exit code, standard output and standard error of `waypost`, asked on the node.
fn waypost(world: &World, words: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(words).env("WAYPOST_SOCKET", world.socket());
    let output = world.node.namespace().output(&mut command).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn explained(world: &World, from: &str, to: &str) -> (i32, Value) {
    let (code, text, error) = waypost(world, &["explain", "--from", from, "--to", to, "--json"]);
    let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{code}: {text}{error}{}", world.log()));
    (code, json)
}

/// A Service that remembers its clients, and one that hashes them, each with the server and an endpoint that is not there.
fn choosy() -> String {
    let of = |name: &str, number: u8, metadata: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop{metadata}}}\n\
             spec: {{clusterIP: 10.96.1.{number}, clusterIPs: [10.96.1.{number}], ports: [{{port: 80}}]{spec}}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{port: 8080, protocol: TCP}}]\n\
             endpoints: [{{addresses: [10.244.0.3]}}, {{addresses: [10.244.7.7]}}]\n"
        )
    };
    let hash = ", annotations: {waypost.dev/balance: source-hash}";
    of("sticky", 1, "", ", sessionAffinity: ClientIP") + &of("hash", 2, hash, "")
}

fn tells_where_a_client_goes() -> Result<(), Failed> {
    let world = World::prepared("asked-where", &(CLUSTER.to_string() + &choosy())).started(FLAGS);
    let (_, answer) = explained(&world, "10.244.0.2", "sticky.shop");
    let account = &answer["accounts"][0];
    assert_eq!(account["endpoints"].as_array().map(Vec::len), Some(2), "{answer:#}");
    assert!(answer.to_string().contains("does not remember 10.244.0.2"), "{answer:#}");
    // Whether anybody answers or not, the client is remembered.
    world.connect(&world.client, "10.96.1.1:80");
    let (_, answer) = explained(&world, "10.244.0.2", "sticky.shop");
    let account = &answer["accounts"][0];
    let endpoint = account["endpoints"][0]["address"].as_str().unwrap_or_default();
    let table = world.run("nft", &["list", "table", "ip", "waypost"]);
    let remembered = table.lines().find(|line| line.contains("10.244.0.2 ") && line.contains(" expires ")).unwrap_or_default();
    assert!(!endpoint.is_empty() && remembered.contains(&format!(": {endpoint} . 8080")), "{answer:#}\n{table}");
    assert_eq!(account["endpoints"].as_array().map(Vec::len), Some(1), "{answer:#}");
    assert_eq!(account["unused"][0]["why"], "the client was sent to another one before", "{answer:#}");
    // Others are drawn.
    let (_, answer) = explained(&world, "10.244.0.9", "sticky.shop");
    assert_eq!(answer["accounts"][0]["endpoints"].as_array().map(Vec::len), Some(2), "{answer:#}");
    let (_, answer) = explained(&world, "10.244.0.2", "hash.shop");
    let account = &answer["accounts"][0];
    let is_server = account["endpoints"][0]["address"] == "10.244.0.3";
    assert_eq!(account["endpoints"].as_array().map(Vec::len), Some(1), "{answer:#}");
    let is_reached = matches!(world.connect(&world.client, "10.96.1.2:80"), Outcome::Reached { .. });
    assert_eq!(is_reached, is_server, "{answer:#}");
    let (_, answer) = explained(&world, "outside", "hash.shop");
    assert_eq!(answer["accounts"][0]["endpoints"].as_array().map(Vec::len), Some(2), "no client is meant: {answer:#}");
    Ok(())
}

fn answers() -> Result<(), Failed> {
    let world = World::prepared("asked", CLUSTER).started(FLAGS);
    world.reached(&world.client, "10.96.0.1:80");
    let (code, answer) = explained(&world, "10.244.0.2", "web.shop");
    let account = &answer["accounts"][0];
    assert_eq!((code, &answer["node"], &account["verdict"]), (0, &json!("node-1"), &json!("balanced")), "{answer:#}");
    assert_eq!(account["endpoints"][0]["address"], "10.244.0.3");
    assert_eq!(account["kernel"]["state"], "in-step", "{answer:#}");
    // The node's own addresses are known beyond those of its object.
    let (_, answer) = explained(&world, "127.0.0.1", "192.0.2.10:30080");
    assert_eq!(answer["accounts"][0]["from"]["kind"], "node", "{answer:#}");
    let (code, answer) = explained(&world, "outside", "198.51.100.2:80");
    assert_eq!((code, &answer["accounts"][0]["verdict"]), (4, &json!("dropped")), "{answer:#}");
    let (code, _, error) = waypost(&world, &["explain", "--to", "shop/wep:80"]);
    assert!(code == 1 && error.contains("did you mean shop/web?"), "{error}");
    let (code, _, error) = waypost(&world, &["explain", "--from", "pod/shop/web-1", "--to", "shop/web:80"]);
    assert!(code == 1 && error.contains("does not watch Pods"), "{error}");
    Ok(())
}

fn lists_with_connections() -> Result<(), Failed> {
    let world = World::prepared("listed", CLUSTER).started(FLAGS);
    for _ in 0..7 {
        world.reached(&world.client, "10.96.0.1:80");
    }
    let (code, text, error) = waypost(&world, &["services", "shop/web", "--json"]);
    let listing: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{code}: {text}{error}"));
    let port = &listing["services"][0]["ports"][0];
    assert_eq!((&port["ready"], &port["local"]), (&json!(2), &json!(2)), "{listing:#}");
    assert_eq!(port["connections"]["total"], 7, "{listing:#}");
    let (_, text, _) = waypost(&world, &["services"]);
    assert!(text.starts_with("SERVICE ") && text.contains("shop/edge"), "{text}");
    Ok(())
}

/// What a client has made before and while the agent looks bounds what it may tell.
fn connections_per_second() -> Result<(), Failed> {
    let world = World::prepared("per-second", CLUSTER).started(FLAGS);
    world.reached(&world.client, "10.96.0.1:80");
    let listed = |which: &str| -> (u64, f64) {
        let (code, text, error) = waypost(&world, &["services", which, "--json"]);
        let listing: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{code}: {text}{error}"));
        let connections = &listing["services"][0]["ports"][0]["connections"];
        (connections["total"].as_u64().expect("a number"), connections["perSecond"].as_f64().expect("a number"))
    };
    let (quiet, none) = listed("shop/web");
    assert!(quiet > 0 && none == 0.0, "nobody connects: {quiet}, {none}");
    let load = Load::start(&[(world.client.namespace(), &["10.96.0.1:80", "[fd00:96::1]:80"])]);
    world.eventually("clients connect", || if load.attempts() > 10 { Ok(()) } else { Err(format!("{}", load.attempts())) });
    let before = load.attempts() as u64;
    let (total, per_second) = listed("shop/web");
    let (_, of_others) = listed("shop/edge");
    let seen = load.end();
    let made: u64 = seen.by.values().sum::<usize>() as u64;
    seen.assert_nothing_lost();
    // One attempt is under way when it is counted here, or was not yet when the kernel counted it.
    assert!(before - 1 <= total - quiet && total - quiet <= made, "{before} before, {total} of {made} counted, {quiet} at first");
    // The agent's two looks are at least a second apart, and both are between the two looks of this test.
    let between = (total - quiet) as f64;
    assert!(per_second > 0.0 && per_second <= between, "{per_second} a second of {between}");
    assert_eq!(of_others, 0.0, "nobody connects to the other Service");
    Ok(())
}

fn only_its_user_and_only_what_it_knows() -> Result<(), Failed> {
    let mut world = World::prepared("asked-badly", CLUSTER);
    let (code, _, error) = waypost(&world, &["explain", "--to", "shop/web:80"]);
    assert!(code == 1 && error.contains("no agent answers on") && error.contains("--kubeconfig"), "{error}");
    world.start(FLAGS, 10256);
    assert_eq!(fs::metadata(world.socket())?.permissions().mode() & 0o777, 0o600);
    for (request, status) in [
        ("POST /v1/explain HTTP/1.0\r\nContent-Length: 9\r\n\r\n{\"to\": 1}".to_string(), "400"),
        ("POST /v1/explain HTTP/1.0\r\nContent-Length: 13\r\n\r\n{\"to\": \":80\"}".to_string(), "422"),
        ("GET /v1/everything HTTP/1.0\r\n\r\n".to_string(), "404"),
        ("GET /version HTTP/1.0\r\n\r\n".to_string(), "200"),
        (format!("POST /v1/services HTTP/1.0\r\nContent-Length: 20000\r\n\r\n{}", " ".repeat(20000)), "400"),
    ] {
        let mut stream = UnixStream::connect(world.socket())?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request:?}: {answer}");
    }
    Ok(())
}

fn the_newest_agent_answers() -> Result<(), Failed> {
    let mut world = World::prepared("asked-newest", CLUSTER).started(FLAGS);
    let other = ["--healthz-bind-address=127.0.0.1:10266", "--metrics-bind-address=127.0.0.1:10269", "--masquerade-all"];
    world.start(&[FLAGS, &other].concat(), 10266);
    let (_, answer) = explained(&world, "10.244.0.2", "web.shop");
    assert_eq!(answer["accounts"][0]["endpoints"][0]["source"], "masqueraded", "{answer:#}");
    // The old one's end takes nothing away from the new one.
    world.agents[0].kill()?;
    world.agents[0].wait()?;
    let (code, _) = explained(&world, "10.244.0.2", "web.shop");
    assert_eq!(code, 0);
    Ok(())
}
