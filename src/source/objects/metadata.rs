//! Metadata with only what the agent reads of it.

use super::{ANNOTATION_PREFIX, TRIGGER_TIME_ANNOTATION};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
/// Reads the metadata that the agent uses and skips the rest, above all the managed fields.
pub(super) fn slim_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        namespace: Option<String>,
        resource_version: Option<String>,
        labels: Option<BTreeMap<String, String>>,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
        annotations: Option<UsedAnnotations>,
    }

    let metadata = Metadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        resource_version: metadata.resource_version,
        labels: metadata.labels,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        annotations: metadata.annotations.and_then(|UsedAnnotations(used)| (!used.is_empty()).then_some(used)),
        ..ObjectMeta::default()
    })
}

/// The annotations that the agent reads. The others, which may be as long as the whole object (`last-applied-configuration`), are skipped.
struct UsedAnnotations(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UsedAnnotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UsedAnnotations, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = UsedAnnotations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<UsedAnnotations, A::Error> {
                let mut used = BTreeMap::new();
                while let Some(UsedName(name)) = entries.next_key()? {
                    match name {
                        Some(name) => drop(used.insert(name, entries.next_value()?)),
                        None => drop(entries.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(UsedAnnotations(used))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// The name of an annotation that the agent reads; `None` for any other, which is not even copied.
struct UsedName(Option<String>);

impl<'de> Deserialize<'de> for UsedName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UsedName, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = UsedName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an annotation")
            }

            fn visit_str<E>(self, name: &str) -> Result<UsedName, E> {
                let used = name.starts_with(ANNOTATION_PREFIX) || name == TRIGGER_TIME_ANNOTATION;
                Ok(UsedName(used.then(|| name.to_string())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}
