//! A Deployment's endpoints are replaced one by one while clients connect, and ask over UDP, as fast as they can.

use super::PODS;
use crate::load::{Load, killing_each_second};
use crate::world::World;
use libtest_mimic::{Failed, Trial};
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::process::Child;
use std::time::{Duration, Instant};
use waypost::lab::{Namespace, Outcome, Pod, Serve};

/// How long a pod that terminates goes on serving.
const GRACE: Duration = Duration::from_secs(5);
/// A new pod is ready, and an old one begins to terminate, this often.
const STEP: Duration = Duration::from_secs(1);
/// How many pods there are at a time.
const PODS_AT_A_TIME: u8 = 4;

const UDP_PORT: u16 = 7;
/// NodePorts of UDP ports are so much higher.
const UDP_NODE_PORTS: u16 = 50;

const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: "2001:db8::10"}]}
"#;

/// A Service for each way of balancing: its name, its address, annotations, and what else its specification says.
const SERVICES: [(&str, u8, &str, &str); 5] = [
    ("random", 1, "", ""),
    ("sticky", 2, "", "sessionAffinity: ClientIP"),
    ("robin", 3, "waypost.dev/balance: round-robin", ""),
    ("hash", 4, "waypost.dev/balance: source-hash", ""),
    ("slow", 5, "waypost.dev/slow-start: \"3\"", ""),
];

const INSIDE: [&[&str]; 2] = [
    &["10.96.0.1:80", "10.96.0.2:80", "10.96.0.3:80", "10.96.0.4:80", "10.96.0.5:80"],
    &["[fd00:96::1]:80", "[fd00:96::2]:80", "[fd00:96::3]:80", "[fd00:96::4]:80", "[fd00:96::5]:80"],
];
const OUTSIDE: [&[&str]; 2] = [
    &["192.0.2.10:30001", "198.51.100.2:80", "192.0.2.10:30003", "192.0.2.10:30004", "198.51.100.5:80"],
    &["[2001:db8::10]:30001", "[2001:db8:1::2]:80", "[2001:db8::10]:30003", "[2001:db8::10]:30004", "[2001:db8:1::5]:80"],
];

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("a_rolling_update_loses_no_connection", undisturbed),
        Trial::test("a_rolling_update_loses_no_connection_while_the_agent_is_killed_each_second", with_kills),
    ]
}

fn undisturbed() -> Result<(), Failed> {
    let mut world = World::prepared("rolling", NODE);
    let rollout = Rollout::begin(&world);
    world.start(&[PODS], 10256);
    let load = load(&world);
    rollout.run(&world, load);
    Ok(())
}

fn with_kills() -> Result<(), Failed> {
    let world = World::prepared("rolling-kills", NODE);
    let rollout = Rollout::begin(&world);
    let start = || Killed(world.start_another(&[PODS], 10256));
    let kills = killing_each_second(start(), start, || rollout.run(&world, load(&world)));
    assert!(kills > 3, "the agent was killed {kills} times");
    Ok(())
}

/// An agent that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().expect("it is our child");
        self.0.wait().expect("it is our child");
    }
}

/// From a pod and from outside, over both families, a client for each over TCP and one over UDP.
fn load(world: &World) -> Load {
    for (from, targets) in [(&world.client, INSIDE), (&world.outside, OUTSIDE)] {
        for target in targets.into_iter().flatten() {
            world.eventually(&format!("{target} is answered"), || match world.connect(from, target) {
                Outcome::Reached { .. } => Ok(()),
                other => Err(other.to_string()),
            });
        }
    }
    let datagrams = |targets: &[&str]| targets.iter().map(|target| over_udp(target)).collect::<Vec<String>>();
    let (inside, outside) = (INSIDE.map(datagrams), OUTSIDE.map(datagrams));
    let datagrams: Vec<Vec<&str>> = inside.iter().chain(&outside).map(|all| all.iter().map(String::as_str).collect()).collect();
    let streams = INSIDE.into_iter().chain(OUTSIDE);
    let (client, outside) = (world.client.namespace(), world.outside.namespace());
    let from = || [client, client, outside, outside].into_iter();
    let clients: Vec<(&Namespace, &[&str])> =
        from().zip(streams).chain(from().zip(datagrams.iter().map(Vec::as_slice))).collect();
    Load::start(&clients)
}

/// The port for UDP beside one for TCP.
fn over_udp(target: &str) -> String {
    let (address, port) = target.rsplit_once(':').expect("an address and a port");
    let port = if port == "80" { UDP_PORT } else { port.parse::<u16>().expect("a number") + UDP_NODE_PORTS };
    format!("{address}:{port}/udp")
}

