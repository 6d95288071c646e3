//! What ordinary pods, pods of the host's network, the nodes and the outside get from services and names.

use super::cluster::{Cluster, NODES, finish};
use super::documents::run;
use super::eventually::eventually;
use super::shop::{self, DNS, LOAD_BALANCER, NODE_PORT, NODE_PORT_UDP, Shop};
use super::state::Stage;

pub fn names(stage: &Stage) {
    let Shop { cluster_ip, cluster_ip6 } = stage.with_waypost();
    let cluster = &stage.cluster;
    for node in NODES {
        let client = |command: &[&str]| shop::exec(cluster, "client", node, command).unwrap_or_else(|error| panic!("{error}"));
        let conf = client(&["cat", "/etc/resolv.conf"]);
        let expected =
            ["search shop.svc.cluster.local svc.cluster.local cluster.local", &format!("nameserver {DNS}"), "options ndots:5"];
        assert!(expected.iter().all(|line| conf.lines().any(|found| found == *line)), "{conf}");

        for transport in ["+notcp", "+tcp"] {
            let dig = |words: &[&str]| lines(&client(&[&["dig", "+short", "+search", "+timeout=5", transport], words].concat()));
            for name in ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "WEB.shop.svc.cluster.local."] {
                assert_eq!(dig(&[name]), [cluster_ip.as_str()], "{name}");
                assert_eq!(dig(&[name, "AAAA"]), [cluster_ip6.as_str()], "{name}");
            }
            assert_eq!(dig(&["web-pods"]), pod_addresses(cluster), "headless: the pods themselves");
            assert_eq!(dig(&["elsewhere"]), ["203.0.113.80", "example.org."], "a name outside of the cluster");
            assert_eq!(
                dig(&["alias"]),
                sorted([cluster_ip.as_str(), "web.shop.svc.cluster.local."]),
                "a name inside of the cluster"
            );
            assert_eq!(dig(&["_http._tcp.web", "SRV"]), ["0 50 80 web.shop.svc.cluster.local."]);
            assert_eq!(dig(&["_http._tcp.web-pods", "SRV"]).len(), NODES.len(), "one for each pod");
            assert_eq!(dig(&["-x", &cluster_ip]), ["web.shop.svc.cluster.local."]);
            assert_eq!(dig(&["nobody.shop.svc.cluster.local"]), [""; 0]);
        }
        let host = shop::exec(cluster, "host-client", node, &["dig", "+short", "+search", "web"]);
        assert_eq!(lines(&host.unwrap()), [cluster_ip.as_str()], "a pod of the host's network");
        assert_eq!(
            lines(&cluster.node(node, &["dig", "+short", &format!("@{DNS}"), "web.shop.svc.cluster.local"])),
            [cluster_ip.as_str()]
        );
    }
}

pub fn from_inside(stage: &Stage) {
    let Shop { cluster_ip, cluster_ip6 } = stage.with_waypost();
    let cluster = &stage.cluster;
    run(stage, "docs/operate.md", "A service that does not answer");
    let everybody = NODES.map(|node| shop::pod(cluster, "web", node));
    for node in NODES {
        let asked = |set: &'static str| move |command: &[&str]| shop::exec(cluster, set, node, command);
        let on_node = |command: &[&str]| cluster.try_script(&[&["node", &node.to_string()], command].concat());
        reaches_all(&everybody, &format!("http://{cluster_ip}/hostname"), &asked("client"), TCP);
        reaches_all(&everybody, "http://web.shop/hostname", &asked("client"), TCP);
        reaches_all(&everybody, &format!("http://[{cluster_ip6}]/hostname"), &asked("client"), TCP);
        reaches_all(&everybody, &format!("{cluster_ip}:80"), &asked("client"), UDP);
        reaches_all(&everybody, "http://web/hostname", &asked("host-client"), TCP);
        reaches_all(&everybody, &format!("{cluster_ip}:80"), &asked("host-client"), UDP);
        reaches_all(&everybody, &format!("http://{cluster_ip}/hostname"), &on_node, TCP);
        reaches_all(&everybody, &format!("{cluster_ip}:80"), &on_node, UDP);
        // A pod that is its own endpoint: answers must not come from an address that it did not ask.
        reaches_all(&everybody, &format!("http://{cluster_ip}/hostname"), &asked("web"), TCP);
        reaches_all(&everybody, &format!("http://{}:{NODE_PORT}/hostname", shop::address_of_node(node)), &asked("client"), TCP);
        reaches_all(&everybody, &format!("http://{LOAD_BALANCER}/hostname"), &asked("client"), TCP);
    }
}

