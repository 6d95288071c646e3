//! Questions in the log, in CoreDNS's format.

use super::model::{self, LogClass};
use super::values::{self, RecordKind};
use crate::dns::name::DomainName;
use std::net::SocketAddr;
use std::time::Duration;

/// CoreDNS's usual line.
const COMMON: &str =
    r#"{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" {rcode} {>rflags} {rsize} {duration}"#;
/// The same with the opcode.
const COMBINED: &str = r#"{remote}:{port} - {>id} "{type} {class} {name} {proto} {size} {>do} {>bufsize}" {rcode} {>rflags} {rsize} {duration} {>opcode}"#;
const PLACES: &[&str] = &[
    "type", "class", "name", "proto", "size", "remote", "port", "local", ">id", ">opcode", ">do", ">bufsize", "rcode", "rsize",
    "duration", ">rflags",
];

/// Which questions, and how they are written.
#[derive(Clone, Debug)]
pub struct Log {
    zones: Vec<DomainName>,
    classes: Vec<LogClass>,
    format: String,
}

/// An answered question.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// The name, lower case.
    pub name: &'a DomainName,
    /// The type.
    pub rtype: u16,
    /// The class, by its name.
    pub class: String,
    /// `udp` or `tcp`.
    pub transport: &'static str,
    /// The client.
    pub client: SocketAddr,
    /// The address that was asked.
    pub local: SocketAddr,
    /// The question's id.
    pub id: u16,
    /// The question's size in bytes.
    pub size: usize,
    /// Whether DO was set.
    pub dnssec_ok: bool,
    /// The payload size that the client takes.
    pub bufsize: u16,
    /// The response code, by its number.
    pub code: u16,
    /// Whether there is an answer.
    pub has_answer: bool,
    /// The flags of the answer.
    pub flags: Vec<&'static str>,
    /// The answer's size in bytes.
    pub answer_size: usize,
    /// How long it took.
    pub took: Duration,
}

impl Log {
    /// Reads what is to be logged.
    ///
    /// # Errors
    /// What is wrong.
    pub fn new(spec: &model::Log) -> Result<Log, String> {
        let zones = if spec.zones.is_empty() { values::zones(".")? } else { values::all_zones(&spec.zones)? };
        let format = spec.format.as_deref().unwrap_or("{common}").replace("{common}", COMMON).replace("{combined}", COMBINED);
        for place in format.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(place, _)| place) {
            if !PLACES.contains(&place) {
                return Err(format!("{{{place}}} cannot be filled in; there are {}", PLACES.join(", ")));
            }
        }
        Ok(Log { zones, classes: spec.class.clone(), format })
    }

    /// The line for this question, if it is to be logged.
    pub fn line(&self, line: &Line<'_>) -> Option<String> {
        let class = match line.code {
            0 if line.has_answer => LogClass::Success,
            0 | 3 => LogClass::Denial,
            _ => LogClass::Error,
        };
        let is_wanted = self.classes.is_empty() || self.classes.iter().any(|wanted| *wanted == LogClass::All || *wanted == class);
        let is_here = self.zones.iter().any(|zone| zone.is_above(line.name.as_wire()));
        (is_wanted && is_here).then(|| line.write(&self.format))
    }
}

impl Line<'_> {
    fn write(&self, format: &str) -> String {
        let mut text = String::new();
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((place, after)) = after.split_once('}') else { break };
            text += before;
            text += &self.value(place);
            rest = after;
        }
        text + rest
    }

    fn value(&self, place: &str) -> String {
        match place {
            "type" => RecordKind(self.rtype).to_string(),
            "class" => self.class.clone(),
            "name" => self.name.to_string(),
            "proto" => self.transport.to_string(),
            "size" => self.size.to_string(),
            "remote" if self.client.is_ipv6() => format!("[{}]", self.client.ip()),
            "remote" => self.client.ip().to_string(),
            "port" => self.client.port().to_string(),
            "local" => self.local.ip().to_string(),
            ">id" => self.id.to_string(),
            // Nothing else comes so far.
            ">opcode" => "0".to_string(),
            ">do" => self.dnssec_ok.to_string(),
            ">bufsize" => self.bufsize.to_string(),
            "rcode" => code(self.code),
            "rsize" => self.answer_size.to_string(),
            "duration" => format!("{:.9}s", self.took.as_secs_f64()),
            ">rflags" => self.flags.join(","),
            _ => "-".to_string(),
        }
    }
}

fn code(code: u16) -> String {
    let known = [(0, "NOERROR"), (1, "FORMERR"), (2, "SERVFAIL"), (3, "NXDOMAIN"), (4, "NOTIMP"), (5, "REFUSED")];
    known.iter().find(|(number, _)| *number == code).map_or_else(|| code.to_string(), |(_, name)| (*name).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &DomainName, code: u16) -> Line<'_> {
        Line {
            name,
            rtype: 1,
            class: "IN".to_string(),
            transport: "udp",
            client: "192.0.2.9:4711".parse().unwrap(),
            local: "192.0.2.1:53".parse().unwrap(),
            id: 7,
            size: 40,
            dnssec_ok: false,
            bufsize: 512,
            code,
            has_answer: code == 0,
            flags: vec!["qr", "aa", "rd"],
            answer_size: 56,
            took: Duration::from_micros(250),
        }
    }

    #[test]
    fn a_question_is_written_as_coredns_writes_it() {
        let name = DomainName::parse("www.example").unwrap();
        let log = Log::new(&model::Log::default()).unwrap();
        let expected = r#"192.0.2.9:4711 - 7 "A IN www.example. udp 40 false 512" NOERROR qr,aa,rd 56 0.000250000s"#;
        assert_eq!(log.line(&line(&name, 0)).as_deref(), Some(expected));
    }

    #[test]
    fn zones_and_classes_choose_and_unknown_places_are_named() {
        let name = DomainName::parse("www.example").unwrap();
        let spec = |zone: &str, class| model::Log {
            zones: vec![zone.into()],
            class: vec![class],
            format: Some("{name} {rcode}".into()),
        };
        let written = |zone, class, code| Log::new(&spec(zone, class)).unwrap().line(&line(&name, code));
        assert_eq!(written("example", LogClass::Denial, 3).as_deref(), Some("www.example. NXDOMAIN"));
        assert_eq!(written("example", LogClass::Error, 3), None);
        assert_eq!(written("other", LogClass::All, 3), None);
        let bad = model::Log { format: Some("{nonsense}".into()), ..Default::default() };
        assert!(Log::new(&bad).unwrap_err().contains("{nonsense}"));
    }
}
