//! A real Prometheus, with targets from the API server.
//!
//! Debian builds its Prometheus without discovery by Kubernetes, so the test discovers: it writes down what Prometheus's documentation says the
//! roles `pod` and `endpointslice` find, with the same labels, for `file_sd_configs` to read. Everything after that is Prometheus's own work.

use super::agent::http_get;
use super::cluster::Cluster;
use super::processes::{Process, eventually};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use waypost::lab::Namespace;

const ADDRESS: &str = "127.0.0.1:9090";

/// A running Prometheus. Dropping it ends it.
pub struct Prometheus<'a> {
    cluster: &'a Cluster,
    namespace: Namespace,
    directory: PathBuf,
    _process: Process,
}

impl<'a> Prometheus<'a> {
    /// Starts it in a namespace. In the scrape configurations `kubernetes_sd_configs` may ask for the roles `pod` and `endpointslice`.
    pub fn start(cluster: &'a Cluster, namespace: &Namespace, name: &str, mut scrape: Value, rules: &Value) -> Prometheus<'a> {
        let directory = cluster.directory().join(name);
        fs::create_dir_all(&directory).unwrap();
        discover_by_files(&mut scrape);
        // JSON is YAML, too.
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": ["rules.yaml"],
            "scrape_configs": scrape,
        });
        fs::write(directory.join("prometheus.yaml"), config.to_string()).unwrap();
        fs::write(directory.join("rules.yaml"), rules.to_string()).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", directory.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            .arg("--log.level=warn");
        let process = Process::start(namespace, cluster.directory(), name, &mut command);
        let prometheus = Prometheus { cluster, namespace: namespace.clone(), directory, _process: process };
        prometheus.discover();
        eventually("Prometheus is ready", || http_get(namespace, ADDRESS, "/-/ready").map(|_| ()));
        prometheus
    }

    /// Writes down the targets as the API server has them now.
    pub fn discover(&self) {
        let list = |kind: &str| -> Vec<Value> {
            let list = self.cluster.kubectl(&["get", kind, "--all-namespaces", "--output", "json"]);
            let mut list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
            serde_json::from_value(list["items"].take()).expect("a list")
        };
        let (pods, services, slices) = (list("pods"), list("services"), list("endpointslices"));
        let found = [("pod", of_pods(&pods)), ("endpointslice", of_slices(&slices, &services, &pods))];
        for (role, targets) in found {
            let (new, file) = (self.directory.join("new.json"), self.directory.join(format!("{role}.json")));
            fs::write(&new, targets.to_string()).unwrap();
            // In one piece: Prometheus reads it as soon as it changes.
            fs::rename(new, file).unwrap();
        }
    }

    /// The vector that an expression has at the moment.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>, String> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut answer = self.get(&format!("/api/v1/query?query={encoded}"))?;
        match answer["data"]["resultType"].as_str() {
            Some("vector") => serde_json::from_value(answer["data"]["result"].take()).map_err(|error| error.to_string()),
            _ => Err(format!("{expression}: {answer}")),
        }
    }

    /// The targets that are up, as `job instance`, sorted.
    pub fn targets_up(&self) -> Result<Vec<String>, String> {
        let name = |sample: &Value| {
            let label = |name: &str| sample["metric"][name].as_str().unwrap_or_default().to_string();
            format!("{} {} on {}", label("job"), label("instance"), label("node"))
        };
        let mut targets: Vec<_> = self.query("up == 1")?.iter().map(name).collect();
        targets.sort();
        Ok(targets)
    }

    /// The names of the alerts that fire, sorted.
    pub fn firing(&self) -> Result<Vec<String>, String> {
        let samples = self.query("count by (alertname) (ALERTS{alertstate=\"firing\"})")?;
        let mut names: Vec<_> =
            samples.iter().map(|sample| sample["metric"]["alertname"].as_str().unwrap_or_default().to_string()).collect();
        names.sort();
        Ok(names)
    }

    /// Waits until this alert fires.
    pub fn await_alert(&self, name: &str) {
        eventually(&format!("{name} fires"), || match self.firing()? {
            firing if firing.iter().any(|alert| alert == name) => Ok(()),
            firing => Err(format!("{firing:?} do")),
        });
    }

    fn get(&self, path: &str) -> Result<Value, String> {
        let (_, body) = http_get(&self.namespace, ADDRESS, path)?;
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }
}

fn discover_by_files(scrape: &mut Value) {
    for config in scrape.as_array_mut().expect("a list of scrape configurations") {
        let config = config.as_object_mut().expect("a scrape configuration");
        let discovery = config.remove("kubernetes_sd_configs").expect("it discovers by Kubernetes");
        let role = discovery[0]["role"].as_str().expect("a role");
        config.insert("file_sd_configs".into(), json!([{ "files": [format!("{role}.json")], "refresh_interval": "1s" }]));
    }
}

/// Role `pod`, for pods that declare no ports.
fn of_pods(pods: &[Value]) -> Value {
    let target = |pod: &Value| json!({ "targets": [pod["status"]["podIP"]], "labels": pod_labels(pod) });
    pods.iter().map(target).collect()
}

