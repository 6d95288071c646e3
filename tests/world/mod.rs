//! A node in a network namespace on which the real program runs, with pods and a host outside.

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

/// A node, a Service in both families, and a load balancer with policy Local whose only endpoint is said to be elsewhere.
pub const CLUSTER: &str = r#"
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
  externalIPs: [198.51.100.1, "2001:db8:1::1"]
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v4, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.3], nodeName: node-1}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v6, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: ["fd00:244::3"], nodeName: node-1}]
---
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: shop}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.2
  clusterIPs: [10.96.0.2, "fd00:96::2"]
  externalTrafficPolicy: Local
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.2}, {ip: "2001:db8:1::2"}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge-v4, namespace: shop, labels: {kubernetes.io/service-name: edge}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.3], nodeName: node-2}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge-v6, namespace: shop, labels: {kubernetes.io/service-name: edge}}
addressType: IPv6
ports: [{port: 8080, protocol: TCP}]
endpoints: [{addresses: ["fd00:244::3"], nodeName: node-2}]
"#;

/// The networks of the pods.
pub const PODS: &str = "--cluster-cidr=10.244.0.0/16,fd00:244::/48";

/// A node with the agent, a pod that serves, one that does not, and a host outside.
pub struct World {
    pub node: Node,
    /// 10.244.0.2, fd00:244::2.
    pub client: Pod,
    /// 203.0.113.9, 2001:db8:9::9.
    pub outside: Pod,
    /// 10.244.0.3, fd00:244::3, port 8080.
    _server: Pod,
    folder: PathBuf,
    pub agents: Vec<Child>,
}

impl World {
    /// Everything but the agent. The manifests say nothing of what is in the node's namespace.
    pub fn prepared(name: &str, manifests: &str) -> World {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let node = Node::new(&parse(&["192.0.2.10", "2001:db8::10"])).unwrap();
        let client = node.pod("client", &parse(&["10.244.0.2", "fd00:244::2"])).unwrap();
        let server = node.pod("server", &parse(&["10.244.0.3", "fd00:244::3"])).unwrap();
        server.serve(Serve::Tcp, 8080).unwrap();
        let outside = node.host("outside", &parse(&["203.0.113.9", "2001:db8:9::9"])).unwrap();
        node.set_gateway(&outside).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("world-{}-{name}", std::process::id()));
        fs::create_dir_all(folder.join("manifests")).unwrap();
        let world = World { node, client, outside, _server: server, folder, agents: Vec::new() };
        world.write(manifests);
        world
    }

    /// Replaces the manifests, in one step: half a file would be half a cluster.
    pub fn write(&self, manifests: &str) {
        let next = self.folder.join("next.yaml");
        fs::write(&next, manifests).unwrap();
        fs::rename(next, self.folder.join("manifests/cluster.yaml")).unwrap();
    }

    pub fn started(mut self, flags: &[&str]) -> World {
        self.start(flags, 10256);
        self
    }

    /// Starts an agent and waits until it is ready, as its page on this port says.
    pub fn start(&mut self, flags: &[&str], healthz: u16) {
        let agent = self.start_another(flags, healthz);
        self.agents.push(agent);
    }

    /// As [`World::start`]; whoever asks for it ends it.
    pub fn start_another(&self, flags: &[&str], healthz: u16) -> Child {
        let log = || File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(["run", "--node-name=node-1", "--manifests"]);
        command.arg(self.folder.join("manifests")).args(flags).env("NO_COLOR", "1");
        command.env("WAYPOST_SOCKET", self.socket());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log());
        let agent = self.node.namespace().spawn(&mut command).unwrap();
        self.eventually("the agent is ready", || match self.page("/readyz", healthz)? {
            page if page.starts_with("HTTP/1.1 200") => Ok(()),
            page => Err(page),
        });
        agent
    }

    /// Where the agent is asked.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("ask.sock")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn await_log(&self, parts: &[&str]) {
        self.eventually(&format!("the log has a line with {parts:?}"), || {
            let log = self.log();
            let found = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if found { Ok(()) } else { Err(log) }
        });
    }

    /// Waits until the metrics have this line.
    pub fn counted(&self, line: &str) {
        self.eventually(line, || {
            let metrics = self.page("/metrics", 10249)?;
            if metrics.lines().any(|one| one == line) { Ok(()) } else { Err(format!("{metrics}\n{}", self.log())) }
        });
    }

    pub fn page(&self, path: &str, port: u16) -> Result<String, String> {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        self.node.namespace().run(ask).unwrap().map_err(|error: std::io::Error| error.to_string())
    }

    pub fn connect(&self, from: impl AsRef<Namespace>, target: &str) -> Outcome {
        let target: SocketAddr = target.parse().unwrap();
        lab::connect(from, Protocol::Tcp, target, TRY)
    }

    pub fn reached(&self, from: impl AsRef<Namespace>, target: &str) {
        self.eventually(&format!("{target} leads to the server"), || match self.connect(&from, target) {
            Outcome::Reached { by, .. } if by == "server" => Ok(()),
            other => Err(format!("{other}\n{}", self.log())),
        });
    }

    pub fn refused(&self, from: impl AsRef<Namespace>, target: &str) {
        assert_eq!(self.connect(from, target), Outcome::Refused, "{target}");
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.node.namespace().output(Command::new(program).args(arguments)).unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn eventually(&self, what: &str, mut check: impl FnMut() -> Result<(), String>) {
        let began = Instant::now();
        while let Err(why) = check() {
            assert!(began.elapsed() < PATIENCE, "still not: {what}: {why}\n{}", self.log());
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
