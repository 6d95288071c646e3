//! What becomes of a connection, and why: the packet walk with the objects and fields that each step comes from.
//!
//! It reads the plan from which the kernel is programmed, for the one destination that is asked about, so that an answer is cheap however
//! large the cluster is.

mod endpoints;
mod named;
mod question;
mod reasons;
mod report;
mod resolve;

pub use question::{From, Host, Port, To, Unexplained};
pub use report::{
    Account, Cause, Explanation, InKernel, KernelState, Passed, Source, SourceKind, SourceSeen, Target, Unused, Used, Verdict,
};

use super::{Context, Dest, Destination, DetectLocal, Element, Fate, KnownClient, Packet, Planner, Says, Trace, Walk};
use crate::model::{AddressKind, Family, Protocol, Service};
use crate::store::Store;
use ipnet::IpNet;
use resolve::Meant;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const DNS_PORT: u16 = 53;

/// Everything that an explanation reads.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The objects.
    pub store: &'a Store,
    /// Which service owns which destination.
    pub planner: &'a Planner,
    /// The node.
    pub context: &'a Context,
    /// The node's own addresses, besides those of the context.
    pub own_addresses: &'a [IpAddr],
    /// The elements that belong to the node as a whole and follow from its configuration and ServiceCIDRs.
    pub fixed: &'a [Element],
    /// Whether everything to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// What pods are known by, in the order of [`Family::BOTH`].
    pub detect_local: &'a [DetectLocal; 2],
    /// The configured pod networks; others come from the Node object.
    pub cluster_cidrs: &'a [IpNet],
    /// The configured service networks; others come from ServiceCIDR objects.
    pub service_cidrs: &'a [IpNet],
    /// The cluster domain, lower case.
    pub domain: &'a str,
    /// Whether the DNS questions of this node's pods are left to the agent.
    pub answers_dns: bool,
    /// Clients that the kernel remembers, of those that were looked up, and where they went; `None` where it was not asked.
    pub clients: Option<&'a [KnownClient]>,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who connects.
    pub from: From,
    /// To what.
    pub to: To,
}

impl Question {
    /// Reads both.
    ///
    /// # Errors
    /// Says what may be written.
    pub fn parse(from: &str, to: &str, domain: &str) -> Result<Question, Unexplained> {
        Ok(Question { from: From::parse(from)?, to: To::parse(to, domain)? })
    }
}

/// Explains what becomes of a connection.
///
/// # Errors
/// [`Unexplained`] says what to ask instead.
pub fn explain(view: View<'_>, question: &Question) -> Result<Explanation, Unexplained> {
    let meant = resolve::targets(view, question)?;
    let mut accounts = Vec::new();
    for target in &meant {
        if let Some(account) = view.account(question, target)? {
            accounts.push(account);
        }
    }
    if accounts.is_empty() {
        return Err(view.no_common_family(question, &meant));
    }
    Ok(Explanation { node: view.context.node_name.clone(), accounts })
}

impl<'a> View<'a> {
    /// The account of one target; `None` where the source has no address of its family.
    fn account(&self, question: &Question, target: &Meant<'_>) -> Result<Option<Account>, Unexplained> {
        let dest = match target {
            Meant::Dest(dest) => *dest,
            Meant::Named(name) => return Ok(Some(self.named(question, name))),
        };
        let Some((source, from)) = self.source(question, dest.family()) else { return Ok(None) };
        let packet = Packet {
            source,
            from_node: from.kind == SourceKind::Node,
            from_pod_interface: from.kind == SourceKind::Pod,
            to: dest,
            to_node: self.is_own(dest.address),
        };
        Ok(Some(self.walk(from, &packet)))
    }

    fn walk(&self, from: Source, packet: &Packet) -> Account {
        let dest = packet.to;
        let owner = self.planner.owner(&dest).and_then(|key| self.store.service(key));
        let planned = owner.and_then(|service| self.planned(service, &dest));
        let (kind, destination) = planned.clone().unzip();
        let is_one_client = from.address.is_some();
        let subject = reasons::Subject { view: self, packet, service: owner, kind, is_one_client };
        let mut account = subject.account(from);
        if self.answers_dns && dest.port == DNS_PORT && dest.protocol != Protocol::Sctp && self.answers_on(&dest.address) {
            subject.left_to_agent(&mut account);
            return account;
        }
        let trace = self.trace(packet, destination.as_ref(), is_one_client);
        let lists = owner.map(|service| self.lists(service, packet, kind, &trace));
        subject.tell(&mut account, &trace, lists.as_ref());
        account.not_found = trace
            .steps
            .iter()
            .filter_map(|step| match step.says {
                Says::Remembers(map) if account.from.address.is_some() => Some((map, packet.source)),
                _ => None,
            })
            .collect();
        account
    }

