//! What settings and annotations make of Services: the real program on a folder of manifests, with real packets.

mod asked;
mod company;
mod conntrack;
mod counters;
mod external_ips;
#[path = "../load/mod.rs"]
mod load;
mod masquerade;
mod rolling;
mod sources;
mod takeover;
mod topology;
#[path = "../world/mod.rs"]
mod world;

use libtest_mimic::{Arguments, Failed};
use std::net::{IpAddr, SocketAddr};
use waypost::lab::{self, Namespace, Outcome};
use world::World;

/// A node, a Service in both families, and a load balancer with policy Local whose only endpoint is said to be elsewhere.
const CLUSTER: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: "2001:db8::10"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00:96::1"]
  externalIPs: [198.51.100.1, "2001:db8:1::1"]
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v4, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.3], nodeName: node-1}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v6, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: ["fd00:244::3"], nodeName: node-1}]
---
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.2
  clusterIPs: [10.96.0.2, "fd00:96::2"]
  externalTrafficPolicy: Local
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.2}, {ip: "2001:db8:1::2"}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge-v4, namespace: shop, labels: {kubernetes.io/service-name: edge}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.3], nodeName: node-2}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge-v6, namespace: shop, labels: {kubernetes.io/service-name: edge}}
addressType: IPv6
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: ["fd00:244::3"], nodeName: node-2}]
"#;

/// The networks of the pods.
const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:244::/48";

fn main() {
    let arguments = Arguments::from_args();
    if let Err(error) = lab::enter() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    libtest_mimic::run(
        &arguments,
        [
            asked::tests(),
            masquerade::tests(),
            external_ips::tests(),
            conntrack::tests(),
            sources::tests(),
            counters::tests(),
            takeover::tests(),
            topology::tests(),
            rolling::tests(),
            company::tests(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    )
    .exit();
}

fn world(name: &str, flags: &[&str]) -> World {
    World::prepared(name, CLUSTER).started(flags)
}

/// The example of `docs/services.md` that makes the Service of this name.
fn documented(name: &str) -> String {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/services.md")).expect("the document is there");
    let examples = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let names = format!("\n  name: {name}\n");
    examples.into_iter().find(|example| example.contains(&names)).unwrap_or_else(|| panic!("no example makes {name}")).into()
}

/// The address that the server sees, once it is reached.
fn source_at(world: &World, from: impl AsRef<Namespace>, target: &str) -> IpAddr {
    world.reached(&from, target);
    match world.connect(from, target) {
        Outcome::Reached { seen_source, .. } => seen_source.ip(),
        other => panic!("{target}: {other}\n{}", world.run("nft", &["list", "ruleset"])),
    }
}

/// What nft lists of the tables loads again and is then listed alike.
fn listing_loads_again(world: &World) -> Result<(), Failed> {
    let listing = world.run("nft", &["-s", "list", "ruleset"]);
    let elsewhere = Namespace::new()?;
    let file = std::env::temp_dir().join(format!("waypost-services-{}-{:p}", std::process::id(), &elsewhere));
    std::fs::write(&file, &listing)?;
    let nft = |arguments: &[&str]| elsewhere.output(std::process::Command::new("nft").args(arguments));
    let loaded = nft(&["-f", &file.display().to_string()])?;
    std::fs::remove_file(&file)?;
    assert!(loaded.status.success(), "{listing}\n{}", String::from_utf8_lossy(&loaded.stderr));
    let again = String::from_utf8_lossy(&nft(&["-s", "list", "ruleset"])?.stdout).into_owned();
    let sorted = |text: &str| {
        let mut words: Vec<String> = text.split([',', '{', '}', '\n']).map(|word| word.trim().to_string()).collect();
        words.sort_unstable();
        words
    };
    assert_eq!(sorted(&again), sorted(&listing));
    Ok(())
}

fn family_of(target: &str) -> bool {
    target.parse::<SocketAddr>().unwrap().is_ipv4()
}
