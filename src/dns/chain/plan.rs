//! The configuration, ready to answer by.

use super::listener::{Entry, Listener, Listeners};
use super::model::{self, Block, Model};
use super::server::Server;
use crate::config::DnsConfig;
use crate::dns::forward::Roster;
use crate::dns::metrics::Metrics;
use crate::dns::resolve::Resolver;
use crate::dns::shape::{PodNames, Shape};
use crate::model::{Demand, Details, LabelNames, Selector};
use hickory_proto::op::Query;
use std::net::SocketAddr;
use std::sync::Arc;

/// Something in a block that cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{plugin}: {problem}")]
pub struct ChainError {
    /// Which block, counted from 0.
    pub block: usize,
    /// The part of the block.
    pub plugin: &'static str,
    /// Which one, where there are several of the kind; counted from 0.
    pub number: usize,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// The same of a block that does not know its place.
pub(super) struct Wrong {
    pub plugin: &'static str,
    pub number: usize,
    pub problem: String,
}

/// Names the part of a block in which something is wrong.
pub(super) fn part(plugin: &'static str, number: usize) -> impl Fn(String) -> Wrong {
    move |problem| Wrong { plugin, number, problem }
}

/// Everything that is needed to answer.
pub struct Plan {
    model: Model,
    servers: Vec<Server>,
    /// For addresses that no block names.
    ordinary: Listener,
    /// For those that blocks name, by address or by port.
    special: Vec<Listener>,
    addresses: Vec<SocketAddr>,
    /// The upstream servers of all blocks.
    roster: Roster,
}

impl Plan {
    /// Makes the plan. What blocks do not say is as the flags say. Resolvers of an earlier plan, with their caches, are kept where nothing that concerns
    /// them has changed, and so are upstream servers, with their health and their connections.
    ///
    /// # Errors
    /// The first thing that cannot be done.
    pub fn new(model: Model, defaults: &DnsConfig, metrics: &Arc<Metrics>, earlier: Option<&Plan>) -> Result<Plan, ChainError> {
        let roster = earlier.map_or_else(Roster::default, |earlier| earlier.roster.clone());
        let mut servers = Vec::new();
        for (number, block) in model.blocks.iter().enumerate() {
            let wrong =
                |wrong: Wrong| ChainError { block: number, plugin: wrong.plugin, number: wrong.number, problem: wrong.problem };
            servers.push(Server::new(block, defaults, metrics, earlier, &roster).map_err(wrong)?);
        }
        let listeners = Listeners { blocks: &model.blocks, defaults: &defaults.addresses };
        let (mut ordinary, mut special) = listeners.all()?;
        [&mut ordinary].into_iter().chain(&mut special).for_each(|listener| listener.find_at_once(&servers));
        let addresses = listeners.addresses();
        Ok(Plan { servers, ordinary, special, addresses, model, roster })
    }

    /// A plan that answers nothing.
    pub fn nothing() -> Plan {
        Plan {
            model: Model::default(),
            servers: Vec::new(),
            ordinary: Listener::default(),
            special: Vec::new(),
            addresses: Vec::new(),
            roster: Roster::default(),
        }
    }

    /// A plan of one block for everything: cluster names in this shape, and what this resolver says of others.
    pub fn simple(shape: Shape, resolver: Resolver) -> Plan {
        let mut plan = Plan {
            model: Model::default(),
            servers: vec![Server::simple(shape, resolver)],
            ordinary: Listener::of_first_block(),
            special: Vec::new(),
            addresses: Vec::new(),
            roster: Roster::default(),
        };
        plan.ordinary.find_at_once(&plan.servers);
        plan
    }

