//! The table's skeleton: sets, chains and rules. They never change with the number of services. The `pick` chains follow the endpoint counts
//! that occur, and once made they are kept; service ports with a session affinity or a way of balancing have chains of their own.

use super::expr::{
    Answer, Base, CT_DESTINATION_PORT, CT_DESTINATION_V4, CT_DESTINATION_V6, CT_STATE, CT_STATUS, Expr, META_IIFNAME,
    META_L4PROTO, META_MARK, Verdict,
};
use crate::model::{Balance, Family, Protocol};
use crate::proxy::{AffinityMap, Chain, DetectLocal, Element, HASH_SEED, List, Remember, Remembered, Set};
use std::ops::Range;

/// The name of the table, in both families.
pub const TABLE: &str = "waypost";

/// `pick` chains are made in blocks of this many counts, so that the common change adds no rule.
pub const PICK_BLOCK: u32 = 16;

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Which table.
    pub family: Family,
    /// The bit of the packet mark that asks for masquerading.
    pub masquerade_mark: u32,
    /// Masquerade everything that goes to a ClusterIP.
    pub masquerade_all: bool,
    /// DNS questions that this node answers are tracked: what cannot be served must not be refused where a local address answers it.
    pub tracked_dns: bool,
    /// What packets of pods are known by: others are masqueraded on their way to a ClusterIP.
    pub detect_local: DetectLocal,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainSpec {
    /// The name.
    pub name: String,
    /// Where the kernel calls it; `None` for chains that others go to.
    pub hook: Option<Hook>,
    /// The rules, in order.
    pub rules: Vec<Vec<Expr>>,
}

/// Where the kernel calls a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `NF_INET_*`.
    pub number: u32,
    /// The priority.
    pub priority: i32,
}

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

/// `dstnat`.
const DSTNAT: i32 = -100;
/// `srcnat`.
const SRCNAT: i32 = 100;

/// `IFNAMSIZ`: names are compared with the zeros behind them.
const INTERFACE_NAME: usize = 16;

const RTN_LOCAL: u32 = 2;
/// `IPS_DST_NAT`.
const STATUS_DNAT: u32 = 0x20;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const STATE_NEW: u32 = 8;

impl Layout {
    /// The comment that marks the table: whatever changes the rules must change it, because a table with the same comment is kept.
    pub fn comment(&self) -> String {
        let all = if self.masquerade_all { ", masquerade-all" } else { "" };
        let dns = if self.tracked_dns { ", tracked DNS" } else { "" };
        format!("waypost layout 3, mark {:#x}, {}{all}{dns}", self.masquerade_mark, self.detect_local)
    }

    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub fn protocol(&self) -> u8 {
        protocol(self.family)
    }

    /// All chains but the `pick` chains, each after those that its rules go to.
    pub fn chains(&self) -> Vec<ChainSpec> {
        let go = |chain: &str| Expr::Verdict(Verdict::Goto(chain.into()));
        let for_new = |chain: &str| vec![[self.is_new(), vec![go(chain)]].concat()];
        let plain = |name: &str, rules: Vec<Vec<Expr>>| ChainSpec { name: name.into(), hook: None, rules };
        let hooked = |name: &str, kind, number, priority, rules| ChainSpec {
            name: name.into(),
            hook: Some(Hook { kind, number, priority }),
            rules,
        };
        vec![
            plain("outside", vec![[self.mark(), self.follow(Set::ClusterLists)].concat()]),
            plain("outside-local", self.outside_local()),
            plain(
                "refuse",
                vec![
                    [is_protocol(Protocol::Tcp), vec![Expr::RejectReset]].concat(),
                    vec![Expr::RejectUnreachable(match self.family {
                        Family::V4 => 3,
                        Family::V6 => 4,
                    })],
                ],
            ),
            plain("balance", self.balance()),
            plain("guard", self.guard()),
            plain("remember", self.remember()),
            plain("unserved-only", self.but_for_local_dns(vec![self.follow(Set::Unserved)])),
            plain("refusals", self.refusals()),
            hooked("nat-prerouting", "nat", PREROUTING, DSTNAT - 1, vec![vec![go("balance")]]),
            hooked("nat-output", "nat", OUTPUT, DSTNAT - 1, vec![vec![go("balance")]]),
            hooked("nat-postrouting", "nat", POSTROUTING, SRCNAT, self.postrouting()),
            hooked("guard-prerouting", "filter", PREROUTING, DSTNAT - 10, for_new("guard")),
            hooked("guard-output", "filter", OUTPUT, DSTNAT - 10, for_new("guard")),
            hooked("remember-prerouting", "filter", PREROUTING, DSTNAT + 10, for_new("remember")),
            hooked("remember-output", "filter", OUTPUT, DSTNAT + 10, for_new("remember")),
            hooked("filter-input", "filter", INPUT, 0, for_new("unserved-only")),
            hooked("filter-forward", "filter", FORWARD, 0, for_new("refusals")),
            hooked("filter-output", "filter", OUTPUT, 0, for_new("refusals")),
        ]
    }

