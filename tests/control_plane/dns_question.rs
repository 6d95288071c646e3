//! A question with everything that may accompany it or be wrong with it, and what a server says to it in a form in which two can be compared.

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
/// So many other questions are answered before a datagram that has no answer by then is believed to have none.
const ANSWERED_MEANWHILE: u16 = 20;

/// Bits of the header's second word.
pub mod bits {
    /// It is an answer.
    pub const QR: u16 = 0x8000;
    /// Its answer is from the zone's own server.
    pub const AA: u16 = 0x0400;
    /// It was cut.
    pub const TC: u16 = 0x0200;
    /// Recursion is offered.
    pub const RA: u16 = 0x0080;
    /// Has no meaning.
    pub const Z: u16 = 0x0040;

    /// That of an operation, by its number.
    pub const fn opcode(number: u16) -> u16 {
        number << 11
    }
}

/// The opcode NOTIFY (RFC 1996).
pub const NOTIFY: u16 = 4;

/// A question.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name, without the final dot.
    pub name: String,
    /// The type.
    pub kind: RecordType,
    /// The class.
    pub class: DNSClass,
    /// The header's RD, AD and CD.
    pub flags: [bool; 3],
    /// What is set in the header besides.
    pub bits: u16,
    /// The OPT record.
    pub edns: Option<OptRecord>,
    /// What is wrong with its form.
    pub oddity: Option<Oddity>,
    /// Whether silence is an answer to it; so it is to a response.
    pub may_be_silent: bool,
}

/// What the OPT record of a question says.
#[derive(Clone, Debug)]
pub struct OptRecord {
    /// The payload size.
    pub size: u16,
    /// The version, of which there is one, 0.
    pub version: u8,
    /// The DO bit.
    pub dnssec_ok: bool,
    /// Codes and data of options.
    pub options: Vec<(u16, Vec<u8>)>,
}

/// A section of a message, by its place in the header's counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Questions.
    Question,
    /// Answers.
    Answer,
    /// Authority.
    Authority,
    /// Additional records.
    Additional,
}

/// What may be wrong with the form of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// The header says that a section has so many, whatever stands there.
    Count(Section, u16),
    /// There are so many bytes behind the end.
    Trailing(usize),
    /// So many bytes of the end are not there.
    Cut(usize),
    /// There are so many records, addresses of the name that is asked, in a section where a question has none.
    Records(Section, u16),
    /// There is the same question again.
    SecondQuestion,
    /// There is another OPT record.
    SecondOpt,
    /// There is an OPT record in the answer section.
    OptAmongAnswers,
}

/// How a question goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// An answer, in a form in which two can be compared: sections without order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// The response code.
    pub code: String,
    /// The opcode.
    pub opcode: u8,
    /// `aa`, `tc`, `rd`, `ra`, `ad`, `cd`, those that are set.
    pub flags: BTreeSet<&'static str>,
    /// The questions, as they are spelt.
    pub questions: Vec<String>,
    /// The answer section.
    pub answers: Vec<String>,
    /// The authority section.
    pub authority: Vec<String>,
    /// The additional section but OPT.
    pub additional: Vec<String>,
    /// The OPT record.
    pub opt: Option<SaidOpt>,
    /// The length of all of it, bytes: how it is written is each server's own business, but for the limits.
    pub size: usize,
}

/// What the OPT record of an answer says.
#[derive(Clone, Debug, PartialEq)]
pub struct SaidOpt {
    /// The payload size.
    pub size: u16,
    /// The version.
    pub version: u8,
    /// The DO bit.
    pub dnssec_ok: bool,
    /// Codes and data of options.
    pub options: Vec<(u16, Vec<u8>)>,
}

/// A part of an answer that is compared on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The response code.
    Code,
    /// The opcode.
    Opcode,
    /// The header's flags.
    Flags,
    /// The question section.
    Questions,
    /// The answer section.
    Answers,
    /// The authority section.
    Authority,
    /// The additional section.
    Additional,
    /// The OPT record.
    Opt,
}

impl Field {
    /// All of them.
    pub const ALL: [Field; 8] = [
        Field::Code,
        Field::Opcode,
        Field::Flags,
        Field::Questions,
        Field::Answers,
        Field::Authority,
        Field::Additional,
        Field::Opt,
    ];

    /// This part of an answer.
    pub fn of(self, said: &Said) -> String {
        match self {
            Field::Code => said.code.clone(),
            Field::Opcode => said.opcode.to_string(),
            Field::Flags => format!("{:?}", said.flags),
            Field::Questions => said.questions.join("\n"),
            Field::Answers => said.answers.join("\n"),
            Field::Authority => said.authority.join("\n"),
            Field::Additional => said.additional.join("\n"),
            Field::Opt => format!("{:?}", said.opt),
        }
    }
}

