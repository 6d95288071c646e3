//! What is wrong around the agent is named, and nothing else is lost by it.

use super::agent::{Agent, WAYPOST, await_answer, http_get, node_arguments, run_command};
use super::cluster::{Cluster, POWERLESS_TOKEN};
use super::processes::{eventually, output};
use super::services::await_pods;
use super::stage::{DNS_ADDRESS, Stage};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use waypost::model::Protocol;

pub fn no_permission(cluster: &Cluster) {
    let stage = Stage::new(cluster, "no-permission");
    let kubeconfig = cluster.kubeconfig_for("powerless", POWERLESS_TOKEN);
    let corefile = cluster.directory().join("no-permission.Corefile");
    let zones = ". {\n kubernetes cluster.local clusterset.local {\n pods verified\n multicluster clusterset.local\n }\n}\n";
    fs::write(&corefile, zones).unwrap();
    let mut check = Command::new(WAYPOST);
    check.args(["check", "--role=dns", "--node-name=n", "--dns-address=192.0.2.1:53", "--kubeconfig"]).arg(&kubeconfig);
    let said = stage.node.namespace().output(check.arg("--corefile").arg(corefile)).unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    for kind in ["services", "pods", "serviceimports"] {
        assert!(said.contains(&format!("{kind} cannot be listed")), "{said}");
    }
    let mut agent = Agent::start_as(&stage, &kubeconfig);
    let line = agent.await_line(&["services", "forbidden"]);
    assert!(line.contains("list") || line.contains("watch"), "{line}");
    eventually("it says that it is not ready", || match http_get(stage.node.namespace(), "127.0.0.1:10256", "/readyz")? {
        (503, _) => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    });
    // Rights may come later, so it goes on trying.
    assert_eq!(agent.process().ended(), None);
    cluster.kubectl(&["create", "clusterrolebinding", "late-rights", "--clusterrole=cluster-admin", "--user=powerless"]);
    agent.await_ready();
    cluster.kubectl(&["delete", "clusterrolebinding", "late-rights"]);
}

pub fn wrong_kubeconfig(cluster: &Cluster) {
    let stage = Stage::new(cluster, "wrong-kubeconfig");
    let missing = cluster.directory().join("no-such-file");
    let broken = cluster.directory().join("broken-kubeconfig");
    fs::write(&broken, "clusters: [what is this").unwrap();
    for path in [&missing, &broken] {
        let output = stage.node.namespace().output(&mut run_command(path)).unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{error}");
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}

pub fn no_net_admin(cluster: &Cluster) {
    let stage = Stage::new(cluster, "no-net-admin");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", WAYPOST, "run", "--kubeconfig"]);
    command.arg(cluster.kubeconfig()).args(node_arguments());
    let output = stage.node.namespace().output(&mut command).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("NET_ADMIN"), "{error}");
}

pub fn port_in_use(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "port-in-use");
    let address = SocketAddr::new(DNS_ADDRESS.parse().unwrap(), 53);
    let holder = stage.node.namespace().udp_socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53))).unwrap();
    let agent = Agent::start_as(&stage, &cluster.kubeconfig());
    let line = agent.await_line(&["ERROR", "cannot serve DNS"]);
    assert!(line.contains(&address.to_string()), "{line}");
    assert!(line.contains("use") && line.contains("control_plane"), "the holder, this test, is named: {line}");
    // Services work all the same, and DNS does as soon as the port is free.
    stage.add_pod("hello", "hello-1");
    stage.kubectl(&["create", "service", "clusterip", "hello", "--tcp=80:8080"]);
    await_pods(stage.client.namespace(), stage.cluster_ip("hello"), 80, Protocol::Tcp, &["hello-1"]);
    drop(holder);
    agent.await_line(&["serving DNS"]);
    await_answer(stage.client.namespace(), "hello.port-in-use.svc.cluster.local", "A", &[&stage.cluster_ip("hello").to_string()]);
}

