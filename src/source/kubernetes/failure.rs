//! What went wrong with a request or a watch, in terms of what to do next.

use super::health::Trouble;
use kube::core::Status;
use kube::runtime::watcher;
use std::error::Error;

/// Why a watch has stopped.
#[derive(Debug)]
pub enum Failure {
    /// Nobody receives updates any more.
    Closed,
    /// The server ended it, as it does from time to time.
    Ended,
    /// The server no longer knows our version: list anew.
    Expired,
    /// Our version lies in the server's future, as after a restored backup: list anew, whatever version it is at.
    Ahead,
    /// The server finds the request invalid: it has no streaming lists, or can make nothing of our version.
    Invalid(String),
    /// A streaming list went silent before it was complete.
    Quiet,
    /// It does not work for now.
    Trouble(Trouble),
}

impl Failure {
    /// Sorts an error. `resource` is its full name for RBAC (`endpointslices.discovery.k8s.io`).
    pub fn of(error: &kube::Error, resource: &str) -> Failure {
        match error {
            kube::Error::Api(status) => Failure::of_status(status, resource),
            // The answer cannot be understood: not a matter of connection.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) | kube::Error::LinesCodecMaxLineLengthExceeded => {
                Failure::Trouble(Trouble::Refused(format!("the server's answer is not understood: {}", chain(error))))
            }
            kube::Error::Auth(_) => {
                Failure::Trouble(Trouble::Refused(format!("{}; check the credentials that are configured", chain(error))))
            }
            kube::Error::Service(cause) => Failure::Trouble(Trouble::Unreachable(chain(&**cause))),
            _ => Failure::Trouble(Trouble::Unreachable(chain(error))),
        }
    }

    /// Sorts the server's own words.
    pub fn of_status(status: &Status, resource: &str) -> Failure {
        let message = &status.message;
        match status.code {
            410 => Failure::Expired,
            504 if message.contains("Too large resource version") => Failure::Ahead,
            401 => Failure::Trouble(Trouble::Refused(format!(
                "the API server does not accept our credentials ({message}); check the token or client certificate"
            ))),
            403 => Failure::Trouble(Trouble::Forbidden(missing_permission(message, resource))),
            404 => Failure::Trouble(Trouble::Absent(answered(status))),
            400 | 405 | 406 | 415 | 422 => Failure::Invalid(answered(status)),
            _ => Failure::Trouble(Trouble::Refused(answered(status))),
        }
    }
}

/// Which permission is missing, and who needs it, when that is why a ConfigMap cannot be watched.
pub fn missing_for_config_map(error: &watcher::Error, config_map: &str) -> Option<String> {
    let message = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status)
            if status.code == 403 =>
        {
            &status.message
        }
        _ => return None,
    };
    Some(missing_permission(message, &format!("the ConfigMap {config_map}")))
}

fn missing_permission(message: &str, what: &str) -> String {
    let user = forbidden_user(message).unwrap_or("the agent's user");
    format!("no permission; grant get, list and watch on {what} to {user} ({message})")
}

fn answered(status: &Status) -> String {
    format!("the API server answered {}: {}", status.code, status.message)
}

/// The user in `… is forbidden: User "NAME" cannot list …`.
fn forbidden_user(message: &str) -> Option<&str> {
    message.split_once("User \"")?.1.split_once('"').map(|(user, _)| user)
}

/// An error with its causes, each said once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
