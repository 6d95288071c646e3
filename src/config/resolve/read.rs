//! One value: whether it is given, where, and what it says.

use super::Values;
use crate::config::ConfigError;
use crate::config::args::{Origin, Raw};
use crate::config::settings::Setting;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// The kernel takes 107 characters; a suffix must fit besides.
const LONGEST_SOCKET_PATH: usize = 100;

impl Values<'_> {
    /// The one value given, if any.
    pub(super) fn given(&self, setting: &Setting) -> Result<Option<&str>, ConfigError> {
        match self.given.get(setting.key) {
            None => Ok(None),
            Some(Raw { values, .. }) if values.len() == 1 => Ok(Some(&values[0])),
            Some(Raw { values, .. }) => Err(self.bad(setting, &values.join(","), "a single value")),
        }
    }

    pub(super) fn list(&self, setting: &Setting) -> Option<&[String]> {
        self.given.get(setting.key).map(|raw| raw.values.as_slice())
    }

    /// The first choice is the default.
    pub(super) fn choice<T: Copy>(&self, setting: &Setting, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let value = self.given(setting)?.unwrap_or(choices[0].0);
        let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let found = choices.iter().find(|(name, _)| *name == value);
        found.map(|(_, choice)| *choice).ok_or_else(|| self.bad(setting, value, &format!("one of {}", names())))
    }

    pub(super) fn number(&self, setting: &Setting, range: RangeInclusive<u32>, default: u32) -> Result<u32, ConfigError> {
        let Some(value) = self.given(setting)? else { return Ok(default) };
        let number = u32::from_str(value).ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.bad(setting, value, &format!("a number from {} to {}", range.start(), range.end())))
    }

    /// Whole seconds, written as kube-proxy's durations.
    pub(super) fn seconds(&self, setting: &Setting, default: u32) -> Result<u32, ConfigError> {
        let Some(value) = self.given(setting)? else { return Ok(default) };
        let seconds = parse_seconds(value).filter(|seconds| *seconds <= i32::MAX as u32);
        seconds.ok_or_else(|| self.bad(setting, value, "a duration in whole seconds such as 24h, 1h30m or 90s; 0: left alone"))
    }

    /// Networks with the host's bits cleared, as kube-proxy reads them.
    pub(super) fn networks(&self, setting: &Setting, allowed: &str) -> Result<Vec<IpNet>, ConfigError> {
        let values = self.list(setting).unwrap_or_default();
        let parse = |value: &String| IpNet::from_str(value).map(|net| net.trunc()).map_err(|_| self.bad(setting, value, allowed));
        values.iter().map(parse).collect::<Result<Vec<_>, _>>().map(unique)
    }

    pub(super) fn file(&self, setting: &Setting) -> Result<Option<PathBuf>, ConfigError> {
        match self.given(setting)? {
            None | Some("") => Ok(None),
            Some(path) if path.starts_with('/') => Ok(Some(path.into())),
            Some(path) => Err(self.bad(setting, path, "an absolute path; empty: none")),
        }
    }

    /// The path of a Unix socket.
    pub(super) fn socket(&self, setting: &Setting) -> Result<Option<PathBuf>, ConfigError> {
        match self.given(setting)? {
            None | Some("") => Ok(None),
            Some(path) if path.starts_with('/') && path.len() < LONGEST_SOCKET_PATH => Ok(Some(PathBuf::from(path))),
            Some(path) => Err(self.bad(setting, path, "an absolute path of less than 100 characters; empty: none")),
        }
    }

    pub(super) fn listener(&self, setting: &Setting, default: Option<SocketAddr>) -> Result<Option<SocketAddr>, ConfigError> {
        match self.given(setting)? {
            None => Ok(default),
            Some("") => Ok(None),
            Some(value) => match parse_socket(value, None) {
                Some(address) => Ok(Some(address)),
                None => Err(self.bad(
                    setting,
                    value,
                    "an address with a port, such as 127.0.0.1:8080, [::1]:8080 or :8080; empty: off",
                )),
            },
        }
    }

    pub(super) fn origin(&self, setting: &Setting) -> Origin {
        self.given.get(setting.key).map_or(Origin::Default(setting.key), |raw| raw.origin.clone())
    }

    pub(super) fn bad(&self, setting: &Setting, value: &str, allowed: &str) -> ConfigError {
        ConfigError::Value { origin: self.origin(setting), value: value.to_string(), allowed: allowed.to_string() }
    }
}

/// `IP:PORT`, `[IPv6]:PORT`, `:PORT` (every address), and, where there is a default port, a bare IP.
pub(super) fn parse_socket(text: &str, default_port: Option<u16>) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':').and_then(|port| u16::from_str(port).ok()) {
        return Some((Ipv6Addr::UNSPECIFIED, port).into());
    }
    let bare = || {
        let ip = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        Some(SocketAddr::new(IpAddr::from_str(ip).ok()?, default_port?))
    };
    SocketAddr::from_str(text).ok().or_else(bare)
}

/// `24h`, `1h0m0s`, `90s`, or `0`.
fn parse_seconds(text: &str) -> Option<u32> {
    if text == "0" {
        return Some(0);
    }
    let mut seconds = 0u32;
    for part in text.split_inclusive(['h', 'm', 's']) {
        let unit = part.char_indices().next_back().and_then(|(at, unit)| {
            let length = match unit {
                'h' => 3600,
                'm' => 60,
                's' => 1,
                _ => return None,
            };
            part[..at].parse::<u32>().ok()?.checked_mul(length)
        })?;
        seconds = seconds.checked_add(unit)?;
    }
    (!text.is_empty()).then_some(seconds)
}

pub(super) fn unique<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept = Vec::with_capacity(values.len());
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}