    /// A chain that is made when elements lead to it; `None` for those of the skeleton.
    pub fn made(&self, chain: Chain) -> Option<ChainSpec> {
        let rules = match chain {
            Chain::Pick(_) | Chain::PickLocal(_) => self.choose(chain.slots()?, Balance::Random),
            Chain::Own(own) => {
                let known = own.affinity().map(|map| self.where_it_went(own.protocol, map));
                known.into_iter().chain(self.choose(chain.slots()?, own.method)).collect()
            }
            Chain::Remember(remember) => self.remember_client(&remember),
            Chain::Outside | Chain::OutsideLocal => return None,
        };
        Some(ChainSpec { name: chain.to_string(), hook: None, rules })
    }

    /// Chooses one of the slots of the destination. A packet keeps the rules that it began with but finds elements as they are now: where a batch
    /// makes the list shorter in between, the drawn slot may be gone, and the first is taken. Where the batch changes the policy of a ClusterIP, the whole
    /// list is gone, and the other one serves. Not so at addresses for clients outside: they have both lists, and what is local only must stay here.
    fn choose(&self, slots: Range<u32>, method: Balance) -> Vec<Vec<Expr>> {
        let first = |start: u32| self.draw(start..start + 1, Balance::Random);
        let of_list = (slots.len() > 1).then(|| first(slots.start));
        let other = if slots.start == 0 { Element::LOCAL_SLOTS } else { 0 };
        let of_other = [self.address_in(false, Set::ClusterIps, Answer::Present), first(other)].concat();
        [self.draw(slots, method)].into_iter().chain(of_list).chain([of_other]).collect()
    }

    fn draw(&self, slots: Range<u32>, method: Balance) -> Vec<Expr> {
        let (to, modulus, offset) = (self.address_words() + 2, slots.len() as u32, slots.start);
        let mut rule = self.load_dest();
        match method {
            Balance::Random => rule.push(Expr::Random { to, modulus, offset }),
            Balance::RoundRobin => rule.push(Expr::Next { to, modulus, offset }),
            Balance::SourceHash => {
                rule.push(self.load_address(true, to + 1));
                let length = self.address_words() * 4;
                rule.push(Expr::Hash { from: to + 1, length, to, modulus, seed: HASH_SEED, offset });
            }
        }
        rule.push(Expr::Lookup { set: Set::Endpoints.name(), key: 0, answer: Answer::Data(0) });
        rule.push(self.dnat());
        rule
    }

    fn dnat(&self) -> Expr {
        Expr::Dnat { protocol: self.protocol(), address: 0, port: self.address_words() }
    }

    /// Sends a client that the map knows where it went before. `nft` loads this only with the protocol in front.
    fn where_it_went(&self, protocol: Protocol, map: AffinityMap) -> Vec<Expr> {
        let mut rule = is_protocol(protocol);
        rule.push(self.load_address(true, 0));
        rule.push(Expr::LookupClient { map: map.to_string(), key: 0, data: 0 });
        rule.push(self.dnat());
        rule
    }

    /// Notes where the client's connection went, or counts the time anew where it is known.
    fn remember_client(&self, remember: &Remember) -> Vec<Vec<Expr>> {
        let port = remember.port;
        let note = |list: List| {
            let (key, data) = (0, self.address_words());
            let mut rule = is_protocol(remember.protocol);
            rule.push(self.load_address(true, key));
            rule.push(self.load_address(false, data));
            rule.push(load_port(data + self.address_words()));
            let map = AffinityMap { port, list }.to_string();
            rule.push(Expr::Update { map, key, data, seconds: remember.seconds });
            rule
        };
        match remember.entry {
            Remembered::From(list) => vec![note(list)],
            // As in `outside-local`: pods and the node itself may have been sent anywhere.
            Remembered::ByClient => {
                let inside = self.source_is_pod(true).into_iter().chain([self.is_from_node()]);
                let done = vec![Expr::Verdict(Verdict::Return)];
                let rules = inside.flat_map(|test| [[test.clone(), note(List::Cluster)].concat(), [test, done.clone()].concat()]);
                rules.chain([note(List::Local)]).collect()
            }
        }
    }

