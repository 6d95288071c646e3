//! What happens to nodes, agents and clusters sooner or later, and what their users notice of it.

use super::cluster::{Cluster, NODES};
use super::eventually::eventually;
use super::guards::{uncordon_node2, without_api_server, without_node3};
use super::load::{Load, Report, assert_lost_at_most, assert_nothing_lost};
use super::memory::begin_anew;
use super::shop::{self, process_of};
use super::state::{AGENTS, Stage};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For how long the API server is away.
const AWAY: Duration = Duration::from_secs(120);
pub const SYSTEM: &str = "--namespace=kube-system";

pub fn crash_loop(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    let load = Load::start(cluster, &shop);
    let before = revision(cluster);
    // Of the right type, so that the schema lets it pass; the program does not.
    upgrade(cluster, &["--set=agent.config.metrics-bind-address=nowhere"]);
    let pod = await_agent(cluster, "an agent is in a crash loop", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let said = cluster.kubectl(&[SYSTEM, "logs", name_of(&pod), "--previous"]);
    assert!(said.contains("metrics-bind-address") && said.contains("nowhere"), "{said}");
    roll_back(cluster, &before);
    assert_nothing_lost(&load.end());
}

pub fn node_restarts(stage: &Stage) {
    stage.with_waypost();
    let cluster = &stage.cluster;
    without_node3(cluster).now();
    eventually("the agent of node3 has made its tables anew", || {
        let tables = cluster.try_script(&["node", "3", "nft", "list", "tables"])?;
        if tables.contains("table ip waypost") && tables.contains("waypost-dns-") { Ok(()) } else { Err(tables) }
    });
    eventually("the pods of node3 run again, each with a new address", || {
        let pods = cluster.get(&["--namespace", shop::NAMESPACE, "pods", "--field-selector=spec.nodeName=node3"]);
        let again = |pod: &Value| {
            let container = &pod["status"]["containerStatuses"][0];
            container["ready"] == true && container["restartCount"].as_u64() > Some(0)
        };
        let pods = pods["items"].as_array().expect("a list");
        if pods.iter().all(again) { Ok(()) } else { Err(format!("{pods:?}")) }
    });
    serves(cluster, 3);
}

pub fn new_node(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    let load = Load::start(cluster, &shop);
    let _fourth = FourthNode::start(cluster);
    eventually("the new node has its agent", || {
        let pod = agent_of(cluster, 4).ok_or("no pod")?;
        if is_ready(&pod) { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    serves(cluster, 4);
    assert_nothing_lost(&load.end());
    let page = format!("http://{}:{}/hostname", shop::address_of_node(4), shop::NODE_PORT);
    cluster.script(&["outside", "curl", "--silent", "--show-error", "--fail", "--max-time", "10", &page]);
}

/// One node more than usual; it goes when this is dropped.
struct FourthNode<'a>(&'a Cluster);

impl FourthNode<'_> {
    fn start(cluster: &Cluster) -> FourthNode<'_> {
        cluster.script(&["add-node"]);
        cluster.node(4, &["ctr", "--namespace=k8s.io", "images", "import", "target/image/waypost.tar"]);
        FourthNode(cluster)
    }
}

impl Drop for FourthNode<'_> {
    fn drop(&mut self) {
        let stopped = self.0.try_script(&["stop-node", "4"]);
        let deleted = self.0.try_kubectl(&["delete", "node", "node4"]);
        // The controllers would take their time, and connections would go to pods that are not there meanwhile.
        let pods = ["delete", "pods", "--all-namespaces", "--field-selector=spec.nodeName=node4", "--force", "--grace-period=0"];
        let gone = self.0.try_kubectl(&pods);
        for error in [stopped, deleted, gone].into_iter().filter_map(Result::err) {
            eprintln!("node4 does not go: {error}");
        }
    }
}

