//! The stock kube-proxy in nftables mode, on a node of its own.

use super::agent::http_get;
use super::cluster::{Cluster, NODE_NAME, POD_CIDRS, tool};
use super::processes::Process;
use super::stage::Stage;
use std::fs;
use std::time::{Duration, Instant};
use waypost::lab::Namespace;

/// How often readiness is asked for: small against what is measured.
const STEP: Duration = Duration::from_millis(2);
/// Ten thousand services take it half a minute.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts kube-proxy with the smallest configuration with which it serves a stage's node, and waits until it has programmed everything.
pub fn start_on(stage: &Stage, name: &str) -> Process {
    let more = format!("hostnameOverride: {NODE_NAME}\nclusterCIDR: {POD_CIDRS}\n");
    let process = start(stage.cluster, stage.node.namespace(), name, &more);
    await_synced(stage.node.namespace());
    process
}

/// Starts kube-proxy in a namespace in which the API server is reached; `more` is what its configuration says besides what it must. Its
/// conntrack limits are sysctls that only the host may set.
pub fn start(cluster: &Cluster, namespace: &Namespace, name: &str, more: &str) -> Process {
    let path = cluster.directory().join(format!("{name}.yaml"));
    let config = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\n\
         kind: KubeProxyConfiguration\n\
         mode: nftables\n\
         clientConnection: {{kubeconfig: {}}}\n\
         conntrack: {{maxPerCore: 0, min: 0}}\n\
         {more}",
        cluster.kubeconfig().display()
    );
    fs::write(&path, config).unwrap();
    let mut command = tool("kube-proxy");
    command.arg("--config").arg(&path);
    Process::start(namespace, cluster.directory(), name, &mut command)
}

/// Waits until both families have had their first full sync.
pub fn await_synced(namespace: &Namespace) {
    let began = Instant::now();
    while !is_synced(namespace) {
        assert!(began.elapsed() < PATIENCE, "kube-proxy was not ready within {PATIENCE:?}");
        std::thread::sleep(STEP);
    }
}

/// Whether both families have had their first full sync.
pub fn is_synced(namespace: &Namespace) -> bool {
    http_get(namespace, "127.0.0.1:10249", "/metrics").is_ok_and(|(_, metrics)| has_synced(&metrics))
}

fn has_synced(metrics: &str) -> bool {
    ["IPv4", "IPv6"].iter().all(|family| {
        let line = format!("kubeproxy_sync_full_proxy_rules_duration_seconds_count{{ip_family=\"{family}\"}} ");
        metrics.lines().any(|text| text.strip_prefix(&line).is_some_and(|count| count != "0"))
    })
}
