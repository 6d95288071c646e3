//! What must be so in every rendering of the chart: objects that Kubernetes knows field by field, references that lead somewhere, commands and
//! configuration files that the program takes.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use waypost::config::{Config, RunArgs, SETTINGS, Surroundings, load};

const WAYPOST: &str = env!("CARGO_BIN_EXE_waypost");

/// The objects of one rendering.
pub struct Rendered {
    name: String,
    objects: Vec<Value>,
}

/// A DaemonSet or a Deployment, with its one container.
pub struct Workload<'a> {
    /// The object.
    pub object: &'a Value,
    /// Its pods' `spec`.
    pub pod: &'a Value,
    /// What runs in them.
    pub container: &'a Value,
    /// The program's configuration, from the ConfigMap that is mounted.
    pub config: Config,
}

impl Rendered {
    /// # Panics
    /// When anything is not as it must be in every rendering. `name` tells one from the others.
    pub fn sound(name: &str, objects: Vec<Value>) -> Rendered {
        let rendered = Rendered { name: name.to_string(), objects };
        let mut seen = BTreeSet::new();
        for object in &rendered.objects {
            let id = id(object);
            assert!(seen.insert(id.clone()), "{name}: {id} is there twice");
            is_known_to_kubernetes(object).unwrap_or_else(|error| panic!("{name}: {id}: {error}\n{object:#}"));
        }
        for object in rendered.all("DaemonSet").chain(rendered.all("Deployment")) {
            rendered.workload_is_sound(&rendered.workload(object));
        }
        rendered.references_are_sound();
        rendered
    }

    /// The agent on every node.
    pub fn agent(&self) -> Workload<'_> {
        self.workload(self.get("DaemonSet", "waypost-agent").expect("the chart has agents"))
    }

    /// The DNS servers, if there are any.
    pub fn dns(&self) -> Option<Workload<'_>> {
        self.get("Deployment", "waypost-dns").map(|object| self.workload(object))
    }

    /// An object.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }

    /// All objects of a kind.
    pub fn all<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    fn workload<'a>(&'a self, object: &'a Value) -> Workload<'a> {
        let pod = &object["spec"]["template"]["spec"];
        let volume = list(&pod["volumes"]).find(|volume| volume["name"] == "config").expect("a volume with the configuration");
        let map = text(&volume["configMap"]["name"]);
        let map = self.get("ConfigMap", map).unwrap_or_else(|| panic!("{}: no ConfigMap {map}", self.name));
        let file = text(&map["data"]["waypost.yaml"]);
        Workload { object, pod, container: &pod["containers"][0], config: read(&self.name, &id(object), file) }
    }

    fn workload_is_sound(&self, workload: &Workload) {
        let at = format!("{}: {}", self.name, id(workload.object));
        let Workload { object, pod, container, config } = workload;
        let (labels, selector) = (&object["spec"]["template"]["metadata"]["labels"], &object["spec"]["selector"]["matchLabels"]);
        assert!(selects(selector, labels), "{at}: {selector} does not select {labels}");
        assert!(self.get("ServiceAccount", text(&pod["serviceAccountName"])).is_some(), "{at}: {}", pod["serviceAccountName"]);

        let names = |of: &Value| list(of).map(|each| text(&each["name"]).to_string()).collect::<Vec<_>>();
        let (volumes, mounts) = (names(&pod["volumes"]), names(&container["volumeMounts"]));
        let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        assert_eq!(set(&volumes), set(&mounts), "{at}: volumes and what is mounted of them");
        let paths: BTreeSet<_> = list(&container["volumeMounts"]).map(|mount| text(&mount["mountPath"])).collect();
        assert!(volumes.len() == set(&volumes).len() && paths.len() == mounts.len(), "{at}: {volumes:?} at {paths:?}");

        is_understood(&at, list(&container["args"]).map(text).collect());
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            if let Some(command) = container[probe]["exec"]["command"].as_array() {
                assert_eq!(command[0], "/waypost", "{at}: the image has no other program");
                is_understood(&at, command[1..].iter().map(text).collect());
            }
        }
        let known: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.env).chain(["NODE_NAME", "POD_IPS"]).collect();
        for variable in list(&container["env"]) {
            assert!(known.contains(text(&variable["name"])), "{at}: the program knows no variable {variable}");
        }
        // What the program writes or reads lies in a folder that is mounted: the rest of the file system cannot be written.
        let folders: Vec<_> = paths.iter().map(Path::new).collect();
        let tls = config.dns.forward.tls.ca.iter().cloned();
        let files = [&config.admin.probe, &config.handover, &config.state_dir].into_iter().flatten().cloned().chain(tls);
        for file in files {
            assert!(folders.iter().any(|folder| file.starts_with(folder)), "{at}: {} is in none of {paths:?}", file.display());
        }
    }

    fn references_are_sound(&self) {
        let exists = |kind: &str, name: &Value| self.get(kind, text(name)).is_some();
        for binding in self.all("ClusterRoleBinding").chain(self.all("RoleBinding")) {
            assert!(exists(text(&binding["roleRef"]["kind"]), &binding["roleRef"]["name"]), "{}: {binding}", self.name);
            for subject in list(&binding["subjects"]) {
                let known = exists(text(&subject["kind"]), &subject["name"]) && subject["namespace"] == "kube-system";
                assert!(known, "{}: {subject}", self.name);
            }
        }
        let pods: Vec<&Value> =
            self.all("DaemonSet").chain(self.all("Deployment")).map(|object| &object["spec"]["template"]).collect();
        for service in self.all("Service") {
            let chosen: Vec<_> =
                pods.iter().filter(|pod| selects(&service["spec"]["selector"], &pod["metadata"]["labels"])).collect();
            assert_eq!(chosen.len(), 1, "{}: {} is for the pods of one workload", self.name, id(service));
            let ports: Vec<&Value> = list(&chosen[0]["spec"]["containers"][0]["ports"]).collect();
            for port in list(&service["spec"]["ports"]).filter(|_| chosen[0]["spec"]["hostNetwork"] != true) {
                let open = |other: &&Value| other["containerPort"] == port["targetPort"] && other["protocol"] == port["protocol"];
                assert!(ports.iter().any(open), "{}: {}: {port} leads to none of {ports:?}", self.name, id(service));
            }
        }
        for budget in self.all("PodDisruptionBudget") {
            let selector = &budget["spec"]["selector"]["matchLabels"];
            assert!(pods.iter().any(|pod| selects(selector, &pod["metadata"]["labels"])), "{}: {budget}", self.name);
        }
        for monitor in self.all("ServiceMonitor") {
            let selector = &monitor["spec"]["selector"]["matchLabels"];
            let chosen: Vec<_> =
                self.all("Service").filter(|service| selects(selector, &service["metadata"]["labels"])).collect();
            assert_eq!(chosen.len(), 1, "{}: {} is for one Service", self.name, id(monitor));
            for endpoint in list(&monitor["spec"]["endpoints"]) {
                let named = list(&chosen[0]["spec"]["ports"]).any(|port| port["name"] == endpoint["port"]);
                assert!(named, "{}: {endpoint}", self.name);
            }
        }
    }
}

