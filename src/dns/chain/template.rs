//! Answers made of the question, by the small part of Go's templates that Corefiles use. Pure: records come out as text.

use super::model;
use super::rewrite::regex;
use super::text;
use super::values::{self, ANY, RecordClass, RecordKind};
use crate::dns::name::DomainName;
use regex::Regex;
use std::net::IpAddr;

/// One template, ready.
#[derive(Clone, Debug)]
pub struct Template {
    class: RecordClass,
    kind: RecordKind,
    zones: Vec<DomainName>,
    patterns: Vec<Regex>,
    answer: Vec<Text>,
    additional: Vec<Text>,
    authority: Vec<Text>,
    /// The response code.
    pub rcode: u16,
    /// An extended error with its text.
    pub extended_error: Option<(u16, String)>,
    falls_through: Vec<DomainName>,
}

/// What a template is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The name, lower case.
    pub name: &'a DomainName,
    /// The type.
    pub rtype: u16,
    /// The class.
    pub class: u16,
    /// The client.
    pub remote: IpAddr,
}

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is answered by these records: answer, additional and authority section.
    Sections([Vec<String>; 3]),
    /// It is the next one's.
    Next,
    /// It fits no pattern and does not fall through, or a text asks for something that is not there.
    Failed,
}

impl Template {
    /// Reads a template; without zones of its own it has those of the block.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(spec: &model::Template, block: &[String]) -> Result<Template, String> {
        if !matches!(spec.class, RecordClass::In | RecordClass::Any) {
            return Err(format!(
                "{}: questions of other classes than IN are refused before a template is asked; take it out",
                spec.class
            ));
        }
        let texts = |texts: &[String]| {
            texts.iter().map(|text| Text::new(text)?.that_can_be_sent(spec.r#type)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Template {
            class: spec.class,
            kind: spec.r#type,
            zones: values::all_zones(if spec.zones.is_empty() { block } else { &spec.zones })?,
            patterns: spec.r#match.iter().map(|text| regex(text)).collect::<Result<_, _>>()?,
            answer: texts(&spec.answer)?,
            additional: texts(&spec.additional)?,
            authority: texts(&spec.authority)?,
            rcode: spec.rcode.map_or(0, values::Rcode::number),
            extended_error: spec.extended_error.as_ref().map(|error| (error.code, error.text.clone())),
            falls_through: values::all_zones(&spec.fallthrough)?,
        })
    }

    /// What this template says.
    pub fn ask(&self, question: Question<'_>) -> Outcome {
        let above = |zone: &&DomainName| zone.is_above(question.name.as_wire());
        let Some(zone) = self.zones.iter().filter(above).max_by_key(|zone| zone.as_wire().len()) else { return Outcome::Next };
        let any = RecordClass::Any.number();
        if self.class.number() != any && question.class != any && question.class != self.class.number()
            || self.kind != ANY && question.rtype != ANY.0 && question.rtype != self.kind.0
        {
            return Outcome::Next;
        }
        let name = question.name.to_string();
        let Some(groups) = self.groups(&name) else {
            let falls_through = self.falls_through.iter().any(|zone| zone.is_above(question.name.as_wire()));
            return if falls_through { Outcome::Next } else { Outcome::Failed };
        };
        let class = if question.class == any { self.class.number() } else { question.class };
        let facts = Facts {
            zone: zone.to_string(),
            class: [RecordClass::In, RecordClass::Ch, RecordClass::Hs, RecordClass::Any]
                .into_iter()
                .find(|known| known.number() == class)
                .map_or_else(|| format!("CLASS{class}"), |class| class.to_string()),
            kind: if question.rtype == ANY.0 { self.kind } else { RecordKind(question.rtype) }.to_string(),
            remote: question.remote.to_string(),
            name,
            groups,
        };
        let render = |texts: &[Text]| texts.iter().map(|text| text.render(&facts)).collect::<Option<Vec<_>>>();
        match (render(&self.answer), render(&self.additional), render(&self.authority)) {
            (Some(answer), Some(additional), Some(authority)) => Outcome::Sections([answer, additional, authority]),
            _ => Outcome::Failed,
        }
    }

