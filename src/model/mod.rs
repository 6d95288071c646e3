//! Services, endpoint slices and nodes, stripped to what the agent needs.
//!
//! Nothing here does I/O or knows a Kubernetes type: [`crate::source`] makes these values, everything behind it reads them.

mod endpoints;
mod import;
mod intern;
mod marks;
mod selector;
mod selector_text;
mod service;

pub use endpoints::{Endpoint, Hints, Slice, SliceDetails, SliceKey, SlicePort};
pub use import::{Import, ImportedSlice};
pub use intern::Interner;
pub use marks::{LabelNames, Marks};
pub use selector::{Labels, Requirement, Selector};
pub use selector_text::selector;
pub use service::{AddressKind, Balance, Policy, Service, ServiceKind, ServiceOptions, ServicePort};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// A shared, immutable string: namespaces, names and port names repeat thousands of times (see [`Interner`]). It is one pointer long, half as long as an
/// `Arc<str>`: most of what is kept of a cluster are keys made of these.
pub type Name = arcstr::ArcStr;

/// IPv4 or IPv6. Each family has its own table and stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which the agent handles them.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Family {
    /// `IPv4` or `IPv6`, as kube-proxy's metrics label them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A transport protocol that Services can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The IP protocol number (IANA).
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The protocol with this IP protocol number.
    pub fn from_number(number: u8) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.number() == number)
    }

    /// The protocol with this lower-case name.
    pub fn from_name(name: &str) -> Option<Protocol> {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|protocol| protocol.name() == name)
    }

    /// The lower-case name, as in DNS (`_tcp`) and in nft.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Namespace and name of an object; for a slice's service too.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: Name,
    /// The name.
    pub name: Name,
}

impl ObjectKey {
    /// A key of these two names.
    pub fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> ObjectKey {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the agent needs to know of the node it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node's own addresses: the first InternalIP (else ExternalIP) of each family, as kube-proxy's `primary` means it.
    pub addresses: Vec<IpAddr>,
    /// Whether load balancers should send traffic here: false while the Node is being deleted or carries the taint
    /// `ToBeDeletedByClusterAutoscaler`.
    pub eligible: bool,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<Name>,
    /// `podCIDRs`: the networks of this node's pods.
    pub pod_cidrs: Box<[IpNet]>,
    /// All its labels: Services may ask to be exposed on some nodes only.
    pub labels: Labels,
}

/// One change of the cluster's objects, in the order in which the source saw them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A full listing of this kind begins. Objects of the kind that are not applied before [`Update::ListEnd`] are gone.
    ListBegin(Kind),
    /// The listing of this kind that is under way tells these details of each object. Without such a word it tells none.
    ListTells(Kind, Details),
    /// The full listing of this kind is complete.
    ListEnd(Kind),
    /// A Service was added or changed.
    Service(Box<Service>),
    /// A Service is gone (or is malformed: that counts as absent).
    ServiceGone(ObjectKey),
    /// An EndpointSlice was added or changed.
    Slice(Box<Slice>),
    /// An EndpointSlice is gone, malformed, or no longer belongs to a Service.
    SliceGone(SliceKey),
    /// A Namespace exists; with its labels, where [`Details`] ask for them.
    Namespace(Name, Option<Arc<Marks>>),
    /// A Namespace is gone.
    NamespaceGone(Name),
    /// A ServiceCIDR was added or changed: its networks.
    ServiceCidr(Name, Box<[IpNet]>),
    /// A ServiceCIDR is gone, or malformed.
    ServiceCidrGone(Name),
    /// The agent's own Node was added or changed.
    Node(Node),
    /// The agent's own Node is gone.
    NodeGone,
    /// A pod was added or changed: its addresses, and its labels where [`Details`] ask for them.
    Pod(ObjectKey, Box<[IpAddr]>, Option<Arc<Marks>>),
    /// A pod is gone, is about to end, or has no address.
    PodGone(ObjectKey),
    /// A ServiceImport was added or changed.
    Import(Box<Import>),
    /// A ServiceImport is gone, or malformed.
    ImportGone(ObjectKey),
    /// An EndpointSlice of a ServiceImport was added or changed.
    ImportedSlice(Box<ImportedSlice>),
    /// An EndpointSlice is gone, malformed, or no longer belongs to a ServiceImport.
    ImportedSliceGone(SliceKey),
    /// Nothing was listed so far, and the source has not been reached twice in a row: what is known from elsewhere may be used.
    Unreachable,
    /// Nothing of this kind was listed so far, and the source has been told twice in a row that it may not see it, or that there is no such thing.
    Refused(Kind),
}

