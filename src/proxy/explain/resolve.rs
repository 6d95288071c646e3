//! From names to what they mean: destinations, pods, aliases.

use super::{Host, Port, Question, To, Unexplained, View};
use crate::model::{AddressKind, Endpoint, Family, ObjectKey, Protocol, Service, ServiceKind, ServicePort, Slice};
use crate::proxy::Dest;
use std::net::IpAddr;

/// At most so many names are suggested.
const SUGGESTIONS: usize = 3;

/// What a target turns out to be.
#[derive(Debug)]
pub enum Meant<'a> {
    /// A destination of the table, or any other address.
    Dest(Dest),
    /// A name that leads past the table.
    Named(Named<'a>),
}

/// A name that leads past the table.
#[derive(Debug)]
pub struct Named<'a> {
    /// The service.
    pub service: &'a Service,
    /// The port that is asked for.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Where it leads.
    pub leads_to: LeadsTo<'a>,
}

/// Where a name leads that has no address of its own.
#[derive(Debug)]
pub enum LeadsTo<'a> {
    /// To the endpoints of a headless service, in its slices.
    Endpoints(Vec<&'a Slice>),
    /// To a name elsewhere.
    Alias(&'a str),
}

/// What is meant by a question's target, one for each address.
pub fn targets<'a>(view: View<'a>, question: &Question) -> Result<Vec<Meant<'a>>, Unexplained> {
    let to = &question.to;
    match &to.host {
        Host::Address(address) => Ok(vec![Meant::Dest(dest(*address, number(view, to, *address)?, to))]),
        Host::Node => {
            let addresses = &view.context.nodeport_addresses;
            let addresses = if addresses.is_empty() { &view.context.node_addresses } else { addresses };
            let Some(Port::Number(port)) = to.port else { return Err(no_port(to, node_ports(view))) };
            let mut first: Vec<Meant<'_>> = Vec::new();
            for family in Family::BOTH {
                let address = addresses.iter().find(|address| Family::of(**address) == family);
                first.extend(address.map(|address| Meant::Dest(dest_of_node(view, *address, port, to))));
            }
            match first.is_empty() {
                true => Err(Unexplained::BadTarget(format!("{} (node {} has no address)", to.text, view.context.node_name))),
                false => Ok(first),
            }
        }
        Host::Service { namespace: Some(namespace), name } => {
            let key = ObjectKey::new(namespace.as_str(), name.as_str());
            match view.store.service(&key) {
                Some(service) => of_service(view, service, to),
                // As resolvers see it: a name of two labels may be one of the Internet.
                None if !to.text.contains('/') && !to.text.contains(".svc") && !view.store.has_namespace(namespace) => {
                    Err(Unexplained::Foreign(format!("{name}.{namespace}")))
                }
                None => Err(no_service(view, &key)),
            }
        }
        Host::Service { namespace: None, name } => of_service(view, by_name(view, name)?, to),
        Host::Below { hostname, namespace, name } => {
            let key = ObjectKey::new(namespace.as_str(), name.as_str());
            let service = view.store.service(&key).ok_or_else(|| no_service(view, &key))?;
            below(view, service, hostname, to)
        }
        Host::Foreign(name) => Err(Unexplained::Foreign(name.clone())),
    }
}

fn dest(address: IpAddr, (port, protocol): (u16, Protocol), to: &To) -> Dest {
    Dest { address, protocol: to.protocol.unwrap_or(protocol), port }
}

/// A NodePort is UDP where no TCP service has it.
fn dest_of_node(view: View<'_>, address: IpAddr, port: u16, to: &To) -> Dest {
    dest(address, (port, protocol_at(view, address, port)), to)
}

/// The protocol that somebody owns at an address and port; TCP where nobody does.
fn protocol_at(view: View<'_>, address: IpAddr, port: u16) -> Protocol {
    let owned = |protocol: &Protocol| view.planner.owner(&Dest { address, protocol: *protocol, port }).is_some();
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(owned).unwrap_or(Protocol::Tcp)
}

