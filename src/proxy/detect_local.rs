//! How packets of pods are told from those of others.

use std::fmt;

/// What a packet of a pod is known by (kube-proxy's local traffic detection). It decides which packets to a ClusterIP are masqueraded because
/// they come from elsewhere, and who passes by a policy `Local` because he is a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DetectLocal {
    /// Nothing: no packet is masqueraded for where it comes from, and none is known to come from a pod.
    #[default]
    Nothing,
    /// Its source: an address in [`super::Set::PodCidrs`].
    Networks,
    /// The interface by which it comes in: this one.
    Interface(Box<str>),
    /// The interface by which it comes in: any whose name begins so.
    InterfacePrefix(Box<str>),
}

impl fmt::Display for DetectLocal {
    /// As the comment of the table has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DetectLocal::Nothing => f.write_str("pods unknown"),
            DetectLocal::Networks => f.write_str("pods by network"),
            DetectLocal::Interface(name) => write!(f, "pods by interface {name}"),
            DetectLocal::InterfacePrefix(prefix) => write!(f, "pods by interface {prefix}*"),
        }
    }
}
