//! A real Prometheus finds the agents by the chart's monitors and by its annotations; every query of the dashboard has data, and the alerts fire
//! in bad days.

use super::agent::{ask, http_get};
use super::chart::{self, CHART_NAMESPACE, KUBE_DNS};
use super::cluster::{Cluster, NODE_NAME};
use super::processes::{Process, eventually, output};
use super::prometheus::{Prometheus, Site, at_once, operator};
use super::services::await_pods;
use super::stage::{Stage, next_addresses};
use serde_json::Value;
use std::any::Any;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use waypost::lab::{Namespace, Pod};
use waypost::model::Protocol;

const UPSTREAM: &str = "127.0.0.1:5300";
const AGENT_PORT: u16 = 10249;

pub fn by_prometheus(cluster: &Cluster) {
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments);
    operator::definitions().iter().for_each(|definition| cluster.apply(&definition.to_string()));
    operator::await_kinds(&kubectl);
    let upstream = format!("agent.config.dns-upstream={{{UPSTREAM}}}");
    let switches =
        ["serviceMonitor", "scrapeAnnotations", "prometheusRule", "grafanaDashboard"].map(|key| format!("{key}.enabled=true"));
    chart::install_with(cluster, &[&[upstream], &switches[..]].concat());
    let mut stage = Stage::new(cluster, "watched");
    let upstream = Upstream::answer(stage.node.namespace());
    let mut agent = chart::start_agent(&stage);
    agent.await_ready();
    let template = template_of(cluster, "daemonset", "waypost-agent");
    stage.announce_at("waypost-agent-1", CHART_NAMESPACE, &template, stage.node.addresses());
    let dns = stage.node.pod("waypost-dns-1", &next_addresses()).unwrap();
    let _relay = stage.relay_into(dns.namespace());
    let mut dns_server = chart::start_dns_server(cluster, &dns);
    stage.announce_at("waypost-dns-1", CHART_NAMESPACE, &template_of(cluster, "deployment", "waypost-dns"), dns.addresses());
    stage.add_pod("hello", "hello-1");
    stage.kubectl(&["create", "service", "clusterip", "hello", "--tcp=80:8080"]);
    await_pods(stage.client.namespace(), stage.cluster_ip("hello"), 80, Protocol::Tcp, &["hello-1"]);

    let agents = SocketAddr::new(stage.node.addresses()[0], AGENT_PORT);
    let dns_servers = SocketAddr::new(dns.addresses()[0], 9153);
    let found = |prometheus: &Prometheus<Place>, jobs: &[(&str, SocketAddr)]| {
        prometheus.finds(jobs.iter().map(|(job, at)| format!("{job} {at} on {NODE_NAME}")).collect());
    };
    let place = |pod: &Pod, name| Place { cluster, namespace: pod.namespace().clone(), name };
    let site = place(&stage.client, "prometheus-monitors");
    let (monitors, rules) = (operator::monitors(&kubectl), at_once(operator::rules(&kubectl)));
    let by_monitors = Prometheus::start(site, monitors, &rules);
    found(&by_monitors, &[("kube-proxy", agents), ("kube-dns", agents), ("kube-dns", dns_servers)]);
    let documented: Value = serde_saphyr::from_str(include_str!("../../docs/prometheus.yaml")).expect("the document is YAML");
    let site = place(&stage.outside, "prometheus-annotations");
    let by_annotations = Prometheus::start(site, documented["scrape_configs"].clone(), &rules);
    found(&by_annotations, &[("kube-proxy", agents), ("kube-dns", dns_servers)]);
    for prometheus in [&by_monitors, &by_annotations] {
        let asking = Asking::start(&stage);
        prometheus.answers(&dashboard(cluster));
        drop(asking);
        has_every_metric_of_the_alerts(&rules, prometheus);
        // There is one DNS server, and not two.
        // Without its time an alert fires for a single scrape that came late.
        eventually("nothing else fires in a good day", || match prometheus.firing()? {
            one if one == ["WaypostFewDnsServers"] => Ok(()),
            firing => Err(format!("{firing:?}")),
        });
    }
    drop(by_annotations);

    drop(upstream);
    let asking = Asking::start(&stage);
    by_monitors.await_alert("WaypostUpstreamsFailing");
    by_monitors.await_alert("WaypostDnsErrors");
    drop(asking);
    for repairs in 1..=4 {
        output(stage.node.namespace(), Command::new("nft").args(["flush", "ruleset"]));
        eventually("the table is put right", || {
            match by_monitors.query("waypost_nftables_repairs_total{ip_family=\"IPv4\"}")? {
                samples if samples.iter().any(|sample| sample["value"][1] == repairs.to_string().as_str()) => Ok(()),
                samples => Err(format!("{samples:?}")),
            }
        });
    }
    by_monitors.await_alert("WaypostRepairsRepeatedly");
    stage.relay.cut();
    by_monitors.await_alert("WaypostApiServerAway");
    stage.relay.restore();
    dns_server.kill();
    by_monitors.await_alert("WaypostNoDnsServer");
    agent.process().kill();
    by_monitors.await_alert("WaypostAgentDown");
    let holder = stage.node.namespace().udp_socket(SocketAddr::from(([0, 0, 0, 0], 53))).unwrap();
    for starts in 1..=3 {
        agent = chart::start_agent(&stage);
        let seen = "changes(process_start_time_seconds{job=\"kube-proxy\"}[15m])";
        eventually("Prometheus sees that the agent has started again", || match by_monitors.query(seen)? {
            samples if samples.iter().any(|sample| sample["value"][1] == starts.to_string().as_str()) => Ok(()),
            samples => Err(format!("{samples:?} instead of {starts}")),
        });
        if starts == 1 {
            by_monitors.await_alert("WaypostDnsNotServed");
        }
        if starts < 3 {
            agent.process().kill();
            by_monitors.await_alert("WaypostAgentDown");
        }
    }
    by_monitors.await_alert("WaypostRestarting");
    drop(holder);
    chart::uninstall(cluster);
    operator::remove_kinds(&kubectl);
}

