//! Links, addresses, routes and neighbours over netlink.

use super::{LabError, Namespace};
use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, CacheInfo};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, link::LinkMessage};
use rtnetlink::sys::SocketAddr as NetlinkAddress;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

type Events = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, NetlinkAddress)>;

/// How long the kernel may take with what it does by itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// What pods send everything to; every veth's node side answers to it.
const GATEWAYS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1))];

/// The name of a pod's only interface, apart from `lo`.
const POD_LINK: &str = "eth0";

/// A veth pair between a node and a pod.
#[derive(Debug)]
pub(super) struct Wire {
    /// Makes the names and hardware addresses of this pair unique.
    pub(super) number: u32,
    /// How the name of the node's end begins.
    pub(super) prefix: &'static str,
}

impl Wire {
    /// The name of the node's end.
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.prefix, self.number)
    }

    fn hardware(&self, end: u8) -> Vec<u8> {
        let number = self.number.to_be_bytes();
        vec![0x02, 0x57, end, number[1], number[2], number[3]]
    }

    fn node_end(&self) -> Vec<u8> {
        self.hardware(1)
    }

    fn pod_end(&self) -> Vec<u8> {
        self.hardware(2)
    }

    /// Makes the pair: one end in the node, the other in the pod, both up, the pod's default routes in place.
    pub(super) fn connect(&self, node: &Namespace, pod: &Namespace) -> Result<(), LabError> {
        let peer = LinkUnspec::new_with_name(POD_LINK).address(self.pod_end()).setns_by_fd(pod.raw_fd()).build();
        let pair = LinkVeth::new(&self.name(), POD_LINK)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(self.node_end())
            .build();
        // An end can't come up before it has its peer, hence two messages.
        netlink(node, "making a veth pair", async |handle| {
            handle.link().add(pair).execute().await?;
            handle.link().change(up(&self.name())).execute().await
        })?;
        loopback_up(pod)?;
        let hardware = self.node_end();
        netlink(pod, "making a pod's default routes", async |handle| {
            handle.link().change(up(POD_LINK)).execute().await?;
            let index = index_of(&handle, POD_LINK).await?;
            for gateway in GATEWAYS.into_iter().filter(usable) {
                handle.neighbours().add(index, gateway).link_layer_address(&hardware).execute().await?;
                handle.route().add(route(index, gateway, full(gateway), None, None)).execute().await?;
                handle.route().add(route(index, gateway, 0, Some(gateway), None)).execute().await?;
            }
            Ok(())
        })
    }

    /// Gives the pod an address and the node a route to it. `source` is the address that the node itself uses towards the pod.
    pub(super) fn add_address(
        &self,
        node: &Namespace,
        pod: &Namespace,
        address: IpAddr,
        source: Option<IpAddr>,
    ) -> Result<(), LabError> {
        add_address(pod, POD_LINK, address, Source::Usual)?;
        let (name, hardware) = (self.name(), self.pod_end());
        netlink(node, &format!("making the route to {address}"), async |handle| {
            let index = index_of(&handle, &name).await?;
            handle.neighbours().add(index, address).link_layer_address(&hardware).execute().await?;
            handle.route().add(route(index, address, full(address), None, source)).execute().await
        })
    }

    /// Makes the pod's addresses the node's default gateways.
    pub(super) fn become_default(&self, node: &Namespace, gateways: &[IpAddr]) -> Result<(), LabError> {
        let name = self.name();
        netlink(node, "making the node's default routes", async |handle| {
            let index = index_of(&handle, &name).await?;
            for gateway in gateways {
                handle.route().add(route(index, *gateway, 0, Some(*gateway), None)).execute().await?;
            }
            Ok(())
        })
    }

    /// Removes the pair and with it the node's routes to the pod.
    pub(super) fn cut(&self, node: &Namespace) -> Result<(), LabError> {
        let name = self.name();
        netlink(node, &format!("removing {name}"), async |handle| {
            let index = index_of(&handle, &name).await?;
            handle.link().del(index).execute().await
        })
    }
}