    /// New connections whose destination was translated, by their original destination. The key can be read only where the protocol is known
    /// before (`nft` says so), hence a rule for each.
    fn remember(&self) -> Vec<Vec<Expr>> {
        let words = self.address_words();
        let destination = match self.family {
            Family::V4 => CT_DESTINATION_V4,
            Family::V6 => CT_DESTINATION_V6,
        };
        let of = |protocol: Protocol| {
            let mut rule = [self.is_translated(), is_protocol(protocol)].concat();
            rule.push(Expr::CtOriginal { key: destination, to: 0 });
            rule.push(Expr::Meta { key: META_L4PROTO, to: words });
            rule.push(Expr::CtOriginal { key: CT_DESTINATION_PORT, to: words + 1 });
            rule.push(Expr::Lookup { set: Set::Sticky.name(), key: 0, answer: Answer::Verdict });
            rule
        };
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(of).into()
    }

    fn address_words(&self) -> u32 {
        match self.family {
            Family::V4 => 1,
            Family::V6 => 4,
        }
    }

    fn load_address(&self, source: bool, to: u32) -> Expr {
        let (first, length) = match self.family {
            Family::V4 => (12, 4),
            Family::V6 => (8, 16),
        };
        Expr::Payload { base: Base::Network, offset: if source { first } else { first + length }, length, to }
    }

    /// `ip daddr . meta l4proto . th dport`, from register 0 on.
    fn load_dest(&self) -> Vec<Expr> {
        let words = self.address_words();
        vec![self.load_address(false, 0), Expr::Meta { key: META_L4PROTO, to: words }, load_port(words + 1)]
    }

    fn follow(&self, set: Set) -> Vec<Expr> {
        let mut rule = self.load_dest();
        rule.push(Expr::Lookup { set: set.name(), key: 0, answer: Answer::Verdict });
        rule
    }

    fn mark(&self) -> Vec<Expr> {
        let bit = self.masquerade_mark;
        vec![Expr::Meta { key: META_MARK, to: 0 }, Expr::Bitwise { register: 0, mask: !bit, xor: bit }, Expr::SetMark { from: 0 }]
    }

    fn is_new(&self) -> Vec<Expr> {
        has_bits(Expr::Ct { key: CT_STATE, to: 0 }, STATE_NEW)
    }

    fn address_in(&self, source: bool, set: Set, answer: Answer) -> Vec<Expr> {
        vec![self.load_address(source, 0), Expr::Lookup { set: set.name(), key: 0, answer }]
    }

    fn outside_local(&self) -> Vec<Vec<Expr>> {
        let from_pod = self.source_is_pod(true).map(|from_pod| [from_pod, self.follow(Set::ClusterLists)].concat());
        let others = [[self.is_from_node(), self.mark(), self.follow(Set::ClusterLists)].concat(), self.follow(Set::LocalLists)];
        from_pod.into_iter().chain(others).collect()
    }

    /// Goes on if the packet comes from a pod (or if it does not); `None` where that cannot be told. The node's own packets come in by no
    /// interface, so that they are never those of a pod.
    fn source_is_pod(&self, wanted: bool) -> Option<Vec<Expr>> {
        let by_interface = |name: Vec<u8>| {
            vec![Expr::Meta { key: META_IIFNAME, to: 0 }, Expr::Compare { register: 0, differs: !wanted, value: name }]
        };
        match &self.detect_local {
            DetectLocal::Nothing => None,
            DetectLocal::Networks => {
                Some(self.address_in(true, Set::PodCidrs, if wanted { Answer::Present } else { Answer::Absent }))
            }
            DetectLocal::Interface(name) => {
                let mut whole = name.as_bytes().to_vec();
                whole.resize(INTERFACE_NAME, 0);
                Some(by_interface(whole))
            }
            DetectLocal::InterfacePrefix(prefix) => Some(by_interface(prefix.as_bytes().to_vec())),
        }
    }

    fn is_from_node(&self) -> Vec<Expr> {
        vec![Expr::FibType { source: true, to: 0 }, equals(0, &RTN_LOCAL.to_ne_bytes())]
    }

    fn is_translated(&self) -> Vec<Expr> {
        has_bits(Expr::Ct { key: CT_STATUS, to: 0 }, STATUS_DNAT)
    }

    fn balance(&self) -> Vec<Vec<Expr>> {
        let to_cluster_ip = self.address_in(false, Set::ClusterIps, Answer::Present);
        let mut rules = vec![];
        if self.masquerade_all {
            rules.push([to_cluster_ip, self.mark()].concat());
        } else if let Some(from_elsewhere) = self.source_is_pod(false) {
            rules.push([to_cluster_ip, from_elsewhere, self.mark()].concat());
        }
        rules.push(self.follow(Set::Services));
        rules
    }