/// A load balancer asks the health check port, and stops sending connections to a node that says 503. Until then the pod that is ending
/// gets them.
pub fn drained(stage: &Stage) {
    stage.with_waypost();
    let cluster = &stage.cluster;
    cluster.kubectl(&["--namespace", shop::NAMESPACE, "rollout", "status", "deployment/graceful", "--timeout=120s"]);
    let service = cluster.get(&["--namespace", shop::NAMESPACE, "service", "graceful"]);
    let (port, health) = (&service["spec"]["ports"][0]["nodePort"], &service["spec"]["healthCheckNodePort"]);
    let address = shop::address_of_node(2);
    let probe = format!("http://{address}:{health}/");
    let probe = ["outside", "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", &probe];
    let says = |code: &str| {
        eventually(&format!("the health check says {code}"), || {
            let said = cluster.try_script(&probe)?;
            if said == code { Ok(()) } else { Err(said) }
        })
    };
    says("200");
    let load = Load::from_outside(cluster, &format!("{address}:{port}"));
    let again = uncordon_node2(cluster);
    let drain = ["drain", "node2", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s"];
    // It waits until the pods have ended, which is later than the load balancer hears of it.
    let mut drain = cluster.command("kubectl").args(drain).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // A load balancer wants to hear it several times. The pod listens for 8 seconds more.
    let told = Instant::now();
    while told.elapsed() < Duration::from_secs(3) {
        says("503");
    }
    let reports = load.end();
    let drained = drain.wait().unwrap();
    again.now();
    assert!(drained.success(), "{drained}");
    assert_nothing_lost(&reports);
}

pub fn api_server_away(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    let agent = process_of_agent(cluster, 2);
    let page = |more: &[&str]| {
        let curl = ["node", "2", "curl", "--silent", "--max-time", "5", "http://127.0.0.1:10256/readyz"];
        cluster.try_script(&[&curl, more].concat())
    };
    let load = Load::start(cluster, &shop);
    let away = without_api_server(cluster);
    stage.second.begin();
    let since = Instant::now();
    cluster.node(2, &["kill", "-9", &agent.to_string()]);
    // Containers of pods end, too; the kubelet starts them again without the API server.
    let mut ended = BTreeSet::new();
    while since.elapsed() < AWAY {
        // The kubelet waits longer each time: those that end late are not back before the test needs them.
        for process in clients(cluster, 3).into_iter().filter(|_| since.elapsed() < AWAY / 3) {
            cluster.node(3, &["kill", "-9", &process]);
            ended.insert(process);
        }
        eventually("another agent runs on node2, and serves what the one before it knew", || {
            let page = page(&[])?;
            if page.contains("last known state") { Ok(()) } else { Err(page) }
        });
        for node in NODES {
            let name = ["dig", "+short", &format!("@{}", shop::DNS), "web.shop.svc.cluster.local"];
            assert_eq!(cluster.node(node, &name).trim(), shop.cluster_ip);
            cluster.node(node, &["curl", "--silent", "--fail", "--max-time", "10", &format!("http://{}/", shop.cluster_ip)]);
        }
        sleep(Duration::from_secs(1));
    }
    // One of the pod's, one of the host network's, and those that were started in their place.
    assert!(ended.len() > 2, "{ended:?}");
    away.now();
    eventually("the new agent knows everything again", || {
        let page = page(&["--fail"])?;
        if page.contains("last known state") { Err(page) } else { Ok(()) }
    });
    assert_lost_at_most(&load.end(), in_hand(2, 1));
    // And follows what comes.
    let late = ["--namespace", shop::NAMESPACE, "delete", "service", "late", "--ignore-not-found"];
    cluster.kubectl(&late);
    cluster.kubectl(&["--namespace", shop::NAMESPACE, "create", "service", "clusterip", "late", "--tcp=80:8080"]);
    for node in NODES {
        eventually("a new name is known", || {
            let found = shop::exec(cluster, "client", node, &["dig", "+short", "+search", "late"])?;
            if found.trim().is_empty() { Err(found) } else { Ok(()) }
        });
    }
    cluster.kubectl(&late);
}

pub fn wrong_value(stage: &Stage) {
    stage.with_waypost();
    let cluster = &stage.cluster;
    for (setting, says) in [
        ("agent.localDns=true", "localDns"),
        ("agent.config.masquerade-bit=40", "masquerade-bit"),
        ("dns.replicas=many", "replicas"),
        ("clusterCIDRs={pods}", "clusterCIDRs"),
    ] {
        let error =
            cluster.helm(&["upgrade", "waypost", "charts/waypost", "--reset-then-reuse-values", "--set", setting]).unwrap_err();
        assert!(error.contains(says) && error.contains("schema"), "{setting}: {error}");
    }
}

pub fn missing_permission(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    let role = cluster.get(&["clusterrole", "waypost-agent"]);
    let rules = role["rules"].as_array().expect("a list");
    let slices = rules.iter().position(|rule| rule["resources"][0] == "endpointslices").expect("the chart grants it");
    let take = format!(r#"[{{"op": "remove", "path": "/rules/{slices}"}}]"#);
    let give = format!(r#"[{{"op": "add", "path": "/rules/{slices}", "value": {}}}]"#, rules[slices]);

    // Every kill makes the kubelet wait longer before the next start: a new pod's first one is at once.
    begin_anew(cluster, 1);
    let load = Load::start(cluster, &shop);
    cluster.kubectl(&["patch", "clusterrole", "waypost-agent", "--type=json", "--patch", &take]);
    cluster.node(1, &["kill", "-9", &process_of_agent(cluster, 1).to_string()]);
    let pod = await_agent(cluster, "the agent of node1 runs again", |pod| {
        pod["spec"]["nodeName"] == "node1" && restarts(pod) == 1 && !running_since(pod).is_null()
    });
    eventually("the agent says which right it needs", || {
        let log = cluster.try_kubectl(&[SYSTEM, "logs", name_of(&pod)])?;
        if log.contains("endpointslices") && log.contains("forbidden") { Ok(()) } else { Err(log) }
    });
    await_event(cluster, "PermissionMissing", 1);
    await_finding(cluster, 1, &["endpointslices cannot be listed"]);
    cluster.kubectl(&["patch", "clusterrole", "waypost-agent", "--type=json", "--patch", &give]);
    eventually("it is ready when it has the right", || match agent_of(cluster, 1) {
        Some(pod) if is_ready(&pod) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_lost_at_most(&load.end(), in_hand(1, 1));
}

pub fn kube_proxy_beside(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    let load = Load::start(cluster, &shop);
    cluster.script(&["install-kube-proxy"]);
    for node in NODES {
        await_event(cluster, "KubeProxyFound", node);
        // The Event may be one of an earlier kube-proxy; this one writes its rules when it has started.
        await_finding(cluster, node, &["kube-proxy"]);
    }
    cluster.script(&["remove-kube-proxy"]);
    for node in NODES {
        let pod = agent_of(cluster, node).expect("it runs");
        cluster.kubectl(&[SYSTEM, "exec", name_of(&pod), "--", "/waypost", "cleanup", "--kube-proxy"]);
        let found = check(cluster, name_of(&pod));
        assert!(!found.contains("kube-proxy"), "{found}");
    }
    assert_nothing_lost(&load.end());
}

/// Somebody's resolver on every address of a node is there before the agent.
pub fn second_dns_server(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    let load = Load::start(cluster, &shop);
    let (other, kills) = take_dns_port(cluster, 2);
    await_event(cluster, "DnsPortTaken", 2);
    await_finding(cluster, 2, &["dns-address", "taken"]);
    drop(other);
    eventually("the agent answers its node again", || {
        let tables = cluster.node(2, &["nft", "list", "tables"]);
        if tables.contains("waypost-dns-") { Ok(()) } else { Err(tables) }
    });
    assert_lost_at_most(&load.end(), in_hand(2, kills));
}

/// Another server takes the DNS port on every address of the node; it goes when it is dropped. How often the agent was killed for that.
pub fn take_dns_port(cluster: &Cluster, node: u8) -> (OnNode, usize) {
    // Every kill makes the kubelet wait longer before the next start: they are counted for a new pod.
    begin_anew(cluster, node);
    let number = node.to_string();
    // It takes the port in the moment in which the agent does not have it.
    let take = "until agnhost netexec --http-port=0 --udp-port=53 >/dev/null 2>&1; do :; done";
    let other = OnNode::start(cluster, &["node", &number], &["bash", "-c", take]);
    // By their processes: one that was killed may be seen for a moment more.
    let mut killed = BTreeSet::new();
    eventually("the other server has the port", || {
        if let Some(agent) = running_agent(cluster, node).filter(|agent| !killed.contains(agent)) {
            cluster.try_script(&["node", &number, "kill", "-9", &agent.to_string()])?;
            killed.insert(agent);
        }
        let holders = cluster.node(node, &["ss", "--udp", "--listening", "--numeric", "--processes", "sport = 53"]);
        if holders.contains("agnhost") { Ok(()) } else { Err(holders) }
    });
    (other, killed.len())
}

/// What an agent takes with it that is killed on this node so many times: at most the one question that each client there waits for.
pub fn in_hand(node: u8, kills: usize) -> impl Fn(&Report) -> usize {
    move |report| if report.is_dns() && report.is_on_node(node) { kills } else { 0 }
}

/// The processes, on this node, of the pods that wait for `kubectl exec`.
fn clients(cluster: &Cluster, node: u8) -> Vec<String> {
    // Without one pgrep fails.
    let found = cluster.try_script(&["node", &node.to_string(), "pgrep", "--exact", "--full", "/agnhost pause"]);
    found.unwrap_or_default().lines().map(String::from).collect()
}

/// A program that runs somewhere in the cluster until this is dropped.
pub struct OnNode(Child);

impl OnNode {
    /// Starts it at a place that `scripts/cluster` knows.
    pub fn start(cluster: &Cluster, place: &[&str], command: &[&str]) -> OnNode {
        let mut script: Command = cluster.command("scripts/cluster");
        // With its input its watchdog ends it, and all that it has started.
        let watched = "trap 'kill 0' EXIT; \"$@\" & read -r _";
        script.args(place).args(["setsid", "bash", "-c", watched, "watched"]).args(command);
        OnNode(script.stdin(Stdio::piped()).spawn().expect("scripts/cluster can be started"))
    }
}

impl Drop for OnNode {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Names and services work for a pod of this node, for a pod of its host's network, and for the node itself.
fn serves(cluster: &Cluster, node: u8) {
    let page = ["curl", "--silent", "--show-error", "--fail", "--max-time", "10", "http://web.shop.svc.cluster.local/hostname"];
    for set in ["client", "host-client"] {
        eventually(&format!("services and names work for {set} on node{node}"), || {
            shop::exec(cluster, set, node, &page).map(drop)
        });
    }
}

pub fn upgrade(cluster: &Cluster, settings: &[&str]) {
    let upgrade = ["upgrade", "waypost", "charts/waypost", "--reset-then-reuse-values"];
    cluster.helm(&[&upgrade, settings].concat()).unwrap_or_else(|error| panic!("{error}"));
}

/// The number of the release as it is now.
pub fn revision(cluster: &Cluster) -> String {
    let history = cluster.helm(&["history", "waypost", "--max=1", "--output=json"]).unwrap_or_else(|error| panic!("{error}"));
    let history: Value = serde_json::from_str(&history).expect("helm prints JSON");
    history[0]["revision"].to_string()
}

pub fn roll_back(cluster: &Cluster, revision: &str) {
    cluster.helm(&["rollback", "waypost", revision]).unwrap_or_else(|error| panic!("{error}"));
    cluster.kubectl(&[SYSTEM, "rollout", "status", "daemonset/waypost-agent", "--timeout=180s"]);
}

fn await_agent(cluster: &Cluster, what: &str, looked_for: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let pods = cluster.get(&[SYSTEM, "pods", AGENTS]);
        pods["items"].as_array().and_then(|pods| pods.iter().find(|pod| looked_for(pod))).cloned().ok_or_else(|| pods.to_string())
    })
}

/// The agent's pod on this node.
pub fn agent_of(cluster: &Cluster, node: u8) -> Option<Value> {
    let pods = cluster.get(&[SYSTEM, "pods", AGENTS, &format!("--field-selector=spec.nodeName=node{node}")]);
    pods["items"].as_array()?.first().cloned()
}

fn running_agent(cluster: &Cluster, node: u8) -> Option<u32> {
    // The DNS servers have a user of their own; probes are younger.
    let find = ["pgrep", "--oldest", "--exact", "--euid", "0", "waypost"];
    let ids = cluster.try_script(&[&["node", &node.to_string()], &find[..]].concat()).ok()?;
    ids.lines().next()?.parse().ok()
}

pub fn process_of_agent(cluster: &Cluster, node: u8) -> u32 {
    let pod = agent_of(cluster, node).expect("the node has an agent");
    process_of(cluster, node, pod["status"]["containerStatuses"][0]["containerID"].as_str().expect("it runs"))
}

/// Kills the agent of this node, waits until it is ready again, and returns the name of its pod.
pub fn restart_agent(cluster: &Cluster, node: u8) -> String {
    let before = agent_of(cluster, node).expect("the node has an agent");
    cluster.node(node, &["kill", "-9", &process_of_agent(cluster, node).to_string()]);
    eventually("the agent is ready again", || match agent_of(cluster, node) {
        Some(pod) if is_ready(&pod) && restarts(&pod) > restarts(&before) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    name_of(&before).to_string()
}

pub fn is_ready(pod: &Value) -> bool {
    pod["status"]["containerStatuses"][0]["ready"] == true
}

pub fn restarts(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
}

fn running_since(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
}

fn name_of(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().expect("a pod has a name")
}

/// What `waypost check` prints in the agent's pod, whatever its exit code says.
fn check(cluster: &Cluster, pod: &str) -> String {
    let command = [SYSTEM, "exec", pod, "--", "/waypost", "check", "--config=/etc/waypost/waypost.yaml"];
    cluster.try_kubectl(&command).unwrap_or_else(|found| found)
}

/// Its container may be about to be started again, and an Event may be an earlier agent's.
fn await_finding(cluster: &Cluster, node: u8, words: &[&str]) {
    eventually(&format!("the check names {words:?}"), || {
        let pod = agent_of(cluster, node).ok_or("the node has no agent")?;
        let found = check(cluster, name_of(&pod));
        if words.iter().all(|word| found.contains(word)) { Ok(()) } else { Err(found) }
    });
}

fn await_event(cluster: &Cluster, reason: &str, node: u8) {
    eventually(&format!("an Event {reason} on node{node}"), || {
        let field = format!("--field-selector=reason={reason},involvedObject.name=node{node}");
        let events = cluster.kubectl(&["--namespace=default", "get", "events", &field, "--output=name"]);
        if events.is_empty() { Err("there is none".to_string()) } else { Ok(()) }
    });
}
