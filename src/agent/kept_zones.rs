//! Keeps on disk how DNS was told to answer, as it was last obeyed: for a start at which that cannot be read, or has been broken meanwhile.

use crate::config::{Config, ZonesSource};
use crate::dns::chain::Model;
use crate::notices::{LAST_STATE_REFUSED, Notices, Subject};
use crate::snapshot::{self, Zones};
use std::path::PathBuf;
use std::time::SystemTime;

/// The file in the folder of the last known state.
pub struct KeptZones {
    folder: PathBuf,
    /// Where what is kept was written: another source's is not obeyed.
    source: String,
    /// What the file has.
    last: Option<Zones>,
}

impl KeptZones {
    /// Reads what an earlier agent has left; `None` where nothing is to be kept: without a folder, and where flags say everything. A file that cannot be
    /// trusted is reported and not used.
    pub fn open(config: &Config, notices: &Notices) -> Option<KeptZones> {
        let folder = config.state_dir.clone()?;
        let source = match &config.dns.zones {
            ZonesSource::Flags => return None,
            ZonesSource::Blocks { file, .. } => format!("{}, dns-zones", file.display()),
            ZonesSource::Corefile(path) => path.display().to_string(),
            ZonesSource::ConfigMaps(names) => names.join(", "),
        };
        let last = snapshot::read_zones(&folder).unwrap_or_else(|error| {
            let file = folder.join(snapshot::ZONES_FILE);
            let note = format!("what DNS was told last, in {}, is not used: {error}", file.display());
            notices.tell(&LAST_STATE_REFUSED, Subject::Node, note);
            None
        });
        Some(KeptZones { folder, last: last.filter(|last| last.source == source), source })
    }

    /// What was obeyed last.
    pub fn last(&self) -> Option<&Zones> {
        self.last.as_ref()
    }

    /// This is obeyed from now on. The disk is waited for elsewhere.
    pub fn keep(&mut self, model: &Model) {
        if self.last.as_ref().is_some_and(|last| last.model == *model) {
            return;
        }
        let zones = Zones { taken: SystemTime::now(), source: self.source.clone(), model: model.clone() };
        self.last = Some(zones.clone());
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = snapshot::write_zones(&folder, &zones) {
                tracing::error!(folder = %folder.display(), %error, "what DNS is told cannot be saved; give --state-dir a folder that the agent may write");
            }
        });
    }
}
