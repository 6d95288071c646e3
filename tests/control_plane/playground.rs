//! `make lab`: a control plane, an agent and a few pods that stay until Ctrl-C, to be played with from the host.

use super::agent::Agent;
use super::cluster::API_PORT;
use super::cluster::Cluster;
use super::processes::Process;
use super::relay::Relay;
use super::services::{self, WEB};
use super::stage::{DNS_ADDRESS, Stage};
use super::walls;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};

/// Leaves the playground running until a signal ends it.
pub fn main() -> ExitCode {
    walls::build_tools(&["control-plane", "kubectl"]);
    walls::around(door(), play)
}

/// A socket on the host's loopback interface, made before the walls are: through it the host reaches the API server inside.
fn door() -> Stdio {
    if walls::is_inside() {
        return Stdio::null();
    }
    Stdio::from(OwnedFd::from(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port")))
}

fn play() -> ExitCode {
    println!("Starting etcd, the API server and the controllers …");
    let cluster = Cluster::start("playground");
    let mut stage = Stage::new(&cluster, "shop");
    let agent = Agent::start(&stage);
    stage.apply(WEB);
    for name in ["web-1", "web-2", "web-3"] {
        stage.add_pod("web", name);
    }
    services::await_everywhere(&stage, &services::service_addresses(&stage, "web"), &["web-1", "web-2", "web-3"]);

    let door = TcpListener::from(io::stdin().as_fd().try_clone_to_owned().expect("a socket was handed over"));
    door.set_nonblocking(true).expect("a socket can be set to not block");
    let port = door.local_addr().expect("it is bound").port();
    let _relay = Relay::start(cluster.runtime().handle(), door, API_PORT);
    let kubeconfig = cluster.directory().join("kubeconfig-host");
    let inside = fs::read_to_string(cluster.kubeconfig()).expect("it was written");
    fs::write(&kubeconfig, inside.replace(&format!(":{API_PORT}"), &format!(":{port}"))).expect("target/tmp can be written");

    // Somebody must be in the client's namespace for a shell to follow.
    let client = Process::start(stage.client.namespace(), cluster.directory(), "client", Command::new("sleep").arg("infinity"));
    println!(
        "\nThe playground is running. In another terminal:\n\n  \
         export KUBECONFIG={kubeconfig}\n  \
         export PATH=$PATH:{tools}\n  \
         kubectl get services,endpointslices,pods --all-namespaces\n\n\
         A shell in a client pod (curl http://{web}, dig @{DNS_ADDRESS} {name}):\n\n  \
         nsenter --target {client} --user --net --preserve-credentials\n\n\
         A shell on the node (nft list ruleset, curl http://127.0.0.1:10249/metrics):\n\n  \
         nsenter --target {agent} --user --net --preserve-credentials\n\n\
         Logs are in {logs}. Ctrl-C ends everything.",
        kubeconfig = kubeconfig.display(),
        tools = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools"),
        web = stage.service_field("web", ".spec.clusterIP"),
        name = stage.dns_name("web"),
        client = client.outside_id(),
        agent = agent.outside_id(),
        logs = cluster.directory().display(),
    );
    loop {
        // The kernel ends this process, and with it everything else here, when Ctrl-C has ended the one outside.
        std::thread::park();
    }
}
