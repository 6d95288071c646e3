//! Label selectors as text, in Kubernetes' syntax (`k8s.io/apimachinery/pkg/labels`), as far as equality and set forms go.

use super::{Requirement, Selector};

/// Reads a selector such as `zone in (a, b), edge=true, !retired`; `None` when it is none. An empty text selects everything.
pub fn selector(text: &str) -> Option<Selector> {
    let mut rest = Rest(text);
    let mut requirements = Vec::new();
    if rest.is_empty() {
        return Some(Selector::default());
    }
    loop {
        requirements.push(rest.requirement()?);
        if rest.is_empty() {
            return Some(Selector(requirements.into()));
        }
        rest.take(",").then_some(())?;
    }
}

/// What is not yet read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn is_empty(&self) -> bool {
        self.0.trim_start().is_empty()
    }

    /// Whether this comes next; then it is read.
    fn take(&mut self, symbol: &str) -> bool {
        let found = self.0.trim_start().strip_prefix(symbol);
        self.0 = found.unwrap_or(self.0);
        found.is_some()
    }

    fn word(&mut self) -> &'a str {
        let text = self.0.trim_start();
        let end = text.find(|c: char| c.is_whitespace() || "=!,()<>".contains(c)).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        word
    }

    fn requirement(&mut self) -> Option<Requirement> {
        if self.take("!") {
            return Some(Requirement::Absent(key(self.word())?));
        }
        let key = key(self.word())?;
        if self.take("!=") {
            return Some(Requirement::NotIn(key, Box::new([value(self.word())?])));
        }
        if self.take("==") || self.take("=") {
            return Some(Requirement::In(key, Box::new([value(self.word())?])));
        }
        if self.is_empty() || self.0.trim_start().starts_with(',') {
            return Some(Requirement::Exists(key));
        }
        match self.word() {
            "in" => Some(Requirement::In(key, self.values()?)),
            "notin" => Some(Requirement::NotIn(key, self.values()?)),
            _ => None,
        }
    }

    fn values(&mut self) -> Option<Box<[Box<str>]>> {
        self.take("(").then_some(())?;
        let mut values = vec![value(self.word())?];
        while self.take(",") {
            values.push(value(self.word())?);
        }
        self.take(")").then(|| values.into())
    }
}

/// A label's key: a name, with a domain before it or not.
fn key(word: &str) -> Option<Box<str>> {
    let (prefix, name) = word.rsplit_once('/').map_or((None, word), |(prefix, name)| (Some(prefix), name));
    let prefix_is_right = prefix.is_none_or(|prefix| (1..=253).contains(&prefix.len()) && is_name(prefix));
    (prefix_is_right && !name.is_empty() && value(name).is_some()).then(|| word.into())
}

/// A label's value, which may be empty.
fn value(word: &str) -> Option<Box<str>> {
    (word.is_empty() || word.len() <= 63 && is_name(word)).then(|| word.into())
}

fn is_name(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(ends) && text.ends_with(ends) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Labels;

    fn selects(text: &str, labels: &[(&str, &str)]) -> Option<bool> {
        let labels: Labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        selector(text).map(|selector| selector.selects(&labels))
    }

    #[test]
    fn equality_and_set_forms_select_as_in_kubernetes() {
        let edge = [("node-role.kubernetes.io/edge", ""), ("zone", "a"), ("disk", "ssd")];
        for (text, selected) in [
            ("", true),
            ("zone=a", true),
            ("zone==a,disk=ssd", true),
            (" zone = b ", false),
            ("zone!=b", true),
            ("zone!=a", false),
            ("absent!=a", true),
            ("zone in (a, b)", true),
            ("zone in (b,c)", false),
            ("zone notin (b,c)", true),
            ("absent notin (b)", true),
            ("node-role.kubernetes.io/edge", true),
            ("node-role.kubernetes.io/edge=", true),
            ("!node-role.kubernetes.io/edge", false),
            ("!absent, zone in (a),disk", true),
            ("absent", false),
        ] {
            assert_eq!(selects(text, &edge), Some(selected), "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_not_read() {
        for text in [
            "=a",
            "zone=a,",
            ",",
            "zone in a",
            "zone in (a",
            "zone in ()x",
            "zone a",
            "zone > 3",
            "a b=c",
            "-x=1",
            "/x",
            "zone=a b",
        ] {
            assert_eq!(selector(text), None, "{text}");
        }
        assert!(!Selector::nothing().selects(&Labels::default()));
    }
}
