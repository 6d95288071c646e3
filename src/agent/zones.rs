//! What DNS is to do, wherever it is written: read at the start, and followed.

use crate::config::{DnsConfig, ZonesSource};
use crate::dns::chain::{self, Chain, ChainError, Model, Plan};
use crate::dns::metrics::Metrics;
use crate::import::corefile::{Translation, translate};
use crate::import::read::{self, ReadError, Texts};
use crate::notices::{DNS_CONFIGURATION_REFUSED, Notices, Subject};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long a start waits for the API server's first word about ConfigMaps. Afterwards the flags hold until it comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why DNS cannot do what is written.
#[derive(Debug, thiserror::Error)]
pub enum ZonesError {
    /// The Corefile cannot be had.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something in it cannot be done.
    #[error("{place}: {error}")]
    Chain {
        /// Where it stands.
        place: String,
        /// What.
        error: ChainError,
    },
    /// A metric cannot be registered.
    #[error("a metric cannot be registered: {0}")]
    Metric(#[from] prometheus::Error),
    /// Sockets that must not be, or that are missing.
    #[error("{address}: {problem}")]
    Listens {
        /// Where.
        address: SocketAddr,
        /// Why not.
        problem: &'static str,
    },
    /// Other sockets would be needed.
    #[error("it changes the addresses on which DNS is served, from {before:?} to {after:?}: restart the agent for that")]
    Addresses {
        /// Those at present.
        before: Vec<SocketAddr>,
        /// Those that are wanted.
        after: Vec<SocketAddr>,
    },
}

/// What was read, and what knows its places.
pub struct Reading {
    /// How DNS answers.
    pub model: Model,
    /// Of a Corefile.
    pub translation: Option<Translation>,
    /// In which file or setting it stands.
    name: String,
}

/// Reads what DNS is to do. `texts` are those of the ConfigMaps, where they are the source.
///
/// # Errors
/// It cannot be read or understood.
pub fn read(config: &DnsConfig, texts: Option<&Texts>) -> Result<Reading, ZonesError> {
    let of_blocks = |blocks: Vec<_>, name: String| -> Result<Reading, ZonesError> {
        let translation = translate(&blocks).map_err(ReadError::from)?;
        Ok(Reading { model: translation.model.clone(), translation: Some(translation), name })
    };
    match (&config.zones, texts) {
        (ZonesSource::Corefile(path), _) => of_blocks(read::file(path)?, path.display().to_string()),
        (ZonesSource::ConfigMaps(names), Some(texts)) => of_blocks(read::config_map(texts)?, names.join(", ")),
        (ZonesSource::Blocks { blocks, file }, _) => {
            let model = Model { blocks: blocks.clone(), reload: None };
            Ok(Reading { model, translation: None, name: format!("{}, dns-zones", file.display()) })
        }
        (ZonesSource::Flags | ZonesSource::ConfigMaps(_), _) => {
            Ok(Reading { model: chain::plan::from_flags(config), translation: None, name: "the settings".to_string() })
        }
    }
}

impl Reading {
    /// Makes the plan of it.
    ///
    /// # Errors
    /// Something cannot be done; with its place.
    pub fn plan(&self, config: &DnsConfig, metrics: &Arc<Metrics>, earlier: Option<&Plan>) -> Result<Plan, ZonesError> {
        Plan::new(self.model.clone(), config, metrics, earlier).map_err(|error| {
            let written = self.translation.as_ref().and_then(|all| all.place(error.block, error.plugin, error.number));
            let place = match written {
                Some(place) => place.to_string(),
                None => format!("{}, block {}", self.name, error.block + 1),
            };
            ZonesError::Chain { place, error }
        })
    }
}

/// Follows what DNS is to do.
pub struct Zones {
    config: DnsConfig,
    metrics: Arc<Metrics>,
    notices: Notices,
    /// The files of the ConfigMaps, as they are now.
    texts: Option<watch::Receiver<Option<Texts>>>,
    model: Model,
}

impl Zones {
    /// Reads it for the first time.
    ///
    /// # Errors
    /// It cannot be done. ConfigMaps that are late are no error: until they come the settings hold.
    pub async fn start(
        config: &DnsConfig,
        metrics: &Arc<Metrics>,
        notices: &Notices,
        mut texts: Option<watch::Receiver<Option<Texts>>>,
    ) -> Result<(Zones, Chain), ZonesError> {
        let mut first = None;
        if let Some(texts) = &mut texts {
            let arrived = timeout(PATIENCE, texts.wait_for(Option::is_some)).await;
            first = arrived.ok().and_then(Result::ok).and_then(|texts| (*texts).clone());
            if first.is_none() {
                tracing::warn!("the ConfigMap with the Corefile has not arrived yet: the settings hold until it does");
            }
        }
        let reading = read(config, first.as_ref())?;
        let plan = reading.plan(config, metrics, None)?;
        metrics.configured(version(&reading.model).as_deref());
        let chain = Chain::new(plan);
        let zones =
            Zones { config: config.clone(), metrics: metrics.clone(), notices: notices.clone(), texts, model: reading.model };
        Ok((zones, chain))
    }

    /// Follows changes for ever. What cannot be done leaves everything as it is, and is told.
    pub async fn follow(mut self, chain: Chain) {
        let mut said = String::new();
        loop {
            match (&mut self.texts, self.model.reload) {
                (Some(texts), _) => {
                    if texts.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                }
                (None, Some(every)) => sleep(every.0).await,
                (None, None) => return std::future::pending().await,
            }
            match self.look(&chain) {
                Ok(()) => said.clear(),
                Err(error) => {
                    let error = error.to_string();
                    if error != said {
                        self.metrics.configuration_refused();
                        let note = format!("{error}; DNS goes on as it was configured before");
                        self.notices.tell(&DNS_CONFIGURATION_REFUSED, Subject::Node, note);
                        said = error;
                    }
                }
            }
        }
    }

    fn look(&mut self, chain: &Chain) -> Result<(), ZonesError> {
        let texts = self.texts.as_mut().and_then(|texts| texts.borrow_and_update().clone());
        if self.texts.is_some() && texts.is_none() {
            // It was deleted: what it has said goes on.
            return Err(ReadError::NoCorefile.into());
        }
        let reading = read(&self.config, texts.as_ref())?;
        // A Corefile without `reload` is not followed, but the first one that comes is taken.
        let is_first = self.model == chain::plan::from_flags(&self.config);
        if reading.model == self.model || self.texts.is_some() && self.model.reload.is_none() && !is_first {
            return Ok(());
        }
        let before = chain.plan();
        let plan = reading.plan(&self.config, &self.metrics, Some(&before))?;
        if plan.addresses() != before.addresses() {
            return Err(ZonesError::Addresses { before: before.addresses().to_vec(), after: plan.addresses().to_vec() });
        }
        chain.replace(plan);
        let version = version(&reading.model);
        tracing::info!(blocks = reading.model.blocks.len(), version, "DNS follows a new configuration");
        self.metrics.configured(version.as_deref());
        self.model = reading.model;
        Ok(())
    }
}

/// What tells two configurations apart, for people who look at metrics.
fn version(model: &Model) -> Option<String> {
    let text = serde_json::to_string(&model.blocks).ok()?;
    let mut hasher = SipHasher13::new();
    text.hash(&mut hasher);
    Some(format!("{:032x}", u128::from(hasher.finish128())))
}
