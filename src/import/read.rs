//! Where Corefiles come from: a file with those that it imports, or ConfigMaps whose other keys are such files.

use super::corefile::{Block, CorefileError, Surroundings, parse};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file's name in a ConfigMap, and in messages about it.
pub const COREFILE: &str = "Corefile";

/// The files of ConfigMaps: names and texts.
pub type Texts = BTreeMap<String, String>;

/// What is known of ConfigMaps with a Corefile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mounted {
    /// Nothing yet.
    #[default]
    Awaited,
    /// Nothing yet, because the API server cannot be reached, or does not show them.
    Unreachable,
    /// The one with the Corefile does not exist.
    Absent,
    /// Their files.
    Files(Texts),
}

/// Why there is no Corefile.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// The ConfigMap is another one.
    #[error("the ConfigMap has no key {COREFILE}; is it the one of CoreDNS?")]
    NoCorefile,
    /// The API server has not shown it yet.
    #[error(
        "the API server has not shown the ConfigMap with the Corefile yet; it cannot be reached, or does not allow to read it"
    )]
    Unread,
    /// There is none.
    #[error("the ConfigMap with the Corefile does not exist")]
    Absent,
    /// It cannot be understood.
    #[error(transparent)]
    Corefile(#[from] CorefileError),
    /// There is nothing in it.
    #[error("{0}: there is no server block; a Corefile has lines such as `.:53 {{`")]
    Empty(String),
}

/// The server blocks of a file. What it imports is looked for beside it.
///
/// # Errors
/// See [`ReadError`].
pub fn file(path: &Path) -> Result<Vec<Block>, ReadError> {
    let text = fs::read_to_string(path).map_err(|reason| ReadError::File { path: path.to_path_buf(), reason })?;
    text_of(path, &text)
}

/// The same of a text that was read already.
///
/// # Errors
/// See [`ReadError`].
pub fn text_of(path: &Path, text: &str) -> Result<Vec<Block>, ReadError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    blocks(&path.display().to_string(), text, &|pattern| files_beside(folder, pattern))
}

/// The server blocks of ConfigMaps that are mounted together.
///
/// # Errors
/// See [`ReadError`].
pub fn config_map(texts: &Texts) -> Result<Vec<Block>, ReadError> {
    let corefile = texts.get(COREFILE).ok_or(ReadError::NoCorefile)?;
    blocks(COREFILE, corefile, &|pattern| files_in(texts, pattern))
}

type Import<'a> = &'a dyn Fn(&str) -> Result<Vec<(String, String)>, String>;

fn blocks(name: &str, text: &str, import: Import<'_>) -> Result<Vec<Block>, ReadError> {
    let variable = |name: &str| std::env::var(name).ok();
    let blocks = parse(name, text, &Surroundings { variable: &variable, import })?;
    if blocks.is_empty() { Err(ReadError::Empty(name.to_string())) } else { Ok(blocks) }
}

/// The other keys of the ConfigMap: they are mounted in one folder.
fn files_in(texts: &Texts, pattern: &str) -> Result<Vec<(String, String)>, String> {
    let pattern = pattern.rsplit('/').next().unwrap_or(pattern);
    let found = texts.iter().filter(|(name, _)| matches(pattern, name)).map(|(name, text)| (name.clone(), text.clone()));
    some(found.collect(), pattern, "the ConfigMap has no such key; give the file itself, in a folder with all that it imports")
}

fn files_beside(folder: &Path, pattern: &str) -> Result<Vec<(String, String)>, String> {
    let path = folder.join(pattern);
    let (folder, name) = (path.parent().unwrap_or(folder), path.file_name().and_then(|name| name.to_str()).unwrap_or_default());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|file| matches(name, file)) && entry.path().is_file() {
            let text = fs::read_to_string(entry.path()).map_err(|error| error.to_string())?;
            found.push((entry.path().display().to_string(), text));
        }
    }
    found.sort();
    some(found, name, &format!("there is no such file in {}", folder.display()))
}

/// A pattern may match nothing; a file must be there.
fn some(found: Vec<(String, String)>, pattern: &str, missing: &str) -> Result<Vec<(String, String)>, String> {
    if found.is_empty() && !pattern.contains('*') { Err(missing.to_string()) } else { Ok(found) }
}

/// Whether a name matches a pattern with one `*` at most; CoreDNS allows no more.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after),
    }
}
