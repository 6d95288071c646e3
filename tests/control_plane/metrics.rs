//! The service proxy's metrics beside those of the stock kube-proxy: names, types, labels and buckets, and whether they move.

use super::agent::{Agent, http_get};
use super::cluster::Cluster;
use super::kube_proxy;
use super::processes::eventually;
use super::services::await_pods;
use super::stage::Stage;
use std::collections::{BTreeMap, BTreeSet};
use waypost::model::Protocol;

/// Its endpoint is elsewhere, and both policies ask for one on this node.
const FAR: &str = "
apiVersion: v1
kind: Service
metadata: {name: far}
spec:
  type: NodePort
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-1, labels: {kubernetes.io/service-name: far}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.131.7.7], nodeName: another-node}]
";

pub fn as_kube_proxys(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "metrics");
    let theirs = Stage::new(cluster, "metrics-theirs");
    let _agent = Agent::start(&stage);
    let _kube_proxy = kube_proxy::start_on(&theirs, "metrics-kube-proxy");
    let before = Page::of(&stage);
    stage.apply(FAR);
    stage.add_pod("hello", "hello-1");
    stage.kubectl(&["create", "service", "clusterip", "hello", "--tcp=80:8080"]);
    await_pods(stage.client.namespace(), stage.cluster_ip("hello"), 80, Protocol::Tcp, &["hello-1"]);

    let latency = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
    let far = ["internal", "external"].map(|policy| {
        format!("kubeproxy_sync_proxy_rules_no_local_endpoints_total{{ip_family=\"IPv4\",traffic_policy=\"{policy}\"}}")
    });
    let mut services = 0;
    eventually("the metrics of both move", || {
        let pages = [Page::of(&stage), Page::of(&theirs)];
        let moved = |page: &Page| page.value(latency) > 0.0 && far.iter().all(|name| page.value(name) == 1.0);
        if pages.iter().all(moved) {
            return Ok(());
        }
        // Triggers have whole seconds: one of the second in which a proxy was started counts as older than the proxy.
        services += 1;
        stage.kubectl(&["create", "service", "clusterip", &format!("more-{services}"), "--tcp=80:8080"]);
        Err(pages.map(|page| format!("{:#?}", page.samples)).concat())
    });
    for (stage, page) in [(&stage, "/healthz"), (&stage, "/livez"), (&theirs, "/healthz"), (&theirs, "/livez")] {
        http_get(stage.node.namespace(), "127.0.0.1:10256", page).unwrap();
    }
    let (ours, theirs) = (Page::of(&stage), Page::of(&theirs));
    for (name, shape) in &theirs.shapes {
        assert_eq!(ours.shapes.get(name), Some(shape), "{name}");
    }
    // It shows a counter of failures when there was one.
    assert!(theirs.shapes.len() >= 13, "kube-proxy shows its metrics: {:?}", theirs.shapes.keys());

    for moved in [
        "kubeproxy_proxy_healthz_total{code=\"200\"}",
        "kubeproxy_proxy_livez_total{code=\"200\"}",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"}",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}",
        // The new Services have IPv4 only; a family without a change of its own must not look stuck.
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv6\"}",
    ] {
        assert!(ours.value(moved) > before.value(moved), "{moved}: {} and {}", before.value(moved), ours.value(moved));
    }
    for pending in ["service", "endpoint"] {
        let pending = format!("kubeproxy_sync_proxy_rules_{pending}_changes_pending");
        eventually("nothing is pending", || match Page::of(&stage).value(&pending) {
            0.0 => Ok(()),
            value => Err(format!("{pending} {value}")),
        });
    }
    let full = "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    assert!(before.value(full) >= 1.0, "the first commit compares the whole table");
}

/// The metrics of a node's proxy.
struct Page {
    /// By name with sorted labels.
    samples: BTreeMap<String, f64>,
    /// Of each metric of kube-proxy's names: its type, its labels, and the bounds of its buckets.
    shapes: BTreeMap<String, BTreeSet<String>>,
}

impl Page {
    fn of(stage: &Stage) -> Page {
        let (_, text) = http_get(stage.node.namespace(), "127.0.0.1:10249", "/metrics").expect("the proxy shows its metrics");
        let mut page = Page { samples: BTreeMap::new(), shapes: BTreeMap::new() };
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                if name.starts_with("kubeproxy_") {
                    page.shapes.insert(name.to_string(), BTreeSet::from([format!("type {kind}")]));
                }
            } else if !line.starts_with('#')
                && let Some((sample, value)) = line.rsplit_once(' ')
            {
                page.take(sample, value.parse().unwrap_or(f64::NAN));
            }
        }
        page
    }

    fn take(&mut self, sample: &str, value: f64) {
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
        labels.sort_unstable();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let shape = if self.shapes.contains_key(name) { self.shapes.get_mut(name) } else { self.shapes.get_mut(base) };
        if let Some(shape) = shape {
            let bound = |label: &str| match label.split_once('=') {
                Some(("le", bound)) => format!("le {}", bound.trim_matches('"').parse::<f64>().unwrap_or(f64::INFINITY)),
                Some((key, _)) => format!("label {key}"),
                None => label.to_string(),
            };
            shape.extend(labels.iter().map(|label| bound(label)));
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.samples.insert(format!("{name}{labels}"), value);
    }

    fn value(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or(0.0)
    }
}
