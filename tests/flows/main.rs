//! The table of flows, walked and driven: first by the pure packet walk, then with real packets through real nf_tables.

mod table;

use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use table::{Client, Expect, FLOWS, Flow, PODS};
use waypost::lab::{self, Namespace, Node, Outcome, Pod, Serve};
use waypost::model::{Family, Protocol, Update};
use waypost::nft::{Committer, Kernel, Layout, Memory, Netlink};
use waypost::proxy::{Context, Delta, Dest, DetectLocal, Element, Fate, Packet, Planner, Walk};
use waypost::source::{manifests, translate::Translator};
use waypost::store::Store;

/// A dropped connection is one that has no answer after this long.
const DROPPED: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(5);
/// With three endpoints one of them is missed by so many connections once in 10^10 runs.
const CONNECTIONS: usize = 60;
const NODE: &str = "node-1";

fn main() {
    let arguments = Arguments::from_args();
    if let Err(error) = lab::enter() {
        eprintln!("{error}");
        std::process::exit(1);
    }
    let mut trials: Vec<Trial> = FLOWS.iter().map(|flow| Trial::test(format!("walk {}", name(flow)), || walked(flow))).collect();
    let world = Arc::new(World::build());
    trials.extend(FLOWS.iter().map(|flow| {
        let world = world.clone();
        Trial::test(format!("packets {}", name(flow)), move || world.driven(flow))
    }));
    trials.push(Trial::test("the_kernel_holds_what_the_plan_says_and_a_restart_writes_nothing", {
        let world = world.clone();
        move || world.restart_writes_nothing()
    }));
    trials.push(Trial::test("what_nft_lists_loads_again", move || world.listing_loads_again()));
    libtest_mimic::run(&arguments, trials).exit();
}

fn name((from, protocol, to, expect): &Flow) -> String {
    format!("{from:?} to {to}/{protocol}: {expect:?}")
}

fn layouts() -> [Layout; 2] {
    Family::BOTH.map(|family| Layout {
        family,
        masquerade_mark: 0x4000,
        masquerade_all: false,
        detect_local: DetectLocal::Networks,
    })
}

/// The plan of the whole cluster, as the agent makes it.
fn plan() -> Delta {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flows");
    let manifests = manifests::read(&folder).expect("the manifests are right");
    let updates: Vec<Update> = manifests.updates(Some(NODE), &mut Translator::default());
    let store: Store = updates.into_iter().collect();
    let addresses = store.node().expect("the node is there").addresses.clone();
    let context = Context {
        node_name: NODE.into(),
        zone: store.node().and_then(|node| node.zone.clone()),
        node_addresses: addresses.clone(),
        nodeport_addresses: addresses,
        dns_addresses: vec![],
        without_external_ips: false,
    };
    let mut delta = Delta::default();
    for network in ["10.244.0.0/16", "fd00:244::/48"] {
        delta.elements.insert(Element::PodCidr(network.parse().unwrap()), true);
    }
    for network in ["10.96.0.0/16", "fd00:96::/112"] {
        delta.elements.insert(Element::ServiceCidr(network.parse().unwrap()), true);
    }
    let mut planner = Planner::default();
    for key in store.service_keys() {
        planner.update(key, store.service(key), &store.slices(key), &context, &mut delta);
    }
    delta
}

fn source(from: Client, to: SocketAddr) -> IpAddr {
    let addresses = table::addresses(from).iter().map(|address| address.parse::<IpAddr>().unwrap());
    addresses.into_iter().find(|address| address.is_ipv4() == to.is_ipv4()).expect("the client has this family")
}

fn pod_of(address: IpAddr) -> &'static str {
    let text = address.to_string();
    PODS.iter().find(|(_, addresses)| addresses.contains(&text.as_str())).map_or("nobody", |(name, _)| name)
}

fn walked((from, protocol, to, expect): &Flow) -> Result<(), Failed> {
    let to: SocketAddr = to.parse()?;
    let mut committer = Committer::new(Memory::default(), layouts());
    committer.commit(plan());
    let family = Family::of(to.ip());
    let walk = Walk::new(committer.kernel().elements(family), false, DetectLocal::Networks);
    let packet = Packet {
        source: source(*from, to),
        from_node: *from == Client::Node,
        from_pod_interface: *from == Client::Pod,
        to: Dest { address: to.ip(), protocol: *protocol, port: to.port() },
        to_node: table::addresses(Client::Node).contains(&to.ip().to_string().as_str()),
    };
    let fate = walk.fate(&packet);
    let balanced = |wanted: &[&str], masqueraded: bool| match &fate {
        Fate::Balanced(targets) => {
            targets.iter().map(|target| pod_of(target.backend.address)).collect::<BTreeSet<_>>()
                == wanted.iter().copied().collect()
                && targets.iter().all(|target| target.masqueraded == masqueraded)
        }
        _ => false,
    };
    let right = match expect {
        Expect::Kept(pods) => balanced(pods, false),
        Expect::Masqueraded(pods) => balanced(pods, true),
        // What the table leaves alone reaches the node's own port, and nobody listens there.
        Expect::Refused => fate == Fate::Refused || fate == Fate::Untouched && packet.to_node,
        Expect::Dropped => fate == Fate::Dropped,
    };
    if right { Ok(()) } else { Err(format!("the walk ends in {fate:?}").into()) }
}

/// The cluster as namespaces, with the plan in the kernel of node-1.
struct World {
    node: Node,
    pods: Vec<Pod>,
    outside: Pod,
    stranger: Pod,
}