    /// The mark is cleared before masquerading: VXLAN sends the same packet on with its mark (kubernetes/kubernetes 92035).
    fn postrouting(&self) -> Vec<Vec<Expr>> {
        let bit = self.masquerade_mark;
        let marked = has_bits(Expr::Meta { key: META_MARK, to: 0 }, bit);
        let clear = vec![
            Expr::Meta { key: META_MARK, to: 0 },
            Expr::Bitwise { register: 0, mask: u32::MAX, xor: bit },
            Expr::SetMark { from: 0 },
        ];
        let to_itself = vec![
            self.load_address(true, 0),
            self.load_address(false, self.address_words()),
            Expr::Lookup { set: Set::Hairpins.name(), key: 0, answer: Answer::Present },
        ];
        let from_local_dns = self.address_in(true, Set::LocalDns, Answer::Present);
        vec![
            [marked, clear, vec![Expr::Masquerade]].concat(),
            [self.is_translated(), to_itself, vec![Expr::Masquerade]].concat(),
            [self.is_translated(), from_local_dns, vec![Expr::Masquerade]].concat(),
        ]
    }

    fn guard(&self) -> Vec<Vec<Expr>> {
        let is_guarded = vec![Expr::Lookup { set: Set::Guarded.name(), key: 0, answer: Answer::Present }];
        let source_in = |set: Set, answer| {
            let source = self.load_address(true, self.address_words() + 2);
            [self.load_dest(), vec![source, Expr::Lookup { set: set.name(), key: 0, answer }]].concat()
        };
        let drop = vec![Expr::Verdict(Verdict::Drop)];
        vec![
            [source_in(Set::DeniedSources, Answer::Present), drop.clone()].concat(),
            [self.load_dest(), is_guarded, source_in(Set::AllowedSources, Answer::Absent), drop].concat(),
        ]
    }

    fn refusals(&self) -> Vec<Vec<Expr>> {
        let to_node = vec![Expr::FibType { source: false, to: 0 }, equals(0, &RTN_LOCAL.to_ne_bytes())];
        let to_cluster_ip = self.address_in(false, Set::ClusterIps, Answer::Present);
        let to_service_network = self.address_in(false, Set::ServiceCidrs, Answer::Present);
        self.but_for_local_dns(vec![
            self.follow(Set::Unserved),
            [to_node, vec![Expr::Verdict(Verdict::Return)]].concat(),
            [to_cluster_ip, vec![Expr::Verdict(Verdict::Goto("refuse".into()))]].concat(),
            [to_service_network, vec![Expr::Verdict(Verdict::Drop)]].concat(),
        ])
    }

    /// With these rules for all but the DNS addresses of this node: they are local, so that the kernel itself refuses what nobody answers there, and
    /// what the agent answers must pass though nobody else is behind the service.
    fn but_for_local_dns(&self, mut rules: Vec<Vec<Expr>>) -> Vec<Vec<Expr>> {
        if self.tracked_dns {
            let to_local_dns = self.address_in(false, Set::LocalDns, Answer::Present);
            rules.insert(0, [to_local_dns, vec![Expr::Verdict(Verdict::Return)]].concat());
        }
        rules
    }
}

/// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
pub fn protocol(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// The `pick` chains of the blocks in which these counts lie; a count of 0 needs none.
pub fn pick_block(chain: Chain) -> Vec<Chain> {
    let block = |count: u32| {
        let first = (count.max(1) - 1) / PICK_BLOCK * PICK_BLOCK;
        first + 1..=first + PICK_BLOCK
    };
    match chain {
        Chain::Pick(count) => block(count).map(Chain::Pick).collect(),
        Chain::PickLocal(count) => block(count).map(Chain::PickLocal).collect(),
        Chain::Outside | Chain::OutsideLocal | Chain::Own(_) | Chain::Remember(_) => vec![],
    }
}

fn load_port(to: u32) -> Expr {
    Expr::Payload { base: Base::Transport, offset: 2, length: 2, to }
}

fn is_protocol(protocol: Protocol) -> Vec<Expr> {
    vec![Expr::Meta { key: META_L4PROTO, to: 0 }, equals(0, &[protocol.number()])]
}

fn equals(register: u32, value: &[u8]) -> Expr {
    Expr::Compare { register, differs: false, value: value.to_vec() }
}

fn has_bits(load: Expr, bits: u32) -> Vec<Expr> {
    let keep = Expr::Bitwise { register: 0, mask: bits, xor: 0 };
    vec![load, keep, Expr::Compare { register: 0, differs: true, value: vec![0; 4] }]
}
