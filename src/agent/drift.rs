//! When to look whether somebody else has changed the tables.

use super::data_path::Done;
use crate::model::Family;
use crate::nft::{Disturbance, TABLE};
use std::time::Duration;
use tokio::time::Instant;

/// A comparison without any suspicion: for what no notice told, such as a rule that was changed while nobody listened.
const EVERY: Duration = Duration::from_secs(300);
/// Between two comparisons, so that somebody who changes the tables again and again does not keep the agent busy with nothing else.
const PAUSE: Duration = Duration::from_millis(500);

/// Suspicions, and what has become of them.
#[derive(Debug, Default)]
pub struct Drift {
    /// When the tables were last compared, or first committed.
    looked: Option<Instant>,
    /// Somebody has changed them since.
    suspected: bool,
    /// A comparison is under way that began after the last suspicion.
    looking: bool,
    /// Who it was, as far as it is known.
    by: Option<String>,
}

impl Drift {
    /// Somebody has changed the tables.
    pub fn suspect(&mut self, disturbance: Disturbance) {
        (self.suspected, self.looking) = (true, false);
        self.by = disturbance.by.or(self.by.take());
    }

    /// When to compare the tables next.
    pub fn due(&self) -> Option<Instant> {
        let looked = self.looked.filter(|_| !self.looking)?;
        Some(looked + if self.suspected { PAUSE } else { EVERY })
    }

    /// A comparison begins.
    pub fn looking(&mut self) {
        self.looking = true;
    }

    /// A request has come to its end.
    pub fn looked(&mut self, done: &Done) {
        // Somebody who works on tables of his own counts the generation up as well: what one comparison has cleared is not suspected again.
        let found = done.committed.families.iter().any(|family| family.elements > 0 || family.rebuilt.is_some());
        let unheard = done.unheard && (found || !done.repaired);
        if self.looking || self.looked.is_none() {
            self.looked = Some(Instant::now());
        }
        if std::mem::take(&mut self.looking) {
            (self.suspected, self.by) = (false, None);
        }
        self.suspected |= unheard;
    }

    /// What to say about a table that was put right.
    pub fn repaired(&self, family: Family) -> String {
        let table = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let who = self.by.as_deref().unwrap_or("another program");
        format!("the table {table} {TABLE} was changed or removed by {who}, and is put right again")
    }
}
