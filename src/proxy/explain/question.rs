//! What is asked: who connects to what, as people write it.

use crate::model::Protocol;
use std::net::{IpAddr, SocketAddr};

/// Why something cannot be explained; each message says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unexplained {
    /// Not a source.
    #[error("--from {0:?} is no address; give an address, `pod` (any pod of this node), `node` (the node itself) or `outside`")]
    BadSource(String),
    /// A pod, where nobody knows pods.
    #[error(
        "the agent does not watch Pods, so {0} is unknown here; give its address (kubectl get pod -o wide), or ask the API server \
         with --kubeconfig"
    )]
    Pod(String),
    /// Not a target.
    #[error(
        "--to {0:?} cannot be read; give ADDRESS:PORT, SERVICE.NAMESPACE:PORT, NAMESPACE/SERVICE:PORT or node:NODEPORT, and after it /tcp, /udp or /sctp"
    )]
    BadTarget(String),
    /// What stands where the port should.
    #[error(
        "--to {to:?}: {port:?} is no port; give a number from 1 to 65535 or the port's name, and after it /tcp, /udp or /sctp"
    )]
    BadPort {
        /// The target.
        to: String,
        /// What stands there.
        port: String,
    },
    /// A target without a port that needs one.
    #[error("--to {to:?} lacks a port{ports}")]
    NoPort {
        /// The target.
        to: String,
        /// The ports that there are.
        ports: String,
    },
    /// A name outside the cluster domain, which only a resolver knows.
    #[error("{0} is no name of this cluster; give an address")]
    Foreign(String),
    /// No such service.
    #[error("there is no Service {name}{close}")]
    NoService {
        /// The service as it was meant.
        name: String,
        /// Names that come close.
        close: String,
    },
    /// One name, several services.
    #[error("{name} may be {candidates}; name the namespace too")]
    Ambiguous {
        /// The name.
        name: String,
        /// The services.
        candidates: String,
    },
    /// The service has no port of this name.
    #[error("Service {service} has no port named {port}; it has {ports}")]
    NoSuchPort {
        /// The service.
        service: String,
        /// The port's name.
        port: String,
        /// The ports that there are.
        ports: String,
    },
    /// Source and target have no family in common.
    #[error("{from} and {to} have no address family in common: {detail}")]
    Families {
        /// The source.
        from: String,
        /// The target.
        to: String,
        /// What each has.
        detail: String,
    },
}

/// Who connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// This address.
    Address(IpAddr),
    /// A pod by its addresses, one of each family; without any, whichever pod of this node.
    Pod(Vec<IpAddr>),
    /// The node itself.
    Node,
    /// Somebody outside the cluster.
    Outside,
}

/// To what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct To {
    /// As it was written.
    pub text: String,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: Option<Port>,
    /// The protocol.
    pub protocol: Option<Protocol>,
}

/// The host of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// The node, by any of its addresses.
    Node,
    /// A service: its name, and its namespace where it is given.
    Service {
        /// The namespace.
        namespace: Option<String>,
        /// The name.
        name: String,
    },
    /// A name below a service: a pod of a headless one.
    Below {
        /// The label in front.
        hostname: String,
        /// The namespace.
        namespace: String,
        /// The service's name.
        name: String,
    },
    /// A name outside the cluster domain.
    Foreign(String),
}

/// The port of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// By number.
    Number(u16),
    /// By the name that the service gives it.
    Name(String),
}

impl From {
    /// Reads `ADDRESS`, `pod`, `node` or `outside`.
    ///
    /// # Errors
    /// Says what may be written.
    pub fn parse(text: &str) -> Result<From, Unexplained> {
        match text {
            "pod" => Ok(From::Pod(Vec::new())),
            "node" => Ok(From::Node),
            "outside" => Ok(From::Outside),
            pod if pod.starts_with("pod/") => Err(Unexplained::Pod(pod.into())),
            address => {
                let address = address.trim_matches(['[', ']']);
                address.parse().map(From::Address).map_err(|_| Unexplained::BadSource(text.into()))
            }
        }
    }
}

impl To {
    /// Reads `HOST[:PORT][/PROTOCOL]`; `domain` is the cluster's.
    ///
    /// # Errors
    /// Says what may be written.
    pub fn parse(text: &str, domain: &str) -> Result<To, Unexplained> {
        let bad = || Unexplained::BadTarget(text.into());
        let (rest, protocol) = split_protocol(text);
        let whole = |host, port| To { text: text.into(), host, port, protocol };
        if let Ok(address) = rest.parse::<SocketAddr>() {
            return Ok(whole(Host::Address(address.ip()), Some(Port::Number(address.port()))));
        }
        if let Ok(address) = rest.trim_matches(['[', ']']).parse() {
            return Ok(whole(Host::Address(address), None));
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) => {
                let bad_port = || Unexplained::BadPort { to: text.into(), port: port.into() };
                (host, Some(Port::parse(port).ok_or_else(bad_port)?))
            }
            None => (rest, None),
        };
        Ok(whole(Host::parse(host, domain).ok_or_else(bad)?, port))
    }
}

