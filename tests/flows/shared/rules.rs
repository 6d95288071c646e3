//! The rules that the table shows to hold: those of kube-proxy, and then those that it never had.

/// Declares the rules and their descriptions.
macro_rules! rules {
    ($($name:ident: $text:literal,)*) => {
        /// A rule of service proxying.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Rule {
            $(#[doc = $text] $name,)*
        }

        impl Rule {
            /// Every rule and what it says.
            pub const ALL: &'static [(Rule, &'static str)] = &[$((Rule::$name, $text),)*];
        }
    };
}

rules! {
    ProxyName: "a Service with the label service-proxy-name belongs to another proxy; on slices the label says nothing",
    NotProxied: "headless services and ExternalNames are not proxied, whatever addresses they name",
    HeadlessSlice: "slices with the label headless are for DNS only",
    FqdnSlice: "slices of type FQDN do not count",
    UnlabelledSlice: "a slice without the label service-name belongs to no Service",
    FirstAddress: "of an endpoint's addresses the first one is used",
    NilPort: "a slice's port without a number does not count",
    PortName: "service and slice are joined by port name and protocol, and by nothing else",
    PortNumbers: "one port name may have different numbers on different endpoints",
    SameEndpoint: "an endpoint in two slices counts once",
    ReusedAddress: "of two entries with one address and port the one that is not terminating counts",
    NilConditions: "a condition that is not given means ready, serving and not terminating",
    ReadyVerbatim: "ready counts as it is written, even of an endpoint that terminates",
    NotReady: "endpoints that are not ready get nothing",
    LocalByName: "an endpoint is local by its nodeName, never by its address",
    Families: "each family stands alone",
    Protocols: "protocols with one port number are different ports",
    TerminatingCluster: "without ready endpoints those that still serve while they terminate are used",
    TerminatingLocal: "the same holds for the endpoints of the node, independently",
    ZoneHints: "hints for zones are followed when every ready endpoint has one and one is for here",
    NodeHints: "hints for nodes come before those for zones",
    AllOrNothing: "one ready endpoint without a hint, or none for here, and no hint counts",
    HintsNotLocal: "policy Local asks for no hints",
    HintsNotTerminating: "the terminating ones are used without asking for hints",
    ClusterIp: "a ClusterIP leads to any endpoint; pods keep their address, all others are masqueraded",
    UndefinedPort: "a port that an active ClusterIP does not have is refused",
    UnallocatedAddress: "a service address that nobody has is dropped",
    NodePort: "a NodePort leads to any endpoint, masqueraded",
    NodePortPrimary: "NodePorts answer on the primary addresses of the Node by default",
    NodePortNetworks: "NodePorts answer on local addresses in the given networks",
    NodePortEverywhere: "NodePorts answer on every local address but loopback ones",
    NodePortLocalhost: "NodePorts answer on loopback addresses over TCP",
    LoadBalancer: "a load balancer's address leads to any endpoint, masqueraded",
    IpMode: "addresses of ipMode Proxy and host names of load balancers are not the node's business",
    ExternalIp: "an externalIP leads to any endpoint, masqueraded",
    NoNodePort: "a load balancer without NodePorts works on its address alone",
    VipPort: "other ports of load balancer addresses, externalIPs and node addresses are left alone",
    SourceRanges: "source ranges close a load balancer's address to all others",
    RangesOnVips: "source ranges do not apply to ClusterIP, NodePort and externalIP",
    OpenRange: "a range of /0 opens its family",
    ClosedFamily: "ranges of one family close the other",
    VipAsSource: "ranges that contain the node's address let it in with the load balancer's address as its source",
    RangesFirst: "source ranges come before everything else",
    InternalLocal: "internalTrafficPolicy Local: a ClusterIP leads to endpoints of the node only",
    ExternalLocal: "externalTrafficPolicy Local: endpoints of the node only, and the source is kept",
    ShortCircuitPod: "to an external address with policy Local pods reach any endpoint, with their own address",
    ShortCircuitNode: "to an external address with policy Local the node reaches any endpoint, masqueraded",
    PolicyScope: "each policy applies to its kind of address",
    Reject: "without any usable endpoint connections are refused",
    Drop: "with endpoints elsewhere and policy Local connections are dropped",
    HookInput: "connections to the node's own addresses are judged as they arrive",
    HookForward: "connections that pass through are judged on their way",
    HookOutput: "the node's own connections are judged as they leave",
    Hairpin: "an endpoint that reaches itself through a service is masqueraded",
    HostNetwork: "an endpoint with the node's own address is reached in place, and sees who connects",
    MasqueradeAll: "masquerade-all masquerades everything to ClusterIPs",
    NodeCidrs: "pods are known by the networks of the Node object",
    BridgeInterface: "pods are known by the bridge by which they come",
    InterfacePrefix: "pods are known by how the names of their interfaces begin",
    NoExternalIps: "externalIPs can be switched off",
    Conflict: "of two Services with one address and port the ClusterIP wins, then the load balancer's address, the externalIP, the NodePort, the older",
    MergedRanges: "source ranges may overlap",
    Affinity: "with session affinity a client comes to the same endpoint, whichever address of the port it uses",
    AffinityLocal: "session affinity leads nobody past a policy Local",
    NoDetection: "where nobody knows who is a pod nothing to ClusterIPs is masqueraded, and no pod is short-circuited",
    RoundRobin: "by annotation endpoints get connections one after the other, whichever address of the port is used",
    SourceHash: "by annotation the client's address decides which endpoint it gets, whichever address of the port is used",
    Weights: "by annotation of a slice its endpoints get a larger share",
    SlowStart: "by annotation an endpoint that becomes ready while the agent runs gets its share gradually",
    AllowedSources: "by annotation every address of a Service is closed to all but those on a list",
    DeniedSources: "by annotation every address of a Service is closed to those on a list, whoever is allowed",
    Exposure: "by annotation NodePorts, load balancer addresses and externalIPs are served on selected nodes only",
}
