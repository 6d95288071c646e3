//! Taking over from the agent before, and handing over to the one after.

use crate::admin::Status;
use crate::handover::{Claim, HandoverError, Predecessor, Seat, Sockets, Successor, claim};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// An agent that refuses, or cannot be understood, is asked again this often: it may have ended.
const RETRY: Duration = Duration::from_secs(5);

/// What must be so before the other agent may stop. Each is told true when it is.
pub struct Milestones {
    /// The kernel's tables and the names in memory are up to date: this agent could serve.
    pub ready: watch::Receiver<bool>,
    /// DNS is served, and the questions of this node come here.
    pub home: watch::Receiver<bool>,
    /// Health and metrics are served.
    pub admin: watch::Receiver<bool>,
}

/// The sockets for an agent that starts now, and its place in the succession: open at once where no other agent serves.
///
/// # Errors
/// When the files of the hand-over cannot be made.
pub fn begin(path: Option<&Path>, status: &Status) -> Result<(Sockets, Option<Seat>), HandoverError> {
    let Some(path) = path else { return Ok((Sockets::new(true), None)) };
    match claim(path)? {
        Claim::First(seat) => Ok((Sockets::new(true), Some(seat))),
        Claim::Taken => {
            status.second(true);
            Ok((Sockets::new(false), None))
        }
    }
}

/// Takes over if this agent does not serve yet, and then serves until the next one does.
pub async fn follow(path: PathBuf, seat: Option<Seat>, sockets: Sockets, mut reached: Milestones, status: Status) -> Successor {
    let seat = match seat {
        Some(seat) => seat,
        None => take_over(&path, &sockets, &mut reached, &status).await,
    };
    seat.hold(&sockets).await
}

async fn take_over(path: &Path, sockets: &Sockets, reached: &mut Milestones, status: &Status) -> Seat {
    loop {
        match one_try(path, sockets, reached).await {
            Ok(Some(seat)) => {
                status.second(false);
                return seat;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, "another agent serves this node, and this one does not; trying again");
                sleep(RETRY).await;
            }
        }
    }
}

/// `None` when things have changed meanwhile, so that it is worth another try at once.
async fn one_try(path: &Path, sockets: &Sockets, reached: &mut Milestones) -> Result<Option<Seat>, HandoverError> {
    if let Claim::First(seat) = claim(path)? {
        tracing::info!("the agent before has ended: serving in its place");
        sockets.grant_after_a_death();
        return Ok(Some(seat));
    }
    let Some(before) = Predecessor::find(path).await? else { return Ok(None) };
    tokio::select! {
        () = is_true(&mut reached.ready) => {}
        () = before.gone() => return Ok(None),
    }
    let mut seat = match before.ask(sockets).await {
        Ok(seat) => seat,
        Err(HandoverError::Broken(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    // If the other one dies now, nothing is lost: this one has what it needs.
    is_true(&mut reached.home).await;
    is_true(&mut reached.admin).await;
    before.serving(&mut seat).await;
    sockets.close_inherited();
    Ok(Some(seat))
}

/// For ever, when nobody is left to tell: then the agent is about to end.
async fn is_true(told: &mut watch::Receiver<bool>) {
    if told.wait_for(|reached| *reached).await.is_err() {
        std::future::pending::<()>().await;
    }
}
