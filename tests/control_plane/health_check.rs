//! `healthCheckNodePort` and the pages about health: the agent's answers beside those of the stock kube-proxy, byte for byte.

use super::agent::Agent;
use super::cluster::{Cluster, NODE_NAME};
use super::events::await_event;
use super::kube_proxy;
use super::processes::eventually;
use super::stage::Stage;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use waypost::lab::Namespace;

const BALANCED: &str = "
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: PreferDualStack
  selector: {app: balanced}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: more, port: 81, targetPort: 8080}]
";

/// The taint by which the cluster autoscaler says that a node is about to go.
const TAINT: &str = "ToBeDeletedByClusterAutoscaler=now:NoSchedule";

pub fn as_kube_proxys(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "health-check");
    let theirs = Stage::new(cluster, "health-check-theirs");
    stage.apply(BALANCED);
    let _agent = Agent::start(&stage);
    let _kube_proxy = kube_proxy::start_on(&theirs, "health-check-kube-proxy");
    let port: u16 = stage.service_field("balanced", ".spec.healthCheckNodePort").parse().unwrap();
    compare([&stage, &theirs], port, "there is no endpoint", "503", 0);
    stage.add_pod("balanced", "balanced-1");
    stage.add_pod("balanced", "balanced-2");
    compare([&stage, &theirs], port, "two pods are ready here", "200", 2);
    // The taint makes load balancers of policy Cluster leave the node; those that ask about a Service stay with its endpoints.
    cluster.kubectl(&["taint", "node", NODE_NAME, TAINT]);
    [&stage, &theirs].into_iter().for_each(|stage| await_health(stage, 503));
    compare([&stage, &theirs], port, "the node is about to go", "200", 2);
    cluster.kubectl(&["taint", "node", NODE_NAME, &format!("{TAINT}-")]);
    // Nobody plays kubelet, so they stay: serving while they terminate.
    stage.kubectl(&["delete", "pod", "balanced-1", "balanced-2", "--wait=false"]);
    compare([&stage, &theirs], port, "two pods only serve while they terminate", "503", 0);
}

/// Waits until both say the same, and this.
fn compare(stages: [&Stage; 2], port: u16, state: &str, code: &str, count: usize) {
    for address in stage_addresses(port) {
        eventually(&format!("both say {code} while {state}"), || {
            let [ours, theirs] = stages.map(|stage| ask(stage.node.namespace(), address, "/any/path"));
            let (ours, theirs) = (ours?, theirs?);
            let right = ours[0].contains(code) && ours.contains(&format!("x-load-balancing-endpoint-weight: {count}"));
            if ours == theirs && right { Ok(()) } else { Err(format!("ours: {ours:#?}\ntheirs: {theirs:#?}")) }
        });
    }
}

/// Times are each proxy's own, and so is the length of what has them.
pub fn pages_as_kube_proxys(cluster: &Cluster) {
    let stage = Stage::new(cluster, "health-pages");
    let theirs = Stage::new(cluster, "health-pages-theirs");
    let _agent = Agent::start(&stage);
    let _kube_proxy = kube_proxy::start_on(&theirs, "health-pages-kube-proxy");
    compare_pages([&stage, &theirs], "200", "200", "the node is in order");
    cluster.kubectl(&["taint", "node", NODE_NAME, TAINT]);
    compare_pages([&stage, &theirs], "503", "200", "the node is about to go");
    cluster.kubectl(&["taint", "node", NODE_NAME, &format!("{TAINT}-")]);
    compare_pages([&stage, &theirs], "200", "200", "the node stays");
}