    /// What it was made of.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The addresses on which it wants DNS to be served.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it needs to know of the cluster beyond services and namespaces.
    pub fn demand(&self) -> Demand {
        let shapes = || self.servers.iter().filter_map(|server| server.shape.as_deref());
        let any = |needs: fn(&Shape) -> bool| shapes().any(needs);
        let names = |selector: fn(&Shape) -> Option<&Selector>| {
            shapes().filter_map(selector).map(LabelNames::of).fold(LabelNames::None, |all, more| all.and(&more))
        };
        let details = Details {
            labels: names(|shape| shape.labels.as_ref()),
            namespace_labels: names(|shape| shape.namespace_labels.as_ref()),
            pod_names: any(|shape| shape.pod_names),
            zones: any(|shape| shape.zonal),
        };
        let (pods, imports) = (any(|shape| shape.pods == PodNames::Verified), any(|shape| !shape.multicluster.is_empty()));
        Demand { pods, imports, details }
    }

    /// What is answered on an address of ours.
    pub fn listener(&self, address: SocketAddr) -> &Listener {
        self.special.iter().find(|listener| listener.address() == Some(address)).unwrap_or(&self.ordinary)
    }

    /// The block of an entry.
    pub fn server(&self, entry: &Entry) -> &Server {
        &self.servers[entry.server]
    }

    /// What takes part in answering in the block of an entry, by CoreDNS's names of its plugins.
    pub fn plugins(&self, entry: &Entry) -> Vec<&'static str> {
        let server = self.server(entry);
        let has = |part: fn(&Block) -> bool| self.model.blocks.get(entry.server).is_some_and(part);
        let parts = [
            ("acl", has(|block| !block.acl.is_empty())),
            ("any", has(|block| block.any)),
            ("autopath", has(|block| block.autopath.is_some())),
            ("cache", has(|block| block.cache.is_some())),
            ("chaos", has(|block| block.chaos.is_some())),
            ("dns64", has(|block| block.dns64.is_some())),
            ("errors", server.logs_errors),
            ("forward", server.resolver.is_some()),
            ("hosts", has(|block| block.hosts.is_some())),
            ("kubernetes", server.shape.is_some()),
            ("loadbalance", server.shuffles),
            ("log", has(|block| !block.log.is_empty())),
            ("loop", server.resolver.is_some()),
            ("minimal", has(|block| block.minimal)),
            ("prometheus", true),
            ("rewrite", has(|block| !block.rewrite.is_empty())),
            ("template", has(|block| !block.template.is_empty())),
        ];
        parts.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
    }

    /// All blocks.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Whether this question that has arrived is one of our own, sent to find loops.
    pub fn is_own_probe(&self, query: &Query) -> bool {
        self.servers.iter().filter_map(|server| server.resolver.as_ref()).any(|resolver| resolver.is_own_probe(query))
    }

    /// Addresses of our own, which are never asked.
    pub fn never_ask(&self, own: &[SocketAddr]) {
        self.servers.iter().filter_map(|server| server.resolver.as_ref()).for_each(|resolver| resolver.never_ask(own));
    }
}

