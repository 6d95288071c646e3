//! The examples of the documents, as they stand there. Only what an API server adds to every Service is added: its ClusterIPs.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// What an API server would have chosen.
const CLUSTER_IPS: [&str; 2] = ["10.96.0.1", "fd00:96::1"];

/// The objects of the one example of a document that contains this.
pub fn example(document: &str, needle: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(document);
    let text = fs::read_to_string(path).expect("the document is there");
    let blocks = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let found: Vec<&str> = blocks.filter(|block| block.contains(needle)).collect();
    assert_eq!(found.len(), 1, "one example of {document} has {needle:?}");
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(found[0]).expect("the example is YAML");
    for object in objects.iter_mut().filter(|object| object["kind"] == "Service") {
        assert!(object["spec"]["clusterIPs"].is_null(), "users leave the addresses to the API server");
        object["spec"]["clusterIPs"] = json!(CLUSTER_IPS);
    }
    objects
}

/// The objects as a file of manifests has them.
pub fn manifests(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("---\n{object}\n")).collect()
}
