//! What `make kind` makes a cluster of, as far as it can be known without a container engine.

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn kind_reads_the_configuration_and_starts_no_kube_proxy() {
    let built = Command::new(in_tree("scripts/build-tools")).arg("kind-config").status().expect("the script can be started");
    assert!(built.success(), "scripts/build-tools kind-config: {built}");
    let Output { status, stdout, stderr } = Command::new(in_tree("target/tools/kind-config"))
        .arg(in_tree("manifests/kind.yaml"))
        .output()
        .expect("the program is built");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let cluster: Value = serde_json::from_slice(&stdout).expect("it prints JSON");
    assert_eq!(cluster["networking"]["kubeProxyMode"], "none", "{cluster}");
    let roles: Vec<_> = cluster["nodes"].as_array().expect("a list").iter().map(|node| node["role"].clone()).collect();
    assert_eq!(roles, [json!("control-plane"), json!("worker"), json!("worker")]);

    // What the script gives the chart is what kind gives the cluster.
    let script = std::fs::read_to_string(in_tree("scripts/kind")).expect("the script is there");
    for (value, network) in [("clusterCIDRs", "podSubnet"), ("serviceCIDRs", "serviceSubnet")] {
        let network = cluster["networking"][network].as_str().expect("a network");
        assert!(script.contains(&format!("{value}={{{network}}}")), "scripts/kind lacks {value}={{{network}}}");
    }
    assert!(script.contains(&format!("cluster={}", cluster["name"].as_str().expect("a name"))));
}

fn in_tree(path: &str) -> std::path::PathBuf {
    Path::new(ROOT).join(path)
}