    /// Walks through what the kernel should hold for this destination.
    fn trace(&self, packet: &Packet, destination: Option<&Destination>, one_client: bool) -> Trace {
        let node_wide = [Element::ClusterIp(packet.to.address), Element::Hairpin(packet.source)];
        let used = node_wide.into_iter().filter(|element| self.planner.is_used(element));
        let mut elements: Vec<Element> = self.fixed.iter().copied().chain(used).collect();
        elements.extend(destination.into_iter().flat_map(|destination| destination.elements(packet.to)));
        let lists = destination.into_iter().flat_map(|destination| destination.cluster.iter().chain(&*destination.local));
        let own = lists.map(|backend| backend.address).filter(|address| self.is_own(*address));
        let walk = Walk::new(elements, self.masquerade_all, self.detects_local(packet.to.family()).clone());
        let walk = walk.on_node(own).remembering(self.clients.unwrap_or_default().iter().copied());
        if one_client { walk.by_one_client().trace(packet) } else { walk.trace(packet) }
    }

    fn planned(&self, service: &Service, dest: &Dest) -> Option<(AddressKind, Destination)> {
        self.planner.destinations(service, &self.store.slices(&service.key), self.context).remove(dest)
    }

    /// What pods of this family are known by.
    fn detects_local(&self, family: Family) -> &'a DetectLocal {
        let [v4, v6] = self.detect_local;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// Whether an address is a pod's, as far as that can be told from an address.
    fn is_of_pod(&self, address: IpAddr) -> bool {
        let of_node = self.store.node().is_some_and(|node| node.pod_cidrs.iter().any(|network| network.contains(&address)));
        match self.detects_local(Family::of(address)) {
            DetectLocal::Nothing => false,
            DetectLocal::Networks => self.pod_networks(Family::of(address)).any(|network| network.contains(&address)),
            DetectLocal::Interface(_) | DetectLocal::InterfacePrefix(_) => of_node,
        }
    }

    fn pod_networks(&self, family: Family) -> impl Iterator<Item = IpNet> + 'a {
        let networks = self.fixed.iter().filter_map(|element| match element {
            Element::PodCidr(network) => Some(*network),
            _ => None,
        });
        networks.filter(move |network| Family::of(network.addr()) == family)
    }

    fn answers_on(&self, address: &IpAddr) -> bool {
        self.context.dns_addresses.contains(address)
    }

    /// Whether an address is one of the node's.
    fn is_own(&self, address: IpAddr) -> bool {
        let context = self.context;
        let known = [&context.node_addresses, &context.nodeport_addresses, &context.dns_addresses];
        address.is_loopback()
            || self.own_addresses.contains(&address)
            || known.into_iter().any(|addresses| addresses.contains(&address))
    }

    /// The source of a packet in this family, if there is one.
    fn source(&self, question: &Question, family: Family) -> Option<(IpAddr, Source)> {
        let unspecified = match family {
            Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        match &question.from {
            From::Address(address) if Family::of(*address) != family => None,
            From::Address(address) => {
                let address = *address;
                let kind = match (self.is_own(address), self.is_of_pod(address)) {
                    (true, _) => SourceKind::Node,
                    (false, true) => SourceKind::Pod,
                    (false, false) => SourceKind::Outside,
                };
                Some((address, Source { address: Some(address), kind }))
            }
            From::Node => {
                let addresses = self.context.node_addresses.iter().chain(self.own_addresses);
                let own = addresses.copied().find(|address| Family::of(*address) == family && !address.is_loopback())?;
                Some((own, Source { address: Some(own), kind: SourceKind::Node }))
            }
            From::Pod(addresses) if addresses.is_empty() => {
                let any = self.pod_networks(family).next().map_or(unspecified, |network| network.addr());
                Some((any, Source { address: None, kind: SourceKind::Pod }))
            }
            From::Pod(addresses) => {
                let address = addresses.iter().copied().find(|address| Family::of(*address) == family)?;
                Some((address, Source { address: Some(address), kind: SourceKind::Pod }))
            }
            From::Outside => Some((unspecified, Source { address: None, kind: SourceKind::Outside })),
        }
    }

    fn no_common_family(&self, question: &Question, meant: &[Meant<'_>]) -> Unexplained {
        let families: Vec<String> = meant
            .iter()
            .filter_map(|target| match target {
                Meant::Dest(dest) => Some(dest.family().to_string()),
                Meant::Named(_) => None,
            })
            .collect();
        let from = match &question.from {
            From::Address(address) => format!("--from {address}"),
            From::Node => format!("node {}", self.context.node_name),
            From::Pod(_) | From::Outside => "the source".to_string(),
        };
        let detail = format!("the target has {} only", families.join(" and "));
        Unexplained::Families { from, to: format!("--to {}", question.to.text), detail }
    }
}

/// How a trace ends.
fn verdict(trace: &Trace) -> Verdict {
    match &trace.fate {
        Fate::Balanced(_) => Verdict::Balanced,
        Fate::Refused => Verdict::Refused,
        Fate::Dropped => Verdict::Dropped,
        Fate::Untouched => Verdict::Untouched,
    }
}

/// Whether a trace got as far as looking for an endpoint.
fn is_barred(trace: &Trace) -> bool {
    trace.steps.iter().any(|step| matches!(step.says, Says::Barred | Says::Denied))
}
