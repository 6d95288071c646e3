//! The chart on the real API server: its objects are accepted, and its rights are enough.

use super::agent::{Agent, WAYPOST, await_answer_from};
use super::cluster::{Cluster, NODE_NAME, POWERLESS_TOKEN, tool};
use super::processes::{Process, eventually, output};
use super::services::await_pods;
use super::stage::{Stage, next_addresses};
use super::table;
use serde_json::Value;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use waypost::lab::Pod;
use waypost::model::Protocol;

/// Where the chart is installed.
pub const CHART_NAMESPACE: &str = "kube-system";
/// The chart's default for the address of the kube-dns Service.
pub const KUBE_DNS: &str = "10.96.0.10";

pub fn rights_are_enough(cluster: &Cluster) {
    install(cluster);
    let mut stage = Stage::new(cluster, "chart");
    let mut agent = start_agent(&stage);
    agent.await_ready();
    assert_eq!(missing_rights(&stage, &cluster.kubeconfig_for("chart-check", &token(cluster, "waypost-agent"))), [""; 0]);
    let powerless = missing_rights(&stage, &cluster.kubeconfig_for("powerless", POWERLESS_TOKEN));
    assert!(powerless.iter().any(|found| found.starts_with("Events may not be written")), "{powerless:?}");
    assert!(powerless.iter().any(|found| found.starts_with("servicecidrs cannot be listed")), "{powerless:?}");
    super::service_cidrs::await_networks(stage.node.namespace(), "ip", &["10.96.0.0/16"]);
    stage.add_pod("hello", "hello-1");
    let hello = make_service(&stage, "hello");
    // From the agent itself: no DNS pod is there yet.
    await_answer_from(KUBE_DNS, stage.client.namespace(), &stage.dns_name("hello"), "A", &[&hello.to_string()]);
    await_pods(stage.client.namespace(), hello, 80, Protocol::Tcp, &["hello-1"]);

    let dns = stage.node.pod("waypost-dns-1", &next_addresses()).unwrap();
    let _relay = stage.relay_into(dns.namespace());
    let _dns_server = start_dns_server(cluster, &dns);
    stage.announce_in(&dns, CHART_NAMESPACE, &[("k8s-app", "kube-dns")]);
    eventually("the kube-dns Service leads to the DNS pod", || {
        let balanced = table::balanced(stage.node.namespace());
        balanced.get(&format!("{KUBE_DNS} . 17 . 53")).map(|_| ()).ok_or(format!("{balanced:?}"))
    });
    agent.process().kill();
    // Nobody but the DNS pod can know this one.
    let late = make_service(&stage, "late");
    await_answer_from(KUBE_DNS, stage.client.namespace(), &stage.dns_name("late"), "A", &[&late.to_string()]);

    for (component, verb, resource) in [
        ("agent", "create", "services"),
        ("agent", "get", "secrets"),
        ("agent", "get", "events.events.k8s.io"),
        ("agent", "delete", "events.events.k8s.io"),
        ("dns", "create", "events.events.k8s.io"),
        ("dns", "patch", "endpointslices"),
        ("dns", "list", "pods"),
    ] {
        assert!(!may(cluster, component, verb, resource), "waypost-{component} may {verb} {resource}");
    }
    uninstall(cluster);
}

/// Installs the chart; nobody plays kubelet.
pub fn install(cluster: &Cluster) {
    install_with(cluster, &[]);
}

/// Installs the chart with these values on top.
pub fn install_with(cluster: &Cluster, values: &[String]) {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/waypost");
    let settings = format!("k8sServiceHost=192.0.2.1,agent.dnsAddresses={{{KUBE_DNS}}}");
    let values = values.iter().flat_map(|value| ["--set", value]);
    helm(cluster, &["install", "waypost", chart, "--set", &settings].into_iter().chain(values).collect::<Vec<_>>());
}

