//! The resolvers that pods really have ask a real agent: glibc's, musl's, Go's, Node's two, an Unbound and a systemd-resolved in front of it. Their search paths with
//! `ndots:5`, answers that do not fit into a datagram, a thousand endpoints over TCP.

use crate::world::{AGENT_TTL, Agent, FALLBACK_TTL, PATIENCE, World};
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use libtest_mimic::{Failed, Trial};
use nix::mount::{MsFlags, mount};
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Instant;
use waypost::lab::Namespace;

/// As the kubelet writes it.
const RESOLV_CONF: &str =
    "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
/// So many do not fit into 512 bytes, and so many not into any datagram.
const LARGE: u16 = 60;
const MANY: u16 = 1000;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("glibc_finds_what_it_should", || {
            finds(&|name| command(&GLIBC, &[name]), Expected::All, true)?;
            finds(&|name| getent(name), Expected::All, true)
        }),
        // Debian's musl (1.2.3) has no TCP and takes what a cut answer holds; later ones take 48 addresses.
        Trial::test("musl_finds_what_it_should", || finds(&|name| command(&MUSL, &[name]), Expected::Part, true)),
        Trial::test("go_finds_what_it_should", || finds(&|name| command(&GO, &[name]), Expected::All, true)),
        Trial::test("node_finds_what_it_should_by_both_of_its_resolvers", || {
            finds(&|name| node(name, "lookup"), Expected::All, true)?;
            finds(&|name| node(name, "ares"), Expected::All, false)
        }),
        Trial::test("an_unbound_in_front_of_the_agent_hands_on_what_it_says", unbound_in_front),
        Trial::test("a_systemd_resolved_in_front_of_the_agent_hands_on_what_it_says", resolved_in_front),
        Trial::test("the_stub_of_systemd_resolved_and_the_agents_addresses_do_not_clash", beside_resolved),
    ]
}

/// How many of the addresses a resolver is to find.
#[derive(Clone, Copy)]
enum Expected {
    All,
    Part,
}

/// What this process and its children see as the files of a pod: to be called before there is a second thread.
///
/// # Errors
/// When the machine has no such file that another one can be put in the place of, with what to do.
pub fn configure_this_host() -> Result<(), String> {
    let folder = scratch();
    for (name, text) in [("resolv.conf", RESOLV_CONF), ("nsswitch.conf", "hosts: files dns\n")] {
        let (file, target) = (folder.join(name), Path::new("/etc").join(name));
        // A link, as systemd-resolved's, may lead to what is not there.
        let target = match fs::canonicalize(&target) {
            Ok(target) => target,
            // Without it glibc looks where this file would send it.
            Err(_) if name == "nsswitch.conf" => continue,
            Err(error) => return Err(format!("{}: {error}: make this file, which may be empty", target.display())),
        };
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        mount(Some(&file), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|error| format!("{} cannot be put in the place of {}: {error}", file.display(), target.display()))?;
    }
    Ok(())
}

fn scratch() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("resolvers-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

static GLIBC: LazyLock<PathBuf> = LazyLock::new(|| built("glibc", "cc", &["-o"], "lookup.c"));
static MUSL: LazyLock<PathBuf> = LazyLock::new(|| built("musl", "musl-gcc", &["-static", "-o"], "lookup.c"));
static GO: LazyLock<PathBuf> = LazyLock::new(|| built("go", "go", &["build", "-o"], "lookup.go"));

/// The program of this source, built now.
fn built(name: &str, compiler: &str, flags: &[&str], source: &str) -> PathBuf {
    let program = scratch().join(name);
    let mut command = Command::new(compiler);
    command.args(flags).arg(&program).arg(source_file(source)).env("CGO_ENABLED", "0");
    let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}; scripts/setup names the package"));
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    program
}

fn source_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node_dns/resolvers").join(name)
}

fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn getent(name: &str) -> Command {
    command(Path::new("getent"), &["ahosts", name])
}

fn node(name: &str, how: &str) -> Command {
    let mut node = Command::new("node");
    node.arg(source_file("lookup.js")).args([name, how]);
    node
}

/// A cluster with an agent, whose upstream server remembers what it was asked.
struct Stage {
    world: World,
    agent: Agent,
    forwarded: Arc<Mutex<BTreeSet<String>>>,
}

