//! What Prometheus discovers by asking the API server, with the labels that its documentation names.

use serde_json::{Map, Value, json};
use std::path::Path;

/// Makes the scrape configurations read files in the place of the API server.
pub fn by_files(scrape: &mut Value) {
    for config in scrape.as_array_mut().expect("a list of scrape configurations") {
        let config = config.as_object_mut().expect("a scrape configuration");
        let discovery = config.remove("kubernetes_sd_configs").expect("it discovers by Kubernetes");
        let role = discovery[0]["role"].as_str().expect("a role");
        config.insert("file_sd_configs".into(), json!([{ "files": [format!("{role}.json")], "refresh_interval": "1s" }]));
    }
}

/// Makes the scrape configurations ask the API server of this kubeconfig.
pub fn by_kubeconfig(scrape: &mut Value, kubeconfig: &Path) {
    for config in scrape.as_array_mut().expect("a list of scrape configurations") {
        config["kubernetes_sd_configs"][0]["kubeconfig_file"] = json!(kubeconfig);
    }
}

/// Role `pod`, for pods that declare no ports.
pub fn of_pods(pods: &[Value]) -> Value {
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
pub fn of_slices(slices: &[Value], services: &[Value], pods: &[Value]) -> Value {
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
