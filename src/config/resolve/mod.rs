//! From raw values to the validated [`Config`]: precedence, defaults, and what is allowed.
//!
//! `read.rs` reads one value of each kind, `proxy.rs` and `dns.rs` what belongs to the service proxy and to DNS.

mod dns;
mod proxy;
mod read;

pub(crate) use dns::{is_public, name_server};

use super::args::{Given, Origin, RunArgs};
use super::settings::{self, SETTINGS, Setting};
use super::{AdminConfig, ClusterSource, Config, ConfigError, DEFAULT_SOCKET, LogConfig, LogFormat, Role, Surroundings, file};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use tracing_subscriber::EnvFilter;

/// Where each setting's value came from, in the order of [`SETTINGS`].
pub type Origins = Vec<(&'static str, Origin)>;

/// Makes the configuration: a flag wins over the environment, that over the file, that over the default.
///
/// # Errors
/// The file cannot be read or parsed, has an unknown key, or a value is not allowed; the message says which and what is allowed.
pub fn load(args: &RunArgs, surroundings: &Surroundings) -> Result<(Config, Origins), ConfigError> {
    let (mut given, zones) = match &args.config {
        Some(path) => file::read(path)?,
        None => (Given::new(), None),
    };
    given.extend(args.given.clone());
    let values = Values { given, zones, surroundings };
    let config = values.config()?;
    let origins = SETTINGS.iter().map(|setting| (setting.key, values.origin(setting))).collect();
    Ok((config, origins))
}

/// The values that won, before validation.
struct Values<'a> {
    given: Given,
    /// The server blocks of the file.
    zones: Option<file::Zones>,
    surroundings: &'a Surroundings,
}

impl Values<'_> {
    fn config(&self) -> Result<Config, ConfigError> {
        let role = self.role()?;
        let dns = self.dns(role)?;
        let serves_dns = role != Role::Proxy && !dns.addresses.is_empty();
        Ok(Config {
            role,
            node_name: self.node_name()?,
            state_dir: self.given(&settings::STATE_DIR)?.filter(|folder| !folder.is_empty()).map(PathBuf::from),
            cluster: self.cluster()?,
            proxy: self.proxy()?,
            admin: self.admin(role != Role::Dns, serves_dns)?,
            handover: self.handover(role)?,
            dns,
            log: self.log()?,
        })
    }

    fn role(&self) -> Result<Role, ConfigError> {
        self.choice(&settings::ROLE, &[("all", Role::All), ("proxy", Role::Proxy), ("dns", Role::Dns)])
    }

    /// Lower case without blanks around it, as kube-proxy takes the host name.
    fn node_name(&self) -> Result<String, ConfigError> {
        let setting = &settings::NODE_NAME;
        let allowed = "the name of this node's Node object: lower-case letters, digits, '-' and '.', at most 253 characters";
        let surroundings = [&self.surroundings.node_name, &self.surroundings.host_name];
        let name = match self.given(setting)? {
            Some(name) => name.to_string(),
            None => surroundings.into_iter().flatten().find(|name| !name.trim().is_empty()).cloned().unwrap_or_default(),
        };
        let name = name.trim().to_lowercase();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        match !name.is_empty() && name.len() <= 253 && name.chars().all(good) {
            true => Ok(name),
            false => Err(self.bad(setting, &name, allowed)),
        }
    }

    /// The three sources exclude each other; of two given at different ranks the higher one wins, as with any setting.
    fn cluster(&self) -> Result<ClusterSource, ConfigError> {
        let sources = [&settings::KUBECONFIG, &settings::API_SERVER, &settings::MANIFESTS];
        let mut chosen: Option<(&Setting, &str)> = None;
        for setting in sources {
            let Some(value) = self.given(setting)?.filter(|value| !value.is_empty()) else { continue };
            match chosen {
                Some((other, _)) if self.origin(other).rank() == self.origin(setting).rank() => {
                    return Err(ConfigError::Conflict { first: self.origin(other), second: self.origin(setting) });
                }
                Some((other, _)) if self.origin(other).rank() > self.origin(setting).rank() => {}
                _ => chosen = Some((setting, value)),
            }
        }
        match chosen {
            None => Ok(ClusterSource::InCluster),
            Some((setting, value)) if setting.key == settings::KUBECONFIG.key => Ok(ClusterSource::Kubeconfig(value.into())),
            Some((setting, value)) if setting.key == settings::MANIFESTS.key => Ok(ClusterSource::Manifests(value.into())),
            Some((setting, value)) => match is_url(value) {
                true => Ok(ClusterSource::ApiServer(value.to_string())),
                false => Err(self.bad(setting, value, "a URL with scheme and host, such as https://10.0.0.1:6443")),
            },
        }
    }

    fn admin(&self, proxies: bool, serves_dns: bool) -> Result<AdminConfig, ConfigError> {
        let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let when = |condition: bool, address| condition.then_some(address);
        Ok(AdminConfig {
            healthz: self.listener(&settings::HEALTHZ, when(proxies, everywhere(10256)))?,
            metrics: self.listener(&settings::METRICS, when(proxies, ([127, 0, 0, 1], 10249).into()))?,
            dns_health: self.listener(&settings::DNS_HEALTH, when(serves_dns, everywhere(8080)))?,
            dns_ready: self.listener(&settings::DNS_READY, when(serves_dns, everywhere(8181)))?,
            dns_metrics: self.listener(&settings::DNS_METRICS, when(serves_dns, everywhere(9153)))?,
            probe: self.socket(&settings::PROBE_SOCKET)?,
            socket: match self.given(&settings::SOCKET)? {
                None => proxies.then(|| DEFAULT_SOCKET.into()),
                Some(_) => self.socket(&settings::SOCKET)?,
            },
        })
    }

    fn handover(&self, role: Role) -> Result<Option<PathBuf>, ConfigError> {
        let setting = &settings::HANDOVER_SOCKET;
        match self.socket(setting)? {
            Some(path) if role == Role::Dns => {
                Err(self.bad(setting, &path.to_string_lossy(), "nothing with role dns, whose servers are not bound to a node"))
            }
            socket => Ok(socket),
        }
    }

    fn log(&self) -> Result<LogConfig, ConfigError> {
        let format = self.choice(&settings::LOG_FORMAT, &[("human", LogFormat::Human), ("json", LogFormat::Json)])?;
        let setting = &settings::LOG_LEVEL;
        let filter = self.given(setting)?.unwrap_or("info").to_string();
        // The filter's own parser takes any word for a target, so that a misspelt level would silence everything.
        let level_or_pairs = |part: &str| part.contains('=') || part.contains('[') || is_level(part);
        match !filter.is_empty() && filter.split(',').all(level_or_pairs) && EnvFilter::builder().parse(&filter).is_ok() {
            true => Ok(LogConfig { format, filter }),
            false => Err(self.bad(setting, &filter, "error, warn, info, debug, trace, or pairs such as info,waypost::dns=debug")),
        }
    }
}

fn is_url(text: &str) -> bool {
    let uri = hyper::Uri::from_str(text);
    uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("https" | "http")) && uri.host().is_some_and(|host| !host.is_empty()))
}

fn is_level(text: &str) -> bool {
    ["off", "error", "warn", "info", "debug", "trace"].contains(&text)
}
