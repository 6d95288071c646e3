//! Reading the folder.

use super::defaults::Defaults;
use super::{Ignored, Manifests};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Why a folder of manifests cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The folder or a file in it cannot be read.
    #[error("cannot read {}: {source}; name a folder of YAML files that this user may read", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system cannot tell when the folder is edited.
    #[error("cannot watch {} for edits: {source}; if too many files are watched, raise fs.inotify.max_user_instances", path.display())]
    Unwatchable {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: notify::Error,
    },
    /// A document is not what it should be.
    #[error("{}:{line}: document {document}: {message}", file.display())]
    Document {
        /// The file.
        file: PathBuf,
        /// The line in the file, from 1.
        line: u64,
        /// The document's number in the file, from 1.
        document: usize,
        /// What is wrong, with the field's name where one is known.
        message: String,
    },
    /// The same object is there twice.
    #[error("{}:{line}: document {document}: {object} is already defined in {}; remove one of them", file.display(), first.display())]
    Twice {
        /// The file of the second definition.
        file: PathBuf,
        /// The line where that document begins.
        line: u64,
        /// The document's number in the file, from 1.
        document: usize,
        /// Kind, namespace and name.
        object: String,
        /// The file of the first definition.
        first: PathBuf,
    },
}

/// Reads every `.yaml`, `.yml` and `.json` file of a folder (not of its subfolders), in the order of their names. Files may hold several
/// documents, documents may be lists.
///
/// # Errors
/// The first [`ManifestError`]: a folder is used as a whole or not at all.
pub fn read(folder: &Path) -> Result<Manifests, ManifestError> {
    let mut reader = Reader::default();
    for file in files(folder)? {
        let text = fs::read_to_string(&file).map_err(|source| ManifestError::Unreadable { path: file.clone(), source })?;
        for document in documents(&text) {
            reader.document(&file, &document)?;
        }
    }
    Ok(reader.manifests)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    let unreadable = |source| ManifestError::Unreadable { path: folder.to_path_buf(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if is_manifest(&path) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Hidden files are left out: editors keep their swap files there, and a mounted ConfigMap its generations.
fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// One YAML document of a file.
struct Document<'a> {
    number: usize,
    /// How many lines of the file come before it.
    lines_before: u64,
    text: &'a str,
}

/// Splits a file at its document markers. YAML allows `---` at the beginning of a line nowhere else, not even within a block of text.
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut begin, mut lines_before, mut position) = (0, 0, 0);
    let mut finish = |begin: usize, end: usize, lines_before| {
        let text = &text[begin..end];
        let says_something = |line: &str| !line.is_empty() && !line.starts_with(['#', '%']) && line != "---" && line != "...";
        if text.lines().any(|line| says_something(line.trim())) {
            documents.push(Document { number: documents.len() + 1, lines_before, text });
        }
    };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker {
            finish(begin, position, lines_before);
            (begin, lines_before) = (position, number as u64);
        }
        position += line.len();
    }
    finish(begin, text.len(), lines_before);
    documents
}

/// What every object has, to tell what it is before it is read as that.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<HeaderMetadata>,
}

#[derive(Deserialize)]
struct HeaderMetadata {
    name: Option<String>,
}

#[derive(Default)]
struct Reader {
    manifests: Manifests,
    /// Where each object was defined.
    defined: HashMap<String, PathBuf>,
}

/// Where an object stands and how it is decoded: a document of a file, or an item of a list in one.
struct Place<'a> {
    file: &'a Path,
    document: &'a Document<'a>,
    item: Option<(usize, &'a serde_json::Value)>,
}

impl Place<'_> {
    fn decode<T: DeserializeOwned>(&self) -> Result<T, ManifestError> {
        match self.item {
            Some((_, value)) => T::deserialize(value).map_err(|error| self.error(self.first_line(), error.to_string())),
            None => parse(self.document.text).map_err(|error| self.parse_error(&error)),
        }
    }

    /// The decoder counts lines within the document and does not name the field, so the offending line is quoted.
    fn parse_error(&self, error: &serde_saphyr::Error) -> ManifestError {
        let line = error.location().map_or(1, |location| location.line().max(1));
        let text = error.without_snippet().to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
        let quoted =
            usize::try_from(line - 1).ok().and_then(|index| self.document.text.lines().nth(index)).unwrap_or_default().trim();
        let message = if quoted.is_empty() { message.to_string() } else { format!("{message}: {quoted:?}") };
        self.error(self.document.lines_before + line, message)
    }

    fn first_line(&self) -> u64 {
        let marker = self.document.text.starts_with("---");
        self.document.lines_before + if marker { 2 } else { 1 }
    }

    fn error(&self, line: u64, message: String) -> ManifestError {
        let message = match self.item {
            Some((index, _)) => format!("items[{index}]: {message}"),
            None => message,
        };
        ManifestError::Document { file: self.file.to_path_buf(), line, document: self.document.number, message }
    }
}

