//! A real Prometheus finds every agent by the chart's annotations, has data for each query of the dashboard, and raises alerts in bad days.

use super::bad_days::{OnNode, SYSTEM, end_agent, revision, roll_back, take_dns_port, upgrade};
use super::cluster::{Cluster, NODES};
use super::eventually::eventually;
use super::load::{Load, assert_nothing_lost};
use super::prometheus::{Prometheus, Site, at_once};
use super::shop;
use super::state::Stage;
use serde_json::Value;
use std::any::Any;
use std::path::PathBuf;

const SCRAPE: &str = include_str!("../../docs/prometheus.yaml");
const ALERTS: &str = include_str!("../../charts/waypost/files/alerts.yaml");
const DASHBOARD: &str = include_str!("../../charts/waypost/files/dashboard.json");
/// A name that no cache has, one that the cluster does not have, and one that it has.
const ASK: &str = "while sleep 0.2; do
    for name in $((number += 1)).example.org no.svc.cluster.local web.shop.svc.cluster.local; do
        dig +short @10.96.0.10 $name >/dev/null
    done
done";
const SERVERS: &str = "--selector=app.kubernetes.io/component=dns";

pub fn by_prometheus(stage: &Stage) {
    let shop = stage.with_waypost();
    let cluster = &stage.cluster;
    let before = revision(cluster);
    upgrade(cluster, &["--set=scrapeAnnotations.enabled=true", "--wait"]);
    let yaml = |text: &str| -> Value { serde_saphyr::from_str(text).expect("it is YAML") };
    let prometheus = Prometheus::start(Outside(cluster), yaml(SCRAPE)["scrape_configs"].take(), &at_once(yaml(ALERTS)));
    let agents = NODES.map(|node| format!("kube-proxy {}:10249 on node{node}", shop::address_of_node(node)));
    prometheus.finds([&agents[..], &dns_servers(cluster)].concat());

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

    cluster.script(&["api-stop"]);
    prometheus.await_alert("WaypostApiServerAway");
    cluster.script(&["api-start"]);
    let scale = |replicas: &str| cluster.kubectl(&[SYSTEM, "scale", "deployment/waypost-dns", "--replicas", replicas]);
    scale("1");
    prometheus.await_alert("WaypostFewDnsServers");
    scale("0");
    prometheus.await_alert("WaypostNoDnsServer");
    scale("2");
    let other = take_dns_port(cluster, 2).0;
    prometheus.await_alert("WaypostDnsNotServed");
    // The crash loop. Between two starts, ever longer ones, Prometheus finds nobody.
    for restarts in 1..=3 {
        eventually("Prometheus sees that the agent has started again", || match restarts_of(&prometheus, 2)? {
            seen if seen >= restarts => Ok(()),
            seen => Err(format!("{seen} times instead of {restarts}")),
        });
        if restarts < 3 {
            end_agent(cluster, 2);
            prometheus.await_alert("WaypostAgentDown");
        }
    }
    prometheus.await_alert("WaypostRestarting");
    drop(other);
    roll_back(cluster, &before);
}

/// The targets behind the DNS servers' Service.
fn dns_servers(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.get(&[SYSTEM, "pods", SERVERS]);
    let target = |pod: &Value| {
        let (address, node) = (pod["status"]["podIP"].as_str(), pod["spec"]["nodeName"].as_str());
        format!("kube-dns {}:9153 on {}", address.expect("it runs"), node.expect("it runs"))
    };
    pods["items"].as_array().expect("a list").iter().map(target).collect()
}

/// How often Prometheus has seen that the agent of this node was started anew.
fn restarts_of(prometheus: &Prometheus<Outside>, node: u8) -> Result<usize, String> {
    let samples =
        prometheus.query(&format!("changes(process_start_time_seconds{{job=\"kube-proxy\",node=\"node{node}\"}}[15m])"))?;
    let restarts = samples.iter().filter_map(|sample| sample["value"][1].as_str()?.parse().ok());
    restarts.max().ok_or_else(|| "none is seen".into())
}

/// The host outside.
struct Outside<'a>(&'a Cluster);

impl Site for Outside<'_> {
    fn kubectl(&self, arguments: &[&str]) -> String {
        self.0.kubectl(arguments)
    }

    fn folder(&self) -> PathBuf {
        self.0.folder().join("prometheus")
    }

    fn start(&self, command: &[String]) -> Box<dyn Any> {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        Box::new(OnNode::start(self.0, &["outside"], &command))
    }

    fn page(&self, address: &str, path: &str) -> Result<String, String> {
        let url = format!("http://{address}{path}");
        self.0.try_script(&["outside", "curl", "--silent", "--show-error", "--max-time", "10", "--globoff", &url])
    }
}
