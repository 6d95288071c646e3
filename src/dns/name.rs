//! Domain names in wire form (RFC 1035, section 3.1): length-prefixed labels with the root's zero at the end.

use std::fmt;
use std::sync::Arc;

/// The longest name in wire form, the root's zero included (RFC 1035, section 2.3.4).
pub const MAX_NAME: usize = 255;
/// The longest label.
pub const MAX_LABEL: usize = 63;

/// A whole domain name; cheap to clone. Equality is by bytes: lower-case first where case must not matter.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainName(Arc<[u8]>);

impl DomainName {
    /// Reads dotted text, with or without the final dot. `None` for empty or overlong labels and names.
    pub fn parse(text: &str) -> Option<DomainName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Some(DomainName([0].into()));
        }
        DomainName::from_labels(text.split('.').map(str::as_bytes))
    }

    /// Reads dotted text in which `\\.`, `\\\\` and `\\DDD` stand for single bytes, as in master files (RFC 1035, section 5.1).
    pub fn parse_escaped(text: &str) -> Option<DomainName> {
        if !text.contains('\\') {
            return DomainName::parse(text);
        }
        let (mut wire, mut label) = (Vec::with_capacity(64), Vec::new());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            match byte {
                b'.' => push_label(&mut wire, &std::mem::take(&mut label))?,
                b'\\' => match rest.next()? {
                    digit @ b'0'..=b'9' => {
                        let digits = [digit, rest.next()?, rest.next()?];
                        label.push(std::str::from_utf8(&digits).ok()?.parse().ok()?);
                    }
                    byte => label.push(byte),
                },
                byte => label.push(byte),
            }
        }
        if !label.is_empty() {
            push_label(&mut wire, &label)?;
        }
        wire.push(0);
        DomainName::from_wire(wire)
    }

    /// Joins labels, leftmost first.
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<DomainName> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            push_label(&mut wire, label)?;
        }
        wire.push(0);
        DomainName::from_wire(wire)
    }

    /// Puts wire-form labels in front of a whole name.
    pub fn concat(labels: &[&[u8]], rest: &DomainName) -> Option<DomainName> {
        let mut wire = labels.concat();
        wire.extend_from_slice(&rest.0);
        DomainName::from_wire(wire)
    }

    fn from_wire(wire: Vec<u8>) -> Option<DomainName> {
        (wire.len() <= MAX_NAME).then(|| DomainName(wire.into()))
    }

    /// The wire form.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels, leftmost first, without the root.
    pub fn labels(&self) -> Labels<'_> {
        Labels { wire: &self.0 }
    }

    /// The labels in front of another name, as a name; `None` where this one is not below it.
    pub fn below(&self, zone: &DomainName) -> Option<DomainName> {
        let front = self.0.len().checked_sub(zone.0.len()).filter(|length| *length > 0 && zone.is_above(&self.0))?;
        DomainName::from_wire([&self.0[..front], &[0]].concat())
    }

    /// Whether another name (in wire form) is this one or below it. Case counts.
    pub fn is_above(&self, name: &[u8]) -> bool {
        let Some(length) = name.len().checked_sub(self.0.len()) else { return false };
        let (front, back) = name.split_at(length);
        let whole_labels = || Labels::of(front).map(|label| label.len() + 1).sum::<usize>() == front.len();
        back == &*self.0 && whole_labels()
    }

    /// The same name in lower case. Length octets are below 64, so no letter is mistaken for one.
    pub fn to_lower(&self) -> DomainName {
        DomainName(self.0.to_ascii_lowercase().into())
    }
}

/// Appends one label with its length octet; `None` when it is empty or too long.
pub fn push_label(wire: &mut Vec<u8>, label: &[u8]) -> Option<()> {
    let length = u8::try_from(label.len()).ok().filter(|length| (1..=MAX_LABEL as u8).contains(length))?;
    wire.push(length);
    wire.extend_from_slice(label);
    Some(())
}

/// The labels of a name in wire form.
#[derive(Clone, Debug)]
pub struct Labels<'a> {
    wire: &'a [u8],
}

impl<'a> Labels<'a> {
    /// The labels of these bytes; the end is the root's zero, the end of the bytes, or the first thing that is no label.
    pub fn of(wire: &'a [u8]) -> Labels<'a> {
        Labels { wire }
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (&length, rest) = self.wire.split_first()?;
        let length = usize::from(length);
        if length == 0 || length > MAX_LABEL || length > rest.len() {
            self.wire = &[];
            return None;
        }
        let (label, rest) = rest.split_at(length);
        self.wire = rest;
        Some(label)
    }
}

impl fmt::Display for DomainName {
    /// Dotted text with the final dot; bytes that are not printable, dots and backslashes as in master files.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() <= 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overlong_and_empty_labels_are_no_names() {
        assert_eq!(DomainName::parse("a..b"), None);
        assert_eq!(DomainName::parse(&"x".repeat(64)), None);
        assert_eq!(DomainName::parse(&["x".repeat(63).as_str(); 4].join(".")), None);
        assert_eq!(DomainName::parse("").map(|name| name.to_string()).as_deref(), Some("."));
    }

    proptest! {
        #[test]
        fn labels_of_a_name_are_those_it_was_made_of(labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..10)) {
            let name = DomainName::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(name.labels().map(<[u8]>::to_vec).collect::<Vec<_>>(), labels);
        }

        #[test]
        fn the_text_of_a_name_is_read_as_that_name(labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..10)) {
            let name = DomainName::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(DomainName::parse_escaped(&name.to_string()), Some(name));
        }

        #[test]
        fn labels_of_any_bytes_end_without_a_panic(wire in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Labels::of(&wire).map(|label| label.len() + 1).sum::<usize>() <= wire.len());
        }
    }
}
