//! Settings written as the documents show them (docs/settings.md), and what each does to the real program on a node. `tests/dns/settings.rs` has those of DNS that
//! need no node, `tests/services` those of services.

mod begin;
mod world;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use waypost::lab::{Namespace, Pod};
use world::{CLUSTER, PODS, World};

const DNS: &str = "--dns-address=169.254.20.10,fd00:96::a";
/// Each answers with its own address.
const NAME_SERVERS: [&str; 3] = ["192.0.2.53", "192.0.2.54", "192.0.2.55"];

fn main() {
    let arguments = begin::in_a_user_namespace();
    // The mounts are this process's own.
    for folder in ["/run", "/var/lib", "/srv"] {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "tmpfs", folder]).status();
        assert!(mounted.is_ok_and(|status| status.success()), "cannot mount {folder}");
    }
    let tests = vec![
        Trial::test("the_cluster_domain_is_what_the_setting_says", cluster_domain),
        Trial::test("names_outside_the_cluster_are_asked_where_the_settings_say", upstreams),
        Trial::test("questions_are_answered_from_where_the_setting_says", allow_from),
        Trial::test("clients_of_one_network_share_a_rate_where_the_settings_say_so", rate_prefixes),
        Trial::test("a_corefile_is_obeyed_where_the_setting_says", corefile),
        Trial::test("pages_are_where_the_settings_say", pages),
        Trial::test("the_log_looks_as_the_settings_say", log),
        Trial::test("the_proxy_alone_serves_no_dns", proxy_alone),
        Trial::test("sockets_are_where_the_settings_say_and_an_agent_hands_over_there", sockets),
        Trial::test("what_is_kept_where_the_setting_says_is_served_without_an_api_server", last_state),
        Trial::test("commands_do_what_their_examples_say", commands),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn cluster_domain() -> Result<(), Failed> {
    let world = standard("cluster-domain", &[DNS, "--cluster-domain=corp.internal"]);
    answered(&world, world.node.namespace(), "web.shop.svc.corp.internal", "10.96.0.1");
    Ok(())
}

fn upstreams() -> Result<(), Failed> {
    let flags = ["--dns-upstream=192.0.2.55", "--dns-stub-zone=corp.example=192.0.2.53+192.0.2.54"];
    let world = World::prepared("upstreams", CLUSTER);
    let _servers = name_servers(&world);
    let world = world.started(&[&[PODS, DNS], &flags[..]].concat());
    answered(&world, world.node.namespace(), "www.example.com", "192.0.2.55");
    world.eventually("one of the zone's servers answers", || {
        let answer = dig(world.node.namespace(), "169.254.20.10", &["+short", "www.corp.example"]);
        if ["192.0.2.53", "192.0.2.54"].contains(&answer.trim()) { Ok(()) } else { Err(answer) }
    });
    Ok(())
}

fn allow_from() -> Result<(), Failed> {
    let world = standard("allow-from", &[DNS, "--dns-allow-from=10.0.0.0/8,fd00::/8"]);
    answered(&world, world.client.namespace(), "web.shop.svc.cluster.local", "10.96.0.1");
    // Its source is the node's address.
    let of_node = dig(world.node.namespace(), "169.254.20.10", &["+short", "-b", "192.0.2.10", "web.shop.svc.cluster.local"]);
    assert!(!of_node.contains("10.96.0.1"), "{of_node}");
    Ok(())
}

fn rate_prefixes() -> Result<(), Failed> {
    let limits = "--dns-rate-limit=1 --dns-rate-limit-slip=1";
    let prefixes = "--dns-rate-limit-ipv4-prefix-length=24 --dns-rate-limit-ipv6-prefix-length=64";
    for (name, flags, shared) in [("rate-each", limits.to_string(), false), ("rate-shared", format!("{limits} {prefixes}"), true)]
    {
        let flags: Vec<&str> = flags.split(' ').collect();
        let world = standard(name, &[&[DNS], &flags[..]].concat());
        let neighbour = world.node.pod("neighbour", &["10.244.0.4".parse()?, "fd00:244::4".parse()?])?;
        for server in ["169.254.20.10", "fd00:96::a"] {
            // One more answer becomes due each second: whoever asks at once gets none of them, and the neighbour does not either.
            let cut = |from: &Pod| ask(from.namespace(), server, 1).metadata.truncation;
            world.eventually("the neighbour is treated like the client, or is not", || {
                ask(world.client.namespace(), server, 20);
                if cut(&neighbour) == shared { Ok(()) } else { Err(format!("{flags:?} {server}")) }
            });
        }
    }
    Ok(())
}

/// Asks so often at once; the last answer.
fn ask(from: &Namespace, server: &str, times: usize) -> Message {
    let server = SocketAddr::new(server.parse().unwrap(), 53);
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
    let question = || {
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut message = Message::query();
        let name = "web.shop.svc.cluster.local.".parse().unwrap();
        message.add_query(hickory_proto::op::Query::query(name, RecordType::A));
        let bytes = message.to_vec().unwrap();
        (0..times).for_each(|_| assert_eq!(socket.send(&bytes).unwrap(), bytes.len()));
        let mut buffer = [0; 1500];
        let mut last = 0;
        (0..times).for_each(|_| last = socket.recv(&mut buffer).expect("with a slip of 1 each has an answer"));
        Message::from_vec(&buffer[..last]).unwrap()
    };
    from.run(question).unwrap()
}

fn corefile() -> Result<(), Failed> {
    let text =
        "corp.example {\n    hosts {\n        192.0.2.71 printer.corp.example\n    }\n}\n. {\n    kubernetes cluster.local\n}\n";
    fs::write("/srv/Corefile", text)?;
    let world = standard("corefile", &[DNS, "--corefile=/srv/Corefile"]);
    answered(&world, world.node.namespace(), "printer.corp.example", "192.0.2.71");
    Ok(())
}

fn pages() -> Result<(), Failed> {
    let places = [
        ("--dns-health-address=127.0.0.1:8081", "/health"),
        ("--dns-ready-address=127.0.0.1:8182", "/ready"),
        ("--dns-metrics-address=127.0.0.1:9154", "/metrics"),
        ("--healthz-bind-address=127.0.0.1:10266", "/healthz"),
        ("--metrics-bind-address=127.0.0.1:10269", "/metrics"),
    ];
    let flags: Vec<&str> = [PODS, DNS].into_iter().chain(places.iter().map(|(flag, _)| *flag)).collect();
    let mut world = World::prepared("pages", CLUSTER);
    world.start(&flags, 10266);
    for (flag, path) in places {
        let port = flag.rsplit(':').next().unwrap_or_default().parse()?;
        world.eventually(flag, || match world.page(path, port)? {
            page if page.starts_with("HTTP/1.1 200") => Ok(()),
            page => Err(page),
        });
    }
    for port in [8080, 8181, 9153, 10256, 10249] {
        world.refused(world.node.namespace(), &format!("127.0.0.1:{port}"));
    }
    Ok(())
}

fn log() -> Result<(), Failed> {
    let world = standard("log", &["--log-format=json", "--log-level=debug"]);
    world.await_log(&["\"level\":\"DEBUG\""]);
    for line in world.log().lines() {
        serde_json::from_str::<Value>(line).map_err(|error| format!("{error}: {line}"))?;
    }
    let quiet = standard("log-quiet", &[]);
    assert!(!quiet.log().contains("DEBUG"), "{}", quiet.log());
    Ok(())
}

fn proxy_alone() -> Result<(), Failed> {
    let world = standard("proxy-alone", &[DNS, "--role=proxy"]);
    world.reached(&world.client, "10.96.0.1:80");
    world.reached(&world.outside, "192.0.2.10:30080");
    world.counted("waypost_nftables_rebuilds_total{ip_family=\"IPv4\"} 1");
    assert!(!world.run("ip", &["address", "show", "dev", "lo"]).contains("169.254.20.10"), "DNS is another's");
    Ok(())
}

fn sockets() -> Result<(), Failed> {
    let flags = [
        PODS,
        DNS,
        "--socket=/run/waypost/agent.sock",
        "--probe-socket=/run/waypost/probe.sock",
        "--handover-socket=/run/waypost/handover.sock",
    ];
    fs::create_dir_all("/run/waypost")?;
    let mut world = World::prepared("sockets", CLUSTER);
    world.start(&flags, 10256);
    let services = waypost(&world, "waypost services --socket=/run/waypost/agent.sock");
    assert!(services.contains("shop/web"), "{services}");
    assert!(waypost(&world, "waypost probe readyz --socket=/run/waypost/probe.sock").contains("ok"));
    let mut first = world.agents.pop().expect("it was started");
    let second = world.start_another(&flags, 10256);
    world.agents.push(second);
    world.await_log(&["took over from the agent before"]);
    first.kill().expect("it runs");
    first.wait().expect("it ends");
    answered(&world, world.node.namespace(), "web.shop.svc.cluster.local", "10.96.0.1");
    Ok(())
}

fn last_state() -> Result<(), Failed> {
    fs::create_dir_all("/srv/manifests")?;
    fs::write("/srv/manifests/cluster.yaml", CLUSTER)?;
    let world = World::prepared("last-state", CLUSTER);
    let start = |source: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.args(["run", "--node-name=node-1", "--state-dir=/var/lib/waypost", PODS]).args(source);
        let log = fs::File::options().create(true).append(true).open("/srv/log").expect("it can be written");
        command.env("WAYPOST_SOCKET", world.socket()).stderr(log).stdout(std::process::Stdio::null());
        let agent = world.node.namespace().spawn(&mut command).expect("it starts");
        world.eventually("the agent is ready", || {
            match world.page("/readyz", 10256)? {
                page if page.starts_with("HTTP/1.1 200") => Ok(page),
                page => Err(page + &fs::read_to_string("/srv/log").unwrap_or_default()),
            }
            .map(drop)
        });
        agent
    };
    let end = |mut agent: std::process::Child| {
        let ended = Command::new("kill").arg(agent.id().to_string()).status();
        assert!(ended.is_ok_and(|status| status.success()));
        agent.wait().expect("it ends");
    };
    end(start(&["--manifests=/srv/manifests"]));
    assert!(fs::read_dir("/var/lib/waypost")?.count() > 0, "the state is kept");
    let nobody = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
                  clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u}]}";
    fs::write("/var/lib/waypost/kubeconfig", nobody)?;
    for source in ["--kubeconfig=/var/lib/waypost/kubeconfig", "--api-server=http://127.0.0.1:6443"] {
        world.run("nft", &["flush", "ruleset"]);
        let agent = start(&[source]);
        world.reached(&world.client, "10.96.0.1:80");
        let page = world.page("/readyz", 10256).expect("there is a page");
        assert!(page.contains("with the last known state"), "{source}: {page}");
        end(agent);
    }
    Ok(())
}

