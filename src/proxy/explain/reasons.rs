//! What each step of the walk means, and which object and field it comes from.

use super::endpoints::{Lists, object};
use super::resolve::ports;
use super::{Account, Cause, Passed, Source, SourceSeen, Target, Verdict, View, verdict};
use crate::model::{AddressKind, Balance, Family, Policy, Service};
use crate::proxy::{Chain, Dest, DetectLocal, Draw, Element, Kept, List, Marked, Packet, Refusal, Says, Set, Step, Trace};
use ipnet::IpNet;

/// A packet and what it is about.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub view: &'a View<'a>,
    pub packet: &'a Packet,
    /// The service that owns the destination.
    pub service: Option<&'a Service>,
    /// As what.
    pub kind: Option<AddressKind>,
    /// Whether one client is meant, and not any of a kind.
    pub is_one_client: bool,
}

impl Subject<'_> {
    /// An account of which nothing is known but who and what.
    pub fn account(&self, from: Source) -> Account {
        let Dest { address, port, protocol } = self.packet.to;
        let to = Target {
            address: Some(address),
            port,
            protocol: protocol.name().into(),
            service: self.service.map(|service| service.key.to_string()),
            port_name: self.service_port().map(|(_, port)| port.name.to_string()),
            kind: self.kind.map(|kind| kind.to_string()),
        };
        Account::new(from, to)
    }

    /// Writes the story of the walk into the account.
    pub fn tell(&self, account: &mut Account, trace: &Trace, lists: Option<&Option<Lists<'_>>>) {
        account.verdict = verdict(trace);
        account.steps = trace.steps.iter().map(|step| self.passed(step)).collect();
        if let Some(lists) = lists.and_then(Option::as_ref)
            && !super::is_barred(trace)
        {
            account.endpoints = lists.used(&trace.fate);
            account.unused = lists.unused(&account.endpoints, self.view);
            account.notes.extend(self.notes_on(lists, account));
        }
        account.because = self.causes(trace, lists.and_then(Option::as_ref));
        account.summary = self.summary(account, trace, lists.and_then(Option::as_ref));
        account.notes.extend(self.rivals());
    }

    /// The account of a DNS question that the agent answers itself.
    pub fn left_to_agent(&self, account: &mut Account) {
        let cause = Cause::new("agent", "--dns-address", self.packet.to.address);
        account.verdict = Verdict::Agent;
        account.summary = "the agent of this node answers it: no rule translates the question".to_string();
        account.because = vec![cause.clone()];
        account.steps.push(Passed {
            chain: "waypost-dns-*".into(),
            set: None,
            element: None,
            says: "dns-switch".into(),
            text: "while the agent runs, DNS questions to this address are left to it".into(),
            because: vec![cause],
        });
    }

    fn passed(&self, step: &Step) -> Passed {
        let (says, text) = self.words(step);
        Passed {
            chain: step.chain.clone(),
            set: step.set.map(|set| set.name().to_string()),
            element: step.element.as_ref().map(spelled),
            says: says.to_string(),
            text,
            because: self.causes_of(step),
        }
    }

    /// A fixed word, and a sentence.
    fn words(&self, step: &Step) -> (&'static str, String) {
        let (source, to) = (self.source(), &self.packet.to);
        match step.says {
            Says::Admitted => ("admitted", format!("{source} is in a range that may connect")),
            Says::Barred => ("barred", format!("{source} is in no range that may connect: dropped")),
            Says::Denied => ("denied", format!("{source} is in a range that may not connect: dropped")),
            Says::Mark(why) => ("mark", format!("{}: masqueraded", self.why_marked(why))),
            Says::Keep(why) => ("keep", format!("{}: the source is kept", self.why_kept(why))),
            Says::Goto(chain) => ("goto", self.leads_to(chain)),
            Says::Remembered(map) => ("remembered", format!("{map} remembers {source}: it is sent where it went before")),
            Says::Remembers(map) => {
                let seconds = self.service.and_then(|service| service.affinity_seconds).unwrap_or_default();
                let drawn = format!("is sent to a drawn endpoint and remembered for {seconds} s");
                let text = match self.view.clients {
                    Some(_) if self.is_one_client => format!("{map} does not remember {source}, which {drawn}"),
                    _ => format!("a client that {map} remembers goes where it went before; another one {drawn}"),
                };
                ("remembers", text)
            }
            Says::Unknown => ("unknown", format!("{} knows nothing of {to}", step.set.map_or("the table", Set::name))),
            Says::Hashed(slot) => ("hashed", format!("the hash of {source} points to slot {slot}")),
            Says::StaysHere => {
                let text =
                    "an endpoint with an address of the node itself sees the client's own: what stays here is not masqueraded";
                ("stays-here", text.into())
            }
            Says::Hairpin => ("hairpin", "a pod that reaches itself would not take the answer: masqueraded then".into()),
            Says::LocalDns => {
                ("local-dns", format!("{source} is local on every node, so the answer would go astray: masqueraded"))
            }
            Says::NoEndpoints => ("no-endpoints", "no endpoint can be used: refused".into()),
            Says::NoLocalEndpoints => ("no-local-endpoints", format!("no endpoint on {}: dropped", self.node())),
            Says::NodesOwn => ("nodes-own", "no service has it, and the address is the node's own: left to the node".into()),
            Says::UndefinedPort => ("undefined-port", "a ClusterIP that has no such port: refused".into()),
            Says::Unallocated => ("unallocated", "an address of a service network that no Service has: dropped".into()),
            Says::Stranger => ("stranger", "nothing here concerns it".into()),
        }
    }

    fn why_marked(&self, why: Marked) -> String {
        match why {
            Marked::All => "everything to a ClusterIP shall be".to_string(),
            Marked::NotFromPod => format!("{} is no pod", self.source()),
            Marked::Outside => format!("the {} has the policy Cluster", self.kind_name()),
            Marked::FromNode => format!("{} is the node, which reaches every endpoint", self.source()),
        }
    }

    fn why_kept(&self, why: Kept) -> String {
        match why {
            Kept::FromPod => format!("{} is a pod", self.source()),
            Kept::PodsUnknown => "nothing tells pods from others".to_string(),
            Kept::PodToOutside => format!("{} is a pod, which reaches every endpoint", self.source()),
            Kept::PolicyLocal => format!("the {} has the policy Local", self.kind_name()),
        }
    }

    fn leads_to(&self, chain: Chain) -> String {
        let of = |count: u32| {
            if count == 1 { "the only slot".to_string() } else { format!("one of {count} slots, at random") }
        };
        match chain {
            Chain::Pick(count) => format!("{chain} draws {}", of(count)),
            Chain::PickLocal(count) => format!("{chain} draws {} on {}", of(count), self.node()),
            Chain::Own(Draw { slots, list, method, .. }) => {
                let how = match method {
                    Balance::Random => "at random",
                    Balance::RoundRobin => "in turn",
                    Balance::SourceHash => "by a hash of the client's address",
                };
                let place = if list == List::Local { format!(" on {}", self.node()) } else { String::new() };
                format!("{chain} draws one of {slots} slots{place} {how}")
            }
            Chain::Remember(_) => format!("{chain} notes where the client goes"),
            Chain::Outside => format!("{chain}, because the {} has the policy Cluster", self.kind_name()),
            Chain::OutsideLocal => format!("{chain}, because the {} has the policy Local", self.kind_name()),
        }
    }

    fn causes_of(&self, step: &Step) -> Vec<Cause> {
        let flag = |flag: &str, value: String| vec![Cause::new("agent", flag, value)];
        match step.says {
            Says::Admitted | Says::Barred => self.source_ranges(),
            Says::Denied => self.annotation("waypost.dev/denied-sources", |service| Some(&service.options.denied_sources)),
            Says::Mark(Marked::All) => flag("--masquerade-all", "true".into()),
            Says::Mark(Marked::NotFromPod) | Says::Keep(Kept::FromPod | Kept::PodsUnknown | Kept::PodToOutside) => {
                self.pods_known_by()
            }
            Says::Mark(Marked::Outside | Marked::FromNode) | Says::Keep(Kept::PolicyLocal) => self.policy(),
            Says::Goto(_) if step.chain == "balance" => [self.address(), self.policy()].concat(),
            Says::Goto(_) | Says::Unknown | Says::NodesOwn | Says::Stranger | Says::Hairpin | Says::StaysHere => vec![],
            Says::Hashed(_) => self.annotation_of_balance(),
            Says::Remembered(_) | Says::Remembers(_) => self.affinity(),
            Says::LocalDns => flag("--dns-address", self.packet.source.to_string()),
            Says::NoEndpoints => self.address(),
            Says::NoLocalEndpoints => self.policy(),
            Says::UndefinedPort => self.other_ports(),
            Says::Unallocated => self.service_network(step.element.as_ref()),
        }
    }

    /// What decided, for the head of the account.
    fn causes(&self, trace: &Trace, lists: Option<&Lists<'_>>) -> Vec<Cause> {
        let last = trace.steps.last().map(|step| self.causes_of(step)).unwrap_or_default();
        let mut causes = match (verdict(trace), lists) {
            (Verdict::Balanced, Some(lists)) => {
                let topology = lists.topology(self.view).map(|(_, cause)| cause);
                [self.address(), self.policy(), topology.into_iter().collect()].concat()
            }
            (Verdict::Refused, Some(lists)) if lists.judgement.candidates.is_empty() => [last, self.no_slices(lists)].concat(),
            (_, Some(lists)) if lists.judgement.candidates.is_empty() => self.no_slices(lists),
            (Verdict::Untouched, None) => self.stranger(),
            _ => last,
        };
        causes.dedup();
        causes
    }

    fn summary(&self, account: &Account, trace: &Trace, lists: Option<&Lists<'_>>) -> String {
        let decisive = trace.steps.last().map(|step| step.says);
        match (account.verdict, decisive) {
            (Verdict::Balanced, _) => {
                let says = |wanted: fn(Says) -> bool| trace.steps.iter().any(|step| wanted(step.says));
                let who = match account.endpoints.len() {
                    _ if says(|says| matches!(says, Says::Remembered(_))) => {
                        "the endpoint to which it was sent before".to_string()
                    }
                    _ if says(|says| matches!(says, Says::Hashed(_))) => {
                        "the endpoint to which the hash of its address points".to_string()
                    }
                    1 => "the only endpoint".to_string(),
                    count => format!("one of {count} endpoints"),
                };
                format!("{who}, which {}", self.seen(account))
            }
            (_, Some(Says::Barred)) => format!("{} may not connect: its address is in none of the source ranges", self.source()),
            (_, Some(Says::Denied)) => format!("{} may not connect: its address is in a range that is denied", self.source()),
            (_, Some(Says::NoEndpoints)) => match lists {
                Some(lists) => self.why_no_endpoints(lists),
                None => "no endpoint can be used".to_string(),
            },
            (_, Some(Says::NoLocalEndpoints)) => {
                format!("the policy asks for endpoints on {}, and there is none", self.node())
            }
            (_, Some(Says::UndefinedPort)) => match self.view.with_address(self.packet.to.address) {
                Some((service, _)) => format!("Service {} has no port {}; it has {}", service.key, self.port(), ports(service)),
                None => "the ClusterIP has no such port".to_string(),
            },
            (_, Some(Says::Unallocated)) => self.unallocated(),
            (_, Some(Says::NodesOwn)) => match self.exposed_elsewhere() {
                Some(service) => self.not_exposed(service),
                None => format!("no Service has {} here: it goes to whoever listens on the node", self.packet.to),
            },
            _ => self.untouched(),
        }
    }

    fn seen(&self, account: &Account) -> String {
        let masqueraded = account.endpoints.iter().filter(|one| one.source == SourceSeen::Masqueraded).count();
        if masqueraded == 0 {
            "sees the client's own address".to_string()
        } else if masqueraded == account.endpoints.len() {
            format!("sees an address of {} instead of the client's", self.node())
        } else if account.steps.iter().any(|step| step.says == "stays-here") {
            format!("sees an address of {} instead of the client's, but for those with an address of the node", self.node())
        } else {
            "sees the client's own address, or the node's where the client reaches itself".to_string()
        }
    }

    fn why_no_endpoints(&self, lists: &Lists<'_>) -> String {
        let Some(service) = self.service else { return "no endpoint can be used".to_string() };
        let family = self.packet.to.family();
        let of_family = || lists.slices.iter().filter(|slice| slice.family == family);
        let count = lists.judgement.candidates.len();
        if count > 0 {
            format!("none of its {count} endpoints is ready, nor serves while it terminates")
        } else if lists.slices.is_empty() {
            format!("Service {} has no EndpointSlice: is there a pod that its selector matches?", service.key)
        } else if of_family().next().is_none() {
            format!("Service {} has no EndpointSlice for {family}", service.key)
        } else if of_family().all(|slice| slice.headless) {
            "its EndpointSlices carry the label service.kubernetes.io/headless, by which they are for DNS only".to_string()
        } else if of_family().all(|slice| slice.endpoints.is_empty()) {
            format!("the EndpointSlices of Service {} are empty: no pod matches its selector", service.key)
        } else {
            let name = &lists.port.name;
            format!("no EndpointSlice has a port named {name:?} for {}", lists.port.protocol)
        }
    }

    /// The slices that should have brought endpoints and did not.
    fn no_slices(&self, lists: &Lists<'_>) -> Vec<Cause> {
        let family = self.packet.to.family();
        let of_family = lists.slices.iter().filter(|slice| slice.family == family);
        let causes: Vec<Cause> = of_family
            .map(|slice| {
                let ports: Vec<String> =
                    slice.ports.iter().map(|port| format!("{} {}/{}", port.name, port.port, port.protocol)).collect();
                match slice.endpoints.is_empty() {
                    true => Cause::new(object(slice), "endpoints", ""),
                    false => Cause::new(object(slice), "ports", ports.join(", ").trim()),
                }
            })
            .collect();
        match (causes.is_empty(), self.service) {
            (true, Some(service)) => {
                vec![Cause::new(
                    "EndpointSlices",
                    format!("metadata.labels[kubernetes.io/service-name]={}", service.key.name),
                    "",
                )]
            }
            _ => causes,
        }
    }

    fn notes_on(&self, lists: &Lists<'_>, account: &Account) -> Vec<String> {
        let mut notes = Vec::new();
        if account.verdict == Verdict::Balanced {
            notes.extend(lists.topology(self.view).map(|(text, _)| text));
            if lists.is_last_resort() {
                notes.push("no endpoint is ready: those that still serve while they terminate are used".to_string());
            }
        }
        notes
    }

    /// Services that claim the destination too, and do not get it.
    fn rivals(&self) -> Vec<String> {
        let Some(service) = self.service else { return Vec::new() };
        let rivals = self.view.planner.losers(&self.packet.to);
        rivals
            .map(|(rival, kind)| {
                format!("Service {rival} claims it too, as {kind}, and does not get it: {} comes first", service.key)
            })
            .collect()
    }

    fn unallocated(&self) -> String {
        let address = self.packet.to.address;
        match self.view.with_address(address) {
            Some((service, kind)) if !service.proxied => format!(
                "Service {} has this {kind}, but its label service.kubernetes.io/service-proxy-name gives it to another proxy",
                service.key
            ),
            _ => format!("no Service has the address {address}, though it is in a service network"),
        }
    }

    fn not_exposed(&self, service: &Service) -> String {
        format!("Service {} is not exposed on {}, so that {} is not its address here", service.key, self.node(), self.packet.to)
    }

    fn untouched(&self) -> String {
        let address = self.packet.to.address;
        if let Some(service) = self.exposed_elsewhere() {
            return self.not_exposed(service);
        }
        match self.view.with_address(address) {
            Some((service, kind)) if !service.proxied => format!(
                "Service {} has this {kind}, but its label service.kubernetes.io/service-proxy-name gives it to another proxy",
                service.key
            ),
            Some((service, kind)) => format!("{address} is the {kind} of Service {}, which has {}", service.key, ports(service)),
            None => format!("no Service has {}: the packet goes to that very address", self.packet.to),
        }
    }

    fn stranger(&self) -> Vec<Cause> {
        if let Some(service) = self.exposed_elsewhere() {
            let field = "metadata.annotations[waypost.dev/expose-on-nodes]";
            let labels = Cause::new(format!("Node {}", self.node()), "metadata.labels", "not selected");
            return vec![Cause::new(format!("Service {}", service.key), field, "other nodes"), labels];
        }
        match self.view.with_address(self.packet.to.address) {
            Some((service, _)) if !service.proxied => vec![self.other_proxy(service)],
            Some(_) => self.other_ports(),
            None => vec![],
        }
    }

    fn other_proxy(&self, service: &Service) -> Cause {
        Cause::new(format!("Service {}", service.key), "metadata.labels[service.kubernetes.io/service-proxy-name]", "set")
    }

    /// The field that gives the service this address.
    fn address(&self) -> Vec<Cause> {
        let (Some(service), Some(kind)) = (self.service, self.kind) else { return Vec::new() };
        let object = format!("Service {}", service.key);
        let address = self.packet.to.address;
        let index = self.service_port().map(|(index, _)| index).unwrap_or_default();
        let port = Cause::new(&object, format!("spec.ports[{index}].port"), self.packet.to.port);
        match kind {
            AddressKind::ClusterIp if !service.cluster_ips.contains(&address) => {
                vec![Cause::new("agent", "--dns-address", address), port]
            }
            AddressKind::ClusterIp => vec![Cause::new(&object, "spec.clusterIPs", address), port],
            AddressKind::LoadBalancer => vec![Cause::new(&object, "status.loadBalancer.ingress", address), port],
            AddressKind::ExternalIp => vec![Cause::new(&object, "spec.externalIPs", address), port],
            AddressKind::NodePort => {
                vec![Cause::new(&object, format!("spec.ports[{index}].nodePort"), self.packet.to.port)]
            }
        }
    }

    fn policy(&self) -> Vec<Cause> {
        let Some(service) = self.service else { return Vec::new() };
        let (field, policy) = match self.kind {
            Some(AddressKind::ClusterIp) => ("spec.internalTrafficPolicy", service.internal_policy),
            _ => ("spec.externalTrafficPolicy", service.external_policy),
        };
        let value = match policy {
            Policy::Cluster => "Cluster",
            Policy::Local => "Local",
        };
        vec![Cause::new(format!("Service {}", service.key), field, value)]
    }

    fn annotation_of_balance(&self) -> Vec<Cause> {
        let service = self.service.map(|service| format!("Service {}", service.key));
        service
            .map(|service| Cause::new(service, "metadata.annotations[waypost.dev/balance]", "source-hash"))
            .into_iter()
            .collect()
    }

    fn affinity(&self) -> Vec<Cause> {
        let Some(service) = self.service else { return Vec::new() };
        let object = format!("Service {}", service.key);
        let seconds = service.affinity_seconds.unwrap_or_default();
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        vec![Cause::new(&object, "spec.sessionAffinity", "ClientIP"), Cause::new(&object, field, seconds)]
    }

    fn source_ranges(&self) -> Vec<Cause> {
        let Some(service) = self.service else { return Vec::new() };
        let counts = self.kind == Some(AddressKind::LoadBalancer) && !service.source_ranges.is_empty();
        let ranges =
            Cause::new(format!("Service {}", service.key), "spec.loadBalancerSourceRanges", joined(service.source_ranges.iter()));
        let annotated = self.annotation("waypost.dev/allowed-sources", |service| service.options.allowed_sources.as_deref());
        counts.then_some(ranges).into_iter().chain(annotated).collect()
    }

    /// An annotation of networks, where the service has it.
    fn annotation(&self, name: &str, networks: impl Fn(&Service) -> Option<&[IpNet]>) -> Vec<Cause> {
        let Some((service, networks)) = self.service.and_then(|service| Some((service, networks(service)?))) else {
            return Vec::new();
        };
        let text = if networks.is_empty() { "nobody".to_string() } else { joined(networks.iter()) };
        vec![Cause::new(format!("Service {}", service.key), format!("metadata.annotations[{name}]"), text)]
    }

    /// The service that would have the destination, if this node were among those on which it is exposed.
    fn exposed_elsewhere(&self) -> Option<&Service> {
        let to = self.packet.to;
        let services = self.view.store.service_keys().filter_map(|key| self.view.store.service(key));
        let hidden = services.filter(|service| service.proxied && !service.is_exposed_on(&self.view.context.node_labels));
        let kinds = [AddressKind::LoadBalancer, AddressKind::ExternalIp];
        let mut would_have = hidden.filter(|service| {
            service.ports.iter().filter(|port| port.protocol == to.protocol).any(|port| {
                (port.node_port == to.port && self.packet.to_node)
                    || (port.port == to.port && kinds.iter().any(|kind| service.addresses(*kind).contains(&to.address)))
            })
        });
        would_have.next()
    }

    fn other_ports(&self) -> Vec<Cause> {
        let found = self.view.with_address(self.packet.to.address);
        found
            .map(|(service, _)| Cause::new(format!("Service {}", service.key), "spec.ports", ports(service)))
            .into_iter()
            .collect()
    }

    fn service_network(&self, element: Option<&Element>) -> Vec<Cause> {
        let Some(Element::ServiceCidr(network)) = element else { return Vec::new() };
        match self.view.with_address(self.packet.to.address) {
            Some((service, _)) if !service.proxied => vec![self.other_proxy(service)],
            _ if self
                .view
                .service_cidrs
                .iter()
                .any(|configured| configured.contains(network) || network.contains(configured)) =>
            {
                vec![Cause::new("agent", "--service-cidr", joined(self.view.service_cidrs.iter()))]
            }
            _ => vec![Cause::new("ServiceCIDR", "spec.cidrs", network)],
        }
    }

    fn service_port(&self) -> Option<(usize, &crate::model::ServicePort)> {
        let service = self.service?;
        service.ports.iter().enumerate().find(|(_, port)| {
            let number = if self.kind == Some(AddressKind::NodePort) { port.node_port } else { port.port };
            number == self.packet.to.port && port.protocol == self.packet.to.protocol
        })
    }

    /// The setting by which pods are told from others.
    fn pods_known_by(&self) -> Vec<Cause> {
        let family = self.packet.to.family();
        let networks: Vec<IpNet> = self.view.pod_networks(family).collect();
        let is_configured = networks.iter().all(|network| self.view.cluster_cidrs.iter().any(|one| network.contains(one)));
        let (flag, value) = match self.view.detects_local(family) {
            // In the mode NodeCIDR the Node object has none.
            DetectLocal::Nothing => ("--cluster-cidr (with NodeCIDR: spec.podCIDRs of the Node)", String::new()),
            DetectLocal::Networks if !is_configured => {
                return vec![Cause::new(format!("Node {}", self.node()), "spec.podCIDRs", joined(networks.iter()))];
            }
            DetectLocal::Networks => ("--cluster-cidr", joined(networks.iter())),
            DetectLocal::Interface(name) => ("--pod-bridge-interface", name.to_string()),
            DetectLocal::InterfacePrefix(prefix) => ("--pod-interface-name-prefix", prefix.to_string()),
        };
        vec![Cause::new("agent", flag, value)]
    }

    fn source(&self) -> String {
        match self.packet.source {
            address
                if address.is_unspecified() || self.view.pod_networks(Family::of(address)).any(|one| one.addr() == address) =>
            {
                "the client".to_string()
            }
            address => address.to_string(),
        }
    }

    fn kind_name(&self) -> String {
        self.kind.map_or("address".to_string(), |kind| kind.to_string())
    }

    fn port(&self) -> String {
        format!("{}/{}", self.packet.to.port, self.packet.to.protocol)
    }

    fn node(&self) -> &str {
        &self.view.context.node_name
    }
}

/// An element as nft shows it.
fn spelled(element: &Element) -> String {
    let dest = |dest: &Dest| format!("{} . {} . {}", dest.address, dest.protocol, dest.port);
    let verdict = |refusal: &Refusal| match refusal {
        Refusal::Reject => "goto refuse",
        Refusal::Drop => "drop",
    };
    match element {
        Element::Service(of, chain)
        | Element::ClusterList(of, chain)
        | Element::LocalList(of, chain)
        | Element::Sticky(of, chain) => {
            format!("{} : goto {chain}", dest(of))
        }
        Element::Endpoint(of, slot, backend) => format!("{} . {slot} : {} . {}", dest(of), backend.address, backend.port),
        Element::Unserved(of, refusal) => format!("{} : {}", dest(of), verdict(refusal)),
        Element::Guarded(of) => dest(of),
        Element::AllowedSource(of, network) | Element::DeniedSource(of, network) => format!("{} . {network}", dest(of)),
        Element::ClusterIp(address) | Element::LocalDns(address) => address.to_string(),
        Element::ServiceCidr(network) | Element::PodCidr(network) => network.to_string(),
        Element::Hairpin(address) => format!("{address} . {address}"),
    }
}

fn joined<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}
