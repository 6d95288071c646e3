//! `waypost explain` and `waypost services` read the API server as a running agent does.

use super::agent::{Agent, WAYPOST, run_command};
use super::cluster::{Cluster, NODE_NAME, POD_CIDRS, SERVICE_CIDRS};
use super::processes::eventually;
use super::services::{WEB, await_pods, service_addresses};
use super::stage::Stage;
use serde_json::{Value, json};
use std::process::Command;
use waypost::lab::Namespace;
use waypost::model::Protocol;

pub fn from_the_api_server(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "explained");
    let socket = cluster.directory().join("explained.sock");
    let agent = Agent::start_command(&stage, run_command(&cluster.kubeconfig()).arg("--socket").arg(&socket));
    agent.await_ready();
    stage.apply(WEB);
    let pod = stage.add_pod("web", "web-1").addresses()[0].to_string();
    stage.add_pod("web", "web-2");
    let addresses = service_addresses(&stage, "web");
    await_pods(stage.client.namespace(), addresses[0], 80, Protocol::Tcp, &["web-1", "web-2"]);

    // Not on the node: whoever has a kubeconfig can ask.
    let kubeconfig = cluster.kubeconfig();
    let afar = |words: &[&str]| -> Value {
        let settings = [format!("--cluster-cidr={POD_CIDRS}"), format!("--service-cidr={SERVICE_CIDRS}")];
        let mut command = Command::new(WAYPOST);
        command.args(words).arg("--json").arg("--kubeconfig").arg(&kubeconfig).arg(format!("--node={NODE_NAME}")).args(settings);
        told(cluster.namespace(), &mut command)
    };
    let there = |words: &[&str]| -> Value {
        told(stage.node.namespace(), Command::new(WAYPOST).args(words).arg("--json").arg("--socket").arg(&socket))
    };
    let name = format!("web.{}", stage.name);
    for (from, to) in [
        (pod.as_str(), format!("{name}:http")),
        ("outside", format!("{name}:datagrams/udp")),
        ("node", format!("{}:81", addresses[0])),
        ("pod", "10.96.200.200:80".to_string()),
    ] {
        let words = ["explain", "--from", from, "--to", &to];
        // Whoever looks from afar may see a change a moment earlier.
        eventually(&format!("both say the same of {words:?}"), || {
            let (of_api_server, mut of_agent) = (afar(&words), there(&words));
            for account in of_agent["accounts"].as_array_mut().into_iter().flatten() {
                account.as_object_mut().expect("an account").remove("kernel");
            }
            let has_accounts = of_agent["accounts"].as_array().is_some_and(|accounts| !accounts.is_empty());
            if of_api_server == of_agent && has_accounts { Ok(()) } else { Err(format!("{of_api_server:#}\n{of_agent:#}")) }
        });
    }
    let by_name = afar(&["explain", "--from", &format!("pod/{}/web-1", stage.name), "--to", &format!("{name}:http")]);
    assert_eq!(by_name["accounts"][0]["from"], json!({ "address": pod, "kind": "pod" }), "{by_name:#}");
    assert_eq!(by_name["accounts"][0]["endpoints"].as_array().map(Vec::len), Some(2), "{by_name:#}");
    let of_api_server = afar(&["services", &stage.name]);
    let mut of_agent = there(&["services", &stage.name]);
    let services = of_agent["services"].as_array_mut().into_iter().flatten();
    for port in services.flat_map(|service| service["ports"].as_array_mut()).flatten() {
        port.as_object_mut().expect("a port").remove("connections");
    }
    assert_eq!(of_api_server, of_agent);
    assert_eq!(of_agent["services"][0]["ports"][0]["ready"], 4, "{of_agent:#}");
}

/// What the program prints; its exit code says how bad the news is.
fn told(namespace: &Namespace, command: &mut Command) -> Value {
    let output = namespace.output(command).expect("the program is built");
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{command:?}: {error}"))
}