/// A namespace of the control plane's stage, for a Prometheus of this name.
struct Place<'a> {
    cluster: &'a Cluster,
    namespace: Namespace,
    name: &'static str,
}

impl Site for Place<'_> {
    fn kubeconfig(&self) -> Option<PathBuf> {
        None
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(arguments)
    }

    fn folder(&self) -> PathBuf {
        self.cluster.directory().join(self.name)
    }

    fn start(&self, command: &[String]) -> Box<dyn Any> {
        let (program, arguments) = command.split_first().expect("a program");
        let mut command = Command::new(program);
        Box::new(Process::start(&self.namespace, self.cluster.directory(), self.name, command.args(arguments)))
    }

    fn page(&self, address: &str, path: &str) -> Result<String, String> {
        http_get(&self.namespace, address, path).map(|(_, body)| body)
    }
}

/// The dashboard as a sidecar of Grafana finds it.
fn dashboard(cluster: &Cluster) -> Value {
    let wanted = ["get", "configmap", "--selector", "grafana_dashboard=1", "--output", "json"];
    let map = cluster.kubectl(&[&["--namespace", CHART_NAMESPACE], &wanted[..]].concat());
    let map: Value = serde_json::from_str(&map).expect("kubectl prints JSON");
    let dashboard = map["items"][0]["data"]["waypost.json"].as_str().expect("the sidecar finds it by its label");
    serde_json::from_str(dashboard).expect("the dashboard is JSON")
}

/// An alert about a metric that does not exist would never fire.
fn has_every_metric_of_the_alerts(rules: &Value, prometheus: &Prometheus<Place>) {
    let mut checked = BTreeSet::new();
    for expression in rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let expression = expression["expr"].as_str().expect("an expression");
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let is_metric = |word: &&str| {
            *word == "up" || ["waypost_", "kubeproxy_", "coredns_", "process_"].iter().any(|prefix| word.starts_with(prefix))
        };
        for metric in words.filter(is_metric) {
            eventually(&format!("{metric} exists"), || match prometheus.query(metric)? {
                samples if samples.is_empty() => Err(format!("it does not, and {expression} needs it")),
                _ => Ok(()),
            });
            checked.insert(metric.to_string());
        }
    }
    assert!(checked.len() > 8, "the alerts are about {checked:?} only: is the search broken?");
}

/// Labels and annotations of the pods that a workload of the chart makes.
fn template_of(cluster: &Cluster, kind: &str, name: &str) -> Value {
    let object = cluster.kubectl(&["--namespace", CHART_NAMESPACE, "get", kind, name, "--output", "json"]);
    let mut object: Value = serde_json::from_str(&object).expect("kubectl prints JSON");
    object["spec"]["template"]["metadata"].take()
}

/// A server that says that every name exists, without any records. Dropping it ends it.
struct Upstream(&'static AtomicBool);

impl Upstream {
    fn answer(node: &Namespace) -> Upstream {
        let ended: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let socket = node.udp_socket(UPSTREAM.parse().unwrap()).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    buffer[2] |= 0x80;
                    // A client that has gone is no matter.
                    let _ = socket.send_to(&buffer[..length], client);
                }
            }
        });
        Upstream(ended)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Questions of every sort from a pod, again and again, until it is dropped.
struct Asking {
    ended: &'static AtomicBool,
    thread: Option<thread::JoinHandle<()>>,
}

impl Asking {
    fn start(stage: &Stage) -> Asking {
        let ended: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let (client, name) = (stage.client.namespace().clone(), stage.dns_name("hello"));
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !ended.load(Ordering::Relaxed) {
                number += 1;
                for (name, kind) in
                    [(&name, "A"), (&format!("number-{number}.example.com"), "AAAA"), (&"no.svc.cluster.local".into(), "A")]
                {
                    // What comes of it is for the metrics to tell.
                    let _ = ask(KUBE_DNS, &client, name, kind);
                }
            }
        });
        Asking { ended, thread: Some(thread) }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}
