//! The pods behind Services are replaced one by one while clients connect, and ask over UDP, as fast as they can, and the agent or the API server goes
//! away meanwhile.

use super::agent::Agent;
use super::cluster::Cluster;
use super::load::{Load, killing_each_second};
use super::processes::eventually;
use super::services::{await_pods, service_addresses};
use super::stage::{Stage, next_addresses};
use super::table;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::Value;
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};
use waypost::lab::{Namespace, Pod, Serve};
use waypost::model::Protocol;

/// How long a pod that terminates goes on serving.
const GRACE: Duration = Duration::from_secs(5);
/// How many pods there are at a time.
const PODS_AT_A_TIME: usize = 4;

const SERVICES: [&str; 2] = ["plain", "sticky"];
const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: plain}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  ipFamilyPolicy: PreferDualStack
  selector: {app: rolling}
  ports: [{name: http, port: 80, targetPort: http}, {name: echo, port: 7, protocol: UDP, targetPort: datagrams}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: rolling}
  sessionAffinity: ClientIP
  ports: [{name: http, port: 80, targetPort: http}, {name: echo, port: 7, protocol: UDP, targetPort: datagrams}]
";

pub fn while_the_agent_is_killed(cluster: &Cluster) {
    let stage = Stage::new(cluster, "rolling");
    let start = || Agent::start(&stage);
    let first = start();
    let mut rollout = Rollout::begin(&stage);
    let kills = killing_each_second(first, start, || {
        let load = rollout.load();
        for _ in 0..PODS_AT_A_TIME {
            rollout.replace_one();
        }
        rollout.finish(load);
    });
    assert!(kills > PODS_AT_A_TIME, "the agent was killed {kills} times");
}

pub fn while_the_api_server_restarts(cluster: &Cluster) {
    let stage = Stage::new(cluster, "rolling-restart");
    let _agent = Agent::start(&stage);
    let mut rollout = Rollout::begin(&stage);
    let load = rollout.load();
    for number in 0..PODS_AT_A_TIME {
        let old = rollout.replace_one();
        if number % 2 == 0 {
            // The node has heard of it, and hears nothing more before the pod is gone. The next pod goes as soon as the API server is back.
            eventually("the pod is not chosen any more", || match table::map(stage.node.namespace(), "endpoints") {
                endpoints if endpoints.values().any(|endpoint| endpoint.starts_with(&format!("{old} . "))) => {
                    Err(format!("{endpoints:?}"))
                }
                _ => Ok(()),
            });
            let before = load.attempts();
            cluster.restart_api_server(|| {
                eventually("clients have connected meanwhile", || {
                    if load.attempts() > before { Ok(()) } else { Err("nobody has".into()) }
                });
            });
        }
    }
    rollout.finish(load);
}

/// The pods of a Deployment. This plays its controller, and the kubelet; the slices are the work of the EndpointSlice controller.
struct Rollout<'a> {
    stage: &'a Stage<'a>,
    ready: VecDeque<Pod>,
    /// Pods whose grace period runs; each thread closes its pod's sockets at the end of it.
    leaving: Vec<thread::JoinHandle<Pod>>,
    names: Vec<String>,
}

