//! Waiting for what comes in its own time.

use std::time::{Duration, Instant};

/// How long anything may take that is waited for. Generous, because the machines of CI are slow and it is never waited out in full.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks until what is looked for is there, and returns it.
///
/// # Panics
/// With the last look's reason, when it has not come in [`PATIENCE`].
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(reason) if started.elapsed() > PATIENCE => panic!("{what}: not within {PATIENCE:?}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
