//! The part of the tour where names are resolved.

use super::cluster::{Cluster, DOMAIN, dns_addresses};
use super::dns::{self, OUTSIDE_ADDRESSES, OUTSIDE_NAME, Reply};
use super::screen::{Screen, short};
use crate::model::{Endpoint, Family, Service, ServiceKind};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// A question and what must come of it.
struct Question {
    server: SocketAddr,
    name: String,
    record_type: RecordType,
    expected: Expected,
    remark: &'static str,
}

enum Expected {
    /// Exactly these records of the asked type, sorted.
    Records(Vec<String>),
    /// Among the answers: this alias.
    Alias(String),
    /// One SRV record that ends like this (priority and weight are the server's).
    Target(String),
    /// The name does not exist.
    Nothing,
}

/// Asks for every name of the cluster, and for some outside it.
pub fn show(cluster: &Cluster, screen: &mut Screen) -> anyhow::Result<()> {
    let [server, server6] = dns_addresses();
    screen.heading("Names", &format!("asked by the client pod, answered by the agent at {} and {}", server.ip(), server6.ip()));
    let questions = questions(cluster, server, server6);
    let replies = cluster.client.namespace().run(|| {
        questions.iter().map(|question| dns::ask(question.server, &question.name, question.record_type)).collect::<Vec<_>>()
    })?;
    let width = questions.iter().map(|question| question.name.len()).max().unwrap_or(0);
    screen.limit(16);
    for (question, reply) in questions.iter().zip(&replies) {
        let good = reply.as_ref().is_ok_and(|reply| question.is_answered_by(reply));
        let took = reply.as_ref().map(|reply| short(reply.took)).unwrap_or_default();
        let what = format!(
            "{:width$}  {:<5}  {:<36}  {}",
            question.name,
            question.record_type.to_string(),
            said(question, reply),
            screen.faint(format!("{took:>8}  {}", question.remark).trim_end()),
        );
        screen.check(good, &what, || {
            format!("expected {}; ask yourself with --shell: dig {}", question.expected_text(), question.name)
        });
    }
    screen.no_limit();
    Ok(())
}

fn questions(cluster: &Cluster, server: SocketAddr, server6: SocketAddr) -> Vec<Question> {
    let mut questions = Vec::new();
    let mut ask = |server, name: String, record_type, expected, remark| {
        questions.push(Question { server, name, record_type, expected, remark });
    };
    for service in cluster.services() {
        let name = format!("{}.{}.svc.{DOMAIN}", service.key.name, service.key.namespace);
        match &service.kind {
            ServiceKind::ClusterIp => {
                for address in &service.cluster_ips {
                    ask(server, name.clone(), record_type(*address), Expected::Records(vec![address.to_string()]), "");
                }
            }
            ServiceKind::Headless => {
                for family in Family::BOTH {
                    let addresses = ready_addresses(cluster, service, family);
                    if let Some(first) = addresses.first() {
                        let texts = sorted(addresses.iter().map(IpAddr::to_string));
                        ask(server, name.clone(), record_type(*first), Expected::Records(texts), "headless: the pods themselves");
                    }
                }
            }
            ServiceKind::ExternalName(target) => {
                ask(server, name.clone(), RecordType::A, Expected::Alias(target.to_string()), "a name for something outside");
            }
        }
    }
    // One of each rarer kind is enough.
    if let Some((service, endpoint, host)) = named_endpoint(cluster) {
        let name = format!("{host}.{}.{}.svc.{DOMAIN}", service.key.name, service.key.namespace);
        let expected = Expected::Records(vec![endpoint.address.to_string()]);
        ask(server, name, record_type(endpoint.address), expected, "one pod by its own name");
    }
    let with_port_name = |service: &&Service| service.ports.iter().any(|port| !port.name.is_empty());
    let with_address = || cluster.services().filter(|service| !service.cluster_ips.is_empty());
    if let Some(service) = with_address().find(with_port_name).or(with_address().next()) {
        let name = format!("{}.{}.svc.{DOMAIN}", service.key.name, service.key.namespace);
        if let Some(port) = service.ports.iter().find(|port| !port.name.is_empty()) {
            let srv = format!("_{}._{}.{name}", port.name, port.protocol);
            ask(server, srv, RecordType::SRV, Expected::Target(format!(" {} {name}", port.port)), "");
        }
        let address = service.cluster_ips[0];
        let reverse = Name::from(address).to_ascii().trim_end_matches('.').to_string();
        ask(server, reverse, RecordType::PTR, Expected::Records(vec![name.clone()]), "");
        ask(server6, name, record_type(address), Expected::Records(vec![address.to_string()]), "asked over IPv6");
    }
    let outside = Expected::Records(vec![OUTSIDE_ADDRESSES[0].to_string()]);
    ask(server, OUTSIDE_NAME.to_string(), RecordType::A, outside, "forwarded to the host outside");
    ask(server, format!("nobody.default.svc.{DOMAIN}"), RecordType::A, Expected::Nothing, "never forwarded");
    questions
}

impl Question {
    fn is_answered_by(&self, reply: &Reply) -> bool {
        let records = reply.of(self.record_type);
        match &self.expected {
            Expected::Records(expected) => reply.code == ResponseCode::NoError && records == *expected,
            Expected::Alias(target) => reply.of(RecordType::CNAME) == [target.as_str()],
            Expected::Target(end) => matches!(records.as_slice(), [record] if record.ends_with(end.as_str())),
            Expected::Nothing => reply.code == ResponseCode::NXDomain && reply.answers.is_empty(),
        }
    }

    fn expected_text(&self) -> String {
        match &self.expected {
            Expected::Records(records) => records.join(" "),
            Expected::Alias(target) => format!("an alias for {target}"),
            Expected::Target(end) => format!("one record, …{end}"),
            Expected::Nothing => "NXDOMAIN".to_string(),
        }
    }
}

fn said(question: &Question, reply: &io::Result<Reply>) -> String {
    match reply {
        Err(error) => format!("no answer: {error}"),
        Ok(reply) if reply.code == ResponseCode::NXDomain => "NXDOMAIN".to_string(),
        Ok(reply) if reply.code != ResponseCode::NoError => reply.code.to_string(),
        Ok(reply) if reply.answers.is_empty() => "no such record".to_string(),
        Ok(reply) => {
            let alias = reply.of(RecordType::CNAME).into_iter().map(|target| format!("→ {target}"));
            alias.chain(reply.of(question.record_type).into_iter().map(str::to_string)).collect::<Vec<_>>().join("  ")
        }
    }
}

fn named_endpoint(cluster: &Cluster) -> Option<(&Service, &Endpoint, &str)> {
    cluster.services().find_map(|service| {
        let slices = cluster.store.slices(&service.key);
        let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints.iter());
        let mut named = endpoints.filter_map(|endpoint| endpoint.hostname.as_deref().map(|host| (service, endpoint, host)));
        named.find(|(_, endpoint, _)| endpoint.ready)
    })
}

fn ready_addresses(cluster: &Cluster, service: &Service, family: Family) -> Vec<IpAddr> {
    let slices = cluster.store.slices(&service.key).into_iter().filter(|slice| slice.family == family);
    slices.flat_map(|slice| slice.endpoints.iter()).filter(|endpoint| endpoint.ready).map(|endpoint| endpoint.address).collect()
}

fn record_type(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn sorted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut texts: Vec<_> = texts.collect();
    texts.sort();
    texts
}
