use super::*;
use crate::config::{Config, Role, RunArgs, Surroundings, load};
use crate::model::{Family, Kind};
use serde_json::Value;
use std::net::Ipv6Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

fn config(flags: &[(&str, &str)]) -> Config {
    let off = ["healthz-bind-address", "metrics-bind-address", "dns-health-address", "dns-ready-address", "dns-metrics-address"];
    let mut all: Vec<(&str, &str)> = off.iter().map(|key| (*key, "")).collect();
    all.extend(flags);
    let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
    load(&RunArgs::of(&all), &surroundings).unwrap().0
}

async fn start(config: &Config) -> (Serving, Status) {
    let status = Status::new(config);
    let serving = serve(config, status.clone(), Registries::new(Role::All).unwrap()).await.unwrap();
    (serving, status)
}

async fn serve(config: &Config, status: Status, registries: Registries) -> Result<Serving, AdminError> {
    site(&config.admin, status, registries)?.serve(Sockets::new(true)).await
}

/// Status code, head and body of an answer.
async fn request(address: SocketAddr, line: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_string(), body.to_string())
}

async fn get(serving: &Serving, path: &str) -> (u16, String) {
    let (code, _, body) = request(serving.addresses()[0], &format!("GET {path}")).await;
    (code, body)
}

#[tokio::test]
async fn healthz_has_the_fields_of_kube_proxy_and_follows_the_node() {
    let (serving, status) = start(&config(&[("healthz-bind-address", "127.0.0.1:0")])).await;
    let (code, body) = get(&serving, "/healthz").await;
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, &page["nodeEligible"], &page["healthy"]),
        (503, &Value::Bool(false), &Value::Bool(true)),
        "the node is unknown, and that is no fault of the rules"
    );
    assert_eq!(get(&serving, "/livez").await.0, 200, "which is no reason for a restart");

    status.node(Some(true));
    status.committed(Family::V4);
    let (code, body) = get(&serving, "/healthz").await;
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &page["nodeEligible"], &page["healthy"]), (200, &Value::Bool(true), &Value::Bool(true)));
    assert_eq!(page["lastUpdated"], page["currentTime"]);
    assert_eq!(page["status"]["IPv4"]["healthy"], Value::Bool(true));
    assert!(page["status"]["IPv4"]["lastUpdated"].is_string() && page["status"]["IPv6"]["lastUpdated"].is_null());
    let page: Value = serde_json::from_str(&get(&serving, "/livez").await.1).unwrap();
    assert!(page["nodeEligible"].is_null(), "livez knows nothing of the node");
}

#[tokio::test]
async fn readyz_says_by_name_what_is_pending() {
    let (serving, status) = start(&config(&[("healthz-bind-address", "127.0.0.1:0")])).await;
    for kind in [Kind::Service, Kind::Slice, Kind::Namespace] {
        status.listed(kind);
    }
    status.committed(Family::V4);
    let (code, body) = get(&serving, "/readyz").await;
    assert_eq!(
        (code, body.as_str()),
        (503, "waiting for:\n- the first listing of nodes\n- the first commit of the IPv6 table\n")
    );
    status.listed(Kind::Node);
    status.committed(Family::V6);
    assert_eq!(get(&serving, "/readyz").await, (200, "ok\n".to_string()));
}

#[tokio::test]
async fn dns_pages_answer_as_those_of_coredns() {
    let flags = [
        ("role", "dns"),
        ("dns-address", "10.0.0.1"),
        ("dns-health-address", "127.0.0.1:0"),
        ("dns-ready-address", "127.0.0.1:0"),
    ];
    let (serving, status) = start(&config(&flags)).await;
    assert_eq!(serving.addresses().len(), 1, "equal addresses share one listener");
    assert_eq!(get(&serving, "/health").await, (200, "OK".to_string()));
    assert_eq!(get(&serving, "/ready").await.0, 503);
    for kind in [Kind::Service, Kind::Slice, Kind::Namespace] {
        status.listed(kind);
    }
    status.dns_serving(true);
    assert_eq!(get(&serving, "/ready").await, (200, "OK".to_string()));
    let (code, body) = get(&serving, "/healthz").await;
    assert_eq!((code, body.as_str()), (404, "not found; there is /health, /ready\n"));
}