impl Stage {
    fn new(name: &str) -> Stage {
        let world = World::new(name);
        world.folder.replace("large.yaml", &headless("large", LARGE));
        world.folder.replace("many.yaml", &headless("many", MANY));
        let forwarded = Arc::new(Mutex::new(BTreeSet::new()));
        let socket = world.node.namespace().udp_socket("192.0.2.10:5353".parse().unwrap()).unwrap();
        socket.set_nonblocking(false).unwrap();
        let heard = forwarded.clone();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let answer = answer(&buffer[..length], &heard);
                let _ = socket.send_to(&answer, client);
            }
        });
        // The one of `world.rs` comes first and is not there.
        let agent = Agent::on_node(&world, &["--dns-upstream=192.0.2.10:5353"]);
        agent.says("this node answers its own DNS questions");
        Stage { world, agent, forwarded }
    }

    /// The addresses that a program prints, run in a pod; none where it fails.
    fn found(&self, mut command: Command) -> BTreeSet<String> {
        let output = self.world.client.namespace().output(&mut command).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return BTreeSet::new();
        }
        // getent prints more than the address.
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_string).collect()
    }
}

/// Every name in example.com has one address, and no other name exists.
fn answer(question: &[u8], heard: &Mutex<BTreeSet<String>>) -> Vec<u8> {
    let mut message = Message::from_vec(question).unwrap();
    message.metadata.message_type = MessageType::Response;
    let query = message.queries[0].clone();
    match query.query_type() {
        _ if !query.name().to_lowercase().to_string().ends_with("example.com.") => {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        RecordType::A => {
            message.answers.push(Record::from_rdata(query.name().clone(), 60, RData::A(ELSEWHERE.into())));
        }
        _ => {}
    }
    if query.query_type() != RecordType::HINFO && !query.name().is_root() {
        heard.lock().unwrap().insert(query.name().to_lowercase().to_string());
    }
    message.to_vec().unwrap()
}

fn headless(name: &str, count: u16) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  clusterIP: None\n  ports: [{{name: http, port: 80}}]\n"
    );
    let all: Vec<String> = members(name, count).into_iter().collect();
    // As many as the API server allows in one.
    for (number, some) in all.chunks(1000).enumerate() {
        let endpoints: String = some.iter().map(|address| format!("- {{addresses: [{address}]}}\n")).collect();
        text += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}-{number}, namespace: shop, labels: \
             {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, port: 80, protocol: TCP}}]\nendpoints:\n{endpoints}"
        );
    }
    text
}

fn members(name: &str, count: u16) -> BTreeSet<String> {
    let net = if name == "many" { 9 } else { 8 };
    (0..count).map(|number| format!("10.{net}.{}.{}", number / 250, number % 250 + 1)).collect()
}

fn set(addresses: &[&str]) -> BTreeSet<String> {
    addresses.iter().map(ToString::to_string).collect()
}

/// `searches`: whether the resolver knows search domains at all.
fn finds(lookup: &dyn Fn(&str) -> Command, expected: Expected, searches: bool) -> Result<(), Failed> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let stage = Stage::new(&format!("resolver-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let web = set(&["10.96.0.1", "fd00:96::1"]);
    let full = |name: &str| format!("{name}.shop.svc.cluster.local");
    for name in ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "web.shop.svc.cluster.local."] {
        if searches || name.contains("cluster.local") {
            assert_eq!(stage.found(lookup(name)), web, "{name}");
        }
    }
    for name in ["nobody", "nobody.shop", "web.nowhere.svc.cluster.local", "nobody.shop.svc.cluster.local."] {
        if searches || name.contains("cluster.local") {
            assert_eq!(stage.found(lookup(name)), set(&[]), "{name}");
        }
    }
    for (name, count) in [("large", LARGE), ("many", MANY)] {
        let (found, all) = (stage.found(lookup(&full(name))), members(name, count));
        match expected {
            Expected::All => assert!(found == all, "{name}: {} of {count}", found.len()),
            Expected::Part => assert!(!found.is_empty() && found.is_subset(&all), "{name}: {found:?}"),
        }
    }
    for name in ["www.example.com", "www.example.com."] {
        assert_eq!(stage.found(lookup(name)), set(&[&ELSEWHERE.to_string()]), "{name}");
    }
    // `nobody` as it stands is a name outside; what the search made of it was answered from memory.
    let forwarded = stage.forwarded.lock().unwrap().clone();
    let outside = set(&["www.example.com.", "nobody.", "nobody.shop."]);
    assert!(forwarded.is_subset(&outside) && forwarded.contains("www.example.com."), "{forwarded:?}\n{}", stage.agent.log());
    Ok(())
}

/// A running server in front of the agent; killed when dropped.
struct InFront(Child);

