//! Raw arguments: what was given as flag or environment variable, unjudged, with where it came from.

use super::settings::{SETTINGS, Setting, find};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The flags and environment variables of `waypost run` and `waypost check`.
#[derive(Clone, Debug, Default)]
pub struct RunArgs {
    /// The configuration file.
    pub(super) config: Option<PathBuf>,
    pub(super) given: Given,
}

/// What was given for each setting, by key.
pub(super) type Given = BTreeMap<&'static str, Raw>;

/// The values given for one setting; those of lists are already split at commas.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub values: Vec<String>,
    pub origin: Origin,
}

/// Where a value came from; a later one wins over an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody gave it.
    Default(&'static str),
    /// The configuration file.
    File(FilePlace),
    /// This environment variable.
    Env(&'static str),
    /// The flag of this setting.
    Flag(&'static str),
}

/// A place in the configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePlace {
    /// The file.
    pub path: Arc<Path>,
    /// The line, from 1.
    pub line: u64,
    /// The key there.
    pub key: &'static str,
}

impl Origin {
    /// How much it counts: flag over environment over file over default.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Origin::Default(_) => 0,
            Origin::File(_) => 1,
            Origin::Env(_) => 2,
            Origin::Flag(_) => 3,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default(key) => write!(f, "the default of {key}"),
            Origin::File(place) => write!(f, "{}, line {}, {}", place.path.display(), place.line, place.key),
            Origin::Env(name) => write!(f, "environment variable {name}"),
            Origin::Flag(key) => write!(f, "--{key}"),
        }
    }
}

impl Raw {
    pub(super) fn new(setting: &Setting, values: impl IntoIterator<Item = String>, origin: Origin) -> Raw {
        let values = values.into_iter();
        let values = match setting.list {
            true => values.flat_map(|value| split(&value)).collect(),
            false => values.map(|value| value.trim().to_string()).collect(),
        };
        Raw { values, origin }
    }
}

fn split(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_string).collect()
}

impl RunArgs {
    /// Arguments as if these flags had been given, by key (see [`SETTINGS`]).
    ///
    /// # Panics
    /// On a key that does not exist: the keys are written in code.
    pub fn of(flags: &[(&str, &str)]) -> RunArgs {
        let mut args = RunArgs::default();
        for (key, value) in flags {
            let setting = find(key).unwrap_or_else(|| panic!("there is no setting {key}"));
            let raw = Raw::new(setting, [value.to_string()], Origin::Flag(setting.key));
            args.given.insert(setting.key, raw);
        }
        args
    }

    fn read(matches: &ArgMatches, settings: impl Iterator<Item = &'static Setting>) -> RunArgs {
        let mut args = RunArgs { config: matches.get_one::<PathBuf>("config").cloned(), given: Given::new() };
        for setting in settings {
            let origin = match matches.value_source(setting.key) {
                Some(ValueSource::CommandLine) => Origin::Flag(setting.key),
                Some(ValueSource::EnvVariable) => Origin::Env(setting.env),
                _ => continue,
            };
            let values = matches.get_many::<String>(setting.key).into_iter().flatten().cloned();
            args.given.insert(setting.key, Raw::new(setting, values, origin));
        }
        args
    }

    /// These arguments with this configuration file.
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> RunArgs {
        self.config = Some(path.into());
        self
    }
}

/// By hand and not derived: flags, file keys and the reference come from the one table of settings.
impl Args for RunArgs {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().map(|setting| arg(setting)).fold(command.arg(config_file()), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// The flags of the verbs that look at services from afar: where the objects come from, and what the agent makes of them.
#[derive(Clone, Debug, Default)]
pub struct ViewArgs(pub RunArgs);

impl ViewArgs {
    /// Whether a source of objects was named on the command line or in the environment. A configuration file's does not count: it is the agent's.
    pub fn names_source(&self) -> bool {
        ["kubeconfig", "api-server", "manifests"].iter().any(|key| self.0.given.contains_key(key))
    }
}

/// The settings that matter to [`ViewArgs`].
fn view_settings() -> impl Iterator<Item = &'static Setting> {
    let named = ["socket", "cluster-domain", "dns-address"];
    SETTINGS.iter().copied().filter(move |setting| setting.is_about_services() || named.contains(&setting.key))
}

impl Args for ViewArgs {
    fn augment_args(command: Command) -> Command {
        view_settings().map(arg).fold(command.arg(config_file()), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ViewArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<ViewArgs, clap::Error> {
        Ok(ViewArgs(RunArgs::read(matches, view_settings())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = ViewArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

fn config_file() -> Arg {
    Arg::new("config")
        .long("config")
        .env("WAYPOST_CONFIG")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .hide_env_values(true)
        .help("A YAML file with any of the settings below, each under its flag's name; flags and environment win over it")
}

fn arg(setting: &'static Setting) -> Arg {
    let help = format!("{} [default: {}]", setting.help, setting.default);
    let arg = Arg::new(setting.key)
        .long(setting.key)
        .env(setting.env)
        .value_name(setting.value)
        .help_heading(setting.section)
        .hide_env_values(true)
        .help(help);
    match (setting.list, setting.value) {
        (true, _) => arg.action(ArgAction::Append),
        // A bare `--masquerade-all` switches it on, as with kube-proxy.
        (false, "true|false") => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        (false, _) => arg.action(ArgAction::Set),
    }
}

impl FromArgMatches for RunArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<RunArgs, clap::Error> {
        Ok(RunArgs::read(matches, SETTINGS.iter().copied()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = RunArgs::from_arg_matches(matches)?;
        Ok(())
    }
}
