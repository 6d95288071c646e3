//! A real Prometheus finds every agent by the chart's annotations and monitors, has data for each query of the dashboard, and raises alerts in bad
//! days.

use super::bad_days::{OnNode, SYSTEM, in_hand, revision, roll_back, take_dns_port, upgrade};
use super::cluster::{Cluster, NODES};
use super::documents::run;
use super::eventually::eventually;
use super::guards::{scale_back, without_api_server};
use super::load::{Load, assert_lost_at_most, assert_nothing_lost};
use super::memory;
use super::prometheus::{Prometheus, Site, at_once, operator};
use super::shop;
use super::state::Stage;
use serde_json::{Value, json};
use std::any::Any;
use std::collections::BTreeSet;
use std::path::PathBuf;

const SCRAPE: &str = include_str!("../../docs/prometheus.yaml");
const DASHBOARD: &str = include_str!("../../charts/waypost/files/dashboard.json");
/// A name that no cache has, one that the cluster does not have, and one that it has.
const ASK: &str = "while sleep 0.2; do
    for name in $((number += 1)).example.org no.svc.cluster.local web.shop.svc.cluster.local; do
        dig +short @10.96.0.10 $name >/dev/null
    done
done";
/// Names that no cache has, as fast as answers come: more of them than were answered before.
const ASK_OUTSIDE: &str = "while true; do dig +short +tries=1 +timeout=2 @10.96.0.10 $((number += 1)).nowhere.example.org >/dev/null || sleep 0.1; done";
/// A Corefile, with `UPSTREAM` where names outside are asked.
const COREFILE: &str = ".:53 {
    errors
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    forward . UPSTREAM
    cache 30
    reload
}
";
const GUIDE: &str = include_str!("../../docs/operate.md");
const SERVERS: &str = "--selector=app.kubernetes.io/component=dns";
/// How often the agent runs out of memory: more would not be seen within a test, because the kubelet waits longer each time.
const KILLS: usize = 3;

pub fn by_prometheus(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments);
    let before = revision(cluster);
    operator::definitions().iter().for_each(|definition| cluster.apply(&definition.to_string()));
    operator::await_kinds(&kubectl);
    let switches = ["scrapeAnnotations", "serviceMonitor", "prometheusRule"].map(|what| format!("--set={what}.enabled=true"));
    let switches: Vec<&str> = switches.iter().map(String::as_str).collect();
    corefile(cluster, "/etc/resolv.conf");
    let more = ["--set=agent.resources.limits.memory=256Mi", "--set=corefile.configMaps={kube-system/tried}", "--wait"];
    upgrade(cluster, &[&switches[..], &more].concat());
    run(stage, "docs/operate.md", "Watching it");

    let mut scrape: Value = serde_saphyr::from_str(SCRAPE).expect("it is YAML");
    let mut scrape: Vec<Value> = serde_json::from_value(scrape["scrape_configs"].take()).expect("a list");
    scrape.extend(operator::monitors(&kubectl).as_array().expect("a list").iter().cloned());
    let site = Outside { cluster, kubeconfig: kubeconfig_of_prometheus(cluster) };
    let prometheus = Prometheus::start(site, scrape.into(), &at_once(operator::rules(&kubectl)));
    // By annotations; by monitors both, and the DNS of the agents as a job of its own.
    let (agents, servers) = (agents("kube-proxy"), dns_servers(cluster));
    prometheus.finds([agents.clone(), servers.clone(), agents, self::agents("kube-dns"), servers].concat());

    let load = Load::start(cluster, &shop);
    let asking = NODES.map(|node| OnNode::start(cluster, &["node", &node.to_string()], &["bash", "-c", ASK]));
    prometheus.answers(&serde_json::from_str(DASHBOARD).expect("the dashboard is JSON"));
    drop(asking);
    assert_nothing_lost(&load.end());
    // Without its time an alert fires for a single scrape that came late.
    eventually("nothing fires in a good day", || match prometheus.firing()? {
        none if none.is_empty() => Ok(()),
        firing => Err(format!("{firing:?}")),
    });

    let mut alerts = Alerts { prometheus: &prometheus, seen: BTreeSet::new() };
    out_of_memory(stage, &mut alerts);
    let away = without_api_server(cluster);
    alerts.fires("WaypostApiServerAway");
    away.now();
    foreign_program(cluster, &mut alerts);
    configuration(cluster, &mut alerts);
    let scale = |replicas: &str| cluster.kubectl(&[SYSTEM, "scale", "deployment/waypost-dns", "--replicas", replicas]);
    let again = scale_back(cluster);
    scale("1");
    alerts.fires("WaypostFewDnsServers");
    scale("0");
    alerts.fires("WaypostNoDnsServer");
    again.now();
    let other = take_dns_port(cluster, 2).0;
    alerts.fires("WaypostDnsNotServed");
    drop(other);
    alerts.are_those_of_the_document();
    drop(prometheus);
    roll_back(cluster, &before);
    cluster.kubectl(&[SYSTEM, "delete", "configmap", "tried"]);
    operator::remove_kinds(&kubectl);
}

