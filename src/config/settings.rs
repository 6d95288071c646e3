//! The table of settings: flags, environment, file, help and reference are all made from it.

use std::fmt::Write;

/// One setting. The key is at once the flag (`--key`) and the key in the file.
#[derive(Debug)]
pub struct Setting {
    /// Flag without the dashes, and key in the file.
    pub key: &'static str,
    /// The environment variable.
    pub env: &'static str,
    /// What stands for the value in help texts.
    pub value: &'static str,
    /// Whether several values are allowed (a repeated flag, a comma-separated text, or a YAML list).
    pub list: bool,
    /// The default, as the reference shows it.
    pub default: &'static str,
    /// The meaning.
    pub help: &'static str,
    /// The heading under which help and reference show it.
    pub section: &'static str,
}

const AGENT: &str = "Agent";
const CLUSTER: &str = "Cluster";
const SERVICES: &str = "Services";
const DNS: &str = "DNS";
const OPERATION: &str = "Operation";

macro_rules! settings {
    ($($name:ident = $section:ident $key:literal $env:literal $value:literal $list:literal, $default:literal, $help:literal;)*) => {
        $(pub(super) static $name: Setting = Setting {
            key: $key, env: $env, value: $value, list: $list, default: $default, help: $help, section: $section,
        };)*
        /// Every setting, in the order of help and reference.
        pub static SETTINGS: &[&Setting] = &[$(&$name),*];
    };
}

