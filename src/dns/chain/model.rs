//! How DNS answers, as it is configured: server blocks with zones, and for each what CoreDNS's plugins do there. Pure.
//!
//! This is the form of the key `dns-zones` of the configuration file; a Corefile is translated into the same. What a block does not say is as the
//! flags say. The order in which the parts of a block look at a question is fixed, that of the fields here, which is CoreDNS's.

use super::values::{Flag, Rcode, RecordClass, RecordKind, Time};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Everything: the blocks, and whether changes of the file are followed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The server blocks.
    pub blocks: Vec<Block>,
    /// How often the source is looked at for changes; `None`: it is not.
    pub reload: Option<Time>,
}

/// One server block: questions for names in its zones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Block {
    /// The zones, also as networks (`10.0.0.0/8`). The longest zone of all blocks decides which block a question is for.
    pub zones: Vec<String>,
    /// The port; by default that of `dns-address`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The addresses; by default those of `dns-address`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bind: Vec<IpAddr>,
    /// The server's identity for clients that ask for it (RFC 5001); empty: the host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nsid: Option<String>,
    /// No answer over UDP is larger than this, 512 to 4096 bytes. 1232 is the limit in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bufsize: Option<u16>,
    /// Log questions that were not answered because something failed.
    #[serde(skip_serializing_if = "is_false")]
    pub errors: bool,
    /// Log questions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<Log>,
    /// Make IPv6 addresses of IPv4 ones (RFC 6147).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns64: Option<Dns64>,
    /// Answer ANY with a note instead of records (RFC 8482).
    #[serde(skip_serializing_if = "is_false")]
    pub any: bool,
    /// Answer `version.bind` and the like of class CH.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chaos: Option<Chaos>,
    /// Shuffle addresses.
    #[serde(skip_serializing_if = "is_true")]
    pub loadbalance: bool,
    /// Change questions, and the answers back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewrite: Vec<Rewrite>,
    /// Walk the search path of pods on the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub autopath: Option<Autopath>,
    /// Who may ask what.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acl: Vec<Acl>,
    /// Keep answers from upstream servers; without it they are asked each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Set and clear flags of answers and questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<Header>,
    /// Positive answers have an answer section only.
    #[serde(skip_serializing_if = "is_false")]
    pub minimal: bool,
    /// Answers made of the question.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub template: Vec<Template>,
    /// Names in a file of the kind of `/etc/hosts`, or listed here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Hosts>,
    /// The cluster's names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// Other servers, of which the first whose zone fits is asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forward: Vec<Forward>,
    /// Answer with the client's own address.
    #[serde(skip_serializing_if = "is_false")]
    pub whoami: bool,
}

impl Default for Block {
    fn default() -> Block {
        Block {
            zones: vec![".".to_string()],
            port: None,
            bind: Vec::new(),
            nsid: None,
            bufsize: None,
            errors: false,
            log: Vec::new(),
            dns64: None,
            any: false,
            chaos: None,
            loadbalance: true,
            rewrite: Vec::new(),
            autopath: None,
            acl: Vec::new(),
            cache: None,
            header: None,
            minimal: false,
            template: Vec::new(),
            hosts: None,
            kubernetes: None,
            forward: Vec::new(),
            whoami: false,
        }
    }
}

/// Which questions are logged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Log {
    /// Only names in these zones; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Only these classes of answers: `success`, `denial`, `error`, `all`; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub class: Vec<LogClass>,
    /// CoreDNS's format with its placeholders; none: its common one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// A class of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogClass {
    /// There is an answer.
    Success,
    /// Name or type do not exist.
    Denial,
    /// Something failed.
    Error,
    /// Any.
    All,
}

/// RFC 6147.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Dns64 {
    /// The prefix, by default 64:ff9b::/96; its length is 32, 40, 48, 56, 64 or 96.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<IpNet>,
    /// Also where there are IPv6 addresses.
    #[serde(skip_serializing_if = "is_false")]
    pub translate_all: bool,
    /// Also for clients that ask over IPv4.
    #[serde(skip_serializing_if = "is_false")]
    pub allow_ipv4: bool,
}