/// What is asked of the source beyond what is always watched, because the configuration of DNS needs it. It only ever grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// The addresses of all pods.
    pub pods: bool,
    /// Services of other clusters.
    pub imports: bool,
    /// What objects tell beyond what is always read of them.
    pub details: Details,
}

/// What is read of objects only where the configuration of DNS needs it, because it would take more memory than all the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Labels of Services, EndpointSlices and pods.
    pub labels: LabelNames,
    /// Labels of namespaces.
    pub namespace_labels: LabelNames,
    /// The pods that endpoints are.
    pub pod_names: bool,
    /// The zones that endpoints are in.
    pub zones: bool,
}

impl Details {
    /// All of them.
    pub const ALL: Details = Details { labels: LabelNames::All, namespace_labels: LabelNames::All, pod_names: true, zones: true };

    /// Those that objects of a kind have.
    pub fn of(&self, kind: Kind) -> Details {
        let has = |kinds: &[Kind]| kinds.contains(&kind);
        let only = |names: &LabelNames, if_so| if if_so { names.clone() } else { LabelNames::None };
        let of_slices = has(&[Kind::Slice, Kind::ImportedSlice]);
        Details {
            labels: only(&self.labels, of_slices || has(&[Kind::Service, Kind::Pod])),
            namespace_labels: only(&self.namespace_labels, has(&[Kind::Namespace])),
            pod_names: self.pod_names && of_slices,
            zones: self.zones && of_slices,
        }
    }

    /// Each of these, alone.
    pub fn single(self) -> impl Iterator<Item = Details> {
        let none = Details::default();
        [
            Details { labels: self.labels, ..none.clone() },
            Details { namespace_labels: self.namespace_labels, ..none.clone() },
            Details { pod_names: self.pod_names, ..none.clone() },
            Details { zones: self.zones, ..none },
        ]
        .into_iter()
    }

    /// Whether all of the other ones are among these.
    pub fn have(&self, others: &Details) -> bool {
        self.and(others) == *self
    }

    /// These and the other ones.
    pub fn and(&self, other: &Details) -> Details {
        Details {
            labels: self.labels.and(&other.labels),
            namespace_labels: self.namespace_labels.and(&other.namespace_labels),
            pod_names: self.pod_names || other.pod_names,
            zones: self.zones || other.zones,
        }
    }
}

impl Demand {
    /// The kinds that are watched for some demand, and not always.
    pub const KINDS: &[Kind] = &[Kind::Pod, Kind::Import, Kind::ImportedSlice];

    /// The kinds that are watched for it.
    pub fn kinds(&self) -> &'static [Kind] {
        match (self.pods, self.imports) {
            (false, false) => &[],
            (true, false) => &[Kind::Pod],
            (false, true) => &[Kind::Import, Kind::ImportedSlice],
            (true, true) => Demand::KINDS,
        }
    }

    /// Whether all that the other one asks for is asked for here.
    pub fn has(&self, other: &Demand) -> bool {
        self.and(other) == *self
    }

    /// This one and the other one.
    pub fn and(&self, other: &Demand) -> Demand {
        let details = self.details.and(&other.details);
        Demand { pods: self.pods || other.pods, imports: self.imports || other.imports, details }
    }
}

/// The kinds that the agent watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    Slice,
    /// Namespaces.
    Namespace,
    /// The agent's own Node.
    Node,
    /// ServiceCIDRs.
    ServiceCidr,
    /// Pods, where [`Demand`] asks for them.
    Pod,
    /// ServiceImports, where [`Demand`] asks for them.
    Import,
    /// The EndpointSlices of ServiceImports; with them.
    ImportedSlice,
}

impl Kind {
    /// How many kinds there are, for tables with an entry for each.
    pub const COUNT: usize = 8;
}

impl fmt::Display for Kind {
    /// The resource's plural name, as kubectl and RBAC rules write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Service => "services",
            Kind::Slice => "endpointslices",
            Kind::Namespace => "namespaces",
            Kind::Node => "nodes",
            Kind::ServiceCidr => "servicecidrs",
            Kind::Pod => "pods",
            Kind::Import => "serviceimports",
            Kind::ImportedSlice => "endpointslices of serviceimports",
        })
    }
}
