//! UDP flows: those that lead to no serving endpoint are forgotten, and no others.

use super::PODS;
use super::world::World;
use libtest_mimic::{Failed, Trial};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use waypost::conntrack::{Conntrack, Flow, Reconciled, Touched, Tracked, reconcile};
use waypost::lab::{Namespace, Pod, Serve};
use waypost::model::{Family, Protocol};
use waypost::proxy::{Backend, Dest};

/// With so many clients in each place every endpoint has some, except once in a million runs.
const CLIENTS: usize = 40;
const ANSWER: Duration = Duration::from_millis(300);

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: '2001:db8::10'}]}
";

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("udp_flows_move_from_an_endpoint_that_is_gone_and_no_others_do", gone),
        Trial::test("udp_flows_stay_on_an_endpoint_that_serves_while_it_terminates", terminating),
        Trial::test("udp_flows_of_a_service_without_endpoints_are_refused_and_then_moved", none_left),
        Trial::test("a_udp_flow_from_before_its_service_is_translated_once_there_is_one", untranslated),
        Trial::test("udp_flows_that_became_stale_while_the_agent_was_away_move_when_it_is_back", restart),
        Trial::test("the_kernels_settings_are_those_of_the_flags_and_zero_leaves_them_alone", sysctls),
        Trial::test("filtered_deletion_and_deletion_one_by_one_leave_the_same_flows", both_ways),
    ]
}

fn gone() -> Result<(), Failed> {
    let cluster = Cluster::new("flows-gone", &["a", "b", "c"]);
    let clients = cluster.clients();
    let world = &cluster.world;
    // Those of a, on top of those of clients that asked before there was a service.
    let deleted = [Family::V4, Family::V6].map(|family| {
        let of_a = |flow: &&Flow| address("a").contains(&flow.server.ip().to_string());
        let on_a = flows(world.node.namespace(), family).iter().filter(of_a).count();
        let name = format!("kubeproxy_conntrack_reconciler_deleted_entries_total{{ip_family=\"{family}\"}}");
        format!("{name} {}", metric(world, &name) + on_a as u64)
    });
    let looks = |family: Family| format!("kubeproxy_conntrack_reconciler_sync_duration_seconds_count{{ip_family=\"{family}\"}}");
    // Those of the start, each of which was followed by a second one.
    let looked = [Family::V4, Family::V6].map(|family| (metric(world, &looks(family)), family));
    cluster.serve(&[("a", "ready: false, serving: false"), ("b", ""), ("c", "")]);
    for client in &clients {
        match client.server.as_str() {
            "a" => world.eventually("it has moved", || client.is_at(&["b", "c"])),
            there => client.is_at(&[there])?,
        }
    }
    deleted.iter().for_each(|line| world.counted(line));
    for (before, family) in looked {
        assert!(metric(world, &looks(family)) > before, "the look that found them was timed");
    }
    Ok(())
}

fn terminating() -> Result<(), Failed> {
    let cluster = Cluster::new("flows-terminating", &["a", "b", "c"]);
    let clients = cluster.clients();
    cluster.serve(&[("a", "ready: false, serving: true, terminating: true"), ("b", ""), ("c", "serving: false, ready: false")]);
    for client in clients.iter().filter(|client| client.server == "c") {
        cluster.world.eventually("it has moved", || client.is_at(&["b"]));
    }
    for client in clients.iter().filter(|client| client.server != "c") {
        client.is_at(&[&client.server])?;
    }
    Ok(())
}