/// What is said of the server itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Chaos {
    /// `version.bind`; by default Waypost's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `authors.bind`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<String>,
}

/// A rule of rewriting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rewrite {
    /// Go on with the next rule after this one.
    #[serde(skip_serializing_if = "is_false", default)]
    pub r#continue: bool,
    /// What is changed.
    pub what: RewriteWhat,
    /// What must match, and how; the words of CoreDNS.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub r#match: Option<Match>,
    /// What is looked for.
    pub from: String,
    /// What it becomes; of a regular expression `{1}` is the first group.
    pub to: String,
    /// Rules for answers, in CoreDNS's words: `auto`, `name FROM TO`, `value FROM TO`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub answer: Vec<String>,
}

/// What a rule changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RewriteWhat {
    /// The name.
    Name,
    /// The type.
    Type,
    /// The TTL of answers to questions for the name: a number, or `MIN-MAX`.
    Ttl,
}

/// How a name is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// It is the same.
    #[default]
    Exact,
    /// It begins so.
    Prefix,
    /// It ends so.
    Suffix,
    /// It contains this.
    Substring,
    /// It matches this regular expression.
    Regex,
}

/// Search paths walked on the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Autopath {
    /// For names in these zones; none: those of the block.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub zones: Vec<String>,
    /// `kubernetes`: the search path of the asking pod; else a resolv.conf.
    pub search: String,
}

/// Who may ask what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Acl {
    /// For names in these zones; none: those of the block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// The first rule that fits decides; none that fits: allowed.
    pub rules: Vec<AclRule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AclRule {
    /// What happens.
    pub action: AclAction,
    /// To questions of these types; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub types: Vec<RecordKind>,
    /// From these networks; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub networks: Vec<IpNet>,
}

/// What happens to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AclAction {
    /// It is answered.
    Allow,
    /// It is refused.
    Block,
    /// The answer is empty.
    Filter,
    /// There is no answer.
    Drop,
}

/// How answers from upstream servers are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Cache {
    /// Only names in these zones; none: those of the block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// The longest time for answers, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positive_ttl: Option<u32>,
    /// The longest time for names and types that do not exist, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_ttl: Option<u32>,
    /// The shortest time for answers, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_positive_ttl: Option<u32>,
    /// The shortest time for names and types that do not exist, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_negative_ttl: Option<u32>,
    /// The time for failures of the upstream servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_ttl: Option<Time>,
    /// So many answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positive_entries: Option<usize>,
    /// So many denials and failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_entries: Option<usize>,
    /// Answers for names in these zones are not kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without_positive: Vec<String>,
    /// Denials for names in these zones are not kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without_negative: Vec<String>,
    /// Names asked for this often are fetched before they expire; 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch: Option<u32>,
    /// A pause that is longer makes a name unpopular.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch_within: Option<Time>,
    /// They are fetched when this part of their time is left, percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefetch_last: Option<u32>,
    /// For how long an expired answer may be served; 0: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serve_stale: Option<Time>,
    /// How long the upstream servers have before an expired answer is served; 0: they are asked afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_after: Option<Time>,
    /// The TTL with which expired answers are served, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_ttl: Option<u32>,
    /// For how long the upstream servers are not asked again after they have failed while there is an expired answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_recheck: Option<Time>,
    /// Answers show the TTL that they had when they came.
    #[serde(skip_serializing_if = "is_false")]
    pub keep_ttl: bool,
}

/// Flags that are set and cleared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Header {
    /// Set in answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<Flag>,
    /// Cleared in answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clear: Vec<Flag>,
}

/// Answers made of the question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Template {
    /// For questions of this class.
    #[serde(default = "internet")]
    pub class: RecordClass,
    /// For questions of this type; `ANY`: all.
    pub r#type: RecordKind,
    /// For names in these zones; none: those of the block.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub zones: Vec<String>,
    /// For names that match one of these regular expressions; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub r#match: Vec<String>,
    /// Records of the answer section, such as `{{ .Name }} 60 IN A 192.0.2.1`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub answer: Vec<String>,
    /// Records of the additional section.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub additional: Vec<String>,
    /// Records of the authority section.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub authority: Vec<String>,
    /// The response code.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rcode: Option<Rcode>,
    /// An extended error: its number, and a text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub extended_error: Option<ExtendedError>,
    /// What does not match goes on, in these zones; `.`: all. Otherwise it is SERVFAIL.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub fallthrough: Vec<String>,
}