/// The port of a bare address: the number, or the name that the service with this address gives it.
fn number(view: View<'_>, to: &To, address: IpAddr) -> Result<(u16, Protocol), Unexplained> {
    if let Some(Port::Number(number)) = to.port {
        return Ok((number, protocol_at(view, address, number)));
    }
    let service = view.with_address(address);
    match (&to.port, service) {
        (_, Some((service, _))) => port_of(service, to).map(|port| (port.port, port.protocol)),
        (Some(Port::Name(_)), None) => Err(Unexplained::BadTarget(to.text.clone())),
        (_, None) => Err(no_port(to, String::new())),
    }
}

fn of_service<'a>(view: View<'a>, service: &'a Service, to: &To) -> Result<Vec<Meant<'a>>, Unexplained> {
    if let ServiceKind::ExternalName(name) = &service.kind {
        let port = match to.port {
            Some(Port::Number(number)) => number,
            _ => port_of(service, to)?.port,
        };
        let protocol = to.protocol.unwrap_or(Protocol::Tcp);
        return Ok(vec![Meant::Named(Named { service, port, protocol, leads_to: LeadsTo::Alias(name) })]);
    }
    let (port, protocol) = match to.port {
        // A port that the service does not have is worth a walk: it is refused.
        Some(Port::Number(number)) => {
            let of_number = |port: &&ServicePort| port.port == number && to.protocol.is_none_or(|one| one == port.protocol);
            let known = service.ports.iter().find(of_number).map(|port| port.protocol);
            (number, known.or(to.protocol).unwrap_or(Protocol::Tcp))
        }
        _ => port_of(service, to).map(|port| (port.port, port.protocol))?,
    };
    if service.kind == ServiceKind::Headless {
        let leads_to = LeadsTo::Endpoints(view.store.slices(&service.key));
        return Ok(vec![Meant::Named(Named { service, port, protocol, leads_to })]);
    }
    Ok(service.cluster_ips.iter().map(|address| Meant::Dest(Dest { address: *address, protocol, port })).collect())
}

/// `db-0.db.shop.svc.cluster.local`: the endpoint with this host name, or with this address written with dashes, as CoreDNS names them.
fn below<'a>(view: View<'a>, service: &'a Service, label: &str, to: &To) -> Result<Vec<Meant<'a>>, Unexplained> {
    let is_named = |endpoint: &Endpoint| match &endpoint.hostname {
        Some(hostname) => hostname.eq_ignore_ascii_case(label),
        None => endpoint.address.to_string().replace(['.', ':'], "-") == label,
    };
    let slices = view.store.slices(&service.key);
    let all = slices.into_iter().flat_map(|slice| slice.endpoints.iter());
    let endpoints: Vec<&Endpoint> = all.filter(|endpoint| endpoint.ready && is_named(endpoint)).collect();
    if endpoints.is_empty() {
        let close = String::from(": it has no endpoint of this name in any EndpointSlice (endpoints[].hostname)");
        return Err(Unexplained::NoService { name: format!("{} for {}", service.key, to.text), close });
    }
    let (port, protocol) = match to.port {
        Some(Port::Number(number)) => (number, Protocol::Tcp),
        _ => port_of(service, to).map(|port| (port.port, port.protocol))?,
    };
    let protocol = to.protocol.unwrap_or(protocol);
    Ok(endpoints.into_iter().map(|one| Meant::Dest(Dest { address: one.address, protocol, port })).collect())
}

/// The port that a target names: by number, by name, or the only one.
fn port_of<'a>(service: &'a Service, to: &To) -> Result<&'a ServicePort, Unexplained> {
    let right_protocol = |port: &&ServicePort| to.protocol.is_none_or(|protocol| protocol == port.protocol);
    let mut candidates = service.ports.iter().filter(right_protocol);
    match &to.port {
        Some(Port::Number(number)) => candidates.find(|port| port.port == *number),
        Some(Port::Name(name)) => candidates.find(|port| *port.name == **name),
        None => {
            let only = candidates.next().filter(|_| candidates.next().is_none());
            return only.ok_or_else(|| no_port(to, format!("Service {} has {}", service.key, ports(service))));
        }
    }
    .ok_or_else(|| {
        let port = match (&to.port, to.protocol) {
            (Some(Port::Name(name)), Some(protocol)) => format!("{name:?} over {protocol}"),
            (Some(Port::Name(name)), None) => format!("{name:?}"),
            _ => to.text.clone(),
        };
        Unexplained::NoSuchPort { service: service.key.to_string(), port, ports: ports(service) }
    })
}