settings! {
    ROLE = AGENT "role" "WAYPOST_ROLE" "all|proxy|dns" false, "all",
        "Which half runs: service proxy and DNS (all), only the proxy, or only DNS, which needs no privileges";
    NODE_NAME = AGENT "node-name" "WAYPOST_NODE_NAME" "NAME" false, "NODE_NAME, else the host name",
        "The name of this node's Node object";
    STATE_DIR = AGENT "state-dir" "WAYPOST_STATE_DIR" "DIR" false, "none",
        "Where the last known state is kept, to be served when the API server cannot be reached at a start. None: it is not kept";

    KUBECONFIG = CLUSTER "kubeconfig" "WAYPOST_KUBECONFIG" "FILE" false, "in-cluster",
        "Reach the API server as this kubeconfig file says";
    API_SERVER = CLUSTER "api-server" "WAYPOST_API_SERVER" "URL" false, "in-cluster",
        "Reach the API server at this URL, with the pod's service account where there is one";
    MANIFESTS = CLUSTER "manifests" "WAYPOST_MANIFESTS" "DIR" false, "none",
        "Take the objects from the YAML files in this folder instead of an API server, and follow its changes";

    CLUSTER_CIDR = SERVICES "cluster-cidr" "WAYPOST_CLUSTER_CIDR" "CIDR,…" true, "none",
        "Pod networks: traffic to a ClusterIP from elsewhere is masqueraded. None: nothing is. Only for detect-local-mode ClusterCIDR";
    DETECT_LOCAL_MODE = SERVICES "detect-local-mode" "WAYPOST_DETECT_LOCAL_MODE" "ClusterCIDR|NodeCIDR|BridgeInterface|InterfaceNamePrefix" false, "ClusterCIDR",
        "What traffic of pods is known by: a source in cluster-cidr, a source in the podCIDRs of this Node object, or the interface by which it comes in";
    POD_BRIDGE_INTERFACE = SERVICES "pod-bridge-interface" "WAYPOST_POD_BRIDGE_INTERFACE" "NAME" false, "none",
        "With detect-local-mode BridgeInterface: the bridge of the pods";
    POD_INTERFACE_NAME_PREFIX = SERVICES "pod-interface-name-prefix" "WAYPOST_POD_INTERFACE_NAME_PREFIX" "PREFIX" false, "none",
        "With detect-local-mode InterfaceNamePrefix: how the names of the pods' interfaces begin";
    SERVICE_CIDR = SERVICES "service-cidr" "WAYPOST_SERVICE_CIDR" "CIDR,…" true, "none",
        "Service networks besides those of the cluster's ServiceCIDR objects: packets to their unallocated addresses are dropped";
    NODEPORT_ADDRESSES = SERVICES "nodeport-addresses" "WAYPOST_NODEPORT_ADDRESSES" "primary|all|localhost|CIDR,…" true, "primary",
        "Where NodePorts answer: on the addresses of the Node object (primary), on local addresses in these networks or on all of them, and for TCP on the loopback addresses (localhost)";
    EXTERNAL_IPS = SERVICES "external-ips" "WAYPOST_EXTERNAL_IPS" "true|false" false, "true",
        "Serve the externalIPs of Services. Whoever may write Services can take any address with them; Kubernetes has deprecated the field";
    CONNECTION_METRICS = SERVICES "connection-metrics" "WAYPOST_CONNECTION_METRICS" "NUMBER" false, "0",
        "Count new connections in waypost_service_connections_total, for at most this many destinations (address, protocol, port); the others are summed up. 0: off";
    MASQUERADE_ALL = SERVICES "masquerade-all" "WAYPOST_MASQUERADE_ALL" "true|false" false, "false",
        "Masquerade all traffic to ClusterIPs";
    MASQUERADE_BIT = SERVICES "masquerade-bit" "WAYPOST_MASQUERADE_BIT" "BIT" false, "14",
        "The bit of the packet mark that asks for masquerading, 0 to 31 (kube-proxy: iptables-masquerade-bit)";

    CONNTRACK_MAX_PER_CORE = SERVICES "conntrack-max-per-core" "WAYPOST_CONNTRACK_MAX_PER_CORE" "COUNT" false, "32768",
        "Tracked flows for each processor, at most 1048576 together; a limit that is higher already stays. 0: the limit is left alone";
    CONNTRACK_MIN = SERVICES "conntrack-min" "WAYPOST_CONNTRACK_MIN" "COUNT" false, "131072",
        "Tracked flows at least, however few processors there are";
    CONNTRACK_TCP_ESTABLISHED = SERVICES "conntrack-tcp-timeout-established" "WAYPOST_CONNTRACK_TCP_TIMEOUT_ESTABLISHED" "DURATION" false, "24h",
        "How long an established TCP connection without packets is tracked. 0: as the kernel has it";
    CONNTRACK_TCP_CLOSE_WAIT = SERVICES "conntrack-tcp-timeout-close-wait" "WAYPOST_CONNTRACK_TCP_TIMEOUT_CLOSE_WAIT" "DURATION" false, "1h",
        "How long a TCP connection that one side has closed is tracked. 0: as the kernel has it";
    CONNTRACK_TCP_BE_LIBERAL = SERVICES "conntrack-tcp-be-liberal" "WAYPOST_CONNTRACK_TCP_BE_LIBERAL" "true|false" false, "true",
        "Take TCP packets outside the window for part of their connection, instead of letting them reset it. False: as the kernel has it";
    CONNTRACK_UDP = SERVICES "conntrack-udp-timeout" "WAYPOST_CONNTRACK_UDP_TIMEOUT" "DURATION" false, "0",
        "How long a UDP flow without an answer is tracked. 0: as the kernel has it";
    CONNTRACK_UDP_STREAM = SERVICES "conntrack-udp-timeout-stream" "WAYPOST_CONNTRACK_UDP_TIMEOUT_STREAM" "DURATION" false, "0",
        "How long a UDP flow with answers is tracked. 0: as the kernel has it";

    CLUSTER_DOMAIN = DNS "cluster-domain" "WAYPOST_CLUSTER_DOMAIN" "DOMAIN" false, "cluster.local",
        "The domain of the cluster's names";
    DNS_ADDRESS = DNS "dns-address" "WAYPOST_DNS_ADDRESS" "IP[:PORT],…" true, "none; with role dns POD_IPS, port 53",
        "Where DNS is served over UDP and TCP, port 53 unless given; with role all the agent makes the addresses local on lo. None: no DNS";
    COREFILE = DNS "corefile" "WAYPOST_COREFILE" "FILE" false, "none",
        "Do what this Corefile says, CoreDNS's configuration file; with `reload` in it changes are followed. Not with dns-zones in the configuration file, which says the same in YAML";
    COREFILE_CONFIGMAP = DNS "corefile-configmap" "WAYPOST_COREFILE_CONFIGMAP" "NAMESPACE/NAME,…" true, "none",
        "Do what the Corefile in this ConfigMap says, for example kube-system/coredns, and follow it. Files that it imports are other keys, perhaps of further ConfigMaps named here";
    DNS_TTL = DNS "dns-ttl" "WAYPOST_DNS_TTL" "SECONDS" false, "30",
        "TTL of the cluster's records, 0 to 3600";
    DNS_ALLOW_FROM = DNS "dns-allow-from" "WAYPOST_DNS_ALLOW_FROM" "CIDR,…" true, "everywhere",
        "From which networks questions are answered; others get no answer. It must be given where dns-address has a public address: 0.0.0.0/0,::/0 for everybody";
    DNS_RATE_LIMIT = DNS "dns-rate-limit" "WAYPOST_DNS_RATE_LIMIT" "NUMBER" false, "0",
        "Answers over UDP in a second for each client, 0 to 1000000; most questions beyond them get none (response rate limiting). 0: any number";
    DNS_RATE_LIMIT_SLIP = DNS "dns-rate-limit-slip" "WAYPOST_DNS_RATE_LIMIT_SLIP" "NUMBER" false, "2",
        "Of so many questions beyond dns-rate-limit one is answered by sending the client to TCP, 0 to 100. 0: none is";
    DNS_RATE_LIMIT_IPV4 = DNS "dns-rate-limit-ipv4-prefix-length" "WAYPOST_DNS_RATE_LIMIT_IPV4_PREFIX_LENGTH" "BITS" false, "32",
        "The bits of an IPv4 address that make a client for dns-rate-limit, 1 to 32. The pods of a node share 24, as a rule";
    DNS_RATE_LIMIT_IPV6 = DNS "dns-rate-limit-ipv6-prefix-length" "WAYPOST_DNS_RATE_LIMIT_IPV6_PREFIX_LENGTH" "BITS" false, "128",
        "The same for IPv6, 1 to 128. The pods of a node share 64, as a rule";
    DNS_TCP_CONNECTIONS = DNS "dns-tcp-connections" "WAYPOST_DNS_TCP_CONNECTIONS" "NUMBER" false, "4096",
        "TCP connections that each address has at a time, 1 to 1000000; one more ends the oldest";
    DNS_UNTRACKED = DNS "dns-untracked" "WAYPOST_DNS_UNTRACKED" "true|false" false, "true",
        "With role all: leave DNS questions to this node out of connection tracking. False for network policies and firewalls that judge by it: questions over UDP are then tracked in a zone of their own (30564), where the kernel has zones";
    DNS_UPSTREAM = DNS "dns-upstream" "WAYPOST_DNS_UPSTREAM" "FILE|[tls://]IP[:PORT][#NAME],…" true, "/etc/resolv.conf",
        "Where names outside the cluster domain are asked: servers, over TLS (port 853) with the name in their certificate, or the path of a resolv.conf";
    DNS_STUB_ZONE = DNS "dns-stub-zone" "WAYPOST_DNS_STUB_ZONE" "ZONE=SERVER[+SERVER],…" true, "none",
        "Zones with name servers of their own, up to 15 each and written as those of dns-upstream, for example corp.example=192.0.2.53+192.0.2.54";
    DNS_FORWARD_EXCEPT = DNS "dns-forward-except" "WAYPOST_DNS_FORWARD_EXCEPT" "DOMAIN,…" true, "none",
        "Domains that are not forwarded: SERVFAIL";
    DNS_FORWARD_POLICY = DNS "dns-forward-policy" "WAYPOST_DNS_FORWARD_POLICY" "random|round_robin|sequential" false, "random",
        "Which upstream server is asked first: any, one after the other, or the first that is well";
    DNS_FORWARD_TCP = DNS "dns-forward-tcp" "WAYPOST_DNS_FORWARD_TCP" "true|false" false, "false",
        "Ask upstream servers over TCP only; otherwise over UDP, and over TCP where an answer was cut";
    DNS_FORWARD_TLS_CA = DNS "dns-forward-tls-ca" "WAYPOST_DNS_FORWARD_TLS_CA" "FILE" false, "the system's",
        "Whose certificates of upstream servers over TLS are trusted: a PEM file. The container image has none of its own";
    DNS_FORWARD_TLS_CERT = DNS "dns-forward-tls-cert" "WAYPOST_DNS_FORWARD_TLS_CERT" "FILE" false, "none",
        "A certificate that is shown to upstream servers over TLS: a PEM file; with dns-forward-tls-key";
    DNS_FORWARD_TLS_KEY = DNS "dns-forward-tls-key" "WAYPOST_DNS_FORWARD_TLS_KEY" "FILE" false, "none",
        "Its key: a PEM file";
    DNS_FORWARD_MAX_FAILS = DNS "dns-forward-max-fails" "WAYPOST_DNS_FORWARD_MAX_FAILS" "NUMBER" false, "2",
        "After more failed checks in a row than these an upstream server is down until one succeeds, 0 to 1000. 0: never, and none is checked";
    DNS_FORWARD_MAX_CONCURRENT = DNS "dns-forward-max-concurrent" "WAYPOST_DNS_FORWARD_MAX_CONCURRENT" "NUMBER" false, "1000",
        "How many questions may be forwarded at a time, 0 to 100000; more are refused. 0: any number";
    DNS_FORWARD_HEDGE = DNS "dns-forward-hedge" "WAYPOST_DNS_FORWARD_HEDGE" "MILLISECONDS" false, "200",
        "After this long without an answer a second upstream server is asked as well, 0 to 1000. 0: only after a second";
    DNS_CACHE_TTL = DNS "dns-cache-ttl" "WAYPOST_DNS_CACHE_TTL" "SECONDS" false, "30",
        "How long answers from upstream servers are kept at most, 0 to 86400. 0: not at all";
    DNS_CACHE_NEGATIVE_TTL = DNS "dns-cache-negative-ttl" "WAYPOST_DNS_CACHE_NEGATIVE_TTL" "SECONDS" false, "30",
        "How long it is remembered at most that a name or type does not exist there, 0 to 86400. 0: not at all";
    DNS_CACHE_MIN_TTL = DNS "dns-cache-min-ttl" "WAYPOST_DNS_CACHE_MIN_TTL" "SECONDS" false, "5",
        "How long both are kept at least, whatever their records say, 0 to 86400";
    DNS_CACHE_FAILURE_TTL = DNS "dns-cache-failure-ttl" "WAYPOST_DNS_CACHE_FAILURE_TTL" "SECONDS" false, "5",
        "How long an upstream server's SERVFAIL is repeated without asking again, 0 to 300";
    DNS_CACHE_ENTRIES = DNS "dns-cache-entries" "WAYPOST_DNS_CACHE_ENTRIES" "NUMBER" false, "9984",
        "How many answers are kept, and as many denials, 0 to 10000000. 0: none";
    DNS_CACHE_SIZE = DNS "dns-cache-size" "WAYPOST_DNS_CACHE_SIZE" "MIB" false, "16",
        "How much memory they may take together, 1 to 65536 MiB";
    DNS_CACHE_PREFETCH = DNS "dns-cache-prefetch" "WAYPOST_DNS_CACHE_PREFETCH" "TIMES" false, "3",
        "A name that was asked for this often, without a pause of a minute, is asked again before it expires, 0 to 1000000. 0: none is";
    DNS_CACHE_SERVE_STALE = DNS "dns-cache-serve-stale" "WAYPOST_DNS_CACHE_SERVE_STALE" "SECONDS" false, "3600",
        "For how long an expired answer is served when the upstream servers have none (RFC 8767), 0 to 604800. 0: never";

    HEALTHZ = OPERATION "healthz-bind-address" "WAYPOST_HEALTHZ_BIND_ADDRESS" "IP:PORT" false, ":10256; off with role dns",
        "Serves /healthz, /livez and /readyz. Empty: off";
    METRICS = OPERATION "metrics-bind-address" "WAYPOST_METRICS_BIND_ADDRESS" "IP:PORT" false, "127.0.0.1:10249; off with role dns",
        "Serves /metrics, /proxyMode and /version. Empty: off";
    DNS_HEALTH = OPERATION "dns-health-address" "WAYPOST_DNS_HEALTH_ADDRESS" "IP:PORT" false, ":8080; off without DNS",
        "Serves /health. Empty: off";
    DNS_READY = OPERATION "dns-ready-address" "WAYPOST_DNS_READY_ADDRESS" "IP:PORT" false, ":8181; off without DNS",
        "Serves /ready. Empty: off";
    DNS_METRICS = OPERATION "dns-metrics-address" "WAYPOST_DNS_METRICS_ADDRESS" "IP:PORT" false, ":9153; off without DNS",
        "Serves the /metrics of DNS. Empty: off";
    PROBE_SOCKET = OPERATION "probe-socket" "WAYPOST_PROBE_SOCKET" "FILE" false, "none",
        "Serves /healthz, /livez and /readyz on this Unix socket as well, for `waypost probe`: the ports may be another agent's while one takes over from the other";
    HANDOVER_SOCKET = OPERATION "handover-socket" "WAYPOST_HANDOVER_SOCKET" "FILE" false, "none",
        "Where the agents of this node hand over to each other: an agent that starts takes over the sockets of the one that serves, once it is ready. Not with role dns";
    SOCKET = OPERATION "socket" "WAYPOST_SOCKET" "PATH" false, "/run/waypost/agent.sock; off with role dns",
        "Where the agent answers waypost explain, services, dig and dns top: a local socket for its own user only. Empty: off";
    LOG_FORMAT = OPERATION "log-format" "WAYPOST_LOG_FORMAT" "human|json" false, "human",
        "The shape of log lines";
    LOG_LEVEL = OPERATION "log-level" "WAYPOST_LOG_LEVEL" "FILTER" false, "info",
        "error, warn, info, debug or trace, or a tracing filter such as info,waypost::dns=debug";
}

impl Setting {
    /// Whether it says where objects come from, or what becomes of services.
    pub(super) fn is_about_services(&self) -> bool {
        self.section == CLUSTER || self.section == SERVICES
    }
}

/// The setting with this key.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().copied().find(|setting| setting.key == key)
}

/// The configuration reference as Markdown: one table a section.
pub fn reference_markdown() -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            section = setting.section;
            text += &format!(
                "{gap}**{section}**\n\n| flag, key in the file | environment | default | meaning |\n|---|---|---|---|\n"
            );
        }
        let value = setting.value.replace('|', "\\|");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| `--{} {value}` | `{}` | {} | {} |", setting.key, setting.env, setting.default, setting.help);
    }
    text
}
