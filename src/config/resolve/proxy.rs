//! What the service proxy is to do.

use super::Values;
use crate::config::settings::{self, Setting};
use crate::config::{ConfigError, ConntrackConfig, DetectLocalMode, NodePortAddresses, ProxyConfig};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Every address of both families.
const ALL: [IpNet; 2] =
    [IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)), IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))];

impl Values<'_> {
    pub(super) fn proxy(&self) -> Result<ProxyConfig, ConfigError> {
        let bit = self.number(&settings::MASQUERADE_BIT, 0..=31, 14)?;
        Ok(ProxyConfig {
            detect_local: self.detect_local()?,
            cluster_cidrs: self.networks(&settings::CLUSTER_CIDR, "networks such as 10.244.0.0/16 or fd00:10:244::/56")?,
            service_cidrs: self.networks(&settings::SERVICE_CIDR, "networks such as 10.96.0.0/12 or fd00:10:96::/112")?,
            nodeport_addresses: self.nodeport_addresses()?,
            connection_metrics: self.number(&settings::CONNECTION_METRICS, 0..=1_000_000, 0)? as usize,
            external_ips: self.choice(&settings::EXTERNAL_IPS, &[("true", true), ("false", false)])?,
            masquerade_all: self.choice(&settings::MASQUERADE_ALL, &[("false", false), ("true", true)])?,
            masquerade_bit: bit as u8,
            tracked_dns: self.choice(&settings::DNS_UNTRACKED, &[("true", false), ("false", true)])?,
            conntrack: self.conntrack()?,
        })
    }

    fn detect_local(&self) -> Result<DetectLocalMode, ConfigError> {
        let bridge = self.interface(&settings::POD_BRIDGE_INTERFACE, "the name of an interface, such as cni0")?;
        let allowed = "how the names of interfaces begin, such as cali, without a wildcard";
        let prefix = self.interface(&settings::POD_INTERFACE_NAME_PREFIX, allowed)?;
        let modes = ["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"];
        let mode = self.choice(&settings::DETECT_LOCAL_MODE, &modes.map(|name| (name, name)))?;
        let missing = |setting: &Setting| self.bad(setting, "", &format!("it with detect-local-mode {mode}"));
        let (mode, unused) = match mode {
            "BridgeInterface" => (
                DetectLocalMode::BridgeInterface(bridge.ok_or_else(|| missing(&settings::POD_BRIDGE_INTERFACE))?),
                [None, prefix],
            ),
            "InterfaceNamePrefix" => {
                let prefix = prefix.ok_or_else(|| missing(&settings::POD_INTERFACE_NAME_PREFIX))?;
                (DetectLocalMode::InterfaceNamePrefix(prefix), [bridge, None])
            }
            "NodeCIDR" => (DetectLocalMode::NodeCidr, [bridge, prefix]),
            _ => (DetectLocalMode::ClusterCidr, [bridge, prefix]),
        };
        let settings =
            [(&settings::POD_BRIDGE_INTERFACE, "BridgeInterface"), (&settings::POD_INTERFACE_NAME_PREFIX, "InterfaceNamePrefix")];
        for ((setting, of), value) in settings.into_iter().zip(unused) {
            if let Some(value) = value {
                return Err(self.bad(setting, &value, &format!("it with detect-local-mode {of} only")));
            }
        }
        Ok(mode)
    }

    /// The name of an interface, or its beginning; `None` where none is given.
    fn interface(&self, setting: &Setting, allowed: &str) -> Result<Option<Box<str>>, ConfigError> {
        let Some(name) = self.given(setting)?.filter(|name| !name.is_empty()) else { return Ok(None) };
        // What the kernel takes, without what would be a wildcard to nft or iptables, or would end a comment.
        let good = |c: char| c.is_ascii_graphic() && !"/:*+\"\\".contains(c);
        match name.len() <= 15 && name.chars().all(good) {
            true => Ok(Some(name.into())),
            false => Err(self.bad(setting, name, allowed)),
        }
    }

    fn conntrack(&self) -> Result<ConntrackConfig, ConfigError> {
        let defaults = ConntrackConfig::DEFAULT;
        let any = 0..=i32::MAX as u32;
        Ok(ConntrackConfig {
            max_per_core: self.number(&settings::CONNTRACK_MAX_PER_CORE, any.clone(), defaults.max_per_core)?,
            min: self.number(&settings::CONNTRACK_MIN, any, defaults.min)?,
            tcp_established_seconds: self.seconds(&settings::CONNTRACK_TCP_ESTABLISHED, defaults.tcp_established_seconds)?,
            tcp_close_wait_seconds: self.seconds(&settings::CONNTRACK_TCP_CLOSE_WAIT, defaults.tcp_close_wait_seconds)?,
            tcp_be_liberal: self.choice(&settings::CONNTRACK_TCP_BE_LIBERAL, &[("true", true), ("false", false)])?,
            udp_seconds: self.seconds(&settings::CONNTRACK_UDP, defaults.udp_seconds)?,
            udp_stream_seconds: self.seconds(&settings::CONNTRACK_UDP_STREAM, defaults.udp_stream_seconds)?,
        })
    }

    fn nodeport_addresses(&self) -> Result<NodePortAddresses, ConfigError> {
        let setting = &settings::NODEPORT_ADDRESSES;
        let Some(values) = self.list(setting) else { return Ok(NodePortAddresses::primary()) };
        let mut wanted = NodePortAddresses { primary: false, networks: Vec::new(), localhost: false };
        for value in values {
            match value.as_str() {
                "primary" => wanted.primary = true,
                "localhost" => wanted.localhost = true,
                "all" => wanted.networks.extend(ALL),
                network => match network.parse::<IpNet>() {
                    Ok(network) => wanted.networks.push(network.trunc()),
                    Err(_) => {
                        return Err(self.bad(setting, network, "primary, all, localhost, or networks such as 192.0.2.0/24"));
                    }
                },
            }
        }
        Ok(wanted)
    }
}
