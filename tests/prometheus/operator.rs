//! The kinds of the Prometheus operator that the chart uses, and what the operator, which is not here, would make of the chart's monitors.

use serde_json::{Value, json};

const KINDS: [(&str, &str); 2] = [("servicemonitors", "ServiceMonitor"), ("prometheusrules", "PrometheusRule")];
const NAMESPACE: &str = "kube-system";

/// What kubectl prints, in the cluster that is meant.
type Kubectl<'a> = &'a dyn Fn(&[&str]) -> String;

/// The definitions of the kinds, to be applied.
pub fn definitions() -> Vec<Value> {
    let definition = |(plural, kind)| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.monitoring.coreos.com") },
            "spec": {
                "group": "monitoring.coreos.com",
                "scope": "Namespaced",
                "names": { "plural": plural, "kind": kind },
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
                }],
            },
        })
    };
    KINDS.map(definition).into()
}

/// Waits until the kinds can be used.
pub fn await_kinds(kubectl: Kubectl) {
    for (plural, _) in KINDS {
        let name = format!("customresourcedefinition/{plural}.monitoring.coreos.com");
        kubectl(&["wait", "--for=condition=established", "--timeout=60s", &name]);
    }
}

/// Takes the kinds away, and their objects with them.
pub fn remove_kinds(kubectl: Kubectl) {
    for (plural, _) in KINDS {
        kubectl(&["delete", "--ignore-not-found", "customresourcedefinition", &format!("{plural}.monitoring.coreos.com")]);
    }
}

/// The scrape configurations that the operator would make of the chart's monitors.
pub fn monitors(kubectl: Kubectl) -> Value {
    list(kubectl, "servicemonitors").iter().map(of_service_monitor).collect()
}

/// The alerts of the chart's PrometheusRule.
pub fn rules(kubectl: Kubectl) -> Value {
    list(kubectl, "prometheusrules")[0]["spec"].take()
}

fn list(kubectl: Kubectl, kind: &str) -> Vec<Value> {
    let list = kubectl(&["--namespace", NAMESPACE, "get", kind, "--output", "json"]);
    let mut list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
    serde_json::from_value(list["items"].take()).expect("a list")
}

/// What the Prometheus operator makes of a ServiceMonitor that uses the role `endpointslice`.
fn of_service_monitor(monitor: &Value) -> Value {
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