/// The examples of docs/settings.md, and a part of what each prints.
fn commands() -> Result<(), Failed> {
    fs::create_dir_all("/srv/shop")?;
    fs::write("/srv/shop/objects.yaml", CLUSTER)?;
    fs::write(
        "/srv/kube-proxy.yaml",
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.244.0.0/16\n",
    )?;
    fs::write("/srv/Corefile.kubeadm", ".:53 {\n    kubernetes cluster.local\n    forward . 192.0.2.55\n}\n")?;
    let world = World::prepared("commands", CLUSTER);
    let _servers = name_servers(&world);
    let world = world.started(&[PODS, DNS, "--dns-upstream=192.0.2.55"]);
    for (example, part) in [
        ("waypost explain --from=pod --to=web.shop:80", "REACHED"),
        ("waypost explain --from=outside --to=node:30080 --json", "\"verdict\""),
        ("waypost explain --manifests=/srv/shop --node=node-1 --to=web.shop:80", "REACHED"),
        ("waypost services shop --json", "\"externalTrafficPolicy\""),
        ("waypost services shop/web --manifests=/srv/shop --node=node-1", "shop/web"),
        ("waypost dig web --namespace=shop", "10.96.0.1"),
        ("waypost dig www --search=example.com --json", "192.0.2.55"),
        ("waypost dns top --seconds=1 --count=3", "questions"),
        ("waypost dns top --seconds=1 --json", "{"),
        ("waypost check --manifests=/srv/shop --json", "\"findings\""),
        ("waypost import kube-proxy-config --output=config /srv/kube-proxy.yaml", "10.244.0.0/16"),
        ("waypost import corefile --output=values /srv/Corefile.kubeadm", "192.0.2.55"),
    ] {
        let printed = waypost(&world, example);
        assert!(printed.contains(part), "{example}: {printed}");
    }
    Ok(())
}