/// RFC 8914.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ExtendedError {
    /// The number.
    pub code: u16,
    /// A text.
    #[serde(default)]
    pub text: String,
}

/// Names with their addresses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Hosts {
    /// A file of the kind of `/etc/hosts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Lines such as those of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inline: Vec<String>,
    /// Only names in these zones; none: those of the block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// TTL, seconds; by default 3600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// No names at addresses.
    #[serde(skip_serializing_if = "is_false")]
    pub no_reverse: bool,
    /// How often the file is looked at; 0: once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload: Option<Time>,
    /// What is not there goes on, in these zones; `.`: all. Otherwise it is SERVFAIL.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallthrough: Vec<String>,
}

/// The cluster's names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Kubernetes {
    /// The cluster domain, perhaps several, and reverse zones; none: the zones of the block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// TTL, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
    /// Names of pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pods: Option<Pods>,
    /// Those of the zones that have the services of other clusters (KEP-1645), such as `clusterset.local`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub multicluster: Vec<String>,
    /// Only these namespaces; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Only namespaces with such labels, a label selector; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_labels: Option<String>,
    /// Only Services, EndpointSlices and pods with such labels, a label selector; none: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// What is not there goes on, in these zones; `.`: all. Otherwise it does not exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallthrough: Vec<String>,
    /// Endpoints without a host name are named by their pod, and not by their address.
    #[serde(skip_serializing_if = "is_false")]
    pub endpoint_pod_names: bool,
    /// Headless services have names for the endpoints in a zone of nodes, such as `ZONE.pin._zone.db.shop.svc.cluster.local`.
    #[serde(skip_serializing_if = "is_false")]
    pub zonal: bool,
    /// Endpoints have no names, and headless services no addresses.
    #[serde(skip_serializing_if = "is_false")]
    pub no_endpoints: bool,
    /// A service with an address and without a ready endpoint does not exist.
    #[serde(skip_serializing_if = "is_false")]
    pub ignore_empty_services: bool,
}

/// Names of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pods {
    /// None.
    Disabled,
    /// By the address that they spell.
    Insecure,
    /// The same, where a pod of the namespace has it. All pods are watched for that.
    Verified,
}

/// Other servers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Forward {
    /// Names in this zone; by default all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Up to 15 servers, `IP`, `IP:PORT` or `tls://IP`, and files such as `/etc/resolv.conf` that name some.
    pub to: Vec<String>,
    /// But not names in these zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<String>,
    /// Which one is asked first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<ForwardPolicy>,
    /// After more failed checks in a row than these a server is down; 0: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fails: Option<u32>,
    /// So many questions at a time; 0: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<usize>,
    /// Over TCP only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force_tcp: Option<bool>,
    /// Over UDP first, also for clients that come over TCP.
    #[serde(skip_serializing_if = "is_false")]
    pub prefer_udp: bool,
    /// How long connections are used again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire: Option<Time>,
    /// How often a server that has failed is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Time>,
    /// What it is asked then; by default the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check_domain: Option<String>,
    /// And without recursion.
    #[serde(skip_serializing_if = "is_false")]
    pub health_check_without_recursion: bool,
    /// After this long a second server is asked as well; 0: only after a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Time>,
    /// The name in the certificates of servers over TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_servername: Option<String>,
    /// The certificates that are trusted, PEM; by default the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_ca: Option<PathBuf>,
    /// Our certificate and key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// Our key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
}

/// Which upstream server is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardPolicy {
    /// Any.
    Random,
    /// The one after the last question's.
    RoundRobin,
    /// The first that is not down.
    Sequential,
}

fn internet() -> RecordClass {
    RecordClass::In
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_true(value: &bool) -> bool {
    *value
}
