//! What the agent keeps up while others change the host under it: NodePorts on addresses that come and go, its tables, its DNS addresses.
//! The real program on a folder of manifests, with real packets.

use libtest_mimic::{Arguments, Failed, Trial};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use waypost::lab::{self, Namespace, Node, Outcome, Pod, Serve};
use waypost::model::Protocol;

const PATIENCE: Duration = Duration::from_secs(20);
const TRY: Duration = Duration::from_secs(2);
const CLUSTER: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: "2001:db8::10"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00:96::1"]
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v4, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.3], nodeName: node-1}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v6, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: ["fd00:244::3"], nodeName: node-1}]
"#;

fn main() {
    let arguments = Arguments::from_args();
    if let Err(error) = lab::enter() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    let tests = vec![
        Trial::test("node_ports_answer_on_the_primary_addresses_and_no_others", primary),
        Trial::test("node_ports_follow_the_addresses_of_the_node", all_addresses),
        Trial::test("node_ports_answer_in_the_given_networks_only", networks),
        Trial::test("node_ports_answer_on_localhost_in_both_families_and_only_there", localhost),
        Trial::test("a_localhost_port_that_is_taken_is_named_and_served_once_it_is_free", localhost_taken),
        Trial::test("a_flushed_ruleset_is_put_right", flushed),
        Trial::test("an_edited_element_and_an_edited_rule_are_put_right", edited),
        Trial::test("a_program_that_works_on_its_own_tables_disturbs_nobody", own_tables),
        Trial::test("two_agents_on_one_node_do_not_undo_each_others_work", two_agents),
        Trial::test("a_dns_address_that_was_removed_is_there_again", dns_address),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn primary() -> Result<(), Failed> {
    let world = World::new("primary", &[]);
    world.reached(&world.outside, "192.0.2.10:30080");
    world.reached(&world.outside, "[2001:db8::10]:30080");
    world.add_address("192.0.2.99");
    world.refused(&world.outside, "192.0.2.99:30080");
    Ok(())
}

fn all_addresses() -> Result<(), Failed> {
    let world = World::new("all", &["--nodeport-addresses=all"]);
    world.reached(&world.outside, "192.0.2.10:30080");
    world.refused(world.node.namespace(), "127.0.0.1:30080");
    for (address, target) in [("192.0.2.99", "192.0.2.99:30080"), ("2001:db8::99", "[2001:db8::99]:30080")] {
        world.add_address(address);
        world.reached(&world.outside, target);
        world.run("ip", &["address", "delete", &full(address), "dev", "lo"]);
        world.eventually("the address is gone from the table", || {
            let table = world.run("nft", &["list", "ruleset"]);
            if table.contains(address) { Err(table) } else { Ok(()) }
        });
    }
    Ok(())
}

fn networks() -> Result<(), Failed> {
    let world = World::new("networks", &["--nodeport-addresses=198.51.100.0/24"]);
    world.add_address("198.51.100.9");
    world.reached(&world.outside, "198.51.100.9:30080");
    world.refused(&world.outside, "192.0.2.10:30080");
    Ok(())
}

fn localhost() -> Result<(), Failed> {
    let world = World::new("localhost", &["--nodeport-addresses=localhost"]);
    world.reached(world.node.namespace(), "127.0.0.1:30080");
    world.reached(world.node.namespace(), "[::1]:30080");
    world.refused(&world.outside, "192.0.2.10:30080");
    let both = World::new("localhost-too", &["--nodeport-addresses=primary,localhost"]);
    both.reached(both.node.namespace(), "127.0.0.1:30080");
    both.reached(&both.outside, "192.0.2.10:30080");
    Ok(())
}

fn localhost_taken() -> Result<(), Failed> {
    let world = World::prepared("localhost-taken");
    let holder = world.node.namespace().tcp_listener("127.0.0.1:30080".parse().unwrap()).unwrap();
    let world = world.started(&["--nodeport-addresses=localhost"]);
    world.await_log(&["LocalhostNodePortTaken", "shop/web", "127.0.0.1:30080", "upkeep"]);
    drop(holder);
    world.reached(world.node.namespace(), "127.0.0.1:30080");
    Ok(())
}

fn flushed() -> Result<(), Failed> {
    let world = World::new("flushed", &[]);
    world.reached(&world.client, "10.96.0.1:80");
    world.run("nft", &["flush", "ruleset"]);
    world.await_log(&["TableRepaired", "table ip waypost", "by nft"]);
    world.await_log(&["TableRepaired", "table ip6 waypost"]);
    world.reached(&world.client, "10.96.0.1:80");
    world.reached(&world.client, "[fd00:96::1]:80");
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
    // One family alone.
    world.run("nft", &["delete", "table", "ip6", "waypost"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv6\"} 2");
    world.reached(&world.client, "[fd00:96::1]:80");
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
    Ok(())
}

fn edited() -> Result<(), Failed> {
    let world = World::new("edited", &[]);
    world.run("nft", &["delete", "element", "ip", "waypost", "services", "{ 10.96.0.1 . tcp . 80 }"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
    world.reached(&world.client, "10.96.0.1:80");
    world.run("nft", &["add", "element", "ip", "waypost", "cluster-ips", "{ 10.96.0.77 }"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 2");
    assert!(!world.run("nft", &["list", "ruleset"]).contains("10.96.0.77"));
    // A rule in the place of another: neither a name nor a number tells.
    let chain = world.run("nft", &["--handle", "list", "chain", "ip", "waypost", "nat-prerouting"]);
    let handle =
        chain.lines().find_map(|line| line.split("goto balance # handle ").nth(1)).expect("the rule is there").to_string();
    world.run("nft", &["replace", "rule", "ip", "waypost", "nat-prerouting", "handle", &handle, "counter"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 3");
    world.reached(&world.client, "10.96.0.1:80");
    Ok(())
}

fn own_tables() -> Result<(), Failed> {
    let world = World::new("own-tables", &[]);
    for number in 0..50 {
        world.run("nft", &["add", "table", "ip", &format!("theirs-{number}")]);
    }
    // A disturbance after them is noticed, and they were none.
    world.run("nft", &["flush", "chain", "ip", "waypost", "guard"]);
    world.counted("waypost_nftables_repairs_total{ip_family=\"IPv4\"} 1");
    assert_eq!(world.log().matches("TableRepaired").count(), 1, "{}", world.log());
    Ok(())
}

/// As while one agent takes over from another.
fn two_agents() -> Result<(), Failed> {
    let mut world = World::new("two-agents", &[]);
    world.start(&["--healthz-bind-address=127.0.0.1:10266", "--metrics-bind-address=127.0.0.1:10269"], 10266);
    for number in 10..40 {
        let address = format!("198.51.100.{number}");
        let more = CLUSTER.replace("clusterIP: 10.96.0.1\n", &format!("clusterIP: 10.96.0.1\n  externalIPs: [{address}]\n"));
        assert!(more.contains(&address));
        fs::write(world.folder.join("manifests/cluster.yaml"), more).unwrap();
        world.eventually("it is in the table", || {
            let table = world.run("nft", &["list", "map", "ip", "waypost", "services"]);
            if table.contains(&address) { Ok(()) } else { Err(table) }
        });
    }
    world.reached(&world.client, "198.51.100.39:80");
    assert!(!world.log().contains("TableRepaired"), "{}", world.log());
    Ok(())
}

fn dns_address() -> Result<(), Failed> {
    let world = World::new("dns-address", &["--dns-address=169.254.20.10,fd00:96::a", "--dns-upstream=192.0.2.53"]);
    for address in ["169.254.20.10", "fd00:96::a"] {
        world.eventually("the address is there", || world.has(address));
        world.run("ip", &["address", "delete", &full(address), "dev", "lo"]);
        world.await_log(&["DnsAddressRepaired", address]);
        world.eventually("the address is there again", || world.has(address));
    }
    world.counted("waypost_dns_address_repairs_total 2");
    let dig = world.run("dig", &["@169.254.20.10", "+short", "+tries=1", "web.shop.svc.cluster.local"]);
    assert_eq!(dig.trim(), "10.96.0.1");
    Ok(())
}

/// A node with the agent, a pod that serves, one that does not, and a host outside.
struct World {
    node: Node,
    client: Pod,
    outside: Pod,
    _server: Pod,
    folder: PathBuf,
    agents: Vec<Child>,
}

impl World {
    fn new(name: &str, flags: &[&str]) -> World {
        World::prepared(name).started(flags)
    }

    fn prepared(name: &str) -> World {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let node = Node::new(&parse(&["192.0.2.10", "2001:db8::10"])).unwrap();
        let client = node.pod("client", &parse(&["10.244.0.2", "fd00:244::2"])).unwrap();
        let server = node.pod("server", &parse(&["10.244.0.3", "fd00:244::3"])).unwrap();
        server.serve(Serve::Tcp, 8080).unwrap();
        let outside = node.pod("outside", &parse(&["203.0.113.9", "2001:db8:9::9"])).unwrap();
        node.set_gateway(&outside).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("upkeep-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("manifests")).unwrap();
        fs::write(folder.join("manifests/cluster.yaml"), CLUSTER).unwrap();
        World { node, client, outside, _server: server, folder, agents: Vec::new() }
    }

    fn started(mut self, flags: &[&str]) -> World {
        self.start(flags, 10256);
        self
    }

    /// Starts an agent and waits until it is ready, as its page on this port says.
    fn start(&mut self, flags: &[&str], healthz: u16) {
        let log = || File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(["run", "--node-name=node-1", "--cluster-cidr=10.244.0.0/16,fd00:244::/48", "--manifests"]);
        command.arg(self.folder.join("manifests")).args(flags).env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log());
        self.agents.push(self.node.namespace().spawn(&mut command).unwrap());
        self.eventually("the agent is ready", || match self.page("/readyz", healthz)? {
            page if page.starts_with("HTTP/1.1 200") => Ok(()),
            page => Err(page),
        });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn await_log(&self, parts: &[&str]) {
        self.eventually(&format!("the log has a line with {parts:?}"), || {
            let log = self.log();
            let found = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if found { Ok(()) } else { Err(log) }
        });
    }

    /// Waits until the metrics have this line.
    fn counted(&self, line: &str) {
        self.eventually(line, || {
            let metrics = self.page("/metrics", 10249)?;
            if metrics.lines().any(|one| one == line) { Ok(()) } else { Err(format!("{metrics}\n{}", self.log())) }
        });
    }

    fn page(&self, path: &str, port: u16) -> Result<String, String> {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        self.node.namespace().run(ask).unwrap().map_err(|error: std::io::Error| error.to_string())
    }

    fn reached(&self, from: impl AsRef<Namespace>, target: &str) {
        let target: SocketAddr = target.parse().unwrap();
        self.eventually(&format!("{target} leads to the server"), || match lab::connect(&from, Protocol::Tcp, target, TRY) {
            Outcome::Reached { by, .. } if by == "server" => Ok(()),
            other => Err(format!("{other}\n{}", self.log())),
        });
    }

    fn refused(&self, from: impl AsRef<Namespace>, target: &str) {
        let outcome = lab::connect(&from, Protocol::Tcp, target.parse().unwrap(), TRY);
        assert_eq!(outcome, Outcome::Refused, "{target}");
    }

    /// Gives the node an address, to which the host outside has a route already.
    fn add_address(&self, address: &str) {
        self.node.add_address(address.parse().unwrap()).unwrap();
    }

    fn has(&self, address: &str) -> Result<(), String> {
        let listed = self.run("ip", &["-o", "address", "show", "dev", "lo"]);
        if listed.contains(&format!(" {} ", full(address))) { Ok(()) } else { Err(listed) }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.node.namespace().output(Command::new(program).args(arguments)).unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn eventually(&self, what: &str, mut check: impl FnMut() -> Result<(), String>) {
        let began = Instant::now();
        while let Err(why) = check() {
            assert!(began.elapsed() < PATIENCE, "still not: {what}: {why}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn full(address: &str) -> String {
    format!("{address}/{}", if address.contains(':') { 128 } else { 32 })
}