impl OptRecord {
    /// One of version 0 that says nothing but a size.
    pub fn of_size(size: u16) -> OptRecord {
        OptRecord { size, version: 0, dnssec_ok: false, options: Vec::new() }
    }

    /// The same with one option.
    pub fn with(code: u16, data: &[u8]) -> OptRecord {
        OptRecord { options: vec![(code, data.to_vec())], ..OptRecord::of_size(1232) }
    }

    fn to_edns(&self) -> Edns {
        let mut edns = Edns::new();
        edns.set_max_payload(self.size).set_version(self.version).set_dnssec_ok(self.dnssec_ok);
        for (code, data) in &self.options {
            edns.options_mut().insert(EdnsOption::Unknown(*code, data.clone()));
        }
        edns
    }
}

impl Question {
    /// A question with RD and nothing else.
    pub fn plain(name: &str, kind: RecordType) -> Question {
        Question {
            name: name.to_string(),
            kind,
            class: DNSClass::IN,
            flags: [true, false, false],
            bits: 0,
            edns: None,
            oddity: None,
            may_be_silent: false,
        }
    }

    /// Whether its name is one.
    pub fn is_askable(&self) -> bool {
        self.asked().is_some()
    }

    /// The operation.
    pub fn opcode(&self) -> u16 {
        (self.bits >> 11) & 0b1111
    }

    fn asked(&self) -> Option<Name> {
        if self.name.is_empty() { Some(Name::root()) } else { Name::from_labels(self.name.split('.').map(str::as_bytes)).ok() }
    }

    /// What a server says to it, or that it says nothing.
    pub fn ask(&self, server: &str, transport: Transport) -> Said {
        self.try_ask(server, transport).unwrap_or_else(|error| Said { code: format!("no answer: {error}"), ..Said::default() })
    }

    /// What a server says to it.
    pub fn try_ask(&self, server: &str, transport: Transport) -> io::Result<Said> {
        let question = self.bytes();
        let may_be_silent = self.may_be_silent || self.bits & bits::QR != 0;
        let answer = match (transport, may_be_silent) {
            (Transport::Udp, false) => over_udp(server, &question)?,
            (Transport::Tcp, false) => over_tcp(server, &question)?,
            (Transport::Udp, true) => among_others(server, &question)?,
            (Transport::Tcp, true) => of_what_a_connection_says(server, &question)?,
        };
        let size = answer.len();
        let answer = Message::from_vec(&answer).map_err(io::Error::other)?;
        if answer.metadata.id.to_be_bytes() != question[..2] {
            return Err(io::Error::other("another id"));
        }
        Ok(Said { size, ..Said::of(&answer) })
    }

    /// In wire form.
    fn bytes(&self) -> Vec<u8> {
        let name = self.asked().expect("it is asked what can be");
        let mut message = Message::query();
        [message.metadata.recursion_desired, message.metadata.authentic_data, message.metadata.checking_disabled] = self.flags;
        let mut query = Query::query(name.clone(), self.kind);
        query.set_query_class(self.class);
        message.add_query(query.clone());
        message.edns = self.edns.as_ref().map(OptRecord::to_edns);
        let opt = || Record::from(&OptRecord::of_size(1232).to_edns());
        match self.oddity {
            Some(Oddity::SecondQuestion) => {
                message.add_query(query);
            }
            Some(Oddity::SecondOpt) => message.additionals.push(opt()),
            Some(Oddity::OptAmongAnswers) => message.answers.push(opt()),
            Some(Oddity::Records(section, count)) => {
                let record = Record::from_rdata(name, 30, RData::A(A::new(203, 0, 113, 9)));
                let place = match section {
                    Section::Question => panic!("a question is no record"),
                    Section::Answer => &mut message.answers,
                    Section::Authority => &mut message.authorities,
                    Section::Additional => &mut message.additionals,
                };
                place.resize(count.into(), record);
            }
            Some(Oddity::Count(..) | Oddity::Trailing(_) | Oddity::Cut(_)) | None => {}
        }
        let mut bytes = message.to_vec().expect("it can be written");
        let [high, low] = self.bits.to_be_bytes();
        bytes[2] |= high;
        bytes[3] |= low;
        match self.oddity {
            Some(Oddity::Count(section, count)) => {
                let place = 4 + 2 * section as usize;
                bytes[place..place + 2].copy_from_slice(&count.to_be_bytes());
            }
            Some(Oddity::Trailing(count)) => bytes.extend((1_u8..).take(count)),
            Some(Oddity::Cut(count)) => bytes.truncate(bytes.len().saturating_sub(count)),
            _ => {}
        }
        bytes
    }
}

