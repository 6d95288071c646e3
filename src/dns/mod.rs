//! Cluster DNS: the records, the answers made of them, and the servers and the forwarding around both.
//!
//! | module | what it is |
//! |---|---|
//! | [`name`] | domain names in wire form; pure |
//! | [`records`] | the shared store of cluster names: one writer, many readers; pure |
//! | [`shape`] | which zones and objects are shown, and how; pure |
//! | [`answer`] | from a question to the sections of an answer; pure |
//! | [`chain`] | what each server block does with a question: CoreDNS's plugins, compiled to a plan |
//! | [`server`] | sockets, UDP and TCP, start and drained stop |
//! | [`fast`] | plain questions over UDP, from datagram to datagram; pure |
//! | [`respond`] | one question in, one reply out: the rules of the protocol, records, forwarding |
//! | [`reply`] | encoding, and cutting to what the client can take |
//! | [`cache`] | answers from upstream servers, kept for a while; pure |
//! | [`resolve`] | a question for elsewhere: from the cache, or asked once for all that wait |
//! | [`forward`] | everything outside the cluster domain: asked at the host's name servers |
//! | [`resolv_conf`] | which servers those are |
//! | [`guard`] | who is answered, and how often |
//! | [`limits`] | how much may be under way at a time |
//! | [`trace`] | where an answer comes from, noted on its way |
//! | [`top`] | the busiest names and clients, counted while somebody looks; pure |
//! | [`dig`] | what people ask a running server about itself |
//! | [`pulse`] | signs of life of the loops behind the sockets |
//! | [`metrics`] | CoreDNS's metric names |

pub mod answer;
pub mod cache;
pub mod chain;
pub mod dig;
pub mod fast;
pub mod forward;
pub mod guard;
pub mod limits;
pub mod metrics;
pub mod name;
pub mod pulse;
pub mod records;
pub mod reply;
pub mod resolv_conf;
pub mod resolve;
pub mod respond;
pub mod server;
pub mod shape;
pub mod top;
pub mod trace;

mod at_once;
mod encode;
mod lookup;
mod rate;
mod receive;
mod reverse;
mod service_record;
mod sparing;
mod tally;
mod tasks;
mod tcp;
