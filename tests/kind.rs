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

#[test]
fn its_steps_are_those_of_the_cluster_that_is_tested() {
    let read = |path| std::fs::read_to_string(in_tree(path)).expect("the script is there");
    let (kind, cluster) = (read("scripts/kind"), read("scripts/cluster.d/install.sh"));
    let install = cluster.split("install_waypost() {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the function");
    let expected = ["k8sServiceHost", "clusterCIDRs", "serviceCIDRs", "daemonset/waypost-agent", "deployment/waypost-dns"];
    assert_eq!(steps(install), expected);
    assert_eq!(steps(&kind), expected);
}

/// The values that helm is given, and what is waited for.
fn steps(script: &str) -> Vec<String> {
    let after = |word: &'static str| script.split(word).skip(1).map(|rest| rest.trim_start_matches(['\'', '"']).to_string());
    let values = after("--set ").filter_map(|rest| Some(rest.split_once('=')?.0.to_string()));
    values.chain(after("rollout status ").filter_map(|rest| Some(rest.split_whitespace().next()?.to_string()))).collect()
}

fn in_tree(path: &str) -> std::path::PathBuf {
    Path::new(ROOT).join(path)
}