    /// The groups of the first pattern that fits, with their names.
    fn groups(&self, name: &str) -> Option<Vec<(Option<String>, String)>> {
        if self.patterns.is_empty() {
            return Some(vec![(None, name.to_string())]);
        }
        let (pattern, found) = self.patterns.iter().find_map(|pattern| Some((pattern, pattern.captures(name)?)))?;
        let names = pattern.capture_names().map(|name| name.map(str::to_string));
        Some(names.zip(found.iter().map(|group| group.map_or(String::new(), |group| group.as_str().to_string()))).collect())
    }
}

/// What a text may speak of.
struct Facts {
    zone: String,
    name: String,
    class: String,
    kind: String,
    remote: String,
    groups: Vec<(Option<String>, String)>,
}

/// A text with places to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Text(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Plain(String),
    Value(Value),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Zone,
    Name,
    Class,
    Kind,
    Remote,
    Match(usize),
    Group(String),
    Number { of: Box<Value>, base: u32 },
}

impl Text {
    fn new(text: &str) -> Result<Text, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inside, after)) = after.split_once("}}") else {
                return Err(format!("{text:?}: the braces {{{{ are not closed"));
            };
            let (trim_before, inside) = inside.strip_prefix("- ").map_or((false, inside), |inside| (true, inside));
            let (trim_after, inside) = inside.strip_suffix(" -").map_or((false, inside), |inside| (true, inside));
            pieces.push(Piece::Plain(if trim_before { before.trim_end() } else { before }.to_string()));
            pieces.push(Piece::Value(value(inside).ok_or_else(|| unknown(inside))?));
            rest = if trim_after { after.trim_start() } else { after };
        }
        pieces.push(Piece::Plain(rest.to_string()));
        Ok(Text(pieces))
    }

    /// The same, if it is of a record type that can be read, or of one that the question or a pattern says, and is one that can be
    /// sent, as far as that is known before a question comes.
    fn that_can_be_sent(self, kind: RecordKind) -> Result<Text, String> {
        let stand_in = |value: &Value| match value {
            Value::Zone | Value::Name => "name.example.".to_string(),
            Value::Class => RecordClass::In.to_string(),
            Value::Kind => kind.to_string(),
            Value::Remote | Value::Match(_) | Value::Group(_) | Value::Number { .. } => "1".to_string(),
        };
        let written: String = self
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Plain(plain) => plain.clone(),
                Piece::Value(value) => stand_in(value),
            })
            .collect();
        match text::unreadable(&written) {
            Some(kind) if kind != ANY => Err(format!(
                "data of {kind} records are not read here; write their bytes in base 16 behind their number: {kind} \\# LENGTH HEX (RFC 3597)"
            )),
            Some(_) => Ok(self),
            None if self.is_sendable(&written, kind) => Ok(self),
            None => Err(format!(
                "{written:?} is no record that can be sent; a record is OWNER [TTL] [CLASS] TYPE DATA, as in a zone file"
            )),
        }
    }

    /// Whether the record that was written with stand-ins can be sent. One whose data are not known yet, or whose type, counts as such.
    fn is_sendable(&self, written: &str, kind: RecordKind) -> bool {
        let of_any_form = |piece: &Piece| match piece {
            Piece::Plain(_) | Piece::Value(Value::Zone | Value::Name | Value::Class) => false,
            Piece::Value(Value::Kind) => kind == ANY,
            Piece::Value(_) => true,
        };
        let known = match self.0.last() {
            _ if !self.0.iter().any(of_any_form) => written,
            Some(Piece::Plain(plain)) if !self.0.contains(&Piece::Value(Value::Kind)) || kind != ANY => plain,
            _ => return true,
        };
        text::is_sendable(written, known).unwrap_or(known.len() < written.len())
    }

    /// The text; `None` where it speaks of a group that is not there.
    fn render(&self, facts: &Facts) -> Option<String> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Plain(plain) => text += plain,
                Piece::Value(value) => text += &value.of(facts)?,
            }
        }
        Some(text)
    }
}

