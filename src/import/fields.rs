//! Every field of kube-proxy's configuration (`kubeproxy.config.k8s.io/v1alpha1` of Kubernetes 1.36), and what becomes of it.

/// A field, by its path in the file.
pub(super) struct Field {
    pub path: &'static str,
    pub meaning: Meaning,
}

/// What becomes of a field.
#[derive(Clone, Copy)]
pub(super) enum Meaning {
    /// The setting of this name takes the same value.
    Is(&'static str),
    /// Read together with others.
    Read,
    /// Nothing is lost without it: the reason.
    Needless(&'static str),
    /// There is nothing like it: what to do instead.
    Instead(&'static str),
}

use Meaning::{Instead, Is, Needless, Read};

const fn field(path: &'static str, meaning: Meaning) -> Field {
    Field { path, meaning }
}

const NO_PERIODS: &str = "a change is committed at once, together with what came while the last commit was under way; everything is compared every 5 minutes";
const NO_IPVS: &str = "services are elements of nftables, and their connections have the time-outs of conntrack";
const NO_WINDOWS: &str = "Waypost runs on Linux; leave kube-proxy on Windows nodes";
const ONE_STREAM: &str = "the log goes to stderr, line by line; a container runtime keeps it";

/// In the order of the Go types.
pub(super) static FIELDS: &[Field] = &[
    field("apiVersion", Read),
    field("kind", Read),
    field("featureGates", Instead("there are no feature gates: what is there is on, or has a setting of its own")),
    field("clientConnection.kubeconfig", Read),
    field("clientConnection.acceptContentTypes", Needless("objects are read as JSON, which every API server speaks")),
    field("clientConnection.contentType", Needless("objects are read as JSON, which every API server speaks")),
    field(
        "clientConnection.qps",
        Needless("the agent watches and does not poll; what it retries, it retries with growing pauses"),
    ),
    field(
        "clientConnection.burst",
        Needless("the agent watches and does not poll; what it retries, it retries with growing pauses"),
    ),
    field("logging.format", Read),
    field("logging.flushFrequency", Needless("each line is written at once")),
    field("logging.verbosity", Read),
    field("logging.vmodule", Instead("log-level takes levels for single parts, such as info,waypost::dns=debug")),
    field("logging.options.text.splitStream", Needless(ONE_STREAM)),
    field("logging.options.text.infoBufferSize", Needless(ONE_STREAM)),
    field("logging.options.json.splitStream", Needless(ONE_STREAM)),
    field("logging.options.json.infoBufferSize", Needless(ONE_STREAM)),
    field("hostnameOverride", Read),
    field("bindAddress", Read),
    field("healthzBindAddress", Is("healthz-bind-address")),
    field("metricsBindAddress", Read),
    field("bindAddressHardFail", Needless("an agent that cannot have a port always ends, and names who has it")),
    field("enableProfiling", Instead("there is no pprof; `perf` works on the agent as on any program")),
    field("showHiddenMetricsForVersion", Needless("no metric is hidden")),
    field("mode", Read),
    field("iptables.masqueradeBit", Read),
    field("iptables.masqueradeAll", Read),
    field("iptables.localhostNodePorts", Read),
    field("iptables.syncPeriod", Needless(NO_PERIODS)),
    field("iptables.minSyncPeriod", Needless(NO_PERIODS)),
    field("ipvs.syncPeriod", Needless(NO_PERIODS)),
    field("ipvs.minSyncPeriod", Needless(NO_PERIODS)),
    field(
        "ipvs.scheduler",
        Instead("endpoints are drawn at random, each alike; docs/services.md has what can be chosen for a Service"),
    ),
    field("ipvs.excludeCIDRs", Needless("no IPVS service is touched but by `waypost cleanup --kube-proxy`")),
    field("ipvs.strictARP", Needless("service addresses are on no interface, so that nobody answers ARP for them")),
    field("ipvs.tcpTimeout", Instead(NO_IPVS)),
    field("ipvs.tcpFinTimeout", Instead(NO_IPVS)),
    field("ipvs.udpTimeout", Instead(NO_IPVS)),
    field("nftables.masqueradeBit", Read),
    field("nftables.masqueradeAll", Read),
    field("nftables.syncPeriod", Needless(NO_PERIODS)),
    field("nftables.minSyncPeriod", Needless(NO_PERIODS)),
    field("winkernel.networkName", Instead(NO_WINDOWS)),
    field("winkernel.sourceVip", Instead(NO_WINDOWS)),
    field("winkernel.enableDSR", Instead(NO_WINDOWS)),
    field("winkernel.rootHnsEndpointName", Instead(NO_WINDOWS)),
    field("winkernel.forwardHealthCheckVip", Instead(NO_WINDOWS)),
    field("detectLocalMode", Is("detect-local-mode")),
    field("detectLocal.bridgeInterface", Read),
    field("detectLocal.interfaceNamePrefix", Read),
    field("clusterCIDR", Read),
    field("nodePortAddresses", Read),
    field(
        "oomScoreAdj",
        Needless("the kubelet gives it to pods of the class system-node-critical, which the agent's are (-997)"),
    ),
    field("conntrack.maxPerCore", Is("conntrack-max-per-core")),
    field("conntrack.min", Is("conntrack-min")),
    field("conntrack.tcpEstablishedTimeout", Is("conntrack-tcp-timeout-established")),
    field("conntrack.tcpCloseWaitTimeout", Is("conntrack-tcp-timeout-close-wait")),
    field("conntrack.tcpBeLiberal", Is("conntrack-tcp-be-liberal")),
    field("conntrack.udpTimeout", Is("conntrack-udp-timeout")),
    field("conntrack.udpStreamTimeout", Is("conntrack-udp-timeout-stream")),
    field("configSyncPeriod", Needless("the agent watches, and lists again only when a watch cannot be resumed")),
    field("portRange", Needless("kube-proxy itself does not use it any more")),
    field("windowsRunAsService", Instead(NO_WINDOWS)),
];

/// Fields for which zero is a value, and not the same as nothing: pointers in the Go types.
pub(super) const ZERO_COUNTS: &[&str] = &[
    "iptables.masqueradeBit",
    "iptables.localhostNodePorts",
    "nftables.masqueradeBit",
    "conntrack.maxPerCore",
    "conntrack.min",
    "conntrack.tcpEstablishedTimeout",
    "conntrack.tcpCloseWaitTimeout",
];
