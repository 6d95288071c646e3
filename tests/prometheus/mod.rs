//! A real Prometheus, with targets from the API server.

mod discovery;
pub mod operator;

use crate::eventually::eventually;
use serde_json::{Value, json};
use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

const ADDRESS: &str = "127.0.0.1:9090";

/// Where a Prometheus runs, and the cluster that it watches.
pub trait Site {
    /// With this kubeconfig, and its rights, a Prometheus that `scripts/build-tools` has built discovers by itself. `None`: Debian's, which is built
    /// without discovery by Kubernetes, so the test discovers: it writes down what Prometheus's documentation says the roles `pod` and
    /// `endpointslice` find, with the same labels, for `file_sd_configs` to read. Everything after that is Prometheus's own work.
    fn kubeconfig(&self) -> Option<PathBuf>;
    /// What kubectl prints.
    fn kubectl(&self, arguments: &[&str]) -> String;
    /// A folder for its files.
    fn folder(&self) -> PathBuf;
    /// Starts a program there, which ends when the value is dropped.
    fn start(&self, command: &[String]) -> Box<dyn Any>;
    /// A page that is served there.
    fn page(&self, address: &str, path: &str) -> Result<String, String>;
}

/// A running Prometheus. Dropping it ends it.
pub struct Prometheus<S> {
    site: S,
    _process: Box<dyn Any>,
}

impl<S: Site> Prometheus<S> {
    /// Starts it. In the scrape configurations `kubernetes_sd_configs` may ask for the roles `pod` and `endpointslice`.
    pub fn start(site: S, mut scrape: Value, rules: &Value) -> Prometheus<S> {
        let folder = site.folder();
        fs::create_dir_all(&folder).unwrap();
        let program = match site.kubeconfig() {
            None => {
                discovery::by_files(&mut scrape);
                discover(&site);
                "prometheus"
            }
            Some(kubeconfig) => {
                discovery::by_kubeconfig(&mut scrape, &kubeconfig);
                "prometheus-kubernetes"
            }
        };
        // JSON is YAML, too.
        let config = json!({
            "global": { "scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s" },
            "rule_files": ["rules.yaml"],
            "scrape_configs": scrape,
        });
        fs::write(folder.join("prometheus.yaml"), config.to_string()).unwrap();
        fs::write(folder.join("rules.yaml"), rules.to_string()).unwrap();
        let process = site.start(&[
            program.into(),
            format!("--config.file={}", folder.join("prometheus.yaml").display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={ADDRESS}"),
            "--log.level=warn".into(),
        ]);
        eventually("Prometheus is ready", || site.page(ADDRESS, "/-/ready").map(drop));
        Prometheus { site, _process: process }
    }

    /// Waits until exactly these targets are up, each as `JOB ADDRESS on NODE`.
    pub fn finds(&self, mut expected: Vec<String>) {
        expected.sort();
        eventually("Prometheus finds everything", || {
            if self.site.kubeconfig().is_none() {
                discover(&self.site);
            }
            match self.targets_up()? {
                targets if targets == expected => Ok(()),
                targets => Err(format!("{targets:?} instead of {expected:?}")),
            }
        });
    }

    /// Every query of a dashboard has data, when there is some traffic to show.
    pub fn answers(&self, dashboard: &Value) {
        let panels = dashboard["panels"].as_array().expect("panels").iter();
        let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
        let expressions: BTreeSet<_> = targets.map(|target| target["expr"].as_str().expect("an expression")).collect();
        assert!(expressions.len() > 30, "the dashboard has only {} queries: is the search broken?", expressions.len());
        for expression in expressions {
            let concrete = expression.replace("$__rate_interval", "30s").replace("$instance", ".*");
            assert!(!concrete.contains('$'), "{expression} uses a variable that this test does not know");
            eventually(&format!("{expression} has data"), || match self.query(&concrete)? {
                samples if samples.is_empty() => Err("it has none".to_string()),
                _ => Ok(()),
            });
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

    /// The targets that are up, sorted.
    fn targets_up(&self) -> Result<Vec<String>, String> {
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
        let body = self.site.page(ADDRESS, path)?;
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }
}

/// The alerts' rules without the times for which something must be so: they fire at once.
pub fn at_once(mut rules: Value) -> Value {
    for group in rules["groups"].as_array_mut().expect("groups") {
        for rule in group["rules"].as_array_mut().expect("rules") {
            rule.as_object_mut().expect("a rule").remove("for");
        }
    }
    rules
}

/// Writes down the targets as the API server has them now.
fn discover(site: &impl Site) {
    let list = |kind: &str| -> Vec<Value> {
        let list = site.kubectl(&["get", kind, "--all-namespaces", "--output", "json"]);
        let mut list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        serde_json::from_value(list["items"].take()).expect("a list")
    };
    let (pods, services, slices) = (list("pods"), list("services"), list("endpointslices"));
    let found = [("pod", discovery::of_pods(&pods)), ("endpointslice", discovery::of_slices(&slices, &services, &pods))];
    for (role, targets) in found {
        let (new, file) = (site.folder().join("new.json"), site.folder().join(format!("{role}.json")));
        fs::write(&new, targets.to_string()).unwrap();
        // In one piece: Prometheus reads it as soon as it changes.
        fs::rename(new, file).unwrap();
    }
}