fn unknown(inside: &str) -> String {
    format!(
        "{{{{{inside}}}}} cannot be filled in; there are .Name, .Zone, .Class, .Type, .Remote, .Question.Name, .Group.NAME, index .Match NUMBER and parseInt VALUE BASE BITS"
    )
}

fn value(inside: &str) -> Option<Value> {
    let words: Vec<&str> = inside.split_whitespace().map(|word| word.trim_matches(['"', '`'])).collect();
    simple(&words).or_else(|| match words.as_slice() {
        ["parseInt", of @ .., base, bits] => {
            let base = base.parse().ok().filter(|base| (2..=36).contains(base))?;
            bits.parse::<u32>().ok()?;
            let of: Vec<&str> = of.iter().map(|word| word.trim_matches(['(', ')'])).collect();
            Some(Value::Number { of: Box::new(simple(&of)?), base })
        }
        _ => None,
    })
}

fn simple(words: &[&str]) -> Option<Value> {
    Some(match words {
        [".Zone"] => Value::Zone,
        [".Name" | ".Question.Name"] => Value::Name,
        [".Class"] => Value::Class,
        [".Type"] => Value::Kind,
        [".Remote"] => Value::Remote,
        ["index", ".Match", number] => Value::Match(number.parse().ok()?),
        ["index", ".Group", name] => Value::Group((*name).to_string()),
        [field] => Value::Group(field.strip_prefix(".Group.").filter(|name| !name.contains('.'))?.to_string()),
        _ => return None,
    })
}

