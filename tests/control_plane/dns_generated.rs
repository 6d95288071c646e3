//! Questions that nobody has thought of: names made of those of the battery and of the cluster's objects, bent in every way, with odd types, classes,
//! flags and EDNS. Always the same ones, unless `DNS_SEED` is set.

use super::dns_oracle::{MORE_BITS, ODDITIES, OPTIONS, TYPES, WRONG_OPTIONS};
use super::dns_question::{OptRecord, Question, bits};
use hickory_proto::rr::{DNSClass, RecordType};

/// Words that mean something in names, and some that do not.
const WORDS: &[&str] = &[
    "_tcp",
    "_udp",
    "tcp",
    "UDP",
    "_sctp",
    "_http",
    "http",
    "_https",
    "_client",
    "_dns",
    "_",
    "-",
    "--",
    "--1",
    "a",
    "db-0",
    "db",
    "web",
    "10-244-0-1",
    "10-1-2-3",
    "fd00--1",
    "fd00-244--1-1",
    "svc",
    "pod",
    "SVC",
    "default",
    "data",
    "kube-system",
    "absent",
    "cluster",
    "local",
    "dns",
    "ns",
    "dns-version",
    "hostmaster",
    "*",
    "any",
    "_zone",
    "pin",
    "prefer",
    "_zone._zone",
    "1",
    "0",
    "xn--bcher-kva",
    "a234567890123456789012345678901234567890123456789012345678901234",
    "a23456789012345678901234567890123456789012345678901234567890123",
];

/// What may stand behind a name.
const ENDS: &[&str] = &[
    ".cluster.local",
    ".svc.cluster.local",
    ".default.svc.cluster.local",
    ".data.svc.cluster.local",
    ".pod.cluster.local",
    ".default.pod.cluster.local",
    ".in-addr.arpa",
    ".ip6.arpa",
    ".local",
    ".example.com",
    "",
];

const MORE_TYPES: &[u16] = &[
    0, 3, 10, 13, 17, 24, 29, 33, 35, 37, 39, 43, 46, 47, 48, 50, 52, 59, 61, 64, 65, 99, 108, 249, 256, 257, 32_768, 65_280,
    65_535,
];

/// So many questions, made of these names.
pub fn questions(names: &[&str], count: usize) -> Vec<Question> {
    let seed = std::env::var("DNS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_126);
    let mut random = Random(seed);
    (0..count).map(|_| question(names, &mut random)).filter(|question| question.is_askable()).collect()
}

/// Xorshift (Marsaglia).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as usize % limit
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

fn question(names: &[&str], random: &mut Random) -> Question {
    let mut name = match random.below(8) {
        0 => reverse(random),
        1 => {
            let words: Vec<&str> = (0..random.below(6)).map(|_| random.of(WORDS)).collect();
            words.join(".") + random.of(ENDS)
        }
        _ => random.of(names).to_string(),
    };
    for _ in 0..random.below(3) {
        name = bent(&name, random);
    }
    if random.once_in(4) {
        name = spelled(&name, random);
    }
    let kind = match random.below(10) {
        0..3 => RecordType::A,
        3 => RecordType::AAAA,
        4 => RecordType::SRV,
        5 => RecordType::PTR,
        6 => RecordType::from(MORE_TYPES[random.below(MORE_TYPES.len())]),
        _ => TYPES[random.below(TYPES.len())],
    };
    let class = if random.once_in(40) { [DNSClass::CH, DNSClass::HS, DNSClass::ANY][random.below(3)] } else { DNSClass::IN };
    let sizes = [0, 1, 511, 512, 513, 600, 1231, 1232, 1233, 1452, 4096, 65_535];
    let edns = random.once_in(2).then(|| OptRecord {
        size: sizes[random.below(sizes.len())],
        version: if random.once_in(20) { random.below(256) as u8 } else { 0 },
        dnssec_ok: random.once_in(2),
        options: options(random),
    });
    let more_bits = match random.below(30) {
        0 => bits::opcode(random.below(16) as u16),
        1 => MORE_BITS[random.below(MORE_BITS.len())],
        _ => 0,
    };
    Question {
        kind,
        class,
        flags: [!random.once_in(5), random.once_in(5), random.once_in(5)],
        bits: more_bits,
        edns,
        oddity: random.once_in(20).then(|| ODDITIES[random.below(ODDITIES.len())]),
        ..Question::plain(name.trim_matches('.'), kind)
    }
}

/// Some of the options that there are, each once and mostly as it may be.
fn options(random: &mut Random) -> Vec<(u16, Vec<u8>)> {
    let mut options: Vec<(u16, Vec<u8>)> = Vec::new();
    for _ in 0..random.below(6).saturating_sub(2) {
        let (code, data) = match random.below(15) {
            0 => WRONG_OPTIONS[random.below(WRONG_OPTIONS.len())],
            _ => OPTIONS[random.below(OPTIONS.len())],
        };
        if options.iter().all(|(other, _)| *other != code) {
            options.push((code, data.to_vec()));
        }
    }
    options
}

/// A label more or less, another one, or two in each other's place.
fn bent(name: &str, random: &mut Random) -> String {
    let mut labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
    let place = random.below(labels.len() + 1);
    let last = labels.len().saturating_sub(1);
    match random.below(7) {
        0 => labels.insert(place, random.of(WORDS)),
        1 if !labels.is_empty() => labels[place.min(last)] = random.of(WORDS),
        2 if !labels.is_empty() => drop(labels.remove(place.min(last))),
        3 if !labels.is_empty() => drop(labels.remove(0)),
        4 if labels.len() > 1 => labels.swap(place.min(last), 0),
        5 => return name.to_string() + random.of(ENDS),
        _ => {
            let label = labels.get(place.min(last)).copied().unwrap_or("a");
            labels.insert(place.min(last), label);
        }
    }
    labels.join(".")
}

/// The name at an address that the cluster may have, or at a part of one, or at none.
fn reverse(random: &mut Random) -> String {
    let hex = |random: &mut Random| char::from_digit(random.below(16) as u32, 16).unwrap_or('0').to_string();
    if random.once_in(2) {
        let octets = ["10", "96", "244", "0", "1", "2", "3", "10", "11", "32", "192", "010", "256", "", "a"];
        let count = [4, 4, 4, 4, 3, 2, 5, 1, 0][random.below(9)];
        return (0..count).map(|_| random.of(&octets).to_string() + ".").collect::<String>() + "in-addr.arpa";
    }
    let mut nibbles: Vec<String> = "1000000000000000000000000".chars().map(|digit| digit.to_string()).collect();
    nibbles.extend(["0", "0", "0", "d", "f"].map(str::to_string));
    nibbles.insert(4, hex(random));
    nibbles.truncate([30, 32, 32, 32, 31, 16, 0][random.below(7)].min(nibbles.len()));
    while nibbles.len() < 32 && !random.once_in(6) {
        nibbles.insert(random.below(nibbles.len() + 1), hex(random));
    }
    if random.once_in(6) {
        nibbles.push(["g", "00", "F", "-"][random.below(4)].to_string());
    }
    nibbles.iter().map(|nibble| nibble.clone() + ".").collect::<String>() + "ip6.arpa"
}

fn spelled(name: &str, random: &mut Random) -> String {
    name.chars().map(|c| if random.once_in(2) { c.to_ascii_uppercase() } else { c }).collect()
}