impl Reader {
    fn document(&mut self, file: &Path, document: &Document<'_>) -> Result<(), ManifestError> {
        #[derive(Deserialize)]
        struct Items {
            #[serde(default)]
            items: Vec<serde_json::Value>,
        }
        let place = Place { file, document, item: None };
        let header: Header = place.decode().map_err(|error| match parse::<serde_json::Value>(document.text) {
            Ok(value) if !value.is_object() => {
                place.error(place.first_line(), "no object: it needs the fields apiVersion, kind and metadata".into())
            }
            _ => error,
        })?;
        if !header.kind.as_deref().is_some_and(|kind| kind.ends_with("List")) {
            return self.object(&place, header);
        }
        let list: Items = place.decode()?;
        for item in list.items.iter().enumerate() {
            let place = Place { file, document, item: Some(item) };
            let header = place.decode()?;
            self.object(&place, header)?;
        }
        Ok(())
    }

    fn object(&mut self, place: &Place<'_>, header: Header) -> Result<(), ManifestError> {
        let missing = |field: &str| place.error(place.first_line(), format!("{field} is missing"));
        let version = header.api_version.filter(|text| !text.is_empty()).ok_or_else(|| missing("apiVersion"))?;
        let kind = header.kind.filter(|text| !text.is_empty()).ok_or_else(|| missing("kind"))?;
        let name = header.metadata.and_then(|metadata| metadata.name).filter(|text| !text.is_empty());
        let name = name.ok_or_else(|| missing("metadata.name"))?;
        match (version.as_str(), kind.as_str()) {
            ("v1", "Service") => self.add(place, |manifests| &mut manifests.services),
            ("discovery.k8s.io/v1", "EndpointSlice") => self.add(place, |manifests| &mut manifests.slices),
            ("v1", "Namespace") => self.add(place, |manifests| &mut manifests.namespaces),
            ("v1", "Node") => self.add(place, |manifests| &mut manifests.nodes),
            ("networking.k8s.io/v1", "ServiceCIDR") => self.add(place, |manifests| &mut manifests.service_cidrs),
            ("multicluster.x-k8s.io/v1alpha1", "ServiceImport") => self.add(place, |manifests| &mut manifests.imports),
            ("v1", "Pod") => self.add(place, |manifests| &mut manifests.pods),
            ("apps/v1", "Deployment") => self.add(place, |manifests| &mut manifests.deployments),
            _ => {
                self.manifests.ignored.push(Ignored { file: place.file.to_path_buf(), kind, name });
                Ok(())
            }
        }
    }

    fn add<T>(&mut self, place: &Place<'_>, kind: impl Fn(&mut Manifests) -> &mut Vec<T>) -> Result<(), ManifestError>
    where
        T: DeserializeOwned + Defaults + Resource<DynamicType = ()>,
    {
        let mut object: T = place.decode()?;
        object.fill();
        let name = full_name::<T>(object.meta());
        if let Some(first) = self.defined.insert(name.clone(), place.file.to_path_buf()) {
            let (file, line) = (place.file.to_path_buf(), place.first_line());
            return Err(ManifestError::Twice { file, line, document: place.document.number, object: name, first });
        }
        kind(&mut self.manifests).push(object);
        Ok(())
    }
}

fn full_name<T: Resource<DynamicType = ()>>(metadata: &ObjectMeta) -> String {
    let name = metadata.name.as_deref().unwrap_or_default();
    match metadata.namespace.as_deref() {
        Some(namespace) => format!("{} {namespace}/{name}", T::kind(&())),
        None => format!("{} {name}", T::kind(&())),
    }
}

/// Manifests may be large (a list of ten thousand services), so the limits that protect a server from strangers' YAML are widened.
fn parse<T: DeserializeOwned>(text: &str) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_events: 50_000_000, max_nodes: 25_000_000, max_total_scalar_bytes: 1 << 30 },
    };
    serde_saphyr::from_str_with_options(text, options)
}
