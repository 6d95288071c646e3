//! The configuration file: YAML, one level of keys, each the name of a flag; and `dns-zones`, which has more to it than a flag could say.

use super::ConfigError;
use super::args::{FilePlace, Given, Origin, Raw};
use super::settings::{SETTINGS, find};
use crate::dns::chain::Block;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Reads a configuration file. Values are left as text: flags, environment and file are judged alike.
pub(super) fn read(path: &Path) -> Result<(Given, Option<Zones>), ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|reason| ConfigError::Read { path: path.to_path_buf(), reason })?;
    parse(&text, path)
}

/// The key that has server blocks.
pub(super) const ZONES: &str = "dns-zones";

/// What `dns-zones` has.
pub(super) struct Zones {
    pub blocks: Vec<Block>,
    pub place: FilePlace,
}

fn parse(text: &str, path: &Path) -> Result<(Given, Option<Zones>), ConfigError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let entries: Entries = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ConfigError::Syntax { path: path.to_path_buf(), problem: one_line(&error.to_string()) })?;
    let path: Arc<Path> = path.into();
    let (mut given, mut zones) = (Given::new(), None);
    for (key, values) in entries.0 {
        let line = key.referenced.line();
        let values = match values {
            Value::Plain(values) => values,
            Value::Blocks(blocks) => {
                let place = FilePlace { path: path.clone(), line, key: ZONES };
                zones = Some(Zones { blocks, place });
                continue;
            }
        };
        let Some(setting) = find(&key.value) else { return Err(unknown(&path, line, &key.value)) };
        let origin = Origin::File(FilePlace { path: path.clone(), line, key: setting.key });
        given.insert(setting.key, Raw::new(setting, values.0, origin));
    }
    Ok((given, zones))
}

fn unknown(path: &Path, line: u64, key: &str) -> ConfigError {
    let allowed = SETTINGS.iter().map(|setting| setting.key).chain([ZONES]).collect::<Vec<_>>().join(", ");
    ConfigError::UnknownKey { path: path.to_path_buf(), line, key: key.to_string(), allowed }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The file: keys in the order in which they stand there. Not a map, so that each key keeps its line.
struct Entries(Vec<(Spanned<String>, Value)>);

enum Value {
    Plain(Values),
    Blocks(Vec<Block>),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        deserializer.deserialize_any(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("keys with values, such as `role: all`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = match key.value == ZONES {
                true => Value::Blocks(map.next_value()?),
                false => Value::Plain(map.next_value()?),
            };
            entries.push((key, value));
        }
        Ok(Entries(entries))
    }

    /// An empty file, or one of comments only.
    fn visit_unit<E: Error>(self) -> Result<Entries, E> {
        Ok(Entries(Vec::new()))
    }
}

/// A scalar or a list of scalars, as text.
struct Values(Vec<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Values, D::Error> {
        deserializer.deserialize_any(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value or a list of values")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Values, E> {
        Ok(Values(vec![value.to_string()]))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Values, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Values, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Values, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Values, E> {
        self.visit_str(&value.to_string())
    }

    /// `key:` with nothing behind it: explicitly nothing, as `key: ""`.
    fn visit_unit<E: Error>(self) -> Result<Values, E> {
        self.visit_str("")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
        let mut values = Vec::new();
        while let Some(Values(inner)) = list.next_element()? {
            values.extend(inner);
        }
        Ok(Values(values))
    }
}