impl Said {
    fn of(answer: &Message) -> Said {
        let header = &answer.metadata;
        let flags = [
            ("aa", header.authoritative),
            ("tc", header.truncation),
            ("rd", header.recursion_desired),
            ("ra", header.recursion_available),
            ("ad", header.authentic_data),
            ("cd", header.checking_disabled),
        ];
        let section = |records: &[Record]| {
            let mut lines: Vec<String> = records.iter().map(line).collect();
            lines.sort();
            lines
        };
        Said {
            code: format!("{:?}", header.response_code),
            opcode: header.op_code.into(),
            flags: flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect(),
            questions: answer.queries.iter().map(Query::to_string).collect(),
            answers: section(&answer.answers),
            authority: section(&answer.authorities),
            additional: section(&answer.additionals),
            opt: answer.edns.as_ref().map(SaidOpt::of),
            size: 0,
        }
    }

    /// Whether it has the flag TC.
    pub fn is_cut(&self) -> bool {
        self.flags.contains("tc")
    }

    /// Which of many records an answer that was cut still has, is a choice; how many of which owner and type is none.
    pub fn leave_data_out(&mut self) {
        for section in [&mut self.answers, &mut self.authority, &mut self.additional] {
            for line in section.iter_mut() {
                *line = line.split(' ').take(3).collect::<Vec<_>>().join(" ");
            }
            section.sort();
        }
    }
}

impl SaidOpt {
    fn of(edns: &Edns) -> SaidOpt {
        let options = edns.options().options.iter();
        let data = |option| Vec::<u8>::try_from(option).expect("an option that was read can be written");
        SaidOpt {
            size: edns.max_payload(),
            version: edns.version(),
            dnssec_ok: edns.flags().dnssec_ok,
            options: options.map(|(code, option)| (u16::from(*code), data(option))).collect(),
        }
    }

    /// The same with another size.
    pub fn with_size(&self, size: u16) -> SaidOpt {
        SaidOpt { size, ..self.clone() }
    }
}

/// A record as text, in lower case: whose spelling of a name is repeated where it is not the question's is nobody's business. The serial
/// number is a time, and each server has its own.
fn line(record: &Record) -> String {
    let data = match &record.data {
        RData::SOA(soa) => {
            format!("{} {} serial {} {} {} {}", soa.mname, soa.rname, soa.refresh, soa.retry, soa.expire, soa.minimum)
        }
        data => data.to_string(),
    };
    format!("{} {} {} {data}", record.name, record.ttl, record.record_type()).to_lowercase()
}

fn over_udp(server: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    let socket = connected(server)?;
    socket.send(question)?;
    receive(&socket)
}

fn connected(server: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn over_tcp(server: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&with_length(question)?)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn with_length(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), message].concat())
}

fn silence() -> io::Error {
    io::Error::other("silence")
}

/// The answer to this datagram, or an error after so many others that were sent behind it have been answered.
fn among_others(server: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    let id = |message: &[u8]| message.first_chunk().map(|id| u16::from_be_bytes(*id));
    let socket = connected(server)?;
    socket.send(question)?;
    let mut other = Question::plain("cluster.local", RecordType::SOA).bytes();
    for number in 1..=ANSWERED_MEANWHILE {
        let of_other = id(question).unwrap_or_default().wrapping_add(number);
        other[..2].copy_from_slice(&of_other.to_be_bytes());
        socket.send(&other)?;
        loop {
            let answer = receive(&socket)?;
            match id(&answer) {
                answered if answered == Some(of_other) => break,
                answered if answered == id(question) => return Ok(answer),
                _ => {}
            }
        }
    }
    Err(silence())
}

/// The answer among all that is said on a connection on which another question follows and then nothing more.
fn of_what_a_connection_says(server: &str, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let other = Question::plain("cluster.local", RecordType::SOA).bytes();
    stream.write_all(&[with_length(question)?, with_length(&other)?].concat())?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    let (mut rest, mut answers) = (&said[..], Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (answer, behind) = behind.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(io::ErrorKind::UnexpectedEof)?;
        answers.push(answer);
        rest = behind;
    }
    let is_to = |message: &[u8]| answers.iter().find(|answer| answer.get(..2) == message.get(..2));
    is_to(&other).ok_or_else(|| io::Error::other("the question behind it has no answer"))?;
    is_to(question).map(|answer| answer.to_vec()).ok_or_else(silence)
}