impl Value {
    fn of(&self, facts: &Facts) -> Option<String> {
        Some(match self {
            Value::Zone => facts.zone.clone(),
            Value::Name => facts.name.clone(),
            Value::Class => facts.class.clone(),
            Value::Kind => facts.kind.clone(),
            Value::Remote => facts.remote.clone(),
            Value::Match(number) => facts.groups.get(*number)?.1.clone(),
            // As of a map in Go: a group that is not there is empty.
            Value::Group(name) => {
                let numbered = name.parse::<usize>().ok().and_then(|number| facts.groups.get(number));
                let named = facts.groups.iter().find(|(known, _)| known.as_deref() == Some(name));
                named.or(numbered).map(|(_, text)| text.clone()).unwrap_or_default()
            }
            Value::Number { of, base } => u64::from_str_radix(&of.of(facts)?, *base).ok()?.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: &str, patterns: &[&str], answer: &[&str]) -> model::Template {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        model::Template {
            class: RecordClass::In,
            r#type: kind.parse().unwrap(),
            zones: vec!["example".into()],
            r#match: owned(patterns),
            answer: owned(answer),
            additional: Vec::new(),
            authority: Vec::new(),
            rcode: None,
            extended_error: None,
            fallthrough: Vec::new(),
        }
    }

    fn ask(template: &model::Template, name: &str, rtype: u16) -> Outcome {
        let name = DomainName::parse(name).unwrap();
        let remote = "192.0.2.9".parse().unwrap();
        Template::new(template, &[]).unwrap().ask(Question { name: &name, rtype, class: 1, remote })
    }

    #[test]
    fn a_record_is_made_of_the_question() {
        let pattern = r"^ip-(?P<a>[0-9]*)-(?P<b>[0-9]*)-([0-9]*)-([0-9]*)\.example\.$";
        let text =
            "{{ .Name }} 60 {{.Class}} {{ .Type }} {{ .Group.a }}.{{ .Group.b }}.{{ index .Match 3 }}.{{ index .Match 4 -}} \t";
        let expected = "ip-10-1-2-3.example. 60 IN A 10.1.2.3".to_string();
        let outcome = ask(&spec("A", &[pattern], &[text]), "ip-10-1-2-3.example", 1);
        assert_eq!(outcome, Outcome::Sections([vec![expected], vec![], vec![]]));
        let text = "{{ .Zone }} 60 IN TXT {{ .Remote }} {{ parseInt .Group.b 16 32 }}";
        let outcome = ask(&spec("ANY", &["(?P<b>[0-9a-f]+)"], &[text]), "ff.example", 16);
        assert_eq!(outcome, Outcome::Sections([vec!["example. 60 IN TXT 192.0.2.9 255".into()], vec![], vec![]]));
    }

    #[test]
    fn what_does_not_fit_is_the_next_ones_or_fails() {
        let template = spec("A", &["^a"], &["{{ .Name }} IN A 192.0.2.1"]);
        assert_eq!(ask(&template, "b.example", 1), Outcome::Failed);
        assert_eq!(ask(&template, "a.example", 28), Outcome::Next);
        assert_eq!(ask(&template, "a.other", 1), Outcome::Next);
        let falls_through = model::Template { fallthrough: vec![".".into()], ..template };
        assert_eq!(ask(&falls_through, "b.example", 1), Outcome::Next);
        assert_eq!(ask(&spec("A", &[], &["{{ index .Match 7 }}"]), "a.example", 1), Outcome::Failed);
    }

    #[test]
    fn a_record_of_a_type_that_is_not_read_is_refused_unless_its_bytes_are_given() {
        for text in ["{{ .Name }} 60 IN LOC 52 22 23 N 4 53 32 E -2m", "{{ .Name }} {{ .Type }} {{ index .Match 0 }}"] {
            let error = Template::new(&spec("LOC", &[], &[text]), &[]).unwrap_err();
            assert!(error.starts_with("data of LOC records are not read here; "), "{error}");
        }
        for (kind, text) in [
            ("LOC", "{{ .Name }} 60 IN LOC \\# 16 00121613a8c0b0f3b0a00000000000aa"),
            ("DS", "{{ .Name }} 60 {{ .Class }} {{ .Type }} 60485 5 1 2BB183AF"),
            ("ANY", "{{ .Name }} 60 IN {{ .Type }} x"),
            ("ANY", "{{ .Name }} 60 IN {{ index .Match 1 }} x"),
        ] {
            assert!(Template::new(&spec(kind, &["(.*)"], &[text]), &[]).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_record_that_could_never_be_sent_is_refused() {
        for text in [
            "{{ .Name }} 60 IN A nonsense",
            "{{ .Name }} 1y IN A 192.0.2.1",
            "{{ .Group.a }}.example {{ .Group.ttl }} IN SSHFP 4 2 xyz",
            "{{ .Name }} 60 IN HTTPS 1 . alpn=h2 alpn=h3",
            "{{ .Name }} 60 IN {{ .Type }} 2001:db8::1",
        ] {
            let error = Template::new(&spec("A", &["(.*)"], &[text]), &[]).unwrap_err();
            assert!(error.contains("is no record that can be sent"), "{error}");
        }
        let dkim = format!("{{{{ .Name }}}} 1d IN TXT \"v=DKIM1; p={}\"", "x".repeat(400));
        for text in [
            &dkim,
            "{{ .Name }} {{ .Group.ttl }} IN A {{ .Group.a }}.2.3",
            "{{ .Name }} {{ index .Match 1 }}",
            "{{ .Group.all }}",
        ] {
            assert!(Template::new(&spec("A", &["(.*)"], &[text]), &[]).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_named() {
        for text in ["{{ range .Match }}", "{{ .Meta \"x\" }}", "{{ .Name", "{{ .Group.a.b }}"] {
            let error = Template::new(&spec("A", &[], &[text]), &[]).unwrap_err();
            assert!(error.contains("cannot be filled in") || error.contains("not closed"), "{error}");
        }
    }
}
