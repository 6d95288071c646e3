//! Texts: Corefiles, resolv.conf, and names.

use super::{Check, number};
use std::sync::Arc;
use waypost::config::{self, DnsConfig, RunArgs};
use waypost::dns::chain::explain::explain;
use waypost::dns::chain::{Block, Model, Plan};
use waypost::dns::metrics::Metrics;
use waypost::dns::name::DomainName;
use waypost::dns::resolv_conf;
use waypost::import::corefile::{Surroundings, parse, translate};

pub const KUBEADM: &str = ".:53 {\n    errors\n    health {\n       lameduck 5s\n    }\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n       \
                       pods insecure\n       fallthrough in-addr.arpa ip6.arpa\n       ttl 30\n    }\n    prometheus :9153\n    forward . /etc/resolv.conf {\n       \
                       max_concurrent 1000\n    }\n    cache 30 {\n       disable success cluster.local\n       disable denial cluster.local\n    }\n    loop\n    \
                       reload\n    loadbalance\n}\n";
const OTHERS: &str = "(common) {\n  errors\n  log . {\n    class denial error\n  }\n}\ncorp.example tls://b.example:853 {\n  import common\n  import {$NAME}\n  \
                      forward . 192.0.2.1 tls://192.0.2.2 { policy sequential\n tls_servername dns.example\n }\n  hosts /etc/hosts {\n    192.0.2.9 \
                      \"quoted name\" \\\"\n    fallthrough\n  }\n  rewrite name regex (.*)\\.a {1}.b answer auto # comment\n}\n";

/// A Corefile is read or refused with its line; what it says can be said in our own form, explained, and planned or refused.
pub struct Corefiles(Planner);

impl Check for Corefiles {
    const NAME: &str = "corefiles";
    const LONGEST: usize = 4000;

    fn seeds() -> Vec<Vec<u8>> {
        [KUBEADM, OTHERS].map(|text| text.as_bytes().to_vec()).to_vec()
    }

    fn new() -> Corefiles {
        Corefiles(Planner::new())
    }

    fn check(&mut self, bytes: &[u8]) -> u64 {
        let variable = |name: &str| (name == "NAME").then(|| "more.conf".to_string());
        let import = |name: &str| match name {
            "more.conf" => Ok(vec![("more.conf".to_string(), "whoami\nimport more.conf\n".to_string())]),
            other => Err(format!("{other} is missing")),
        };
        let surroundings = Surroundings { variable: &variable, import: &import };
        let text = String::from_utf8_lossy(bytes);
        let lines = text.lines().count().max(1) as u64 + 2;
        let blocks = match parse("Corefile", &text, &surroundings) {
            Ok(blocks) => blocks,
            Err(error) => {
                let line = error.place.to_string();
                let number = line.rsplit([':', ' ']).next().and_then(|number| number.parse::<u64>().ok());
                assert!(number.is_none_or(|number| number <= lines), "{line} of {lines} lines: {}", error.problem);
                return super::number(("refused", 0, said(&error.problem)));
            }
        };
        let plugins = blocks.iter().flat_map(|block| &block.directives).count();
        match translate(&blocks) {
            Ok(translation) => number(("read", plugins, self.0.plan(translation.model))),
            Err(error) => number(("not translated", plugins, said(&error.problem))),
        }
    }
}

/// Makes plans of models, on a node that does not exist.
pub struct Planner {
    defaults: DnsConfig,
    runtime: tokio::runtime::Runtime,
}

impl Planner {
    pub fn new() -> Planner {
        let flags = RunArgs::of(&[("role", "dns"), ("dns-address", "127.0.0.1:5353"), ("node-name", "node")]);
        let (config, _) = config::load(&flags, &config::Surroundings::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Planner { defaults: config.dns, runtime }
    }

    /// What is wrong with the model, if anything is.
    pub fn plan(&self, mut model: Model) -> Option<String> {
        let written = serde_json::to_string(&model.blocks).expect("it can be written in our own form");
        let read: Vec<Block> = serde_json::from_str(&written).expect("and read again");
        assert!(read == model.blocks, "it says something else in our own form: {written}");
        assert!(explain(&model).len() >= model.blocks.len());
        model.blocks.iter_mut().for_each(keep_to_ourselves);
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
        let _inside = self.runtime.enter();
        Plan::new(model, &self.defaults, &metrics, None).err().map(|error| said(&error.problem))
    }
}

/// Takes away what would read files of this machine.
fn keep_to_ourselves(block: &mut Block) {
    if let Some(hosts) = &mut block.hosts {
        hosts.file = None;
    }
    if let Some(autopath) = &mut block.autopath {
        autopath.search = "kubernetes".to_string();
    }
    for forward in &mut block.forward {
        forward.to.retain(|to| !to.starts_with('/'));
        (forward.tls_ca, forward.tls_certificate, forward.tls_key) = (None, None, None);
    }
}

/// A complaint without what it is about.
fn said(problem: &str) -> String {
    problem.chars().filter(char::is_ascii_lowercase).take(24).collect()
}

/// A name as text is the same name again, and a resolv.conf does no harm.
pub struct Names;

impl Check for Names {
    const NAME: &str = "names";
    const LONGEST: usize = 600;

    fn seeds() -> Vec<Vec<u8>> {
        let seeds = [
            "web.shop.svc.cluster.local.",
            "_http._tcp.a\\.b.c",
            "nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a b\n",
            "\\000.x",
        ];
        seeds.map(|text| text.as_bytes().to_vec()).to_vec()
    }

    fn new() -> Names {
        Names
    }

    fn check(&mut self, bytes: &[u8]) -> u64 {
        let text = String::from_utf8_lossy(bytes);
        let servers = resolv_conf::parse(&text).len();
        let labels = DomainName::from_labels(bytes.split(|byte| *byte == b'.')).map(|name| {
            assert!(name.as_wire().len() <= 255);
            assert_eq!(name.to_lower().to_lower(), name.to_lower());
            assert_eq!(DomainName::parse_escaped(&name.to_string()), Some(name.clone()));
            name.labels().count()
        });
        let parsed = DomainName::parse(&text).map(|name| name.labels().count());
        let escaped = DomainName::parse_escaped(&text).map(|name| {
            assert_eq!(DomainName::parse_escaped(&name.to_string()), Some(name.clone()));
            name.labels().count()
        });
        number((servers, labels, parsed, escaped))
    }
}