impl Drop for InFront {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn unbound_in_front() -> Result<(), Failed> {
    let stage = Stage::new("unbound");
    let file = scratch().join("unbound.conf");
    fs::write(
        &file,
        "server:\n  interface: 127.0.0.1@5300\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  do-daemonize: no\n  \
         module-config: \"iterator\"\n  unblock-lan-zones: yes\n  do-not-query-localhost: no\n  msg-buffer-size: 65552\n\
         forward-zone:\n  name: \".\"\n  forward-addr: 10.96.0.10\nremote-control:\n  control-enable: no\n",
    )?;
    let mut command = Command::new("unbound");
    command.args(["-d", "-c"]).arg(&file).stderr(Stdio::null()).stdin(Stdio::null());
    let _unbound = InFront(stage.world.client.namespace().spawn(&mut command)?);
    hands_on(stage.world.client.namespace(), &["@127.0.0.1", "-p", "5300"])
}

/// The program, which `scripts/fetch-resolved` brings.
fn resolved(namespace: &Namespace, server: &str) -> Result<InFront, Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/resolved/lib/systemd");
    assert!(folder.join("systemd-resolved").exists(), "systemd-resolved is missing: scripts/fetch-resolved brings it");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(source_file("resolved.sh")).arg(folder).arg(server);
    command.stderr(Stdio::null()).stdin(Stdio::null());
    Ok(InFront(namespace.spawn(&mut command)?))
}

fn resolved_in_front() -> Result<(), Failed> {
    let stage = Stage::new("resolved");
    let _resolved = resolved(stage.world.client.namespace(), "10.96.0.10")?;
    hands_on(stage.world.client.namespace(), &["@127.0.0.53"])
}

/// Who comes first does not matter: here it is the stub, as on a machine that starts.
fn beside_resolved() -> Result<(), Failed> {
    let world = World::new("stub");
    // In the lab a node has its addresses on `lo`, and resolved asks nobody before another link has one.
    let link = "ip address add 203.0.113.10/32 dev $(ip -4 -oneline route show default | sed 's/.* dev \\([^ ]*\\).*/\\1/')";
    let added = world.node.namespace().output(Command::new("sh").args(["-ec", link]))?;
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let _resolved = resolved(world.node.namespace(), "10.96.0.10")?;
    let began = Instant::now();
    let listens = || -> Result<bool, Failed> {
        let output = world.node.namespace().output(Command::new("ss").args(["-Hlnu", "sport = :53"]))?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("127.0.0.53"))
    };
    while !listens()? {
        assert!(began.elapsed() < PATIENCE, "the stub does not listen");
        thread::sleep(std::time::Duration::from_millis(50));
    }
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = Agent::at_home(&world);
    world.answered_with(AGENT_TTL);
    let through_stub = || -> Result<String, Failed> {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.53", "+short", "+tries=1", "+time=10", "web.shop.svc.cluster.local", "A"]);
        Ok(String::from_utf8_lossy(&world.node.namespace().output(&mut dig)?.stdout).trim().to_string())
    };
    while through_stub()? != "10.96.0.1" {
        assert!(began.elapsed() < PATIENCE * 2, "no answer through the stub");
    }
    agent.end("-KILL");
    world.answered_with(FALLBACK_TTL);
    assert!(listens()?, "the stub is still there");
    Ok(())
}

/// A server in front of the agent, asked with these words of `dig`, says what the agent says.
fn hands_on(namespace: &Namespace, server: &[&str]) -> Result<(), Failed> {
    let dig = |words: &[&str]| {
        let mut dig = Command::new("dig");
        dig.args(server).args(["+short", "+tries=1", "+time=10"]).args(words);
        namespace.output(&mut dig).map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let began = Instant::now();
    while dig(&["web.shop.svc.cluster.local", "A"])?.trim() != "10.96.0.1" {
        assert!(began.elapsed() < PATIENCE, "no answer through {server:?}");
        thread::sleep(std::time::Duration::from_millis(50));
    }
    let lines = |text: String| text.lines().map(str::to_string).collect::<BTreeSet<_>>();
    assert_eq!(dig(&["web.shop.svc.cluster.local", "AAAA"])?.trim(), "fd00:96::1");
    assert_eq!(dig(&["_http._tcp.web.shop.svc.cluster.local", "SRV"])?.trim(), "0 50 80 web.shop.svc.cluster.local.");
    assert_eq!(dig(&["-x", "10.96.0.1"])?.trim(), "web.shop.svc.cluster.local.");
    assert_eq!(dig(&["nobody.shop.svc.cluster.local", "A"])?.trim(), "");
    assert_eq!(dig(&["www.example.com", "A"])?.trim(), ELSEWHERE.to_string());
    for (name, count) in [("large", LARGE), ("many", MANY)] {
        let found = lines(dig(&[&format!("{name}.shop.svc.cluster.local"), "A"])?);
        assert!(found == members(name, count), "{name}: {} of {count}", found.len());
    }
    Ok(())
}
