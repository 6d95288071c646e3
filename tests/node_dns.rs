//! DNS on the node and its dead man's switch, with the real program: one as the node's agent, one as a server behind `kube-dns`.

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use libtest_mimic::{Arguments, Failed, Trial};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;
use waypost::lab::{self, Namespace, Node, Pod};

const PATIENCE: Duration = Duration::from_secs(10);
/// The agent answers with this TTL, the servers behind `kube-dns` with another: that tells who answered.
const AGENT_TTL: u32 = 30;
const FALLBACK_TTL: u32 = 7;
const CLUSTER: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-1}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: InternalIP, address: "2001:db8::10"}]}
---
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::a"]
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-v4, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5353, protocol: TCP}]
endpoints: [{addresses: [10.244.0.20]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-v6, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv6
ports: [{name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5353, protocol: TCP}]
endpoints: [{addresses: ["fd00:244::20"]}]
"#;

fn main() {
    let arguments = Arguments::from_args();
    if let Err(error) = lab::enter() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    let tests = vec![
        Trial::test("a_killed_agent_leaves_the_node_with_dns_and_comes_home", a_killed_agent_leaves_the_node_with_dns),
        Trial::test("a_stopped_agent_leaves_the_node_with_dns_and_cleanup_takes_everything_away", stop_and_clean_up),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

/// A folder of manifests that goes away with this value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("waypost-node-dns-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("cluster.yaml"), CLUSTER).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running `waypost run`; killed when dropped.
struct Agent(Child);

impl Agent {
    /// Starts it and waits for this text in its log.
    fn start(namespace: &Namespace, folder: &Path, flags: &[&str], until: &str) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command
            .arg("run")
            .arg("--manifests")
            .arg(folder)
            .args(["--node-name", "node-1", "--dns-upstream", "192.0.2.53"])
            .args(flags);
        command.stderr(Stdio::piped()).stdin(Stdio::null());
        let mut agent = Agent(namespace.spawn(&mut command).unwrap());
        let mut log = BufReader::new(agent.0.stderr.take().unwrap());
        let mut lines = String::new();
        loop {
            let before = lines.len();
            assert!(log.read_line(&mut lines).unwrap() > 0, "the agent ended without saying {until:?}:\n{lines}");
            if lines[before..].contains(until) {
                break;
            }
        }
        // Whoever closes the pipe ends the agent at its next line.
        std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        agent
    }

    fn on_node(node: &Node, folder: &Path) -> Agent {
        let flags = [
            "--dns-address=10.96.0.10,fd00:96::a,169.254.20.10",
            "--cluster-cidr=10.244.0.0/16,fd00:244::/48",
            "--service-cidr=10.96.0.0/16",
            "--dns-ttl=30",
        ];
        Agent::start(node.namespace(), folder, &flags, "this node answers its own DNS questions")
    }

    fn behind_kube_dns(pod: &Pod, folder: &Path) -> Agent {
        let flags = ["--role=dns", "--dns-address=10.244.0.20:5353,[fd00:244::20]:5353", "--dns-ttl=7"];
        Agent::start(pod.namespace(), folder, &flags, "cluster names are served")
    }

    fn signal(&mut self, name: &str) {
        let status = Command::new("kill").args([name, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
        self.0.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct World {
    node: Node,
    client: Pod,
    server: Pod,
    _outside: Pod,
    folder: Folder,
}

impl World {
    fn new(name: &str) -> World {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let node = Node::new(&parse(&["192.0.2.10", "2001:db8::10"])).unwrap();
        let client = node.pod("client", &parse(&["10.244.0.2", "fd00:244::2"])).unwrap();
        let server = node.pod("server", &parse(&["10.244.0.20", "fd00:244::20"])).unwrap();
        let outside = node.pod("outside", &parse(&["203.0.113.9", "2001:db8:9::9"])).unwrap();
        node.set_gateway(&outside).unwrap();
        World { node, client, server, _outside: outside, folder: Folder::new(name) }
    }

    /// Pods and the node itself are answered with this TTL, through every address and both transports, at the first try.
    fn answered_with(&self, ttl: u32) {
        for (from, client) in [("a pod", self.client.namespace()), ("the node", self.node.namespace())] {
            for address in ["10.96.0.10", "fd00:96::a", "169.254.20.10"] {
                for tcp in [false, true] {
                    let server = SocketAddr::new(address.parse().unwrap(), 53);
                    let answered = client.run(|| ask(server, tcp)).unwrap();
                    assert_eq!(answered.map_err(|error| error.to_string()), Ok(ttl), "{address} asked from {from}, tcp: {tcp}");
                }
            }
        }
    }
}

/// The TTL with which a server answers for `kube-dns`.
fn ask(server: SocketAddr, tcp: bool) -> io::Result<u32> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str("kube-dns.kube-system.svc.cluster.local.").unwrap(), RecordType::A));
    let question = message.to_vec().map_err(io::Error::other)?;
    let mut reply = vec![0; 1500];
    if tcp {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&[&(question.len() as u16).to_be_bytes(), &question[..]].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        reply.truncate(u16::from_be_bytes(length).into());
        stream.read_exact(&mut reply)?;
    } else {
        let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        socket.send(&question)?;
        let length = socket.recv(&mut reply)?;
        reply.truncate(length);
    }
    let reply = Message::from_vec(&reply).map_err(io::Error::other)?;
    match reply.answers.first() {
        Some(record) if record.data == RData::A("10.96.0.10".parse::<std::net::Ipv4Addr>().unwrap().into()) => Ok(record.ttl),
        other => Err(io::Error::other(format!("{:?} {other:?}", reply.metadata))),
    }
}

fn a_killed_agent_leaves_the_node_with_dns() -> Result<(), Failed> {
    let world = World::new("killed");
    let _server = Agent::behind_kube_dns(&world.server, &world.folder.0);
    let mut agent = Agent::on_node(&world.node, &world.folder.0);
    world.answered_with(AGENT_TTL);
    agent.signal("-KILL");
    world.answered_with(FALLBACK_TTL);
    let _agent = Agent::on_node(&world.node, &world.folder.0);
    world.answered_with(AGENT_TTL);
    Ok(())
}

fn stop_and_clean_up() -> Result<(), Failed> {
    let world = World::new("stopped");
    let _server = Agent::behind_kube_dns(&world.server, &world.folder.0);
    let mut agent = Agent::on_node(&world.node, &world.folder.0);
    agent.signal("-TERM");
    world.answered_with(FALLBACK_TTL);
    let output = world.node.namespace().output(Command::new(env!("CARGO_BIN_EXE_waypost")).arg("cleanup"))?;
    assert!(output.status.success(), "{output:?}");
    let left = world.node.namespace().output(Command::new("nft").args(["list", "tables"]))?;
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "no table is left");
    let addresses = world.node.namespace().output(Command::new("ip").args(["-o", "address", "show", "lo"]))?;
    let addresses = String::from_utf8_lossy(&addresses.stdout).into_owned();
    assert!(
        addresses.contains("192.0.2.10") && !addresses.contains("10.96.0.10") && !addresses.contains("169.254"),
        "{addresses}"
    );
    Ok(())
}
