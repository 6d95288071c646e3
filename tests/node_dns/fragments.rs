//! Questions that the network carries in fragments, because they are larger than it takes at once; and fragments of which nothing comes.

use crate::world::{ADDRESSES, AGENT_TTL, Agent, FALLBACK_TTL, PATIENCE, World, question, server, ttl_of};
use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::rdata::opt::EdnsOption;
use libtest_mimic::{Failed, Trial};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use waypost::lab::Namespace;

const METRICS: &str = "127.0.0.1:9153";
/// EDNS padding (RFC 7830), by which any question can be of any length.
const PADDING: u16 = 12;
/// More than pods' networks take at once, and no more than the agent takes.
const TAKEN: [usize; 3] = [1500, 2000, 4096];
/// One more than the agent takes.
const TOO_LONG: usize = 4097;
const PIECES: u16 = 2000;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("questions_in_fragments_are_answered_up_to_4096_bytes_by_whoever_is_there", || in_fragments(&[])),
        Trial::test("tracked_questions_in_fragments_are_answered_up_to_4096_bytes_by_whoever_is_there", || {
            in_fragments(&["--dns-untracked=false"])
        }),
        Trial::test("pieces_of_questions_do_no_harm_to_others", pieces),
    ]
}

fn agent(world: &World, flags: &[&str]) -> Agent {
    let agent = Agent::on_node(world, &[&["--dns-ttl=30", "--dns-metrics-address=127.0.0.1:9153"], flags].concat());
    agent.says("this node answers its own DNS questions");
    agent
}

fn in_fragments(flags: &[&str]) -> Result<(), Failed> {
    let world = World::new(if flags.is_empty() { "fragments" } else { "tracked-fragments" });
    let _server = Agent::behind_kube_dns(&world);
    let mut agent = agent(&world, flags);
    answered_with(&world, AGENT_TTL)?;
    assert_eq!(too_long(&world)?, 0, "nothing was too long");
    for (number, address) in (1..).zip(ADDRESSES) {
        let socket = from_client(&world, server(address))?;
        socket.send(&padded(TOO_LONG)?)?;
        // The next one finds the queue as it should be.
        socket.send(&padded(TAKEN[0])?)?;
        let mut reply = [0; 1500];
        let length = socket.recv(&mut reply)?;
        assert_eq!(ttl_of(&reply[..length])?, AGENT_TTL, "{address}");
        assert_eq!(too_long(&world)?, number, "{address}: it was counted, and not answered");
    }
    agent.end("-KILL");
    answered_with(&world, FALLBACK_TTL)
}

/// Long questions of a pod, through every address. They came in fragments.
fn answered_with(world: &World, ttl: u32) -> Result<(), Failed> {
    for address in ADDRESSES {
        let before = fragmented(world.client.namespace());
        for length in TAKEN {
            let bytes = padded(length)?;
            assert_eq!(bytes.len(), length);
            let began = Instant::now();
            loop {
                let socket = from_client(world, server(address))?;
                socket.send(&bytes)?;
                let mut reply = [0; 1500];
                let answered = socket.recv(&mut reply).and_then(|length| ttl_of(&reply[..length]));
                match answered {
                    Ok(answered) if answered == ttl => break,
                    // On a machine so busy that the agent's heart misses some beats.
                    other => assert!(began.elapsed() < PATIENCE, "{length} bytes to {address}: {other:?} and not {ttl}"),
                }
            }
        }
        let sent = fragmented(world.client.namespace()) - before;
        assert!(sent >= 2 * TAKEN.len(), "{address}: {sent} fragments");
    }
    Ok(())
}

