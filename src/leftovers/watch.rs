//! Looks again and again, and says what is new.

use super::{Facts, Leftover, collect, judge};
use crate::notices::{Notice, Notices, Subject};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often to look. A leftover is there for days, and a kube-proxy that is started later shows within a minute.
const PAUSE: Duration = Duration::from_secs(60);
/// What is still there is reported again so often: the API server forgets Events after an hour.
const REMINDER: Duration = Duration::from_secs(1800);

/// Reports what others do or have left here, now and as it changes. Never ends by itself.
pub async fn keep_looking(answers_dns: bool, notices: Notices) {
    let mut seen = Seen::default();
    loop {
        // Dumps and a program or two: not on a thread that serves others. A look that panicked is taken for one that saw nothing new.
        if let Ok(facts) = tokio::task::spawn_blocking(collect::facts).await {
            seen.take(&facts, answers_dns, &notices, Instant::now());
        }
        sleep(PAUSE).await;
    }
}

/// What was seen last, and when it was last reported.
#[derive(Default)]
struct Seen {
    leftovers: Vec<(Leftover, Instant)>,
    unseen: Option<String>,
}

impl Seen {
    fn take(&mut self, facts: &Facts, answers_dns: bool, notices: &Notices, now: Instant) {
        if facts.unseen != self.unseen {
            if let Some(reason) = &facts.unseen {
                tracing::warn!("other programs' tables cannot be looked at: {reason}");
            }
            self.unseen = facts.unseen.clone();
        }
        let found = judge(facts, answers_dns);
        for (gone, _) in self.leftovers.iter().filter(|(before, _)| !found.contains(before)) {
            tracing::info!(reason = gone.reason.name, "gone: {}: {}", gone.subject, gone.found);
        }
        let before = std::mem::take(&mut self.leftovers);
        for one in found {
            let Leftover { reason, subject, found, advice } = &one;
            let note = format!("{subject}: {found}; {advice}");
            let told = match before.iter().find(|(other, _)| *other == one) {
                Some((_, told)) if now < *told + REMINDER => *told,
                Some(_) => {
                    notices.repeat(Notice { reason, about: Subject::Node, note });
                    now
                }
                None => {
                    notices.tell(reason, Subject::Node, note);
                    now
                }
            };
            self.leftovers.push((one, told));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_is_told_once_and_reminded_of_and_told_anew_when_it_comes_back() {
        let (notices, mut received) = Notices::sent();
        let link = Facts { links: vec!["kube-ipvs0".into()], ..Facts::default() };
        let (mut seen, start) = (Seen::default(), Instant::now());
        let mut told = |facts: &Facts, now| {
            seen.take(facts, true, &notices, now);
            std::iter::from_fn(|| received.try_recv().ok()).count()
        };
        assert_eq!(told(&link, start), 1);
        assert_eq!(told(&link, start + PAUSE), 0);
        assert_eq!(told(&link, start + REMINDER), 1);
        assert_eq!(told(&Facts::default(), start + REMINDER + PAUSE), 0);
        assert_eq!(told(&link, start + REMINDER + PAUSE * 2), 1);
    }
}
