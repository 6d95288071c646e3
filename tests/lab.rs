//! The lab itself: do pods, nodes and hosts outside reach each other, in both families?
//!
//! A binary with its own `main`, because user namespaces are for processes that have no second thread yet.

mod begin;

use libtest_mimic::{Failed, Trial};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use waypost::lab::{self, Node, Outcome, Pod, Serve};
use waypost::model::Protocol;

const PATIENCE: Duration = Duration::from_secs(5);

fn main() {
    let arguments = begin::in_a_user_namespace();
    let tests = vec![
        Trial::test("pods_reach_each_other_in_both_families", pods_reach_each_other),
        Trial::test("the_node_and_its_pods_reach_each_other", the_node_and_its_pods_reach_each_other),
        Trial::test("a_host_outside_reaches_the_node_and_is_seen_with_its_own_address", outside_reaches_the_node),
        Trial::test("a_pod_that_stops_serving_refuses_and_a_killed_one_has_no_route", dying),
        Trial::test("a_pod_reaches_itself", a_pod_reaches_itself),
        Trial::test("a_program_runs_in_the_pods_namespace", a_program_runs_in_the_pods_namespace),
        Trial::test("with_a_gateway_the_node_has_a_route_for_every_address", with_a_gateway),
        Trial::test("nodes_do_not_see_each_other", nodes_do_not_see_each_other),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn addresses(v4: &str, v6: &str) -> [IpAddr; 2] {
    [v4.parse().unwrap(), v6.parse().unwrap()]
}

fn node() -> Node {
    Node::new(&addresses("192.0.2.10", "2001:db8::10")).unwrap()
}

fn client(node: &Node) -> Pod {
    node.pod("client", &addresses("10.244.0.2", "fd00:244::2")).unwrap()
}

fn server(node: &Node) -> Pod {
    let pod = node.pod("web-1", &addresses("10.244.0.3", "fd00:244::3")).unwrap();
    pod.serve(Serve::Http, 80).unwrap();
    pod.serve(Serve::Tcp, 81).unwrap();
    pod.serve(Serve::Udp, 53).unwrap();
    pod
}

/// Every protocol of `to` answers `from`, which is seen as one of `seen`.
fn assert_reached(from: &impl AsRef<lab::Namespace>, to: &Pod, seen: &[IpAddr]) {
    for address in to.addresses() {
        for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Tcp, 81), (Protocol::Udp, 53)] {
            let target = SocketAddr::new(*address, port);
            match lab::connect(from, protocol, target, PATIENCE) {
                Outcome::Reached { by, seen_source } => {
                    assert_eq!(by, to.name());
                    assert!(seen.contains(&seen_source.ip()), "{protocol} {target} saw {seen_source}");
                }
                other => panic!("{protocol} {target}: {other}"),
            }
        }
    }
}

fn pods_reach_each_other() -> Result<(), Failed> {
    let node = node();
    let (client, server) = (client(&node), server(&node));
    assert_reached(&client, &server, client.addresses());
    Ok(())
}

fn the_node_and_its_pods_reach_each_other() -> Result<(), Failed> {
    let node = node();
    let server = server(&node);
    assert_reached(&node, &server, node.addresses());
    let target = SocketAddr::new(node.addresses()[0], 9);
    assert_eq!(lab::connect(&server, Protocol::Tcp, target, PATIENCE), Outcome::Refused, "the node is there but serves nothing");
    Ok(())
}

fn outside_reaches_the_node() -> Result<(), Failed> {
    let node = node();
    let outside = node.pod("outside", &addresses("198.51.100.7", "2001:db8:1::7"))?;
    for address in node.addresses() {
        let target = SocketAddr::new(*address, 30080);
        assert_eq!(lab::connect(&outside, Protocol::Tcp, target, PATIENCE), Outcome::Refused);
    }
    assert_reached(&outside, &server(&node), outside.addresses());
    Ok(())
}

fn dying() -> Result<(), Failed> {
    let node = node();
    let (client, server) = (client(&node), server(&node));
    let targets: Vec<_> = server.addresses().iter().map(|address| SocketAddr::new(*address, 80)).collect();
    server.stop_serving();
    for target in &targets {
        assert_eq!(lab::connect(&client, Protocol::Tcp, *target, PATIENCE), Outcome::Refused);
    }
    server.kill();
    for target in &targets {
        assert_eq!(lab::connect(&client, Protocol::Tcp, *target, PATIENCE), Outcome::Unreachable);
    }
    Ok(())
}

fn a_pod_reaches_itself() -> Result<(), Failed> {
    let server = server(&node());
    assert_reached(&server, &server, server.addresses());
    Ok(())
}

fn a_program_runs_in_the_pods_namespace() -> Result<(), Failed> {
    let node = node();
    let output = client(&node).namespace().output(std::process::Command::new("cat").arg("/proc/self/net/fib_trie"))?;
    let routes = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(routes.contains("10.244.0.2") && !routes.contains("192.0.2.10"), "{routes}");
    Ok(())
}

fn with_a_gateway() -> Result<(), Failed> {
    let node = node();
    let (client, outside) = (client(&node), node.pod("outside", &addresses("198.51.100.7", "2001:db8:1::7"))?);
    let nowhere: [SocketAddr; 2] = ["10.96.0.1:80".parse()?, "[fd00:96::1]:80".parse()?];
    for target in nowhere {
        assert_eq!(lab::connect(&client, Protocol::Tcp, target, PATIENCE), Outcome::Unreachable);
    }
    node.set_gateway(&outside)?;
    for from in [client.namespace(), node.namespace()] {
        for target in nowhere {
            let outcome = lab::connect(from, Protocol::Tcp, target, Duration::from_millis(100));
            assert_eq!(outcome, Outcome::TimedOut, "the gateway gets it and knows nobody of that address");
        }
    }
    node.own_pod_network("10.96.0.0/16".parse()?)?;
    node.own_pod_network("fd00:96::/64".parse()?)?;
    for target in nowhere {
        assert_eq!(lab::connect(&client, Protocol::Tcp, target, PATIENCE), Outcome::Unreachable);
    }
    Ok(())
}

fn nodes_do_not_see_each_other() -> Result<(), Failed> {
    let (one, other) = (node(), node());
    let (client, server) = (client(&one), server(&other));
    let target = SocketAddr::new(server.addresses()[0], 80);
    assert_eq!(lab::connect(&client, Protocol::Tcp, target, PATIENCE), Outcome::Unreachable);
    Ok(())
}