/// What the API server accepts although no proxy can use it.
const ODD_OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: one}
spec:
  externalIPs: [203.0.113.9]
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: same-address-as-one}
spec:
  externalIPs: [203.0.113.9]
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: no-port, labels: {kubernetes.io/service-name: one}}
addressType: IPv4
endpoints: [{addresses: [10.131.0.1]}]
ports: [{name: http, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: no-ports-at-all, labels: {kubernetes.io/service-name: one}}
addressType: IPv4
endpoints: [{addresses: [10.131.0.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: names-for-addresses, labels: {kubernetes.io/service-name: one}}
addressType: FQDN
endpoints: [{addresses: [example.org]}]
ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: of-no-service}
addressType: IPv4
endpoints: [{addresses: [10.131.0.3]}]
ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: of-an-unknown-service, labels: {kubernetes.io/service-name: nobody}}
addressType: IPv4
endpoints: [{addresses: [10.131.0.4]}]
ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: overlapping-ranges}
spec:
  type: LoadBalancer
  loadBalancerSourceRanges: [203.0.113.0/24, 203.0.113.128/25, 203.0.113.0/24]
  ports: [{name: http, port: 80}]
";

pub fn odd_objects(cluster: &Cluster) {
    let mut stage = Stage::new(cluster, "odd-objects");
    stage.apply(ODD_OBJECTS);
    let ingress = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}, {"ip": "203.0.113.10"}]}}}"#;
    stage.kubectl(&["patch", "service", "overlapping-ranges", "--subresource=status", "--patch", ingress]);
    let agent = Agent::start(&stage);
    stage.add_pod("hello", "hello-1");
    stage.kubectl(&["create", "service", "clusterip", "hello", "--tcp=80:8080"]);
    await_pods(stage.client.namespace(), stage.cluster_ip("hello"), 80, Protocol::Tcp, &["hello-1"]);
    super::scale::assert_everything_programmed(&stage);
    assert!(!agent.printed().contains("panicked"), "{}", agent.printed());
}

/// Nothing here would get past the API server's validation.
const INVALID_MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: broken, namespace: shop}
spec: {clusterIP: 300.1.2.3, clusterIPs: [300.1.2.3], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: sound, namespace: shop}
spec: {clusterIP: 10.96.7.7, clusterIPs: [10.96.7.7], ports: [{port: 80}]}
";

pub fn invalid_address(cluster: &Cluster) {
    let stage = Stage::new(cluster, "invalid-address");
    let folder = cluster.directory().join("manifests");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("services.yaml"), INVALID_MANIFESTS).unwrap();
    let mut command = Command::new(WAYPOST);
    command.arg("run").arg("--manifests").arg(&folder).args(node_arguments());
    let agent = Agent::start_command(&stage, &mut command);
    agent.await_line(&["broken", "300.1.2.3"]);
    await_answer(stage.client.namespace(), "sound.shop.svc.cluster.local", "A", &["10.96.7.7"]);
}

pub fn garbage_on_the_dns_port(cluster: &Cluster) {
    let stage = Stage::new(cluster, "garbage");
    let mut agent = Agent::start(&stage);
    let target = SocketAddr::new(DNS_ADDRESS.parse::<IpAddr>().unwrap(), 53);
    stage.client.namespace().run(|| throw_garbage_at(target)).unwrap().expect("sending does not fail");
    let address = cluster.kubectl(&["get", "service", "kubernetes", "--output", "jsonpath={.spec.clusterIP}"]);
    await_answer(stage.client.namespace(), "kubernetes.default.svc.cluster.local", "A", &[&address]);
    // Over TCP too.
    let mut dig = Command::new("dig");
    dig.args([&format!("@{DNS_ADDRESS}"), "+tcp", "+short", "kubernetes.default.svc.cluster.local"]);
    assert_eq!(output(stage.client.namespace(), &mut dig).trim(), address);
    assert_eq!(agent.process().ended(), None);
    assert!(!agent.printed().contains("panicked"), "{}", agent.printed());
}

fn throw_garbage_at(target: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut seed = 7_u32;
    for length in (0..600).chain([1232, 4096, 65_000]) {
        let noise: Vec<u8> = std::iter::repeat_with(|| next_noise(&mut seed)).take(length).collect();
        socket.send_to(&noise, target)?;
    }
    // A question that points at itself, and one that is cut off.
    socket.send_to(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", target)?;
    socket.send_to(b"\x00\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x3fabc", target)?;
    for start in [&b"\xff\xffGET / HTTP/1.1\r\n\r\n"[..], b"\x00", b"\x00\x00", b"\x00\x0c\x00\x00"] {
        let mut stream = TcpStream::connect(target)?;
        stream.write_all(start)?;
        // A server that has seen enough may have ended it.
        let _ = stream.shutdown(Shutdown::Write);
        // Waits for the end of the connection, which may be a reset.
        let _ = stream.read(&mut [0; 512]);
    }
    Ok(())
}

/// A small linear congruential generator: the same noise in every run.
fn next_noise(seed: &mut u32) -> u8 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*seed >> 24) as u8
}