pub fn from_outside(stage: &Stage) {
    stage.with_waypost();
    let cluster = &stage.cluster;
    let everybody = NODES.map(|node| shop::pod(cluster, "web", node));
    let outside = |command: &[&str]| cluster.try_script(&[&["outside"], command].concat());
    for node in NODES {
        let address = shop::address_of_node(node);
        reaches_all(&everybody, &format!("http://{address}:{NODE_PORT}/hostname"), &outside, TCP);
        reaches_all(&everybody, &format!("http://[2001:db8::{}]:30083/hostname", 10 + node), &outside, TCP);
        reaches_all(&everybody, &format!("{address}:{NODE_PORT_UDP}"), &outside, UDP);
        // What a load balancer does: it sends packets for its address to a node.
        outside(&["ip", "route", "replace", LOAD_BALANCER, "via", &address]).unwrap();
        reaches_all(&everybody, &format!("http://{LOAD_BALANCER}/hostname"), &outside, TCP);
        // Policy Local: this node's pod, and it sees who asks.
        let client = outside(&[TCP, &[&format!("http://{address}:30082/clientip")]].concat()).unwrap();
        assert!(client.starts_with("192.0.2.10:"), "{client}");
        reaches_all(&everybody[usize::from(node) - 1..][..1], &format!("http://{address}:30082/hostname"), &outside, TCP);
    }
}

pub fn kubectl_streams(stage: &Stage) {
    stage.with_waypost();
    let cluster = &stage.cluster;
    for node in NODES {
        assert_eq!(shop::exec(cluster, "client", node, &["echo", "hello"]).unwrap(), "hello\n");
        let pod = shop::pod(cluster, "web", node);
        let logs = cluster.kubectl(&["--namespace", shop::NAMESPACE, "logs", &pod, "--limit-bytes=400"]);
        assert!(!logs.is_empty());
        let forwarded = ["60", "bash", "-euc", FORWARDED, "forwarded", shop::NAMESPACE, &pod];
        assert_eq!(finish(cluster.command("timeout").args(forwarded)).unwrap(), pod);
    }
}

/// Asks a pod through a port that is forwarded meanwhile.
const FORWARDED: &str = r#"
    exec 3< <(kubectl --namespace "$1" port-forward "$2" :8080)
    trap "kill $!" EXIT
    read -r -u 3 _ _ address _
    curl --silent --show-error --fail --max-time 10 "http://$address/hostname"
"#;
/// Prints what the page at the URL that follows has.
const TCP: &[&str] = &["curl", "--silent", "--show-error", "--fail", "--max-time", "10"];
/// Sends `hostname` to the address and port that follow, and prints the answer.
const UDP: &[&str] = &["cluster-toolbox", "--once"];

/// Asks until each of these pods has answered, and no other has.
fn reaches_all(pods: &[String], target: &str, ask: &dyn Fn(&[&str]) -> Result<String, String>, how: &[&str]) {
    let mut missing: Vec<&String> = pods.iter().collect();
    eventually(&format!("{target} leads to {pods:?}"), || {
        let answer = ask(&[how, &[target]].concat()).unwrap_or_else(|error| panic!("{target}: {error}"));
        let answer = answer.trim();
        assert!(pods.iter().any(|pod| pod == answer), "{target} was answered by {answer:?}, not by one of {pods:?}");
        missing.retain(|pod| *pod != answer);
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} have not answered yet")) }
    });
}

fn pod_addresses(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.get(&["--namespace", shop::NAMESPACE, "pods", "--selector=app=web"]);
    let addresses = pods["items"].as_array().expect("a list").iter().map(|pod| pod["status"]["podIP"].as_str().expect("it runs"));
    sorted(addresses)
}

fn lines(text: &str) -> Vec<String> {
    sorted(text.lines())
}

fn sorted<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().map(String::from).collect();
    lines.sort();
    lines
}