impl World {
    fn build() -> World {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let node = Node::new(&parse(table::addresses(Client::Node))).expect("a node");
        let pods: Vec<Pod> = PODS.iter().map(|(name, addresses)| node.pod(name, &parse(addresses)).expect("a pod")).collect();
        for pod in &pods {
            let port = if pod.name() == "other-port" { 9090 } else { 8080 };
            pod.serve(Serve::Tcp, port).expect("a server");
            pod.serve(Serve::Udp, 7007).expect("a server");
        }
        let host = |name, from| node.pod(name, &parse(table::addresses(from))).expect("a host");
        let (outside, stranger) = (host("outside", Client::Outside), host("stranger", Client::Stranger));
        node.set_gateway(&outside).expect("a default route");
        let committed = node
            .namespace()
            .run(|| {
                let mut committer = Committer::new(Netlink::open().expect("a socket"), layouts());
                committer.commit(plan())
            })
            .expect("the node's namespace");
        for family in &committed.families {
            assert!(family.error.is_none() && family.rejected.is_empty(), "{family:?}");
        }
        World { node, pods, outside, stranger }
    }

    fn namespace_of(&self, from: Client) -> &Namespace {
        match from {
            Client::Pod => self.pods[0].namespace(),
            Client::Node => self.node.namespace(),
            Client::Outside => self.outside.namespace(),
            Client::Stranger => self.stranger.namespace(),
        }
    }

    fn driven(&self, (from, protocol, to, expect): &Flow) -> Result<(), Failed> {
        let to: SocketAddr = to.parse()?;
        let client = self.namespace_of(*from);
        let own = source(*from, to);
        match expect {
            Expect::Refused | Expect::Dropped => {
                let (timeout, wanted) =
                    if *expect == Expect::Refused { (PATIENCE, Outcome::Refused) } else { (DROPPED, Outcome::TimedOut) };
                let outcome = lab::connect(client, *protocol, to, timeout);
                if outcome == wanted { Ok(()) } else { Err(self.explain(&outcome)) }
            }
            Expect::Kept(pods) => self.spread(client, *protocol, to, pods, |seen| seen == own),
            Expect::Masqueraded(pods) => {
                let node: Vec<IpAddr> = self.node.addresses().to_vec();
                self.spread(client, *protocol, to, pods, |seen| node.contains(&seen))
            }
        }
    }

    /// Connects until every wanted pod has answered; nobody else may, and each must see the right source.
    fn spread(
        &self,
        client: &Namespace,
        protocol: Protocol,
        to: SocketAddr,
        pods: &[&str],
        right_source: impl Fn(IpAddr) -> bool,
    ) -> Result<(), Failed> {
        let mut missing: BTreeSet<&str> = pods.iter().copied().collect();
        for _ in 0..CONNECTIONS {
            match lab::connect(client, protocol, to, PATIENCE) {
                Outcome::Reached { by, seen_source } if pods.contains(&by.as_str()) && right_source(seen_source.ip()) => {
                    missing.remove(by.as_str());
                }
                outcome => return Err(self.explain(&outcome)),
            }
            if missing.is_empty() {
                return Ok(());
            }
        }
        Err(format!("{missing:?} never answered").into())
    }

    fn explain(&self, outcome: &Outcome) -> Failed {
        format!("{outcome}\n{}", self.nft(&["-n", "list", "ruleset"], None)).into()
    }

    fn nft(&self, arguments: &[&str], namespace: Option<&Namespace>) -> String {
        let namespace = namespace.unwrap_or(self.node.namespace());
        let output =
            namespace.output(std::process::Command::new("nft").args(arguments)).expect("nft is installed (see make setup)");
        assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn restart_writes_nothing(&self) -> Result<(), Failed> {
        let (committed, readings) = self.node.namespace().run(|| {
            let mut committer = Committer::new(Netlink::open().expect("a socket"), layouts());
            let committed = committer.commit(plan());
            (committed, layouts().map(|layout| committer.kernel().read(&layout).expect("a reading")))
        })?;
        for family in committed.families {
            assert_eq!((family.elements, family.batches, family.rebuilt), (0, 0, None), "{}", family.family);
        }
        let mut memory = Committer::new(Memory::default(), layouts());
        memory.commit(plan());
        for (reading, family) in readings.into_iter().zip(Family::BOTH) {
            let waypost::nft::Reading::Ours(contents) = reading else { return Err("our table is not recognised".into()) };
            let held: BTreeSet<Element> = contents.elements.into_iter().collect();
            assert_eq!(held, memory.kernel().elements(family).into_iter().collect());
        }
        Ok(())
    }

    fn listing_loads_again(&self) -> Result<(), Failed> {
        // Counters move while other tests connect.
        let stateless = ["-s", "list", "ruleset"];
        let listing = self.nft(&stateless, None);
        let elsewhere = Namespace::new()?;
        let folder = std::env::temp_dir().join(format!("waypost-flows-{}", std::process::id()));
        std::fs::write(&folder, &listing)?;
        self.nft(&["-f", &folder.display().to_string()], Some(&elsewhere));
        std::fs::remove_file(&folder)?;
        let again = self.nft(&stateless, Some(&elsewhere));
        if sorted(&again) == sorted(&listing) { Ok(()) } else { Err(format!("{listing}\nbecame\n{again}").into()) }
    }
}

/// nft lists elements in the order of the kernel's hash tables, which differs from table to table.
fn sorted(listing: &str) -> Vec<&str> {
    let mut words: Vec<&str> = listing.split([',', '{', '}', '\n']).map(str::trim).filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words
}