/// The ports of a service: `http 80/tcp, echo 7/udp`.
pub fn ports(service: &Service) -> String {
    let one = |port: &ServicePort| match port.name.is_empty() {
        true => format!("{}/{}", port.port, port.protocol),
        false => format!("{} {}/{}", port.name, port.port, port.protocol),
    };
    match service.ports.as_slice() {
        [] => "no port".to_string(),
        ports => ports.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

fn node_ports(view: View<'_>) -> String {
    let mut found: Vec<String> = Vec::new();
    for key in view.store.service_keys() {
        let ports = view.store.service(key).into_iter().flat_map(|service| &service.ports);
        found.extend(ports.filter(|port| port.node_port != 0).map(|port| format!("{} ({key})", port.node_port)));
    }
    found.sort();
    found.truncate(SUGGESTIONS);
    if found.is_empty() { "no Service has a NodePort".into() } else { format!("NodePorts are {}", found.join(", ")) }
}

fn no_port(to: &To, ports: String) -> Unexplained {
    let ports = if ports.is_empty() { "; give one, such as :80/tcp".to_string() } else { format!("; {ports}") };
    Unexplained::NoPort { to: to.text.clone(), ports }
}

/// A service by its name alone, where there is only one.
fn by_name<'a>(view: View<'a>, name: &str) -> Result<&'a Service, Unexplained> {
    let mut keys: Vec<&ObjectKey> = view.store.service_keys().filter(|key| &*key.name == name).collect();
    keys.sort();
    match keys.as_slice() {
        [] => Err(no_service(view, &ObjectKey::new("", name))),
        [key] => view.store.service(key).ok_or_else(|| no_service(view, key)),
        several => {
            let candidates = several.iter().take(SUGGESTIONS).map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            Err(Unexplained::Ambiguous { name: name.to_string(), candidates })
        }
    }
}

fn no_service(view: View<'_>, key: &ObjectKey) -> Unexplained {
    let name = if key.namespace.is_empty() { key.name.to_string() } else { key.to_string() };
    let mut close: Vec<(usize, &ObjectKey)> =
        view.store.service_keys().map(|other| (distance(key, other), other)).filter(|(distance, _)| *distance <= 2).collect();
    close.sort();
    let names: Vec<String> = close.iter().take(SUGGESTIONS).map(|(_, key)| key.to_string()).collect();
    let close = match names.is_empty() {
        true => format!(" among {} Services; `waypost services` lists them", view.store.service_count()),
        false => format!("; did you mean {}?", names.join(" or ")),
    };
    Unexplained::NoService { name, close }
}

/// How far a name is from another: the name counts whole, another namespace as one.
fn distance(wanted: &ObjectKey, other: &ObjectKey) -> usize {
    let names = strsim::damerau_levenshtein(&wanted.name, &other.name);
    names + usize::from(wanted.namespace != other.namespace && !wanted.namespace.is_empty())
}

impl<'a> View<'a> {
    /// The service that has an address of its own (not a NodePort's), and as what; proxied ones first.
    pub(super) fn with_address(&self, address: IpAddr) -> Option<(&'a Service, AddressKind)> {
        let kinds = [AddressKind::ClusterIp, AddressKind::LoadBalancer, AddressKind::ExternalIp];
        let services = self.store.service_keys().filter_map(|key| self.store.service(key));
        let found = services.flat_map(|service| kinds.map(|kind| (service, kind)));
        let has = found.filter(|(service, kind)| service.addresses(*kind).contains(&address));
        has.min_by_key(|(service, kind)| (!service.proxied, *kind, service.created, &service.key))
    }
}