/// What the flags say: cluster names and all others in one block, and a block for each zone with servers of its own.
pub fn from_flags(config: &DnsConfig) -> Model {
    let to = config.upstreams.0.iter().map(ToString::to_string).collect();
    let reverse = ["in-addr.arpa", "ip6.arpa"].map(str::to_string);
    let cache = Some(model::Cache::default());
    let everything = Block {
        // The cluster domain stands here for itself, so that no zone above it takes its names.
        zones: match config.stub_zones.is_empty() {
            true => vec![".".to_string()],
            false => vec![".".to_string(), config.domain.clone()],
        },
        kubernetes: Some(model::Kubernetes {
            zones: [config.domain.clone()].into_iter().chain(reverse.clone()).collect(),
            fallthrough: reverse.to_vec(),
            ..Default::default()
        }),
        forward: vec![model::Forward { to, ..Default::default() }],
        cache: cache.clone(),
        ..Block::default()
    };
    let stubs = config.stub_zones.iter().map(|stub| Block {
        zones: vec![stub.zone.clone()],
        forward: vec![model::Forward { to: stub.servers.iter().map(ToString::to_string).collect(), ..Default::default() }],
        cache: cache.clone(),
        ..Block::default()
    });
    Model { blocks: [everything].into_iter().chain(stubs).collect(), reload: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RunArgs, Surroundings, load};
    use crate::dns::chain::listener::DS;
    use crate::dns::chain::values;
    use crate::dns::name::DomainName;
    use std::time::Duration;

    fn defaults(flags: &[(&str, &str)]) -> DnsConfig {
        let flags = [&[("role", "dns"), ("dns-address", "192.0.2.1,192.0.2.2")], flags].concat();
        let surroundings = Surroundings { host_name: Some("node".into()), ..Surroundings::default() };
        load(&RunArgs::of(&flags), &surroundings).unwrap().0.dns
    }

    fn plan(blocks: Vec<Block>) -> Result<Plan, ChainError> {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        Plan::new(Model { blocks, reload: None }, &defaults(&[]), &metrics, None)
    }

    fn block(zones: &[&str]) -> Block {
        Block { zones: zones.iter().map(ToString::to_string).collect(), ..Block::default() }
    }

    fn zone_of(plan: &Plan, address: &str, name: &str, rtype: u16) -> String {
        let name = DomainName::parse(name).unwrap();
        let entry = plan.listener(address.parse().unwrap()).find(name.as_wire(), rtype);
        entry.map_or("none".to_string(), |entry| entry.zone.to_string())
    }

    #[test]
    fn the_longest_zone_of_all_blocks_has_the_question() {
        let plan = plan(vec![block(&["."]), block(&["corp.example", "10.0.0.0/8"]), block(&["b.corp.example"])]).unwrap();
        let zone = |name| zone_of(&plan, "192.0.2.1:53", name, 1);
        assert_eq!(zone("www.corp.example"), "corp.example.");
        assert_eq!(zone("b.corp.example"), "b.corp.example.");
        assert_eq!(zone("acorp.example"), ".");
        assert_eq!(zone("1.2.3.10.in-addr.arpa"), "10.in-addr.arpa.");
        assert_eq!(zone("."), ".");
        assert_eq!(zone_of(&plan, "192.0.2.1:53", "b.corp.example", DS), "corp.example.");
        assert_eq!(zone_of(&plan, "192.0.2.1:53", "example", DS), ".");
        assert_eq!(zone_of(&plan, "192.0.2.1:53", "corp.example", DS), "corp.example.");
        assert_eq!(zone_of(&plan, "192.0.2.1:53", ".", DS), ".");
        // What lies below a zone is answered there, whichever zones are above: as the threads that receive do.
        assert_eq!(zone_of(&plan, "192.0.2.1:53", "www.b.corp.example", DS), "b.corp.example.");
    }

    #[test]
    fn names_are_answered_at_once_where_no_other_block_has_them() {
        let cluster = |fallthrough: &[&str]| Block {
            kubernetes: Some(model::Kubernetes {
                zones: vec!["cluster.local".into(), "in-addr.arpa".into()],
                fallthrough: fallthrough.iter().map(ToString::to_string).collect(),
                ..Default::default()
            }),
            ..block(&["."])
        };
        let at_once = |blocks: Vec<Block>| {
            let plan = plan(blocks).unwrap();
            let found = plan.listener("192.0.2.1:53".parse().unwrap()).at_once();
            found.map(|at_once| (at_once.zone().to_string(), at_once.shape.reverse.len()))
        };
        let all = Some(("cluster.local.".to_string(), 1));
        assert_eq!(at_once(vec![cluster(&[])]), all);
        assert_eq!(at_once(vec![block(&["corp.example"]), cluster(&["in-addr.arpa"])]), all);
        assert_eq!(at_once(vec![cluster(&[]), block(&["local"])]), None);
        assert_eq!(at_once(vec![cluster(&[]), block(&["a.cluster.local"])]), None);
        assert_eq!(at_once(vec![cluster(&[]), block(&["10.0.0.0/8"])]), Some(("cluster.local.".to_string(), 0)));
        assert_eq!(at_once(vec![Block { loadbalance: false, ..cluster(&[]) }]), None);
    }

    #[test]
    fn blocks_with_ports_and_addresses_of_their_own_are_answered_there_only() {
        let bound = Block { bind: vec!["192.0.2.9".parse().unwrap()], ..block(&["bound.example"]) };
        let plan = plan(vec![block(&["."]), Block { port: Some(5353), ..block(&["port.example"]) }, bound]).unwrap();
        let addresses: Vec<String> = plan.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.1:5353", "192.0.2.2:5353", "192.0.2.9:53"]);
        assert_eq!(zone_of(&plan, "192.0.2.1:53", "port.example", 1), ".");
        assert_eq!(zone_of(&plan, "192.0.2.2:5353", "port.example", 1), "port.example.");
        assert_eq!(zone_of(&plan, "192.0.2.2:5353", "other.example", 1), "none");
        assert_eq!(zone_of(&plan, "192.0.2.9:53", "bound.example", 1), "bound.example.");
    }

    #[test]
    fn what_cannot_be_done_names_its_block_and_part() {
        let forward = |to: &[&str]| Block {
            forward: vec![model::Forward { to: to.iter().map(ToString::to_string).collect(), ..Default::default() }],
            ..block(&["a.example"])
        };
        let recheck = |seconds| {
            let stale_recheck = Some(values::Time(Duration::from_secs(seconds)));
            Block { cache: Some(model::Cache { stale_recheck, ..Default::default() }), ..forward(&["192.0.2.53"]) }
        };
        assert!(plan(vec![recheck(300)]).is_ok());
        for (blocks, part, problem) in [
            (vec![recheck(301)], "cache", "give stale-recheck 5m at most"),
            (vec![block(&["a.example"]), block(&["b.example", "A.example."])], "zones", "another block answers for a.example."),
            (vec![block(&["a..b"])], "zones", "is no domain name"),
            (vec![forward(&[])], "forward", "give 1 to 15"),
            (vec![forward(&["192.0.2.300"])], "forward", "is no server"),
            (vec![forward(&["https://192.0.2.1"])], "forward", "are not asked over https"),
            (
                vec![Block { kubernetes: Some(Default::default()), ..block(&["10.0.0.0/8"]) }],
                "kubernetes",
                "cluster domain is missing",
            ),
        ] {
            let error = plan(blocks).err().unwrap();
            assert!(error.plugin == part && error.problem.contains(problem), "{error}");
        }
    }

    #[test]
    fn equal_blocks_on_different_ports_keep_a_resolver_each() {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        let defaults = defaults(&[]);
        let forward = vec![model::Forward { to: vec!["192.0.2.53".into()], ..Default::default() }];
        let on = |port| Block { port, forward: forward.clone(), ..block(&["."]) };
        let model = Model { blocks: vec![on(None), on(Some(5353))], reload: None };
        let first = Plan::new(model.clone(), &defaults, &metrics, None).unwrap();
        let second = Plan::new(model, &defaults, &metrics, Some(&first)).unwrap();
        let is_same = |before: usize, after: usize| {
            let resolver = |plan: &Plan, number: usize| plan.servers[number].resolver.clone().unwrap();
            resolver(&first, before).is_same(&resolver(&second, after))
        };
        assert!(is_same(0, 0) && is_same(1, 1) && !is_same(0, 1));
    }

    #[test]
    fn an_unchanged_resolver_is_kept_with_its_cache() {
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        let defaults = defaults(&[("dns-stub-zone", "corp.example=192.0.2.53")]);
        let first = Plan::new(from_flags(&defaults), &defaults, &metrics, None).unwrap();
        let mut model = from_flags(&defaults);
        model.blocks[1].cache = None;
        let second = Plan::new(model, &defaults, &metrics, Some(&first)).unwrap();
        let same = |number: usize| {
            let resolver = |plan: &Plan| plan.servers[number].resolver.clone().unwrap();
            resolver(&first).is_same(&resolver(&second))
        };
        assert!(same(0) && !same(1));
    }
}