/// The agent that serves a node runs out of memory, again and again, under load. Each time it takes with it what it has in hand.
fn out_of_memory(stage: &Stage, alerts: &mut Alerts) {
    let cluster = &stage.cluster;
    let shop = stage.with_waypost();
    let load = Load::start(cluster, &shop);
    for kill in 1..=KILLS {
        memory::exhaust(cluster, 3);
        if kill > 1 {
            // The first time the kubelet starts it again at once.
            memory::await_back_off(cluster, 3);
            alerts.fires("WaypostAgentDown");
        }
        eventually("Prometheus sees that the agent has started again", || match restarts_of(alerts.prometheus, 3)? {
            seen if seen >= kill => Ok(()),
            seen => Err(format!("{seen} times instead of {kill}")),
        });
    }
    alerts.fires("WaypostRestarting");
    assert_lost_at_most(&load.end(), in_hand(3, KILLS));
}

/// A firewall that begins by removing what is not its own, as often as it is loaded.
fn foreign_program(cluster: &Cluster, alerts: &mut Alerts) {
    for _ in 0..4 {
        cluster.node(1, &["nft", "delete", "table", "ip", "waypost"]);
        eventually("the agent of node1 has put its table back", || {
            cluster.try_script(&["node", "1", "nft", "list", "table", "ip", "waypost"])
        });
    }
    alerts.fires("WaypostRepairsRepeatedly");
}

/// A Corefile whose upstream servers do not answer, and one that cannot be obeyed.
fn configuration(cluster: &Cluster, alerts: &mut Alerts) {
    corefile(cluster, "192.0.2.10:5399");
    let asking = OnNode::start(cluster, &["node", "1"], &["bash", "-c", ASK_OUTSIDE]);
    alerts.fires("WaypostUpstreamsFailing");
    drop(asking);
    corefile(cluster, "nobody");
    alerts.fires("WaypostDnsConfigurationRefused");
    corefile(cluster, "/etc/resolv.conf");
}

/// Writes the Corefile that agents and DNS servers obey.
fn corefile(cluster: &Cluster, upstream: &str) {
    let data = json!({ "Corefile": COREFILE.replace("UPSTREAM", upstream) });
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "tried", "namespace": "kube-system" }, "data": data });
    cluster.apply(&map.to_string());
}

/// The alerts, and which of them were seen to fire.
struct Alerts<'a, 'b> {
    prometheus: &'a Prometheus<Outside<'b>>,
    seen: BTreeSet<&'static str>,
}

impl Alerts<'_, '_> {
    /// Waits until it does.
    fn fires(&mut self, name: &'static str) {
        self.prometheus.await_alert(name);
        self.seen.insert(name);
    }

    /// # Panics
    /// When docs/operate.md says of others that a cluster has seen them.
    fn are_those_of_the_document(&self) {
        let paragraph = GUIDE.split("\n\n").find(|paragraph| paragraph.starts_with("Seen on a real cluster:"));
        let paragraph = paragraph.and_then(|paragraph| paragraph.split_once(". ")).expect("the document says which ones").0;
        let said: BTreeSet<_> = paragraph.split('[').skip(1).filter_map(|link| link.split(']').next()).collect();
        assert_eq!(said, self.seen);
    }
}

/// A Prometheus with exactly the rights that the document gives it.
fn kubeconfig_of_prometheus(cluster: &Cluster) -> PathBuf {
    let admin: Value = serde_json::from_str(&cluster.kubectl(&["config", "view", "--raw", "--output=json"])).expect("it is JSON");
    let mut server = admin["clusters"][0]["cluster"].clone();
    server["server"] = json!("https://192.0.2.10:6443");
    let token = cluster.kubectl(&["--namespace=monitoring", "create", "token", "prometheus"]);
    let file = cluster.folder().join("prometheus.kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": server}],
        "users": [{"name": "it", "user": {"token": token.trim()}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    std::fs::write(&file, config.to_string()).expect("target/ can be written");
    file
}

fn agents(job: &str) -> Vec<String> {
    NODES.map(|node| format!("{job} {}:10249 on node{node}", shop::address_of_node(node))).into()
}

/// The targets behind the DNS servers' Service.
fn dns_servers(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.get(&[SYSTEM, "pods", SERVERS]);
    let target = |pod: &Value| {
        let (address, node) = (pod["status"]["podIP"].as_str(), pod["spec"]["nodeName"].as_str());
        format!("kube-dns {}:9153 on {}", address.expect("it runs"), node.expect("it runs"))
    };
    // Those that an upgrade has replaced end in their own time.
    let stay = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
    pods["items"].as_array().expect("a list").iter().filter(stay).map(target).collect()
}

/// How often Prometheus has seen that the agent of this node was started anew.
fn restarts_of(prometheus: &Prometheus<Outside>, node: u8) -> Result<usize, String> {
    let samples =
        prometheus.query(&format!("changes(process_start_time_seconds{{job=\"kube-proxy\",node=\"node{node}\"}}[15m])"))?;
    let restarts = samples.iter().filter_map(|sample| sample["value"][1].as_str()?.parse().ok());
    restarts.max().ok_or_else(|| "none is seen".into())
}

/// The host outside.
struct Outside<'a> {
    cluster: &'a Cluster,
    kubeconfig: PathBuf,
}

impl Site for Outside<'_> {
    fn kubeconfig(&self) -> Option<PathBuf> {
        Some(self.kubeconfig.clone())
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(arguments)
    }

    fn folder(&self) -> PathBuf {
        self.cluster.folder().join("prometheus")
    }

    fn start(&self, command: &[String]) -> Box<dyn Any> {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        Box::new(OnNode::start(self.cluster, &["outside"], &command))
    }

    fn page(&self, address: &str, path: &str) -> Result<String, String> {
        let url = format!("http://{address}{path}");
        self.cluster.try_script(&["outside", "curl", "--silent", "--show-error", "--max-time", "10", "--globoff", &url])
    }
}