#[tokio::test]
async fn probes_are_answered_on_a_socket_of_their_own_while_another_agent_has_the_ports() {
    let path = std::env::temp_dir().join(format!("waypost-probe-{}.sock", std::process::id()));
    let config = config(&[("healthz-bind-address", "127.0.0.1:0"), ("probe-socket", path.to_str().unwrap())]);
    let sockets = Sockets::new(false);
    // Twice, as after a restart: what the first one left is in nobody's way.
    for _ in 0..2 {
        let site = site(&config.admin, Status::new(&config), Registries::new(Role::All).unwrap()).unwrap();
        let _probes = site.serve_probes().unwrap();
        let ports = tokio::spawn(site.serve(sockets.clone()));
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the first listing of services"), "{answer}");
        assert!(!ports.is_finished(), "the ports are not this agent's yet");
        ports.abort();
    }
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn merged_metrics_show_each_name_once_and_split_ones_only_their_half() {
    let merged =
        config(&[("metrics-bind-address", "127.0.0.1:0"), ("dns-metrics-address", "127.0.0.1:0"), ("dns-address", "10.0.0.1")]);
    let registries = Registries::new(Role::All).unwrap();
    let dns = prometheus::IntCounter::new("coredns_test_total", "A test").unwrap();
    registries.dns.register(Box::new(dns)).unwrap();
    let serving = serve(&merged, Status::new(&merged), registries.clone()).await.unwrap();
    let (_, text) = get(&serving, "/metrics").await;
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for name in ["coredns_test_total", "kubeproxy_proxy_healthz_total", "waypost_build_info", "process_resident_memory_bytes"] {
        assert_eq!(names.iter().filter(|found| **found == name).count(), 1, "{name} in {names:?}");
    }
    assert!(text.contains(r#"kubeproxy_proxy_livez_total{code="503"} 0"#), "{text}");
    assert_eq!(get(&serving, "/proxyMode").await, (200, "nftables".to_string()));

    let alone = config(&[("dns-metrics-address", "127.0.0.1:0"), ("dns-address", "10.0.0.1")]);
    let (serving, _) = start(&alone).await;
    let (_, text) = get(&serving, "/metrics").await;
    assert!(text.contains("process_open_fds") && !text.contains("kubeproxy_"), "{text}");
}

#[tokio::test]
async fn a_port_in_use_is_answered_with_flag_address_and_holder() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = config(&[("healthz-bind-address", &address.to_string())]);
    let error = serve(&config, Status::new(&config), Registries::new(Role::All).unwrap()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "--healthz-bind-address: cannot listen on {address}: Address already in use (os error 98), by this process (pid {}) on {address}; \
             stop it, or give another address (an empty one switches the listener off)",
            std::process::id()
        )
    );
}

#[test]
fn a_kube_proxy_in_the_agents_place_is_to_be_removed() {
    let error = |port: u16| AdminError::Bind {
        flag: "healthz-bind-address",
        address: (Ipv6Addr::UNSPECIFIED, port).into(),
        reason: std::io::ErrorKind::AddrInUse.into(),
        holder: None,
    };
    assert!(error(10256).to_string().contains("if kube-proxy still runs on this node, remove it first"), "{}", error(10256));
    assert!(!error(8080).to_string().contains("kube-proxy"), "{}", error(8080));
}

#[tokio::test]
async fn other_methods_and_garbage_are_refused_and_the_listener_lives_on() {
    let (serving, _) = start(&config(&[("metrics-bind-address", "127.0.0.1:0")])).await;
    assert_eq!(request(serving.addresses()[0], "POST /proxyMode").await.0, 405);
    let mut stream = TcpStream::connect(serving.addresses()[0]).await.unwrap();
    stream.write_all(b"\x16\x03\x01garbage\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{:?}", String::from_utf8_lossy(&answer));
    let (code, head, body) = request(serving.addresses()[0], "HEAD /proxyMode").await;
    assert_eq!((code, body.as_str()), (200, ""));
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
}

#[tokio::test]
async fn after_shutdown_nothing_listens_and_idle_clients_do_not_hold_it_up() {
    let (serving, _) = start(&config(&[("metrics-bind-address", "127.0.0.1:0")])).await;
    let address = serving.addresses()[0];
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /proxyMode HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    let mut first = [0; 1];
    idle.read_exact(&mut first).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), serving.shutdown()).await.expect("ends though a client keeps its connection");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn clients_that_hold_every_connection_do_not_keep_others_out() {
    let (serving, _) = start(&config(&[("metrics-bind-address", "127.0.0.1:0")])).await;
    let address = serving.addresses()[0];
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 8 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(get(&serving, "/proxyMode").await, (200, "nftables".to_string()));
    let mut nothing = Vec::new();
    assert_eq!(held[0].read_to_end(&mut nothing).await.unwrap_or(0), 0, "the oldest was closed");
}