fn standard(name: &str, flags: &[&str]) -> World {
    World::prepared(name, CLUSTER).started(&[&[PODS], flags].concat())
}

/// What a command prints that is asked on the node; its exit code says other things than failure.
fn waypost(world: &World, example: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
    command.args(example.split(' ').skip(1)).env("WAYPOST_SOCKET", world.socket()).env("NO_COLOR", "1");
    let output = world.node.namespace().output(&mut command).unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn dig(from: &Namespace, server: &str, words: &[&str]) -> String {
    let mut dig = Command::new("dig");
    dig.arg(format!("@{server}")).args(["+tries=1", "+time=2"]).args(words);
    String::from_utf8_lossy(&from.output(&mut dig).unwrap().stdout).into_owned()
}

fn answered(world: &World, from: &Namespace, name: &str, address: &str) {
    world.eventually(&format!("{name} is {address}"), || match dig(from, "169.254.20.10", &["+short", name]) {
        answer if answer.trim() == address => Ok(()),
        other => Err(other),
    });
}

/// A host outside with name servers that answer every question for an address with their own.
fn name_servers(world: &World) -> Pod {
    let addresses: Vec<IpAddr> = NAME_SERVERS.iter().map(|address| address.parse().unwrap()).collect();
    let host = world.node.host("servers", &addresses).unwrap();
    for address in addresses {
        let IpAddr::V4(own) = address else { panic!("{address} is none of IPv4") };
        let socket = host.namespace().run(|| UdpSocket::bind((address, 53)).unwrap()).unwrap();
        std::thread::spawn(move || answer(&socket, own));
    }
    host
}

fn answer(socket: &UdpSocket, own: Ipv4Addr) {
    let mut buffer = [0; 1500];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        let Ok(mut message) = Message::from_vec(&buffer[..length]) else { continue };
        let query = message.queries[0].clone();
        message.metadata.message_type = MessageType::Response;
        match query.query_type() {
            RecordType::A => message.answers.push(Record::from_rdata(query.name().clone(), 60, RData::A(own.into()))),
            _ => message.metadata.response_code = ResponseCode::NXDomain,
        }
        let _ = socket.send_to(&message.to_vec().unwrap(), client);
    }
}
