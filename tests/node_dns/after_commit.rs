//! What resolves can be reached: names come after the node's rules for them, and go before they do.

use crate::world::{Agent, PATIENCE, World};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use libtest_mimic::{Failed, Trial};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use waypost::lab::{self, Outcome};
use waypost::model::Protocol;

/// So many Services come and go at once, so that a commit takes a moment.
const SERVICES: u16 = 400;
const ROUNDS: usize = 5;
/// Names wait for their rules no longer, so that a stuck kernel never freezes DNS.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(1);

pub fn tests() -> Vec<Trial> {
    vec![Trial::test("a_name_comes_after_the_rules_for_it_and_goes_before_them", names_and_packets)]
}

fn names_and_packets() -> Result<(), Failed> {
    let world = World::new("after-commit");
    // The endpoints are there before: a Service without any has a name as well, and refuses. So are other Services with the same addresses: where
    // nobody has an address, connections are dropped and not refused, which takes too long to tell.
    world.folder.replace("before.yaml", &(slices() + &services('a', 81)));
    let _agent = Agent::at_home(&world);
    let client = world.client.namespace();
    // The first and the last that are planned are as good as any other.
    let watched = [1, SERVICES / 2, SERVICES];
    for _ in 0..ROUNDS {
        let began = Instant::now();
        world.folder.replace("services.yaml", &services('s', 80));
        client.run(|| watched.iter().for_each(|number| comes(*number, began))).unwrap();
        world.folder.replace("services.yaml", "");
        client.run(|| watched.iter().for_each(|number| goes(*number))).unwrap();
    }
    Ok(())
}

/// As soon as the name is there a connection arrives, the first one too; unless its commit is so slow that names do not wait for it.
fn comes(number: u16, began: Instant) {
    while !exists(number) {
        assert!(began.elapsed() < PATIENCE, "service {number} has got no name");
    }
    let waited = began.elapsed();
    let outcome = connect(number);
    let is_right = matches!(outcome, Outcome::Reached { .. }) || waited >= PUBLISH_DEADLINE;
    assert!(is_right, "service {number} resolves after {waited:?} and cannot be reached: {outcome}");
}

/// As soon as no connection arrives the name is gone.
fn goes(number: u16) {
    let began = Instant::now();
    while let Outcome::Reached { .. } = connect(number) {
        assert!(began.elapsed() < PATIENCE, "service {number} can still be reached");
    }
    assert!(!exists(number), "service {number} cannot be reached and resolves");
}

fn address(number: u16) -> IpAddr {
    IpAddr::from([10, 96, 1 + (number / 250) as u8, (number % 250) as u8])
}

fn connect(number: u16) -> Outcome {
    lab::connect_here(Protocol::Tcp, SocketAddr::new(address(number), 80), PATIENCE)
}

/// Whether the name has its address; anything but that and NXDOMAIN is wrong.
fn exists(number: u16) -> bool {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("10.96.0.10:53").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut message = Message::query();
    let name: Name = format!("s{number}.shop.svc.cluster.local.").parse().unwrap();
    message.add_query(Query::query(name, RecordType::A));
    let question = message.to_vec().unwrap();
    let mut buffer = [0; 1500];
    let began = Instant::now();
    let length = loop {
        match socket.send(&question).and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => break length,
            // The heart of an agent on a busy machine may miss some beats, and nobody answers elsewhere.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && began.elapsed() < PATIENCE => {}
            Err(error) => panic!("service {number}: {error}"),
        }
    };
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    match (reply.metadata.response_code, reply.answers.first().map(|answer| &answer.data)) {
        (ResponseCode::NoError, Some(RData::A(found))) if IpAddr::V4(found.0) == address(number) => true,
        (ResponseCode::NXDomain, None) => false,
        other => panic!("service {number}: {other:?}"),
    }
}

fn each(one: impl Fn(u16) -> String) -> String {
    (1..=SERVICES).map(one).collect()
}

fn services(prefix: char, port: u16) -> String {
    each(|number| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {prefix}{number}, namespace: shop}}\nspec:\n  clusterIP: {address}\n  clusterIPs: [{address}]\n  \
             ports: [{{name: http, port: {port}}}]\n",
            address = address(number)
        )
    })
}

fn slices() -> String {
    each(|number| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{number}-1, namespace: shop, labels: \
             {{kubernetes.io/service-name: s{number}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}]\nendpoints: \
             [{{addresses: [10.244.0.3], nodeName: node-1}}]\n"
        )
    })
}