/// The pods of the Deployment.
struct Rollout {
    next: u8,
    ready: VecDeque<Pod>,
    /// Pods that terminate, and when each closes its sockets.
    leaving: VecDeque<(Instant, Pod)>,
}

impl Rollout {
    fn begin(world: &World) -> Rollout {
        // Clients' ports come round again. What comes from the same port within the time-out belongs to the old flow, and stays on its pod.
        world.node.namespace().set_sysctl("netfilter/nf_conntrack_udp_timeout", "1").unwrap();
        let mut rollout = Rollout { next: 0, ready: VecDeque::new(), leaving: VecDeque::new() };
        for _ in 0..PODS_AT_A_TIME {
            rollout.add(world);
        }
        rollout.write(world);
        rollout
    }

    /// Replaces every pod, and then looks at what clients saw.
    fn run(mut self, world: &World, load: Load) {
        for _ in 0..PODS_AT_A_TIME {
            self.replace_one(world);
            self.wait(world, Instant::now() + STEP);
        }
        while let Some((over, _)) = self.leaving.front() {
            self.wait(world, *over);
        }
        let seen = load.end();
        let found: BTreeSet<&str> = seen.by.keys().map(String::as_str).collect();
        assert!(seen.over_udp > 0, "nothing was asked over UDP");
        seen.assert_nothing_lost();
        assert_eq!(found.len(), usize::from(self.next), "every pod had connections, and nobody else: {found:?}");
    }

    fn add(&mut self, world: &World) {
        self.next += 1;
        let addresses: [IpAddr; 2] = addresses(self.next).map(|address| address.parse().unwrap());
        let pod = world.node.pod(&format!("pod-{}", self.next), &addresses).unwrap();
        pod.serve(Serve::Tcp, 8080).unwrap();
        pod.serve(Serve::Udp, 7007).unwrap();
        self.ready.push_back(pod);
    }

    fn replace_one(&mut self, world: &World) {
        self.add(world);
        let old = self.ready.pop_front().expect("there are pods");
        self.leaving.push_back((Instant::now() + GRACE, old));
        self.write(world);
    }

    /// Waits until then; pods whose grace period is over close their sockets, and are gone after that.
    fn wait(&mut self, world: &World, end: Instant) {
        while let Some((over, _)) = self.leaving.front()
            && *over <= end
        {
            std::thread::sleep(over.saturating_duration_since(Instant::now()));
            let (_, gone) = self.leaving.pop_front().expect("it is there");
            gone.stop_serving();
            self.write(world);
        }
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
    }

    fn write(&self, world: &World) {
        let ready = self.ready.iter().map(|pod| (pod, "{ready: true}"));
        let leaving = self.leaving.iter().map(|(_, pod)| (pod, "{ready: false, serving: true, terminating: true}"));
        let endpoints: Vec<(&Pod, &str)> = ready.chain(leaving).collect();
        let services = SERVICES.map(|service| objects(service, &endpoints)).concat();
        world.write(&format!("{NODE}{services}"));
    }
}

fn addresses(number: u8) -> [String; 2] {
    [format!("10.244.0.{}", 10 + number), format!("fd00:244::{:x}", 16 + number)]
}

/// A Service and its slices.
fn objects((name, number, annotations, more): (&str, u8, &str, &str), endpoints: &[(&Pod, &str)]) -> String {
    let slice = |family: &str, v4: bool| {
        let endpoint = |(pod, conditions): &(&Pod, &str)| {
            let address = pod.addresses().iter().find(|address| address.is_ipv4() == v4).expect("pods have both");
            format!("- {{addresses: [\"{address}\"], nodeName: node-1, conditions: {conditions}}}\n")
        };
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{v4}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: {family}\nports: [{{name: http, port: 8080, protocol: TCP}}, {{name: echo, port: 7007, protocol: UDP}}]\nendpoints:\n{}",
            endpoints.iter().map(endpoint).collect::<String>()
        )
    };
    let node_port = 30000 + u16::from(number);
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop, annotations: {{{annotations}}}}}\n\
         spec:\n  type: NodePort\n  clusterIP: 10.96.0.{number}\n  clusterIPs: [10.96.0.{number}, \"fd00:96::{number}\"]\n  \
         externalIPs: [198.51.100.{number}, \"2001:db8:1::{number}\"]\n  externalTrafficPolicy: Local\n  \
         ports: [{{name: http, port: 80, nodePort: {node_port}}}, {{name: echo, port: {UDP_PORT}, protocol: UDP, nodePort: {}}}]\n  {more}\n{}{}",
        node_port + UDP_NODE_PORTS,
        slice("IPv4", true),
        slice("IPv6", false)
    )
}