fn none_left() -> Result<(), Failed> {
    let cluster = Cluster::new("flows-none", &["a"]);
    let clients = cluster.clients();
    cluster.serve(&[]);
    for client in &clients {
        cluster.world.eventually("it is refused", || match client.ask() {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    let _b = cluster.pod("b");
    cluster.serve(&[("b", "")]);
    for client in &clients {
        cluster.world.eventually("it has moved", || client.is_at(&["b"]));
    }
    Ok(())
}

fn untranslated() -> Result<(), Failed> {
    let cluster = Cluster::prepared("flows-untranslated", &["a"]);
    let world = &cluster.world;
    let client = Client::new(world.client.namespace(), "10.96.0.2:53");
    // There is no answer; with more of these the flow would live for ever.
    world.eventually("the flow is there", || {
        let _ = client.ask();
        let flows = flows(world.node.namespace(), Family::V4);
        if flows.iter().any(|flow| flow.to == client.to && flow.server == client.to) { Ok(()) } else { Err(format!("{flows:?}")) }
    });
    cluster.serve(&[("a", "")]);
    world.eventually("it is translated", || client.is_at(&["a"]));
    Ok(())
}

fn restart() -> Result<(), Failed> {
    let mut cluster = Cluster::new("flows-restart", &["a", "b"]);
    let clients = cluster.clients();
    // To somebody else, by the number of a NodePort.
    cluster.world.outside.serve(Serve::Udp, 30053)?;
    let stranger = Client::new(cluster.world.client.namespace(), "203.0.113.9:30053");
    stranger.is_at(&["outside"])?;
    let of_stranger = |world: &World| {
        let all = flows(world.node.namespace(), Family::V4);
        all.into_iter().find(|flow| flow.to == stranger.to).map(|flow| flow.id)
    };
    let before = of_stranger(&cluster.world);
    stop(&mut cluster.world);
    cluster.serve(&[("b", "")]);
    cluster.world.start(&[PODS], 10256);
    for client in &clients {
        match client.server.as_str() {
            "a" => cluster.world.eventually("it has moved", || client.is_at(&["b"])),
            _ => client.is_at(&["b"])?,
        }
    }
    assert!(before.is_some() && of_stranger(&cluster.world) == before, "a stranger's flow was deleted");
    Ok(())
}

/// The examples of docs/conntrack.md. The limit belongs to the host, so that here it can only be reported.
fn sysctls() -> Result<(), Failed> {
    let read = |world: &World, name: &str| world.run("cat", &[&format!("/proc/sys/net/netfilter/{name}")]).trim().to_string();
    let settled = |world: &World, wanted: &[(&str, &str)]| {
        for (name, value) in wanted {
            let name = format!("nf_conntrack_{name}");
            world.eventually(&format!("{name} is {value}"), || match read(world, &name) {
                found if found == *value => Ok(()),
                found => Err(found),
            });
        }
    };
    let world = World::prepared("sysctls", NODE);
    let before = read(&world, "nf_conntrack_udp_timeout");
    let world = world.started(&[PODS]);
    settled(&world, &[("tcp_timeout_established", "86400"), ("tcp_timeout_close_wait", "3600"), ("tcp_be_liberal", "1")]);
    assert_eq!(read(&world, "nf_conntrack_udp_timeout"), before);

    let flags = "--conntrack-max-per-core=1048576 --conntrack-tcp-timeout-established=2h --conntrack-tcp-timeout-close-wait=10m \
                 --conntrack-tcp-be-liberal=false --conntrack-udp-timeout=45s --conntrack-udp-timeout-stream=3m";
    let world = World::prepared("sysctls-set", NODE).started(&flags.split_whitespace().collect::<Vec<_>>());
    let times = [("tcp_timeout_established", "7200"), ("tcp_timeout_close_wait", "600"), ("udp_timeout", "45")];
    settled(&world, &[&times[..], &[("udp_timeout_stream", "180"), ("tcp_be_liberal", "0")]].concat());
    world.await_log(&["WARN", "nf_conntrack_max is", "instead of 1048576", "docs/conntrack.md"]);

    let world = World::prepared("sysctls-max", NODE).started(&["--conntrack-max-per-core=65536", "--conntrack-min=262144"]);
    settled(&world, &[("tcp_be_liberal", "1")]);
    let enough = read(&world, "nf_conntrack_max").parse::<u64>()? >= 262_144;
    assert_ne!(
        world.log().contains("nf_conntrack_max is"),
        enough,
        "a larger limit stays, a smaller one is reported: {}",
        world.log()
    );
    Ok(())
}

/// A kernel before 6.12 has the second way only, so that there both are the same.
fn both_ways() -> Result<(), Failed> {
    for (family, pods, vips) in [(Family::V4, "10.244.", "10.96.0."), (Family::V6, "fd00:244::", "fd00:96::")] {
        let pod = |number: &str| format!("{pods}{}", if family == Family::V4 { format!("0.{number}") } else { number.into() });
        let remain = ["20", "21", "22", "24"].map(pod);
        for way in [Conntrack::one_by_one as fn(Conntrack) -> Conntrack, |conntrack| conntrack] {
            let here = Namespace::new()?;
            for number in 20..120 {
                let (server, zone, protocol, to) = match number {
                    20 => ("12", "0", "udp", "2"),
                    21 => ("11", "7", "udp", "2"),
                    22 => ("11", "0", "tcp", "2"),
                    23 => ("", "0", "udp", "2"),
                    24 => ("11", "0", "udp", "3"),
                    _ => ("11", "0", "udp", "2"),
                };
                let (client, to) = (pod(&number.to_string()), format!("{vips}{to}"));
                let server = if server.is_empty() { to.clone() } else { pod(server) };
                let ports = ["--sport", "4000", "--dport", "53", "--reply-port-src", "53", "--reply-port-dst", "4000"];
                let state: &[&str] = if protocol == "tcp" { &["--state", "ESTABLISHED"] } else { &[] };
                let ends =
                    ["-I", "-p", protocol, "-w", zone, "-s", &client, "-d", &to, "-r", &server, "-q", &client, "-t", "600"];
                let output = here.output(Command::new("conntrack").args([&ends[..], &ports, state].concat()))?;
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
            let done = here.run(|| {
                let mut conntrack = way(Conntrack::open().unwrap());
                let dest = Dest { address: format!("{vips}2").parse().unwrap(), protocol: Protocol::Udp, port: 53 };
                let serving: Arc<[Backend]> = [Backend { address: pod("12").parse().unwrap(), port: 53 }].into();
                reconcile(&mut conntrack, family, &Touched::from([(dest, Some(serving))])).unwrap()
            })?;
            assert_eq!(done, Reconciled { deleted: 96, whole: true }, "{family}");
            let listed = here.output(Command::new("conntrack").args(["-L", "-f", family_name(family)]))?;
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            let client = |line: &str| line.split_whitespace().find_map(|word| word.strip_prefix("src=")).map(str::to_string);
            assert_eq!(listed.lines().filter_map(client).collect::<BTreeSet<_>>(), BTreeSet::from(remain.clone()), "{family}");
        }
    }
    Ok(())
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// A UDP service and its endpoints, beside the world's own.
struct Cluster {
    world: World,
    _pods: Vec<Pod>,
}

impl Cluster {
    /// With this endpoint, all of them ready.
    fn new(name: &str, pods: &[&str]) -> Cluster {
        let cluster = Cluster::prepared(name, pods);
        cluster.serve(&pods.iter().map(|pod| (*pod, "")).collect::<Vec<_>>());
        for to in ["10.96.0.2:53", "[fd00:96::2]:53"] {
            let client = Client::new(cluster.world.client.namespace(), to);
            cluster.world.eventually("the service is there", || client.is_at(pods));
        }
        cluster
    }

    /// With the pods, and without the service.
    fn prepared(name: &str, pods: &[&str]) -> Cluster {
        let world = World::prepared(name, NODE).started(&[PODS]);
        let mut cluster = Cluster { world, _pods: Vec::new() };
        cluster._pods = pods.iter().map(|pod| cluster.pod(pod)).collect();
        cluster
    }

    fn pod(&self, name: &str) -> Pod {
        let addresses = address(name).map(|address| address.parse::<IpAddr>().unwrap());
        let pod = self.world.node.pod(name, &addresses).unwrap();
        pod.serve(Serve::Udp, 5353).unwrap();
        pod
    }

    /// The service has these endpoints from now on, in these conditions.
    fn serve(&self, endpoints: &[(&str, &str)]) {
        let slice = |family: usize| {
            let each = endpoints.iter().map(|(pod, conditions)| {
                format!("{{addresses: [\"{}\"], nodeName: node-1, conditions: {{{conditions}}}}}", address(pod)[family])
            });
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: names-{family}, namespace: shop, labels: {{kubernetes.io/service-name: names}}}}\n\
                 addressType: {}\nports: [{{name: dns, port: 5353, protocol: UDP}}]\nendpoints: [{}]\n",
                ["IPv4", "IPv6"][family],
                each.collect::<Vec<_>>().join(", ")
            )
        };
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: names, namespace: shop}\nspec:\n  type: NodePort\n  \
                       clusterIP: 10.96.0.2\n  clusterIPs: [10.96.0.2, \"fd00:96::2\"]\n  \
                       ports: [{name: dns, port: 53, protocol: UDP, nodePort: 30053}]\n";
        self.world.write(&format!("{NODE}---\n{service}{}{}", slice(0), slice(1)));
    }

    /// Clients inside and outside, of both families, and where their flows lead.
    fn clients(&self) -> Vec<Client> {
        let (inside, outside) = (self.world.client.namespace(), self.world.outside.namespace());
        let places = [
            (inside, "10.96.0.2:53"),
            (inside, "[fd00:96::2]:53"),
            (outside, "192.0.2.10:30053"),
            (outside, "[2001:db8::10]:30053"),
        ];
        let mut clients = Vec::new();
        for (namespace, to) in places {
            for _ in 0..CLIENTS {
                let mut client = Client::new(namespace, to);
                self.world.eventually("it is answered", || {
                    client.ask().map(|server| client.server = server).map_err(|e| e.to_string())
                });
                clients.push(client);
            }
        }
        let mut spread: BTreeMap<&str, usize> = BTreeMap::new();
        clients.iter().for_each(|client| *spread.entry(&client.server).or_default() += 1);
        assert_eq!(spread.len(), self._pods.len(), "{spread:?}");
        clients
    }
}

fn address(pod: &str) -> [String; 2] {
    let number = 0xa0 + (pod.as_bytes()[0] - b'a');
    [format!("10.244.0.{number}"), format!("fd00:244::{number:x}")]
}

/// A socket that keeps its port: its packets are one flow.
#[derive(Debug)]
struct Client {
    socket: UdpSocket,
    to: SocketAddr,
    server: String,
}

impl Client {
    fn new(namespace: &Namespace, to: &str) -> Client {
        let to: SocketAddr = to.parse().unwrap();
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = namespace.udp_socket(any).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        socket.connect(to).unwrap();
        Client { socket, to, server: String::new() }
    }

    /// The name of the pod that answers.
    fn ask(&self) -> std::io::Result<String> {
        self.socket.send(b"who is there?\n")?;
        let mut buffer = [0; 256];
        let length = self.socket.recv(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        Ok(text.split(' ').next().unwrap_or_default().to_string())
    }

    fn is_at(&self, pods: &[&str]) -> Result<(), String> {
        match self.ask() {
            Ok(server) if pods.contains(&server.as_str()) => Ok(()),
            other => Err(format!("{self:?} is answered by {other:?} instead of one of {pods:?}")),
        }
    }
}

fn flows(namespace: &Namespace, family: Family) -> Vec<Flow> {
    let look = || {
        let mut flows = Vec::new();
        Conntrack::open().unwrap().each_udp_flow(family, None, &mut |flow| flows.push(flow)).unwrap();
        flows
    };
    namespace.run(look).unwrap()
}

/// Kills the agent that was started last, as `kill -9` does.
fn stop(world: &mut World) {
    let mut agent = world.agents.pop().expect("an agent runs");
    agent.kill().unwrap();
    agent.wait().unwrap();
}

/// The value of a counter now.
fn metric(world: &World, name: &str) -> u64 {
    let metrics = world.page("/metrics", 10249).unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("there is no {name} in {metrics}"))
}