/// Takes the chart away again, and the pods that were announced as its own.
pub fn uninstall(cluster: &Cluster) {
    helm(cluster, &["uninstall", "waypost"]);
    cluster.kubectl(&["delete", "pods", "--all", "--namespace", CHART_NAMESPACE, "--force", "--grace-period=0"]);
}

/// The agent with the chart's rights and configuration, and waits for nothing.
pub fn start_agent(stage: &Stage) -> Agent {
    let mut command = run_as(stage.cluster, Command::new(WAYPOST), "waypost-agent");
    // In a pod there is a folder for it.
    let probes = stage.cluster.directory().join("probes.sock");
    command.arg(format!("--node-name={NODE_NAME}")).arg("--probe-socket").arg(probes);
    Agent::start_command(stage, &mut command)
}

fn make_service(stage: &Stage, name: &str) -> IpAddr {
    stage.kubectl(&["create", "service", "clusterip", name, "--tcp=80:8080"]);
    stage.cluster_ip(name)
}

/// What the chart's Deployment would start in the pod: with the rights, the sysctl and without the privileges that it would have.
pub fn start_dns_server(cluster: &Cluster, pod: &Pod) -> Process {
    pod.namespace().set_sysctl("ipv4/ip_unprivileged_port_start", "53").unwrap();
    let addresses: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", WAYPOST]);
    let mut command = run_as(cluster, command, "waypost-dns");
    command.env("POD_IPS", addresses.join(",")).env("NODE_NAME", NODE_NAME);
    Process::start(pod.namespace(), cluster.directory(), pod.name(), &mut command)
}

fn helm(cluster: &Cluster, arguments: &[&str]) {
    let mut helm = tool("helm");
    helm.env("KUBECONFIG", cluster.kubeconfig()).args(["--namespace", CHART_NAMESPACE]).args(arguments);
    // Away from the user's own.
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(variable, cluster.directory().join("helm"));
    }
    output(cluster.namespace(), &mut helm);
}

/// `waypost run` with the configuration of the chart's ConfigMap and as the chart's service account, by a token that the API server has
/// signed. Only the way to the API server differs from the one in a pod.
fn run_as(cluster: &Cluster, mut program: Command, name: &str) -> Command {
    let get = |arguments: &[&str]| cluster.kubectl(&[&["--namespace", CHART_NAMESPACE], arguments].concat());
    let token = token(cluster, name);
    let config = cluster.directory().join(format!("{name}.yaml"));
    fs::write(&config, get(&["get", "configmap", name, "--output", r"jsonpath={.data.waypost\.yaml}"])).unwrap();
    program.args(["run", "--config"]).arg(config).arg("--kubeconfig").arg(cluster.kubeconfig_for(name, &token));
    program
}

/// A token of the chart's service account that the API server has signed.
fn token(cluster: &Cluster, name: &str) -> String {
    cluster.kubectl(&["--namespace", CHART_NAMESPACE, "create", "token", name]).trim().to_string()
}

/// What `waypost check` says about the API server.
fn missing_rights(stage: &Stage, kubeconfig: &Path) -> Vec<String> {
    let mut command = Command::new(WAYPOST);
    command.args(["check", "--json", &format!("--node-name={NODE_NAME}"), "--kubeconfig"]).arg(kubeconfig);
    let output = stage.node.namespace().output(&mut command).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let findings = report["findings"].as_array().expect("findings").iter();
    let about = findings.filter(|finding| finding["subject"] == "API server");
    about.map(|finding| finding["found"].as_str().unwrap_or_default().to_string()).collect()
}

fn may(cluster: &Cluster, component: &str, verb: &str, resource: &str) -> bool {
    let account = format!("system:serviceaccount:{CHART_NAMESPACE}:waypost-{component}");
    let mut kubectl = tool("kubectl");
    kubectl.env("KUBECONFIG", cluster.kubeconfig()).args(["auth", "can-i", verb, resource, "--as", &account, "--all-namespaces"]);
    cluster.namespace().output(&mut kubectl).unwrap().status.success()
}