impl<'a> Rollout<'a> {
    fn begin(stage: &'a Stage<'a>) -> Rollout<'a> {
        // Clients' ports come round again. What comes from the same port within the time-out belongs to the old flow, and stays on its pod.
        stage.node.namespace().set_sysctl("netfilter/nf_conntrack_udp_timeout", "1").unwrap();
        stage.apply(OBJECTS);
        let mut rollout = Rollout { stage, ready: VecDeque::new(), leaving: Vec::new(), names: Vec::new() };
        for _ in 0..PODS_AT_A_TIME {
            rollout.add();
        }
        let names: Vec<&str> = rollout.names.iter().map(String::as_str).collect();
        for address in service_addresses(stage, SERVICES[0]) {
            await_pods(stage.client.namespace(), address, 80, Protocol::Tcp, &names);
        }
        rollout
    }

    /// From a pod to the ClusterIPs, and from outside to the NodePorts, over TCP and over UDP.
    fn load(&self) -> Load {
        let clients = [self.stage.client.namespace(), self.stage.outside.namespace()];
        let mut all: Vec<(&Namespace, Vec<String>)> = Vec::new();
        for (protocol, suffix) in [(Protocol::Tcp, ""), (Protocol::Udp, "/udp")] {
            for (client, targets) in clients.iter().zip(self.targets(protocol)) {
                for target in &targets {
                    eventually(&format!("{target}/{protocol} is answered"), || {
                        let outcome = waypost::lab::connect(client, protocol, *target, Duration::from_secs(2));
                        outcome.by().map(drop).ok_or(outcome.to_string())
                    });
                }
                all.push((client, targets.iter().map(|target| format!("{target}{suffix}")).collect()));
            }
        }
        let texts: Vec<Vec<&str>> = all.iter().map(|(_, targets)| targets.iter().map(String::as_str).collect()).collect();
        let all: Vec<(&Namespace, &[&str])> =
            all.iter().zip(&texts).map(|((client, _), targets)| (*client, targets.as_slice())).collect();
        Load::start(&all)
    }

    /// The ClusterIPs of all Services, and their NodePorts on the node's addresses.
    fn targets(&self, protocol: Protocol) -> [Vec<SocketAddr>; 2] {
        let (port, index) = if protocol == Protocol::Udp { (7, 1) } else { (80, 0) };
        let stage = self.stage;
        let inside = SERVICES.iter().flat_map(|service| service_addresses(stage, service));
        let field = format!(".spec.ports[{index}].nodePort");
        let node_port = |service| stage.service_field(service, &field).parse().expect("a port");
        let of = |service| stage.node.addresses().iter().map(move |address| SocketAddr::new(*address, node_port(service)));
        [inside.map(|address| SocketAddr::new(address, port)).collect(), SERVICES.into_iter().flat_map(of).collect()]
    }

    fn add(&mut self) {
        let name = format!("rolling-{}", self.names.len());
        let pod = self.stage.node.pod(&name, &next_addresses()).unwrap();
        pod.serve(Serve::Tcp, 8080).unwrap();
        pod.serve(Serve::Udp, 5353).unwrap();
        self.stage.announce(&pod, "rolling");
        self.ready.push_back(pod);
        self.names.push(name);
    }

    /// One pod more, and the oldest one terminates. Returns that one's first address.
    fn replace_one(&mut self) -> IpAddr {
        self.add();
        let old = self.ready.pop_front().expect("there are pods");
        let (name, address) = (old.name().to_string(), old.addresses()[0]);
        self.delete(&name, GRACE.as_secs() as u32);
        // The kubelet hears of it when the EndpointSlice controller does.
        let slices = || self.stage.kubectl(&["get", "endpointslices", "--output", "json"]);
        let leaves = |endpoint: &Value| endpoint["conditions"]["terminating"] == true && endpoint["conditions"]["ready"] == false;
        eventually(&format!("slices say that {name} terminates"), || {
            let list: Value = serde_json::from_str(&slices()).map_err(|error| error.to_string())?;
            let all: Vec<&Value> = list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|slice| slice["endpoints"].as_array())
                .flatten()
                .collect();
            let of_pod: Vec<&&Value> = all.iter().filter(|endpoint| endpoint["targetRef"]["name"] == name.as_str()).collect();
            let families = 2 * SERVICES.len();
            if of_pod.len() == families && of_pod.iter().all(|endpoint| leaves(endpoint)) {
                Ok(())
            } else {
                Err(format!("{of_pod:?}"))
            }
        });
        let over = Instant::now() + GRACE;
        self.leaving.push(thread::spawn(move || {
            thread::sleep(over.saturating_duration_since(Instant::now()));
            old.stop_serving();
            old
        }));
        address
    }

    fn delete(&self, name: &str, grace: u32) {
        let cluster = self.stage.cluster;
        let objects: Api<PodObject> = Api::namespaced(cluster.client(), &self.stage.name);
        let parameters = DeleteParams::default().grace_period(grace);
        eventually(&format!("{name} is deleted"), || {
            cluster.runtime().block_on(objects.delete(name, &parameters)).map(drop).map_err(|error| error.to_string())
        });
    }

    /// Waits until the last old pod is gone, and looks at what clients saw.
    fn finish(mut self, load: Load) {
        for leaving in std::mem::take(&mut self.leaving) {
            let gone = leaving.join().expect("a pod's thread");
            self.delete(gone.name(), 0);
        }
        let left: Vec<&str> = self.names[PODS_AT_A_TIME..].iter().map(String::as_str).collect();
        for address in service_addresses(self.stage, SERVICES[0]) {
            await_pods(self.stage.client.namespace(), address, 80, Protocol::Tcp, &left);
        }
        let seen = load.end();
        let found: BTreeSet<&String> = seen.by.keys().collect();
        assert_eq!(found, self.names.iter().collect(), "every pod had connections");
        assert!(seen.over_udp > 0, "nothing was asked over UDP");
        seen.assert_nothing_lost();
    }
}
