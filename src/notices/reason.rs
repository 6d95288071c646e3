//! The table of reasons: logs, Events and `docs/events.md` are all made from it.

use std::fmt::Write;

/// Why a notice is given. One for each kind of thing that can happen.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// The Event's reason: CamelCase, and never changed once users may have written it into an alert.
    pub name: &'static str,
    /// What the agent was doing (the Event's action).
    pub action: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Whether every node would say the same in the same words. Such a notice becomes one Event for the whole cluster.
    pub everywhere: bool,
    /// The kinds of object that it is about.
    pub about: &'static str,
    /// What has happened.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Good to know.
    Normal,
    /// Something is not as somebody wanted it.
    Warning,
    /// Something does not work.
    Error,
}

impl Severity {
    /// An Event's type; it knows nothing worse than a warning.
    pub fn event_type(self) -> &'static str {
        match self {
            Severity::Normal => "Normal",
            Severity::Warning | Severity::Error => "Warning",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal $severity:ident $action:literal everywhere $everywhere:literal, about $about:literal, $meaning:literal, $advice:literal;)*) => {
        $($(#[$doc])* pub static $name: Reason = Reason {
            name: $text,
            action: $action,
            severity: Severity::$severity,
            everywhere: $everywhere,
            about: $about,
            meaning: $meaning,
            advice: $advice,
        };)*
        /// Every reason, in the order of the documentation.
        pub static REASONS: &[&Reason] = &[$(&$name),*];
    };
}

