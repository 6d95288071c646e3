//! A node with a DNS server behind `kube-dns`, and agents that come and go on it: the real program.

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use waypost::lab::{Namespace, Node, Pod, Serve};

pub const PATIENCE: Duration = Duration::from_secs(20);
/// What a living server needs, even on a busy machine.
const A_MOMENT: Duration = Duration::from_millis(500);
/// The agent answers with this TTL, the servers behind `kube-dns` with another: that tells who answered.
pub const AGENT_TTL: u32 = 30;
/// See [`AGENT_TTL`].
pub const FALLBACK_TTL: u32 = 7;
/// Where the node answers DNS.
pub const ADDRESSES: [&str; 3] = ["10.96.0.10", "fd00:96::a", "169.254.20.10"];
/// The flags of every agent on the node.
const NODE_FLAGS: [&str; 3] = [
    "--dns-address=10.96.0.10,fd00:96::a,169.254.20.10",
    "--cluster-cidr=10.244.0.0/16,fd00:244::/48",
    "--service-cidr=10.96.0.0/16",
];
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
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd00:96::1"]
  ports: [{name: http, port: 80}]
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

/// A folder with manifests, and another one for sockets. Both go away with this value.
pub struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        // Short, because the path of a socket must be.
        let path = std::env::temp_dir().join(format!("wp-{}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("objects")).unwrap();
        std::fs::create_dir_all(path.join("sockets")).unwrap();
        std::fs::write(path.join("objects/cluster.yaml"), CLUSTER).unwrap();
        Folder(path)
    }

    /// Adds manifests, or replaces them, in one step: half a file would be half a cluster.
    pub fn replace(&self, name: &str, text: &str) {
        let next = self.sockets().join(name);
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, self.0.join("objects").join(name)).unwrap();
    }

    fn source(&self) -> String {
        format!("--manifests={}", self.0.join("objects").display())
    }

    pub fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }

    pub fn sockets(&self) -> PathBuf {
        self.0.join("sockets")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running `waypost run`; killed when dropped.
pub struct Agent {
    pub process: Child,
    /// What it has said so far.
    log: Arc<Mutex<String>>,
}

impl Agent {
    /// Starts it.
    fn start(namespace: &Namespace, flags: &[&str]) -> Agent {
        let mut agent = Agent::start_logging_to(namespace, Stdio::piped(), flags);
        let mut lines = BufReader::new(agent.process.stderr.take().unwrap());
        let told = agent.log.clone();
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
                told.lock().unwrap().push_str(&std::mem::take(&mut line));
            }
        });
        agent
    }

    fn start_logging_to(namespace: &Namespace, log: Stdio, flags: &[&str]) -> Agent {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.arg("run").args(["--node-name", "node-1", "--dns-upstream", "192.0.2.53"]).args(flags).env("NO_COLOR", "1");
        command.stderr(log).stdin(Stdio::null());
        Agent { process: namespace.spawn(&mut command).unwrap(), log: Arc::default() }
    }

    pub fn on_node(world: &World, flags: &[&str]) -> Agent {
        Agent::with_source(world, &world.folder.source(), flags)
    }

    /// An agent on the node that gets its objects as this flag says.
    pub fn with_source(world: &World, source: &str, flags: &[&str]) -> Agent {
        Agent::start(world.node.namespace(), &[&[source], &NODE_FLAGS[..], flags].concat())
    }

    /// An agent on the node whose log goes there: what it says is not known here.
    pub fn logging_to(world: &World, log: Stdio, flags: &[&str]) -> Agent {
        Agent::start_logging_to(world.node.namespace(), log, &[&[&*world.folder.source()], &NODE_FLAGS[..], flags].concat())
    }

    /// An agent that answers with the usual TTL, and does so when this returns.
    pub fn at_home(world: &World) -> Agent {
        let agent = Agent::on_node(world, &["--dns-ttl=30"]);
        agent.says("this node answers its own DNS questions");
        agent
    }

    pub fn behind_kube_dns(world: &World) -> Agent {
        let source = world.folder.source();
        let flags = [&source, "--role=dns", "--dns-address=10.244.0.20:5353,[fd00:244::20]:5353", "--dns-ttl=7"];
        let agent = Agent::start(world.server.namespace(), &flags);
        agent.says("cluster names are served");
        agent
    }

    /// Waits for this text in its log.
    pub fn says(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < PATIENCE, "the agent has not said {text:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends it this signal, such as `-KILL`.
    pub fn signal(&self, name: &str) {
        let signal: Signal = format!("SIG{}", name.trim_start_matches('-')).parse().unwrap();
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    /// Its threads whose names begin so.
    pub fn threads(&self, name: &str) -> Vec<Pid> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap().flatten();
        let named =
            tasks.filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.starts_with(name)));
        named.map(|task| Pid::from_raw(task.file_name().to_string_lossy().parse().unwrap())).collect()
    }

    /// Ends it by this signal, and says how it ended.
    pub fn end(&mut self, name: &str) -> ExitStatus {
        self.signal(name);
        self.process.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub struct World {
    pub node: Node,
    pub client: Pod,
    pub server: Pod,
    _web: Pod,
    _outside: Pod,
    pub folder: Folder,
}

impl World {
    pub fn new(name: &str) -> World {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let node = Node::new(&parse(&["192.0.2.10", "2001:db8::10"])).unwrap();
        let client = node.pod("client", &parse(&["10.244.0.2", "fd00:244::2"])).unwrap();
        let server = node.pod("server", &parse(&["10.244.0.20", "fd00:244::20"])).unwrap();
        let web = node.pod("web", &parse(&["10.244.0.3"])).unwrap();
        web.serve(Serve::Tcp, 8080).unwrap();
        let outside = node.pod("outside", &parse(&["203.0.113.9", "2001:db8:9::9"])).unwrap();
        node.set_gateway(&outside).unwrap();
        World { node, client, server, _web: web, _outside: outside, folder: Folder::new(name) }
    }

    /// Pods and the node itself are answered with this TTL, through every address and both transports. Each try is answered; on a machine so busy
    /// that an agent's heart misses some beats, a few of them by somebody else.
    pub fn answered_with(&self, ttl: u32) {
        self.each_way(|what, server, tcp| {
            let began = Instant::now();
            loop {
                match ask(server, tcp) {
                    Ok(answered) if answered == ttl => return,
                    Ok(other) => assert!(began.elapsed() < PATIENCE, "{what}: still {other} and not {ttl}"),
                    Err(error) => panic!("{what}: {error}"),
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
    }

    /// Whether they all are, at the moment.
    pub fn is_answered_with(&self, ttl: u32) -> bool {
        let all = AtomicBool::new(true);
        self.each_way(|_, server, tcp| {
            let answered = ask_within(server, tcp, A_MOMENT);
            all.fetch_and(answered.is_ok_and(|answered| answered == ttl), Ordering::Relaxed);
        });
        all.into_inner()
    }

    /// The same after a while, in which nobody may answer.
    pub fn soon_answered_with(&self, ttl: u32) {
        self.each_way(|what, server, tcp| {
            let began = Instant::now();
            loop {
                let answered = ask_within(server, tcp, A_MOMENT);
                if answered.as_ref().is_ok_and(|answered| *answered == ttl) {
                    return;
                }
                assert!(began.elapsed() < PATIENCE, "{what}: not {ttl} but {answered:?}");
            }
        });
    }

    /// From a pod and from the node, through every address, over both transports.
    fn each_way(&self, ask: impl Fn(&str, SocketAddr, bool) + Sync) {
        for (from, client) in [("a pod", self.client.namespace()), ("the node", self.node.namespace())] {
            for address in ADDRESSES {
                for tcp in [false, true] {
                    let server = SocketAddr::new(address.parse().unwrap(), 53);
                    client.run(|| ask(&format!("{address} asked from {from}, tcp: {tcp}"), server, tcp)).unwrap();
                }
            }
        }
    }
}

/// Where a server listens for questions.
pub fn server(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 53)
}

/// The TTL with which a server answers for `kube-dns`, at the first try.
pub fn ask(server: SocketAddr, tcp: bool) -> io::Result<u32> {
    ask_within(server, tcp, PATIENCE)
}

pub fn ask_within(server: SocketAddr, tcp: bool, limit: Duration) -> io::Result<u32> {
    if tcp {
        return ask_over(&mut connect_within(server, limit)?);
    }
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    ask_from_within(&socket, limit)
}

pub fn ask_from_within(socket: &UdpSocket, limit: Duration) -> io::Result<u32> {
    socket.set_read_timeout(Some(limit))?;
    socket.send(&question()?)?;
    let mut reply = vec![0; 1500];
    let length = socket.recv(&mut reply)?;
    ttl_of(&reply[..length])
}

/// A connection for questions.
pub fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    connect_within(server, PATIENCE)
}

fn connect_within(server: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, limit)?;
    stream.set_read_timeout(Some(limit))?;
    Ok(stream)
}

/// The same over a connection.
pub fn ask_over(stream: &mut TcpStream) -> io::Result<u32> {
    let question = question()?;
    stream.write_all(&[&(question.len() as u16).to_be_bytes(), &question[..]].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply)?;
    ttl_of(&reply)
}

/// What everybody asks.
pub fn question() -> io::Result<Vec<u8>> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str("kube-dns.kube-system.svc.cluster.local.").unwrap(), RecordType::A));
    message.to_vec().map_err(io::Error::other)
}

/// The TTL of a good answer.
pub fn ttl_of(reply: &[u8]) -> io::Result<u32> {
    let reply = Message::from_vec(reply).map_err(io::Error::other)?;
    match reply.answers.first() {
        Some(record) if record.data == RData::A("10.96.0.10".parse::<std::net::Ipv4Addr>().unwrap().into()) => Ok(record.ttl),
        other => Err(io::Error::other(format!("{:?} {other:?}", reply.metadata))),
    }
}
