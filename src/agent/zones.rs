//! What DNS is to do, wherever it is written: read at the start, and followed.

use super::kept_zones::KeptZones;
use super::local_dns::{self, DNS_PORT};
use super::names::DEMAND_DEADLINE;
use crate::admin::Status;
use crate::config::{Config, DnsConfig, Role, ZonesSource, is_public};
use crate::dns::chain::{self, Chain, ChainError, Model, Plan};
use crate::dns::metrics::Metrics;
use crate::import::corefile::{Translation, translate};
use crate::import::read::{self, Mounted, ReadError, Texts};
use crate::model::{Demand, Details};
use crate::notices::{DNS_CONFIGURATION_REFUSED, LAST_STATE_SERVED, Notices, Subject};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hash;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How long a start waits for the API server's first word about ConfigMaps.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked whether what is written can be done after all: a file that it needs may be there later.
const RETRY: Duration = Duration::from_secs(5);

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

/// Obeys what DNS is to do, and follows it.
pub struct Zones {
    config: Config,
    metrics: Arc<Metrics>,
    notices: Notices,
    status: Status,
    /// The files of the ConfigMaps, as they are now.
    mounted: Option<watch::Receiver<Mounted>>,
    kept: Option<KeptZones>,
    chain: Chain,
    /// What is obeyed; `None` before anything could be.
    model: Option<Model>,
    /// Whether that is what is written, and not what is obeyed in its place.
    is_written: bool,
    /// What was wrong the last time; said once.
    said: String,
    /// How long a new configuration waits for what it needs to know: for some of it no longer, and what is left longer is told.
    deadline: Duration,
    /// Told once something is obeyed.
    obeyed: watch::Sender<bool>,
}

impl Zones {
    /// Nothing is obeyed yet: nobody is answered. `mounted` tells of the ConfigMaps, where they are the source.
    pub fn new(
        config: &Config,
        metrics: &Arc<Metrics>,
        notices: &Notices,
        status: &Status,
        mounted: Option<watch::Receiver<Mounted>>,
    ) -> Zones {
        Zones {
            config: config.clone(),
            metrics: metrics.clone(),
            notices: notices.clone(),
            status: status.clone(),
            mounted,
            kept: KeptZones::open(config, notices),
            chain: Chain::new(Plan::nothing()),
            model: None,
            is_written: false,
            said: String::new(),
            deadline: DEMAND_DEADLINE,
            obeyed: watch::Sender::new(false),
        }
    }

    /// What is in force, now and later.
    pub fn chain(&self) -> Chain {
        self.chain.clone()
    }

    /// Whether anything is.
    pub fn obeyed(&self) -> watch::Receiver<bool> {
        self.obeyed.subscribe()
    }

    /// Reads for the first time. What cannot be done is told. In its place what was obeyed last is, which an earlier agent has left on disk; where there
    /// is nothing, nobody is answered until it is corrected, so that an agent that programs services as well goes on with that. ConfigMaps that are
    /// late or do not exist are no fault: without anything on disk the settings hold.
    ///
    /// # Errors
    /// In the role `dns`, whose only work it is, what is written cannot be done.
    pub async fn begin(&mut self) -> Result<(), ZonesError> {
        self.await_config_maps().await;
        match self.look().await {
            Ok(()) => Ok(()),
            Err(error) if self.config.role == Role::Dns && !error.is_absence() => Err(error),
            Err(error) => {
                self.refuse(&error).await;
                Ok(())
            }
        }
    }

    /// Waits for the API server's first word, for a while; where something is on disk only as long as the API server seems to be there.
    async fn await_config_maps(&mut self) {
        let has_kept = self.kept.as_ref().is_some_and(|kept| kept.last().is_some());
        let Some(mounted) = &mut self.mounted else { return };
        let is_word = |mounted: &Mounted| match mounted {
            Mounted::Awaited => false,
            Mounted::Unreachable => has_kept,
            Mounted::Absent | Mounted::Files(_) => true,
        };
        // Whatever is known when the time is over counts.
        let _ = timeout(PATIENCE, mounted.wait_for(is_word)).await;
    }

