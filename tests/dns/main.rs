//! Cluster DNS as its clients see it.
//!
//! | file | what it is |
//! |---|---|
//! | `questions.txt` | the battery: questions and their whole answers |
//! | `battery.rs` | reads the table; the cluster it is about |
//! | `both.rs` | the two paths of a question, compared |
//! | `wire.rs` | a running server, clients for UDP and TCP, upstreams that behave and misbehave |
//! | `answers.rs` | the battery in process and over the wire, truncation, histories |
//! | `paths.rs` | the fast path against the other one |
//! | `protocol.rs` | EDNS, other classes and opcodes, garbage, stopping, metrics |
//! | `settings.rs` | settings as the documents show them |
//! | `guard.rs` | who may ask, and how often |
//! | `forwarding.rs` | names outside the cluster |
//! | `faults.rs` | upstreams that lie, speak TCP only, or lead back |
//! | `over_tls.rs` | upstreams over TLS |
//! | `corefile.rs` | Corefiles obeyed, plugin by plugin |
//! | `fuzz/` | questions and files that nobody would write |
//! | `reload.rs` | a new configuration, under load |
//! | `limits.rs` | how much clients may have under way, and for how long they may say nothing |
//! | `long.rs` | answers that fill a message, and more |
//! | `dug.rs` | what `waypost dig` asks, without its socket |
//! | `caching.rs` | their answers, kept for a while |

mod answers;
mod battery;
mod both;
mod caching;
mod corefile;
#[path = "../corefiles/mod.rs"]
mod corefiles;
mod dug;
mod faults;
mod forwarding;
mod fuzz;
mod guard;
mod limits;
mod long;
#[path = "../corefiles/others.rs"]
mod others;
mod over_tls;
mod paths;
mod protocol;
mod reload;
mod settings;
mod wire;

/// The folder of the repository.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");
