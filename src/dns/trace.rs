//! Where an answer comes from, noted on its way for those who want to know (`waypost dig`). Where nobody does, a note costs a look at a variable of
//! the task.

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};

/// A step on the way to an answer, in the order in which they ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// The cluster's records, in memory.
    Records,
    /// A rule of the plugin rewrite made it a question for this name.
    Rewritten {
        /// The name.
        to: String,
    },
    /// An alias led to this name, which was resolved as well.
    Alias {
        /// The name.
        target: String,
    },
    /// The cache had it.
    #[serde(rename_all = "camelCase")]
    Cache {
        /// How long it has been there, seconds.
        age: u32,
        /// How long it may be served, seconds; 0 where it has expired already.
        left: u32,
        /// Whether it has expired, and is served because nobody had a better one.
        stale: bool,
    },
    /// Somebody else was asking the same, and this question waited for that answer.
    Joined,
    /// An upstream server was asked.
    #[serde(rename_all = "camelCase")]
    Upstream {
        /// The server, as it is configured.
        server: String,
        /// The zone for which it is asked.
        zone: String,
        /// Milliseconds until it answered, or failed.
        millis: f64,
        /// The response code, or what went wrong.
        outcome: String,
    },
    /// There is no answer.
    Failed {
        /// Why.
        why: String,
    },
}

type Steps = Arc<Mutex<Vec<Step>>>;

tokio::task_local! {
    /// `None` where nobody wants to know, though the task is one's who does.
    static STEPS: Option<Steps>;
}

/// Notes a step, if somebody wants to know.
pub fn note(step: impl FnOnce() -> Step) {
    // Without anybody it is an error, and none.
    let _ = STEPS.try_with(|steps| {
        if let Some(steps) = steps {
            steps.lock().unwrap_or_else(PoisonError::into_inner).push(step());
        }
    });
}

/// Whether somebody watches: then it is a question of people, and of no client.
pub fn is_watched() -> bool {
    STEPS.try_with(Option::is_some).unwrap_or_default()
}

/// What comes out, and the steps on the way.
pub async fn watched<F: Future>(work: F) -> (F::Output, Vec<Step>) {
    let steps = Steps::default();
    let output = STEPS.scope(Some(steps.clone()), work).await;
    let steps = std::mem::take(&mut *steps.lock().unwrap_or_else(PoisonError::into_inner));
    (output, steps)
}

/// The same work, whose steps are this task's, whichever task has it done.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let steps = STEPS.try_with(Clone::clone).ok().flatten();
    STEPS.scope(steps, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_are_noted_in_other_tasks_too_and_only_for_those_who_watch() {
        note(|| panic!("nobody wants to know"));
        let others = carried(async { note(|| panic!("nobody of those who began it")) });
        let work = async {
            note(|| Step::Records);
            tokio::spawn(carried(async { note(|| Step::Joined) })).await.unwrap();
            tokio::spawn(async { note(|| panic!("not this one's")) }).await.unwrap();
            others.await;
            7
        };
        assert_eq!(watched(work).await, (7, vec![Step::Records, Step::Joined]));
    }
}