/// Answers packets to addresses of this network that nobody has with "unreachable".
pub(super) fn make_unreachable(namespace: &Namespace, network: IpNet) -> Result<(), LabError> {
    netlink(namespace, &format!("making {network} unreachable"), async |handle| {
        let mut route = RouteMessageBuilder::<IpAddr>::new().kind(RouteType::Unreachable).build();
        route.header.address_family = if network.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        route.header.destination_prefix_length = network.prefix_len();
        route.attributes.push(RouteAttribute::Destination(network.network().into()));
        handle.route().add(route).execute().await
    })
}

/// Brings the loopback interface up.
pub(super) fn loopback_up(namespace: &Namespace) -> Result<(), LabError> {
    netlink(namespace, "bringing lo up", async |handle| handle.link().change(up("lo")).execute().await)
}

/// Whether the kernel may choose an address as the source of a packet when nobody says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// As the rules for source addresses have it.
    Usual,
    /// Only when there is no other.
    Avoided,
}

/// Adds one address, usable when this returns: IPv6 addresses skip duplicate address detection.
pub(super) fn add_address(namespace: &Namespace, link: &str, address: IpAddr, source: Source) -> Result<(), LabError> {
    let what = format!("adding the address {address} to {link}");
    netlink_with_events(namespace, &what, async |handle, events| {
        let index = index_of(&handle, link).await?;
        let mut request = handle.address().add(index, address, full(address));
        if address.is_ipv4() {
            return request.execute().await;
        }
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        if source == Source::Avoided {
            let mut deprecated = CacheInfo::default();
            (deprecated.ifa_preferred, deprecated.ifa_valid) = (0, u32::MAX);
            request.message_mut().attributes.push(AddressAttribute::CacheInfo(deprecated));
        }
        request.execute().await?;
        local_route_to(address, events).await
    })
}

/// Waits for the kernel to make the route that makes an IPv6 address local: it does so after it has answered the request.
async fn local_route_to(address: IpAddr, mut events: Events) -> Result<(), rtnetlink::Error> {
    let destination = RouteAttribute::Destination(address.into());
    let arrival = async {
        while let Some((event, _)) = events.next().await {
            match event.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) if route.attributes.contains(&destination) => {
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(rtnetlink::Error::RequestFailed)
    };
    tokio::time::timeout(PATIENCE, arrival).await.unwrap_or(Err(rtnetlink::Error::RequestFailed))
}

/// Runs netlink requests in a namespace.
fn netlink<T: Send>(
    namespace: &Namespace,
    what: &str,
    requests: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send,
) -> Result<T, LabError> {
    netlink_with_events(namespace, what, async |handle, _| requests(handle).await)
}

/// Runs netlink requests in a namespace, on a thread and a runtime of their own, with notice of new IPv6 routes.
fn netlink_with_events<T: Send>(
    namespace: &Namespace,
    what: &str,
    requests: impl AsyncFnOnce(Handle, Events) -> Result<T, rtnetlink::Error> + Send,
) -> Result<T, LabError> {
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.map_err(LabError::system("starting a runtime"))?;
        runtime.block_on(async {
            let opened = rtnetlink::new_multicast_connection(&[MulticastGroup::Ipv6Route]);
            let (connection, handle, events) = opened.map_err(LabError::system("opening a netlink socket"))?;
            tokio::spawn(connection);
            requests(handle, events).await.map_err(|source| LabError::Netlink { what: what.to_string(), source })
        })
    })?
}

async fn index_of(handle: &Handle, name: &str) -> Result<u32, rtnetlink::Error> {
    let link = handle.link().get().match_name(name).execute().try_next().await?;
    link.map(|link| link.header.index).ok_or(rtnetlink::Error::RequestFailed)
}

fn up(name: &str) -> LinkMessage {
    LinkUnspec::new_with_name(name).up().build()
}

/// A route to `destination/length` over the link, through a gateway or directly.
fn route(index: u32, destination: IpAddr, length: u8, gateway: Option<IpAddr>, source: Option<IpAddr>) -> RouteMessage {
    let scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
    let mut message = RouteMessageBuilder::<IpAddr>::new().output_interface(index).scope(scope).build();
    message.header.address_family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = length;
    if length > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.into()));
    }
    message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
    message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

/// The prefix length of a single address.
fn full(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether this kernel speaks the address's family: IPv6 may be switched off.
fn usable(address: &IpAddr) -> bool {
    address.is_ipv4() || std::path::Path::new("/proc/sys/net/ipv6").exists()
}