reasons! {
    /// Two services claim one destination.
    ADDRESS_CONFLICT = "AddressConflict" Warning "Plan" everywhere true, about "Service",
        "Another Service claims the same address, protocol and port, and keeps it: a ClusterIP wins over a load balancer address, that over an externalIP, that over a NodePort; then the older Service wins",
        "Give one of the two another address or port. The note names the winner";
    /// An object has an impossible value.
    MALFORMED_OBJECT = "MalformedObject" Warning "Read" everywhere true, about "Service, EndpointSlice, Node",
        "The object has a value that cannot be what it should be, and is ignored until it is corrected",
        "Correct the field that the note names";
    /// One of our annotations has a value that it cannot have.
    INVALID_ANNOTATION = "InvalidAnnotation" Warning "Read" everywhere true, about "Service, EndpointSlice",
        "An annotation `waypost.dev/…` has a value that it cannot have, or a name that there is none of; the object is in use all the same. The note says what applies meanwhile: the default, but for lists of sources and selectors of nodes whatever opens nothing",
        "Correct the annotation: the note says what is allowed";
    /// The kernel refused something.
    KERNEL_REFUSED = "KernelRefused" Error "Program" everywhere false, about "Service, Node",
        "The kernel of this node refused what belongs to one address of the Service (or to the node as a whole). It was set aside; everything else is in place, and it is tried again, within half a minute at first and eight minutes at most",
        "Look at the kernel's words in the note; `waypost check` on the node says what the kernel lacks";
    /// One family's table cannot be written.
    TABLE_OUT_OF_DATE = "TableOutOfDate" Error "Program" everywhere false, about "Node",
        "The agent's table of one family (IPv4 or IPv6) could not be brought up to date twice in a row: services are as they were over that family, or not there at all. The other family is served. It is tried again, at least every 30 seconds",
        "Look at the kernel's words in the note; `waypost check` on the node says what the kernel lacks. `/readyz` says how long it lasts";
    /// A DNS address cannot be bound.
    DNS_PORT_TAKEN = "DnsPortTaken" Error "ServeDNS" everywhere false, about "Node",
        "The agent cannot serve DNS on an address of this node, mostly because another server holds the port. Pods of this node are answered by the cluster's DNS service meanwhile, and the agent tries again every 5 seconds",
        "Stop the process that the note names, or set `agent.localDNS` to false in the chart";
    /// DNS cannot do what is written.
    DNS_CONFIGURATION_REFUSED = "DnsConfigurationRefused" Error "ConfigureDNS" everywhere false, about "Node",
        "What is written for DNS (a Corefile, or the ConfigMap with it) has something that cannot be done. DNS goes on as it was configured before; an agent that starts with it obeys the last one that could be done (`state-dir`), or leaves the questions of its node to the cluster's DNS service. Only one with role dns ends",
        "Correct what the note names, with file and line; `waypost check --corefile FILE` tries it out";
    /// Somebody has changed our table.
    TABLE_REPAIRED = "TableRepaired" Warning "Repair" everywhere false, about "Node",
        "Another program has changed or removed the agent's table; it was put right again as soon as the kernel told of it, or by the comparison every 5 minutes. Connections that began in between may have failed",
        "Find out who does that: the note names the program where the kernel tells, and `nft monitor` shows it. A firewall that flushes the whole ruleset should flush its own tables only";
    /// Somebody has removed our addresses.
    DNS_ADDRESS_REPAIRED = "DnsAddressRepaired" Warning "Repair" everywhere false, about "Node",
        "Another program has removed an address on which the agent answers DNS from `lo`; it was added again as soon as the kernel told of it",
        "Find out who does that: `ip monitor address` shows it. Network managers may have to be told to leave `lo` alone";
    /// A health check port cannot be had.
    FAILED_TO_START_SERVICE_HEALTHCHECK = "FailedToStartServiceHealthcheck" Warning "Listen" everywhere false, about "Service",
        "The Service's `healthCheckNodePort` cannot be served on an address of this node, so that load balancers take the node for unhealthy. It is tried again every 5 seconds (kube-proxy gives the same reason)",
        "Free the port: the note names the address, and the holder where it can be seen";
    /// A NodePort cannot be served on a loopback address.
    LOCALHOST_NODE_PORT_TAKEN = "LocalhostNodePortTaken" Warning "Listen" everywhere false, about "Service",
        "With `nodeport-addresses` localhost: a NodePort of the Service cannot be served on a loopback address of this node, because a process of the node has the port. It is tried again every 5 seconds; other addresses are not concerned",
        "Free the port: the note names the holder where it can be seen";
    /// kube-proxy runs here, or has left something behind.
    KUBE_PROXY_FOUND = "KubeProxyFound" Warning "LookAround" everywhere false, about "Node",
        "kube-proxy runs on this node, or has left tables, chains or links behind that translate service addresses as well",
        "Stop kube-proxy, then run `waypost cleanup --kube-proxy` on the node";
    /// NodeLocal DNSCache is here.
    NODE_LOCAL_DNS_FOUND = "NodeLocalDnsFound" Warning "LookAround" everywhere false, about "Node",
        "NodeLocal DNSCache runs on this node or has left its link behind, which owns the addresses on which the agent is to answer DNS",
        "Remove its DaemonSet and then its link `nodelocaldns`, or set `agent.localDNS` to false in the chart";
    /// The API server does not let the agent watch something.
    PERMISSION_MISSING = "PermissionMissing" Error "Watch" everywhere false, about "Node",
        "The API server does not let the agent of this node watch something that it needs. What is known stays in use, nothing new is learned, and an agent that starts is not ready; it is tried again every few seconds",
        "Grant what the note names to the user that it names: the chart's ClusterRole has it. `waypost check` in the agent's pod tries every right";
    /// The state of an earlier agent is served.
    LAST_STATE_SERVED = "LastStateServed" Warning "Start" everywhere false, about "Node",
        "The agent has started while the API server could not be reached, and has served what an earlier one knew (`state-dir`) until it could. Pods that came or went in between were not known",
        "Find out why the API server could not be reached; `/readyz` says how old the state is";
    /// What an earlier agent has left is not used.
    LAST_STATE_REFUSED = "LastStateRefused" Warning "Start" everywhere false, about "Node",
        "The last known state on disk (`state-dir`) is damaged or was written by another version, and is not used. Only a start without the API server needs it; the next change writes it anew",
        "After an upgrade nothing. Otherwise look at the disk: the note says what is wrong";
    /// Somebody translates before us.
    FOREIGN_TRANSLATION = "ForeignTranslation" Warning "LookAround" everywhere false, about "Node",
        "Another program has a chain that translates addresses before the agent's, or at the same priority: what it translates, the agent never sees",
        "Find out whose table it is, and whether its rules catch service addresses: `nft list ruleset`";
}

/// The table of reasons as Markdown.
pub fn reference_markdown() -> String {
    let mut text = String::from("| reason | type | about | what has happened | what to do |\n|---|---|---|---|---|\n");
    for reason in REASONS {
        let (name, type_, about) = (reason.name, reason.severity.event_type(), reason.about);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `{name}` | {type_} | {about} | {} | {} |", reason.meaning, reason.advice);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn reasons_are_camel_case_short_and_each_its_own() {
        for reason in REASONS {
            let camel = reason.name.starts_with(|first: char| first.is_ascii_uppercase())
                && reason.name.chars().all(|letter| letter.is_ascii_alphanumeric());
            assert!(camel && reason.name.len() <= 128, "{}", reason.name);
            assert!(!reason.action.is_empty() && reason.action.len() <= 128, "{}", reason.name);
        }
        assert_eq!(REASONS.iter().map(|reason| reason.name).collect::<BTreeSet<_>>().len(), REASONS.len());
    }
}
