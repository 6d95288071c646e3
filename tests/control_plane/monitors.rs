//! What the Prometheus operator, which is not here, would make of the chart's monitors.

use serde_json::{Value, json};

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
