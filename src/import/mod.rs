//! What others are configured with, as a configuration of ours. Pure but for `read`: text in, text out.

pub mod corefile;
mod fields;
mod kube_proxy;
pub mod read;
#[cfg(test)]
mod tests;

pub use kube_proxy::{ImportError, Imported, kube_proxy_config};