    /// Follows changes for ever. What cannot be done leaves everything as it is, and is told.
    pub async fn follow(mut self) {
        loop {
            let every = match (&self.model, self.is_written) {
                // What is obeyed in its place says nothing about how often to look.
                (_, false) => Some(RETRY),
                (Some(model), true) => model.reload.map(|every| every.0),
                (None, true) => None,
            };
            let every = every.filter(|_| self.mounted.is_none() || !self.is_written);
            let look_again = async {
                match every {
                    Some(every) => sleep(every).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed(&mut self.mounted) => {}
                () = look_again => {}
            }
            if let Err(error) = self.look().await {
                self.refuse(&error).await;
            }
        }
    }

    /// Reads what is written, and obeys it if it is new.
    async fn look(&mut self) -> Result<(), ZonesError> {
        let mounted = self.mounted.as_mut().map(|mounted| mounted.borrow_and_update().clone());
        let files = match mounted {
            None => None,
            Some(Mounted::Files(files)) => Some(files),
            Some(other) => return self.without_config_maps(&other).await,
        };
        let reading = read(&self.config.dns, files.as_ref())?;
        // A ConfigMap whose Corefile has no `reload` is not followed, but the first one that comes is obeyed.
        let is_followed = !self.is_written || files.is_none() || self.model.as_ref().is_none_or(|model| model.reload.is_some());
        if self.is_written && self.model.as_ref() == Some(&reading.model) || !is_followed {
            // It may have been broken in between.
            if self.model.as_ref() == Some(&reading.model) {
                self.nothing_is_wrong();
            }
            return Ok(());
        }
        if !self.obey(&reading).await? {
            return Ok(());
        }
        self.is_written = true;
        self.nothing_is_wrong();
        if let Some(kept) = &mut self.kept {
            kept.keep(&reading.model);
        }
        Ok(())
    }

    /// There is nothing to read. Whatever is obeyed goes on; at the start what was obeyed last counts more than the settings.
    async fn without_config_maps(&mut self, known: &Mounted) -> Result<(), ZonesError> {
        let has_kept = self.kept.as_ref().is_some_and(|kept| kept.last().is_some());
        if self.model.is_none() && !has_kept {
            tracing::warn!(?known, "there is no ConfigMap with a Corefile yet: the settings hold until there is one");
            return self.obey(&read(&self.config.dns, None)?).await.map(drop);
        }
        match known {
            Mounted::Absent if self.is_written || has_kept => Err(ReadError::Absent.into()),
            Mounted::Awaited | Mounted::Unreachable if self.model.is_none() => Err(ReadError::Unread.into()),
            _ => Ok(()),
        }
    }

    /// Puts it in force, unless something else is written meanwhile. Where it needs to know more of the cluster than what was in force before, that goes on
    /// until it is known. Kinds that were not watched before are not waited for for ever: the agent may not be allowed to see them.
    async fn obey(&mut self, reading: &Reading) -> Result<bool, ZonesError> {
        let before = self.chain.plan();
        let plan = reading.plan(&self.config.dns, &self.metrics, Some(&before))?;
        if self.model.is_none() {
            check_addresses(&self.config, plan.addresses())?;
        } else if plan.addresses() != before.addresses() {
            return Err(ZonesError::Addresses { before: before.addresses().to_vec(), after: plan.addresses().to_vec() });
        }
        if self.model.is_some() {
            self.chain.ask_for(plan.demand());
            if !self.is_told(plan.demand().details, &reading.model).await {
                return Ok(false);
            }
            if timeout(self.deadline, self.chain.knows(plan.demand())).await.is_err() {
                tracing::warn!(
                    "what the new configuration of DNS needs to know is not listed yet: what needs it fails (SERVFAIL) until it is"
                );
            }
        }
        self.chain.replace(plan);
        let version = version(&reading.model);
        tracing::info!(blocks = reading.model.blocks.len(), version, source = reading.name, "DNS is configured");
        self.metrics.configured(version.as_deref());
        self.model = Some(reading.model.clone());
        self.obeyed.send_replace(true);
        Ok(true)
    }

    /// Waits until these details, which this model needs, are known of all that is watched in any case. False when something else is written before
    /// that.
    async fn is_told(&self, details: Details, model: &Model) -> bool {
        let wanted = Demand { details, ..Demand::default() };
        let (mut told, mut overtaken) = (pin!(self.chain.knows(wanted)), pin!(self.is_rewritten(model)));
        tokio::select! {
            () = &mut told => return true,
            () = &mut overtaken => return false,
            () = sleep(self.deadline) => {}
        }
        tracing::warn!(
            "what the new configuration of DNS needs to know is not listed yet: the one before it is obeyed until it is"
        );
        tokio::select! {
            () = told => true,
            () = overtaken => false,
        }
    }

    /// Waits until something else than this model is written. What follows the changes sees it as well.
    async fn is_rewritten(&self, model: &Model) {
        if self.mounted.is_some() {
            return changed(&mut self.mounted.clone()).await;
        }
        let every = model.reload.map_or(RETRY, |every| every.0);
        loop {
            sleep(every).await;
            if !read(&self.config.dns, None).is_ok_and(|reading| reading.model == *model) {
                return;
            }
        }
    }

    /// Tells what cannot be done, and obeys what was obeyed last if there is nothing else.
    async fn refuse(&mut self, error: &ZonesError) {
        let what = error.to_string();
        if what == self.said {
            return;
        }
        self.said.clone_from(&what);
        self.status.dns_refused(Some(what.clone()));
        let reason = match error {
            // Nobody knows what is written.
            ZonesError::Read(ReadError::Unread) => &LAST_STATE_SERVED,
            _ => {
                self.metrics.configuration_refused();
                &DNS_CONFIGURATION_REFUSED
            }
        };
        let instead = match (self.model.is_some(), self.recall().await) {
            (true, _) => "DNS goes on as it was configured before".to_string(),
            (false, Some(age)) => format!("DNS does what it was told last, {age} seconds ago"),
            (false, None) => {
                "nobody is answered here until it is corrected, and the cluster's DNS service answers meanwhile".into()
            }
        };
        self.notices.tell(reason, Subject::Node, format!("{what}; {instead}"));
    }

    /// Obeys what was obeyed last, if nothing is obeyed yet, and says how many seconds ago that was.
    async fn recall(&mut self) -> Option<u64> {
        let last = self.kept.as_ref().and_then(KeptZones::last).filter(|_| self.model.is_none())?.clone();
        let name = format!("{}, as it was last obeyed", last.source);
        match self.obey(&Reading { model: last.model, translation: None, name }).await {
            Ok(_) => Some(SystemTime::now().duration_since(last.taken).unwrap_or_default().as_secs()),
            Err(error) => {
                tracing::error!(%error, "nor can what DNS was told last be done");
                None
            }
        }
    }

    fn nothing_is_wrong(&mut self) {
        self.said.clear();
        self.metrics.configuration_accepted();
        self.status.dns_refused(None);
    }
}

impl ZonesError {
    /// Whether there is nothing to obey, as opposed to something that cannot be obeyed.
    fn is_absence(&self) -> bool {
        matches!(self, ZonesError::Read(ReadError::Unread | ReadError::Absent))
    }
}

/// What holds for `--dns-address` holds for addresses and ports that a Corefile gives as well.
fn check_addresses(config: &Config, served: &[SocketAddr]) -> Result<(), ZonesError> {
    let given = &config.dns.addresses;
    let open =
        |address: &&SocketAddr| !given.contains(address) && config.dns.guard.allow_from.is_empty() && is_public(address.ip());
    let wrong = |address: SocketAddr, problem| Err(ZonesError::Listens { address, problem });
    if let Some(wildcard) = served.iter().find(|address| address.ip().is_unspecified()) {
        return wrong(*wildcard, "bind the very addresses that are asked, not the wildcard");
    }
    if let Some(public) = served.iter().find(open) {
        return wrong(*public, "everybody may ask at a public address: bind another one, or say with dns-allow-from who may");
    }
    let local = local_dns::addresses(config).into_iter().map(|address| SocketAddr::new(address, DNS_PORT));
    match local.into_iter().find(|address| !served.contains(address)) {
        Some(deaf) => wrong(
            deaf,
            "the pods of this node ask there, and no server block listens: let one listen, or take the address out of dns-address",
        ),
        None => Ok(()),
    }
}

/// Waits until something else is known of the ConfigMaps; for ever where there are none.
async fn changed(mounted: &mut Option<watch::Receiver<Mounted>>) {
    if let Some(mounted) = mounted
        && mounted.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// What tells two configurations apart, for people who look at metrics.
fn version(model: &Model) -> Option<String> {
    let text = serde_json::to_string(&model.blocks).ok()?;
    let mut hasher = SipHasher13::new();
    text.hash(&mut hasher);
    Some(format!("{:032x}", u128::from(hasher.finish128())))
}

#[cfg(test)]
#[path = "zones_tests.rs"]
mod tests;