fn pod_labels(pod: &Value) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert("__meta_kubernetes_namespace".into(), pod["metadata"]["namespace"].clone());
    labels.insert("__meta_kubernetes_pod_name".into(), pod["metadata"]["name"].clone());
    labels.insert("__meta_kubernetes_pod_ip".into(), pod["status"]["podIP"].clone());
    labels.insert("__meta_kubernetes_pod_node_name".into(), pod["spec"]["nodeName"].clone());
    add_metadata(&mut labels, "pod", pod);
    labels
}

/// Role `endpointslice`: an address and port each, with what is known of the service and the pod.
fn of_slices(slices: &[Value], services: &[Value], pods: &[Value]) -> Value {
    let mut targets = Vec::new();
    for slice in slices {
        let namespace = &slice["metadata"]["namespace"];
        let named = |list: &'_ [Value], name: &Value| {
            let is_it = |object: &&Value| object["metadata"]["namespace"] == *namespace && object["metadata"]["name"] == *name;
            list.iter().find(is_it).cloned()
        };
        let Some(service) = named(services, &slice["metadata"]["labels"]["kubernetes.io/service-name"]) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            for port in slice["ports"].as_array().into_iter().flatten() {
                let mut labels = named(pods, &endpoint["targetRef"]["name"]).map(|pod| pod_labels(&pod)).unwrap_or_default();
                labels.insert("__meta_kubernetes_namespace".into(), namespace.clone());
                labels.insert("__meta_kubernetes_service_name".into(), service["metadata"]["name"].clone());
                labels.insert("__meta_kubernetes_endpointslice_port_name".into(), port["name"].clone());
                add_metadata(&mut labels, "service", &service);
                let address = endpoint["addresses"][0].as_str().expect("an address");
                let address = if address.contains(':') { format!("[{address}]") } else { address.to_string() };
                targets.push(json!({ "targets": [format!("{address}:{}", port["port"])], "labels": labels }));
            }
        }
    }
    Value::Array(targets)
}

/// An object's labels and annotations, as Prometheus spells them.
fn add_metadata(labels: &mut Map<String, Value>, of: &str, object: &Value) {
    for kind in ["label", "annotation"] {
        for (key, value) in object["metadata"][format!("{kind}s")].as_object().into_iter().flatten() {
            let key = key.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
            labels.insert(format!("__meta_kubernetes_{of}_{kind}_{key}"), value.clone());
        }
    }
}

/// What the Prometheus operator makes of a ServiceMonitor that uses the role `endpointslice`.
pub fn of_service_monitor(monitor: &Value) -> Value {
    let (metadata, spec) = (&monitor["metadata"], &monitor["spec"]);
    let endpoint = &spec["endpoints"][0];
    let label = |key: &str| format!("__meta_kubernetes_service_label_{}", key.replace(['.', '/', '-'], "_"));
    let copy = |from: &str, to: &str| json!({ "source_labels": [from], "target_label": to, "regex": "(.+)" });
    let mut relabel: Vec<Value> = spec["selector"]["matchLabels"]
        .as_object()
        .expect("a selector")
        .iter()
        .map(|(key, value)| json!({ "source_labels": [label(key)], "regex": value, "action": "keep" }))
        .collect();
    relabel.push(json!({ "source_labels": ["__meta_kubernetes_namespace"], "regex": metadata["namespace"], "action": "keep" }));
    let port =
        json!({ "source_labels": ["__meta_kubernetes_endpointslice_port_name"], "regex": endpoint["port"], "action": "keep" });
    relabel.push(port);
    for (from, to) in [("namespace", "namespace"), ("service_name", "service"), ("pod_name", "pod"), ("service_name", "job")] {
        relabel.push(copy(&format!("__meta_kubernetes_{from}"), to));
    }
    relabel.push(copy(&label(spec["jobLabel"].as_str().expect("a label for the job")), "job"));
    relabel.extend(endpoint["relabelings"].as_array().into_iter().flatten().map(snake_case));
    let metrics: Vec<Value> = endpoint["metricRelabelings"].as_array().into_iter().flatten().map(snake_case).collect();
    json!({
        "job_name": format!("serviceMonitor/{}/0", metadata["name"].as_str().expect("a name")),
        "kubernetes_sd_configs": [{ "role": "endpointslice" }],
        "relabel_configs": relabel,
        "metric_relabel_configs": metrics,
    })
}

/// `sourceLabels` is Prometheus's `source_labels`.
fn snake_case(rule: &Value) -> Value {
    let spell = |key: &str| {
        let mut spelled = String::new();
        for letter in key.chars() {
            if letter.is_ascii_uppercase() {
                spelled.push('_');
            }
            spelled.push(letter.to_ascii_lowercase());
        }
        spelled
    };
    rule.as_object().expect("a rule").iter().map(|(key, value)| (spell(key), value.clone())).collect()
}