/// First fragments without a second one, and others without a first one: to the kernel they are nothing until they are whole. It keeps so many of them for
/// half a minute as its memory for them holds (`ipfrag_high_thresh`), and these are more: others in fragments wait for that, and nobody else does.
fn pieces() -> Result<(), Failed> {
    let world = World::new("pieces");
    let _server = Agent::behind_kube_dns(&world);
    let agent = agent(&world, &[]);
    let whole = padded(2000)?;
    let before = counted(world.node.namespace(), "ReasmReqds");
    let sent = world.client.namespace().run(move || -> io::Result<()> {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
        for address in ["10.96.0.10", "169.254.20.10"] {
            let to: Ipv4Addr = address.parse().expect("an address");
            for id in 0..PIECES {
                let datagram = udp_datagram(&whole);
                let (first, last) = datagram.split_at(1480);
                let piece = if id % 2 == 0 { fragment(to, id, 0, true, first) } else { fragment(to, id, 1480, false, last) };
                sendto(raw.as_raw_fd(), &piece, &SockaddrIn::from(SocketAddrV4::new(to, 0)), MsgFlags::empty())?;
            }
            // Each claims to be the beginning, and longer than the others.
            for end in 1..100 {
                let piece = fragment(to, PIECES, 0, true, &udp_datagram(&whole)[..end * 8]);
                sendto(raw.as_raw_fd(), &piece, &SockaddrIn::from(SocketAddrV4::new(to, 0)), MsgFlags::empty())?;
            }
        }
        Ok(())
    })?;
    sent?;
    let arrived = counted(world.node.namespace(), "ReasmReqds") - before;
    assert!(arrived >= 2 * usize::from(PIECES), "{arrived} fragments have come");
    world.answered_with(AGENT_TTL);
    assert_eq!(too_long(&world)?, 0);
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    Ok(())
}

/// What everybody asks, as long as this.
fn padded(length: usize) -> io::Result<Vec<u8>> {
    let mut message = Message::from_vec(&question()?).map_err(io::Error::other)?;
    let with = |message: &mut Message, padding: usize| {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut().insert(EdnsOption::Unknown(PADDING, vec![0; padding]));
        message.set_edns(edns).to_vec().map_err(io::Error::other)
    };
    let without = with(&mut message, 0)?.len();
    with(&mut message, length - without)
}

fn from_client(world: &World, server: SocketAddr) -> Result<UdpSocket, Failed> {
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = world.client.namespace().run(move || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    })??;
    Ok(socket)
}

/// How many fragments have left this namespace.
fn fragmented(namespace: &Namespace) -> usize {
    counted(namespace, "FragCreates")
}

/// A counter of the Internet Protocol in both versions.
fn counted(namespace: &Namespace, counter: &str) -> usize {
    let read = |path: &str| fs::read_to_string(path).unwrap();
    let [ipv4, ipv6] = namespace.run(|| ["/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"].map(read)).unwrap();
    let mut lines = ipv4.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap().split(' '), lines.next().unwrap().split(' '));
    let of_ipv4 = names.zip(values).find(|(name, _)| *name == counter).unwrap().1;
    let of_ipv6 = ipv6.lines().find_map(|line| line.strip_prefix("Ip6")?.strip_prefix(counter)).unwrap().trim();
    of_ipv4.parse::<usize>().unwrap() + of_ipv6.parse::<usize>().unwrap()
}

/// How many questions were too long for the agent.
fn too_long(world: &World) -> Result<usize, Failed> {
    let page = world.node.namespace().run(|| -> io::Result<String> {
        let mut stream = TcpStream::connect(METRICS)?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    })??;
    let line = page.lines().find(|line| line.starts_with("waypost_dns_dropped_questions_total{reason=\"size\"}"));
    Ok(line.map_or(Ok(0), |line| line.rsplit(' ').next().unwrap_or_default().parse())?)
}

/// With ports, and without a checksum, which IPv4 allows.
fn udp_datagram(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() + 8) as u16;
    [&40_000_u16.to_be_bytes()[..], &53_u16.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// An IPv4 packet; source, total length and checksum are the kernel's.
fn fragment(to: Ipv4Addr, id: u16, offset: u16, has_more: bool, payload: &[u8]) -> Vec<u8> {
    let place = (offset / 8) | if has_more { 0x2000 } else { 0 };
    let mut packet = vec![0x45, 0, 0, 0];
    packet.extend((id + 1).to_be_bytes());
    packet.extend(place.to_be_bytes());
    packet.extend([64, 17, 0, 0]);
    packet.extend([0; 4]);
    packet.extend(to.octets());
    packet.extend_from_slice(payload);
    packet
}