/// A Node that is about to go, has gone, and joins again.
pub fn node_deleted(cluster: &Cluster) {
    let stage = Stage::new(cluster, "node-deleted");
    let theirs = Stage::new(cluster, "node-deleted-theirs");
    let _agent = Agent::start(&stage);
    let _kube_proxy = kube_proxy::start_on(&theirs, "node-deleted-kube-proxy");
    compare_pages([&stage, &theirs], "200", "200", "the node is in order");
    let finalizers = |list: &str| {
        let patch = format!("{{\"metadata\": {{\"finalizers\": [{list}]}}}}");
        cluster.kubectl(&["patch", "node", NODE_NAME, "--type=merge", "--patch", &patch]);
    };
    // Somebody has something to do before it may go.
    finalizers("\"example.org/farewell\"");
    cluster.kubectl(&["delete", "node", NODE_NAME, "--wait=false"]);
    compare_pages([&stage, &theirs], "503", "200", "the Node is being deleted");
    finalizers("");
    cluster.kubectl(&["wait", "--for=delete", &format!("node/{NODE_NAME}"), "--timeout=60s"]);
    compare_pages([&stage, &theirs], "503", "200", "there is no Node any more");
    cluster.join_node();
    compare_pages([&stage, &theirs], "200", "200", "the node has joined again");
    // Without a word before: kube-proxy goes on with the Node as it was, as `agent-node-gone` says.
    cluster.kubectl(&["delete", "node", NODE_NAME]);
    await_health(&stage, 503);
    cluster.join_node();
    await_health(&stage, 200);
}

fn await_health(stage: &Stage, expected: u16) {
    eventually(&format!("/healthz says {expected}"), || {
        match super::agent::http_get(stage.node.namespace(), "127.0.0.1:10256", "/healthz")? {
            (code, _) if code == expected => Ok(()),
            (code, body) => Err(format!("{code} {body}")),
        }
    });
}

/// Waits until both say the same on the pages that load balancers and people ask, and these codes.
fn compare_pages(stages: [&Stage; 2], healthz: &str, livez: &str, state: &str) {
    for (port, path, code) in [(10256, "/healthz", healthz), (10256, "/livez", livez), (10249, "/proxyMode", "200")] {
        eventually(&format!("both say {code} at {path} while {state}"), || {
            let [ours, theirs] = stages.map(|stage| {
                let lines = ask(stage.node.namespace(), SocketAddr::from(([127, 0, 0, 1], port)), path)?;
                let lines = lines.iter().filter(|line| !line.starts_with("content-length: ")).map(|line| without_times(line));
                Ok::<_, String>(lines.collect::<Vec<_>>())
            });
            let (ours, theirs) = (ours?, theirs?);
            let right = ours[0].contains(code);
            if ours == theirs && right { Ok(()) } else { Err(format!("ours: {ours:#?}\ntheirs: {theirs:#?}")) }
        });
    }
}

/// `"2026-11-25T08:00:00.123Z"` as `"TIME"`.
fn without_times(line: &str) -> String {
    let is_time =
        |word: &str| word.ends_with('Z') && word.contains('T') && word.starts_with(|letter: char| letter.is_ascii_digit());
    line.split('"').map(|word| if is_time(word) { "TIME" } else { word }).collect::<Vec<_>>().join("\"")
}

pub fn port_in_use(cluster: &Cluster) {
    let stage = Stage::new(cluster, "health-check-port");
    stage.apply(BALANCED);
    let port: u16 = stage.service_field("balanced", ".spec.healthCheckNodePort").parse().unwrap();
    let [address, _] = stage_addresses(port);
    let holder: TcpListener = stage.node.namespace().tcp_listener(address).unwrap();
    let _agent = Agent::start(&stage);
    let event = await_event(&stage, &stage.name, "FailedToStartServiceHealthcheck", "192.0.2.10", 1);
    assert_eq!(event["regarding"]["name"], "balanced", "{event}");
    assert_eq!(event["action"], "Listen", "as kube-proxy's: {event}");
    drop(holder);
    eventually("it is served once the port is free", || ask(stage.node.namespace(), address, "/any/path").map(drop));
}

/// The node's addresses, with this port.
fn stage_addresses(port: u16) -> [SocketAddr; 2] {
    ["192.0.2.10", "2001:db8::10"].map(|address| SocketAddr::new(address.parse().unwrap(), port))
}

/// The status line, the headers in lower case and sorted, without the date, and the body.
fn ask(from: &Namespace, address: SocketAddr, path: &str) -> Result<Vec<String>, String> {
    let reply = from.run(|| {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    let text = reply.unwrap().map_err(|error: std::io::Error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| text.clone())?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default().to_string();
    let mut headers: Vec<_> = lines.map(str::to_lowercase).filter(|line| !line.starts_with("date: ")).collect();
    headers.sort();
    Ok([vec![status], headers, vec![body.to_string()]].concat())
}
