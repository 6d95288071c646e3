//! A node with three pods behind services, a client pod, and a host outside; the plan is in its kernel.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use waypost::lab::{self, Namespace, Node, Outcome, Pod, Serve};
use waypost::model::{Family, Protocol, Update};
use waypost::nft::{Committed, Committer, Kernel, Layout, Netlink, Reading};
use waypost::proxy::{Context, Delta, DetectLocal, Element, Planner, SlowStart};
use waypost::source::{manifests, translate::Translator};
use waypost::store::Store;

pub const PATIENCE: Duration = Duration::from_secs(20);
const NODE: &str = "node-1";
const MARK: u32 = 0x4000;

pub struct World {
    pub node: Node,
    pub client: Pod,
    pub outside: Pod,
    _pods: Vec<Pod>,
    planner: Planner,
    slow_start: SlowStart,
    /// What the time is for the slow start.
    pub now: Instant,
    committer: Committer<Netlink>,
    folder: PathBuf,
}

impl World {
    /// A world with these objects. Pods 1 and 2 run on the node, pod 3 counts as one of another.
    pub fn new(objects: &str) -> World {
        let addresses = |texts: [&str; 2]| texts.map(|text| text.parse::<IpAddr>().unwrap());
        let node = Node::new(&addresses(["192.0.2.10", "2001:db8::10"])).expect("a node");
        let client = node.pod("client", &addresses(["10.244.0.2", "fd00:244::2"])).expect("a pod");
        let outside = node.pod("outside", &addresses(["203.0.113.9", "2001:db8:9::9"])).expect("a host");
        node.set_gateway(&outside).expect("a default route");
        let pods: Vec<Pod> = (1..=3)
            .map(|number| {
                let pod = node.pod(&format!("pod-{number}"), &[address(Family::V4, number), address(Family::V6, number)]);
                let pod = pod.expect("a pod");
                pod.serve(Serve::Tcp, 8080).expect("a server");
                pod.serve(Serve::Udp, 7007).expect("a server");
                pod
            })
            .collect();
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("balancing-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).expect("target/ can be written");
        let committer = committer(node.namespace(), MARK);
        let mut world = World {
            node,
            client,
            outside,
            _pods: pods,
            planner: Planner::default(),
            slow_start: SlowStart::default(),
            now: Instant::now(),
            committer,
            folder,
        };
        world.apply(objects);
        world
    }

    /// Makes these the only objects.
    pub fn apply(&mut self, objects: &str) {
        let delta = self.plan(objects);
        let committed = self.committer.commit(delta);
        for family in &committed.families {
            assert!(family.error.is_none() && family.rejected.is_empty(), "{family:?}\n{}", self.nft(&["list", "ruleset"]));
        }
    }

    /// Another agent takes the table over, with the same objects. Returns what it wrote.
    pub fn restart(&mut self, objects: &str) -> Committed {
        self.restart_with(objects, MARK)
    }

    /// As [`World::restart`]; with another mark the table has another layout.
    pub fn restart_with(&mut self, objects: &str, mark: u32) -> Committed {
        self.planner = Planner::default();
        self.slow_start = SlowStart::default();
        self.committer = committer(self.node.namespace(), mark);
        let delta = self.plan(objects);
        self.committer.commit(delta)
    }

    fn plan(&mut self, objects: &str) -> Delta {
        fs::write(self.folder.join("objects.yaml"), objects).expect("target/ can be written");
        let manifests = manifests::read(&self.folder).unwrap_or_else(|error| panic!("{error}\n{objects}"));
        let updates: Vec<Update> = manifests.updates(Some(NODE), &mut Translator::default());
        let store: Store = updates.into_iter().collect();
        let node_addresses = self.node.addresses().to_vec();
        let context = Context {
            node_name: NODE.into(),
            node_addresses: node_addresses.clone(),
            nodeport_addresses: node_addresses,
            ..Context::default()
        };
        let mut delta = Delta::default();
        for network in ["10.244.0.0/16", "fd00:244::/48"] {
            delta.elements.insert(Element::PodCidr(network.parse().unwrap()), true);
        }
        let keys: BTreeSet<_> = store.service_keys().cloned().chain(self.planner.services()).collect();
        for key in keys {
            let warming = self.slow_start.see(&key, store.service(&key), &store.slices(&key), self.now);
            self.planner.set_warming(&key, warming);
            self.planner.update(&key, store.service(&key), &store.slices(&key), &context, &mut delta);
        }
        delta
    }

    /// Who answers.
    pub fn reach(&self, from: &Pod, protocol: Protocol, to: &str) -> String {
        let to: SocketAddr = to.parse().unwrap();
        match lab::connect(from, protocol, to, PATIENCE) {
            Outcome::Reached { by, .. } => by,
            outcome => panic!("{} to {to}/{protocol}: {outcome}\n{}", from.name(), self.nft(&["-n", "list", "ruleset"])),
        }
    }

    /// What the kernel holds.
    pub fn holds(&self, family: Family) -> Vec<Element> {
        let read = || Netlink::open().and_then(|mut kernel| kernel.read(&layout(family, MARK)));
        match self.node.namespace().run(read).expect("the node's namespace") {
            Ok(Reading::Ours(contents)) => contents.elements,
            other => panic!("{other:?}"),
        }
    }

    pub fn nft(&self, arguments: &[&str]) -> String {
        nft(self.node.namespace(), arguments)
    }

    /// The names of the table's maps that remember clients, and how many each remembers.
    pub fn remembered(&self, family: &str) -> Vec<(String, usize)> {
        let table = self.nft(&["list", "table", family, "waypost"]);
        let maps = table.split("\tmap ").skip(1).filter(|map| map.starts_with("affinity-"));
        let count = |map: &str| map.split("\tchain ").next().unwrap_or(map).matches(" expires ").count();
        maps.map(|map| (map.split(' ').next().unwrap().to_string(), count(map))).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub fn nft(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = namespace.output(std::process::Command::new("nft").args(arguments)).expect("nft is installed (see make setup)");
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn committer(namespace: &Namespace, mark: u32) -> Committer<Netlink> {
    namespace
        .run(|| Committer::new(Netlink::open().expect("a socket"), Family::BOTH.map(|family| layout(family, mark))))
        .expect("the node's namespace")
}

fn layout(family: Family, mark: u32) -> Layout {
    Layout { family, masquerade_mark: mark, masquerade_all: false, tracked_dns: false, detect_local: DetectLocal::Networks }
}

/// The address of a pod.
pub fn address(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 244, 0, 10 + number]),
        Family::V6 => format!("fd00:244::{:x}", 16 + number).parse().unwrap(),
    }
}

/// Waits for a state of the kernel.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now();
    while !holds() {
        assert!(patience.elapsed() < 3 * PATIENCE, "still not: {what}");
        std::thread::yield_now();
    }
}

/// The slices of `web` in both families with these pods in them.
pub fn slices(pods: &[u8]) -> String {
    slices_with("web", "", pods)
}

/// The slices of `web` in both families, named, with these annotations and pods.
pub fn slices_with(name: &str, annotations: &str, pods: &[u8]) -> String {
    let of = |family: Family| {
        let endpoint = |number: &u8| {
            let node = if *number == 3 { "node-2" } else { NODE };
            format!("- {{addresses: ['{}'], nodeName: {node}}}\n", address(family, *number))
        };
        let endpoints: String = pods.iter().map(endpoint).collect();
        let suffix = family.to_string().to_lowercase();
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-{suffix}, namespace: shop, labels: {{kubernetes.io/service-name: web}}, annotations: {{{annotations}}}}}\n\
             addressType: {family}\n\
             ports: [{{name: http, port: 8080, protocol: TCP}}, {{name: echo, port: 7007, protocol: UDP}}, {{name: sig, port: 99, protocol: SCTP}}]\n\
             endpoints:\n{endpoints}"
        )
    };
    Family::BOTH.map(of).concat()
}