/// `shop/web:80/tcp` as `shop/web:80` and TCP.
fn split_protocol(text: &str) -> (&str, Option<Protocol>) {
    let known = |name: &str| Protocol::from_name(&name.to_lowercase());
    match text.rsplit_once('/').and_then(|(rest, name)| Some((rest, known(name)?))) {
        Some((rest, protocol)) => (rest, Some(protocol)),
        None => (text, None),
    }
}

impl Port {
    fn parse(text: &str) -> Option<Port> {
        match text.parse::<u16>() {
            Ok(0) => None,
            Ok(number) => Some(Port::Number(number)),
            Err(_) if text.is_empty() || text.bytes().all(|byte| byte.is_ascii_digit()) => None,
            Err(_) => Some(Port::Name(text.into())),
        }
    }
}

impl Host {
    fn parse(text: &str, domain: &str) -> Option<Host> {
        let service = |namespace: Option<&str>, name: &str| Host::Service {
            namespace: namespace.map(str::to_string),
            name: name.to_string(),
        };
        if text == "node" {
            return Some(Host::Node);
        }
        if let Some((namespace, name)) = text.split_once('/') {
            let good = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
            return good.then(|| service(Some(namespace), name));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_lowercase();
        let in_domain = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.'));
        let of_services = in_domain.unwrap_or(&name).strip_suffix(".svc");
        let labels: Vec<&str> = of_services.or(in_domain).unwrap_or(&name).split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return None;
        }
        match (of_services.is_some(), labels.as_slice()) {
            (_, [name, namespace]) => Some(service(Some(namespace), name)),
            (false, [name]) => Some(service(None, name)),
            (true, [hostname, name, namespace]) => {
                Some(Host::Below { hostname: hostname.to_string(), namespace: namespace.to_string(), name: name.to_string() })
            }
            _ => Some(Host::Foreign(name.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> To {
        To::parse(text, "cluster.local").unwrap_or_else(|error| panic!("{error}"))
    }

    fn service(namespace: Option<&str>, name: &str) -> Host {
        Host::Service { namespace: namespace.map(Into::into), name: name.into() }
    }

    #[test]
    fn a_target_is_read_in_every_form_in_which_people_write_it() {
        let http = || Some(Port::Name("http".into()));
        let cases = [
            ("10.96.0.1:443/tcp", Host::Address("10.96.0.1".parse().unwrap()), Some(Port::Number(443)), Some(Protocol::Tcp)),
            ("[fd00:96::1]:53/UDP", Host::Address("fd00:96::1".parse().unwrap()), Some(Port::Number(53)), Some(Protocol::Udp)),
            ("fd00:96::1", Host::Address("fd00:96::1".parse().unwrap()), None, None),
            ("web.shop:80", service(Some("shop"), "web"), Some(Port::Number(80)), None),
            ("web.shop.svc.cluster.local:http", service(Some("shop"), "web"), http(), None),
            ("Web.Shop.svc.cluster.local.:http", service(Some("shop"), "web"), http(), None),
            ("web.shop.svc:http", service(Some("shop"), "web"), http(), None),
            ("shop/web:http/sctp", service(Some("shop"), "web"), http(), Some(Protocol::Sctp)),
            ("shop/web", service(Some("shop"), "web"), None, None),
            ("web", service(None, "web"), None, None),
            ("node:30080", Host::Node, Some(Port::Number(30080)), None),
            (
                "db-0.db.shop.svc.cluster.local:5432",
                Host::Below { hostname: "db-0".into(), namespace: "shop".into(), name: "db".into() },
                Some(Port::Number(5432)),
                None,
            ),
            ("www.example.org:443", Host::Foreign("www.example.org".into()), Some(Port::Number(443)), None),
        ];
        for (text, host, port, protocol) in cases {
            assert_eq!(to(text), To { text: text.into(), host, port, protocol });
        }
    }

    #[test]
    fn what_cannot_be_read_is_answered_with_what_may_be_written() {
        for text in ["", ":80", "a/b/c:80", "web..shop:80"] {
            let error = To::parse(text, "cluster.local").expect_err(text);
            assert!(error.to_string().contains("SERVICE.NAMESPACE:PORT"), "{error}");
        }
        for (text, port) in [("web.shop:", ""), ("web.shop:0", "0"), ("web.shop:65536", "65536"), ("10.96.0.1:99999", "99999")] {
            let error = To::parse(text, "cluster.local").expect_err(text).to_string();
            assert!(error.contains(&format!("{port:?} is no port")) && error.contains("1 to 65535"), "{error}");
        }
        assert!(From::parse("somewhere").unwrap_err().to_string().contains("`outside`"));
        assert!(From::parse("pod/shop/web-1").unwrap_err().to_string().contains("--kubeconfig"));
        assert_eq!(From::parse("[fd00::7]").unwrap(), From::Address("fd00::7".parse().unwrap()));
    }
}
