//! Who may connect, and on which nodes a Service is exposed: the examples of `docs/services.md`.

use super::{PODS, examples};
use crate::world::World;
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use waypost::lab::{Outcome, Pod};

const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {zone: a}}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: "2001:db8::10"}]}
"#;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("sources_are_allowed_and_denied_at_every_address", every_address),
        Trial::test("load_balancer_addresses_ask_for_their_ranges_too", load_balancer),
        Trial::test("sources_that_cannot_be_read_open_nothing", unreadable),
        Trial::test("a_service_is_exposed_on_the_nodes_that_are_selected", exposed),
    ]
}

/// The node, the documentation's Service of this name as the test varies it, and its endpoints.
fn manifests(name: &str, vary: impl Fn(&mut Value)) -> String {
    let mut service = examples::example("services.md", &format!("\n  name: {name}\n"));
    service.iter_mut().for_each(vary);
    let service = examples::manifests(&service);
    let slice = |family: &str, address: &str| {
        format!(
            r#"---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{family}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: {family}
ports: [{{port: 8080, protocol: TCP}}]
endpoints: [{{addresses: ["{address}"], nodeName: node-1}}]
"#
        )
    };
    [NODE, &service, &slice("IPv4", "10.244.0.3"), &slice("IPv6", "fd00:244::3")].concat()
}

fn denied(world: &World, from: &Pod, target: &str) {
    assert_eq!(world.connect(from, target), Outcome::TimedOut, "{target} from {}", from.name());
}

fn as_documented(_: &mut Value) {}

/// Sets an annotation of ours to what a change makes of its text.
fn annotate(service: &mut Value, name: &str, change: impl Fn(&str) -> String) {
    let annotation = &mut service["metadata"]["annotations"][format!("waypost.dev/{name}")];
    *annotation = change(annotation.as_str().expect("the example has it")).into();
}

fn every_address() -> Result<(), Failed> {
    let world = World::prepared("every-address", &manifests("admin", as_documented)).started(&[PODS]);
    world.reached(&world.outside, "192.0.2.10:30080");
    world.write(&manifests("admin", |service| service["spec"]["externalIPs"] = json!(["198.51.100.1", "2001:db8:1::1"])));
    let rogue = world.node.host("rogue", &["203.0.113.66".parse()?])?;
    let stranger = world.node.host("stranger", &["203.0.114.9".parse()?])?;
    for target in ["10.96.0.1:80", "198.51.100.1:80", "192.0.2.10:30080"] {
        world.reached(&world.client, target);
        world.reached(&world.outside, target);
        denied(&world, &rogue, target);
        denied(&world, &stranger, target);
        // The node's own address is in no range.
        assert_eq!(world.connect(world.node.namespace(), target), Outcome::TimedOut, "{target}");
    }
    for target in ["[fd00:96::1]:80", "[2001:db8:1::1]:80", "[2001:db8::10]:30080"] {
        world.reached(&world.client, target);
        denied(&world, &world.outside, target);
    }
    // A denied list alone.
    world.write(&manifests("admin", |service| {
        service["metadata"]["annotations"].as_object_mut().expect("it has some").remove("waypost.dev/allowed-sources");
    }));
    world.reached(&stranger, "10.96.0.1:80");
    world.reached(&world.outside, "[fd00:96::1]:80");
    denied(&world, &rogue, "10.96.0.1:80");
    Ok(())
}

fn load_balancer() -> Result<(), Failed> {
    let text = manifests("admin", |service| {
        service["spec"]["type"] = "LoadBalancer".into();
        service["spec"]["loadBalancerSourceRanges"] = json!(["203.0.113.0/28", "203.0.114.0/24"]);
        service["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "198.51.100.2" }] } });
    });
    let world = World::prepared("load-balancer", &text).started(&[PODS]);
    let other = world.node.host("other", &["203.0.113.77".parse()?])?;
    let stranger = world.node.host("stranger", &["203.0.114.9".parse()?])?;
    world.reached(&world.outside, "198.51.100.2:80");
    denied(&world, &other, "198.51.100.2:80");
    denied(&world, &stranger, "198.51.100.2:80");
    denied(&world, &world.client, "198.51.100.2:80");
    world.reached(&other, "192.0.2.10:30080");
    Ok(())
}

fn unreadable() -> Result<(), Failed> {
    let with = |name: &'static str, good: &'static str, bad: &'static str| {
        manifests("admin", move |service| annotate(service, name, |text| text.replace(good, bad)))
    };
    let text = with("allowed-sources", "203.0.113.0/24", "203.0.113.0/240");
    let world = World::prepared("unreadable", &text).started(&[PODS]);
    world.await_log(&["InvalidAnnotation", "shop/admin", "203.0.113.0/240", "allows nobody"]);
    world.reached(&world.client, "10.96.0.1:80");
    denied(&world, &world.outside, "10.96.0.1:80");
    world.write(&with("denied-sources", "203.0.113.66", "203.0.113.666"));
    world.await_log(&["InvalidAnnotation", "203.0.113.666", "nobody may connect"]);
    world.eventually("nobody may connect", || match world.connect(&world.client, "10.96.0.1:80") {
        Outcome::TimedOut => Ok(()),
        other => Err(other.to_string()),
    });
    world.write(&manifests("admin", as_documented));
    world.reached(&world.outside, "10.96.0.1:80");
    Ok(())
}

fn exposed() -> Result<(), Failed> {
    let text = manifests("ingress", as_documented);
    let world = World::prepared("exposed", &text).started(&[PODS, "--nodeport-addresses=primary,localhost"]);
    // What is no service's is the node's own, and nobody listens there.
    world.node.add_address("198.51.100.7".parse()?)?;
    let outside = ["198.51.100.7:80", "192.0.2.10:30080"];
    let is_closed = || {
        outside.iter().for_each(|target| world.refused(&world.outside, target));
        world.refused(world.node.namespace(), "127.0.0.1:30080");
        world.reached(&world.client, "10.96.0.1:80");
    };
    is_closed();
    let select = |text: &str| text.replace("labels: {zone: a}", "labels: {zone: a, node-role.example.com/edge: \"true\"}");
    world.write(&select(&text));
    outside.iter().for_each(|target| world.reached(&world.outside, target));
    world.reached(world.node.namespace(), "127.0.0.1:30080");
    let unreadable = |service: &mut Value| annotate(service, "expose-on-nodes", |text| text.replace("(a, b)", "a"));
    world.write(&select(&manifests("ingress", unreadable)));
    world.await_log(&["InvalidAnnotation", "shop/ingress", "no node exposes"]);
    world.eventually("it is exposed no more", || match world.connect(&world.outside, outside[1]) {
        Outcome::Refused => Ok(()),
        other => Err(other.to_string()),
    });
    is_closed();
    Ok(())
}