/// Reads the object as the type of Kubernetes' API that it says it is. What that type does not know would be dropped, so all must come back.
fn is_known_to_kubernetes(object: &Value) -> Result<(), String> {
    let kind = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    match kind {
        ("v1", "ConfigMap") => comes_back::<ConfigMap>(object),
        ("v1", "Service") => comes_back::<Service>(object),
        ("v1", "ServiceAccount") => comes_back::<ServiceAccount>(object),
        ("apps/v1", "DaemonSet") => comes_back::<DaemonSet>(object),
        ("apps/v1", "Deployment") => comes_back::<Deployment>(object),
        ("policy/v1", "PodDisruptionBudget") => comes_back::<PodDisruptionBudget>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => comes_back::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => comes_back::<ClusterRoleBinding>(object),
        ("rbac.authorization.k8s.io/v1", "Role") => comes_back::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => comes_back::<RoleBinding>(object),
        // The Prometheus operator's own; promtool reads the rules, and tests/cluster has a Prometheus use both.
        ("monitoring.coreos.com/v1", "ServiceMonitor" | "PrometheusRule") => Ok(()),
        other => Err(format!("{other:?} is no kind that the chart is known to have")),
    }
}

fn comes_back<T: DeserializeOwned + Serialize>(object: &Value) -> Result<(), String> {
    let known: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let back = serde_json::to_value(known).map_err(|error| error.to_string())?;
    lost(object, &back, String::new())
}

/// An error names the first field of `given` that `back` has not, or has with another value.
fn lost(given: &Value, back: &Value, path: String) -> Result<(), String> {
    match (given, back) {
        (Value::Object(given), Value::Object(back)) => given.iter().try_for_each(|(key, value)| match back.get(key) {
            Some(other) => lost(value, other, format!("{path}.{key}")),
            None => Err(format!("{path}.{key} is no field, or has nothing in it")),
        }),
        (Value::Array(given), Value::Array(back)) if given.len() == back.len() => {
            given.iter().zip(back).enumerate().try_for_each(|(at, (value, other))| lost(value, other, format!("{path}[{at}]")))
        }
        (given, back) if given == back => Ok(()),
        (given, back) => Err(format!("{path}: {given} is read as {back}")),
    }
}

/// The program's own parser reads what stands before `--help`.
fn is_understood(at: &str, arguments: Vec<&str>) {
    let output = Command::new(WAYPOST).args(&arguments).arg("--help").output().expect("the program can be started");
    assert!(output.status.success(), "{at}: {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The configuration as the program would read it in the pod.
fn read(name: &str, workload: &str, file: &str) -> Config {
    let path: String = format!("chart-{name}-{workload}.yaml").replace([' ', '/'], "-");
    let path: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(path);
    fs::write(&path, file).expect("target/ can be written");
    let surroundings = Surroundings {
        node_name: Some("node-1".into()),
        pod_ips: Some("10.244.0.2,fd00:244::2".into()),
        ..Surroundings::default()
    };
    match load(&RunArgs::default().with_file(&path), &surroundings) {
        Ok((config, _)) => config,
        Err(error) => panic!("{name}: {workload}: {error}\n{file}"),
    }
}

/// Whether all of these labels are there. An empty selector would select everything, which is meant nowhere.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().expect("a selector");
    !selector.is_empty() && selector.iter().all(|(key, value)| labels[key] == *value)
}

/// The elements of a list, which may be missing.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn id(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("cluster");
    format!("{} {namespace}/{name}", object["kind"].as_str().unwrap_or_default())
}

/// # Panics
/// When it is no text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
