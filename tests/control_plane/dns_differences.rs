//! What Waypost answers differently from CoreDNS on purpose. Each has its reason in `docs/differences.md`.

use super::dns_question::{Field, NOTIFY, Oddity, Question, Said, SaidOpt, bits};
use hickory_proto::rr::{DNSClass, RecordType};

/// The options of EDNS that CoreDNS sends back: NSID, expire, cookie, keepalive and padding.
const ECHOED_OPTIONS: [u16; 5] = [3, 9, 10, 11, 12];

/// When a difference is one of those that the document lists.
pub struct Rule {
    /// The name by which the document lists it.
    pub id: &'static str,
    /// Whether it explains that this field differs.
    pub explains: fn(Field, &Question, &Said, &Said) -> bool,
}

/// All of them; the first that explains a difference counts.
pub const RULES: &[Rule] = &[
    Rule {
        id: "dns-notify",
        explains: |_, question, ours, theirs| {
            question.opcode() == NOTIFY && ours.code == "NotImp" && is_bare(ours) && theirs.code != "NotImp"
        },
    },
    Rule {
        id: "dns-badvers",
        explains: |field, question, ours, theirs| {
            let dnssec_ok = question.edns.as_ref().is_some_and(|opt| opt.dnssec_ok);
            let opt = |size, dnssec_ok| Some(SaidOpt { size, version: 0, dnssec_ok, options: Vec::new() });
            // By the name of the other code of this number, and with the size that hickory reads where there is less.
            field == Field::Opt && ours.code == "BADSIG" && (&ours.opt, &theirs.opt) == (&opt(1232, dnssec_ok), &opt(512, false))
        },
    },
    Rule {
        id: "dns-malformed",
        explains: |field, question, ours, theirs| {
            let is_refused = ours.code == "FormErr" && is_bare(ours);
            let is_answered = theirs.code != "FormErr" && is_malformed(question);
            is_refused && (is_answered || theirs.code == "FormErr" && field == Field::Questions)
        },
    },
    Rule {
        id: "dns-unused-option",
        explains: |field, question, ours, theirs| {
            let keepalives = question.edns.iter().flat_map(|opt| &opt.options).filter(|(code, _)| *code == 11);
            let is_read = keepalives.into_iter().any(|(_, data)| !data.is_empty());
            // A server upstream may say FORMERR to it as well.
            let differs = ours.code != "FormErr" || matches!(field, Field::Flags | Field::Opt);
            is_read && theirs.code == "FormErr" && differs
        },
    },
    Rule {
        id: "dns-refusal-flags",
        explains: |field, question, ours, theirs| {
            let [recursion, authentic, checking] = question.flags;
            let is_set = |bit| question.bits & bit != 0;
            let flags = |more: &[(&'static str, bool)]| {
                let all = [("rd", recursion), ("cd", checking)].into_iter().chain(more.iter().copied());
                all.filter_map(|(flag, is_set)| is_set.then_some(flag)).collect()
            };
            let repeated = [("ad", authentic), ("tc", is_set(bits::TC)), ("ra", is_set(bits::RA))];
            let is_refusal = ours.code == theirs.code && ["FormErr", "NotImp"].contains(&&*ours.code);
            field == Field::Flags && is_refusal && ours.flags == flags(&[]) && theirs.flags == flags(&repeated)
        },
    },
    Rule {
        id: "dns-opt",
        explains: |field, question, ours, theirs| {
            let Some(((ours, theirs), asked)) = ours.opt.as_ref().zip(theirs.opt.as_ref()).zip(question.edns.as_ref()) else {
                return false;
            };
            let echoed = |(code, data): &(u16, Vec<u8>)| ECHOED_OPTIONS.contains(code).then(|| (*code, data.clone()));
            let copy = SaidOpt {
                size: asked.size.max(512),
                version: 0,
                dnssec_ok: asked.dnssec_ok,
                options: asked.options.iter().filter_map(echoed).collect(),
            };
            // What was forwarded has options of the upstream server, which is a CoreDNS here.
            let is_copied = |option| !is_cluster_name(question) && copy.options.contains(option);
            let has_own = ours.options.iter().all(is_copied);
            field == Field::Opt && *theirs == copy && has_own && ours.dnssec_ok == copy.dnssec_ok && ours.size == 1232
        },
    },
    Rule {
        id: "dns-long-udp",
        explains: |field, question, ours, theirs| {
            matches!(field, Field::Flags | Field::Answers | Field::Additional)
                && question.edns.as_ref().is_some_and(|opt| opt.size > 1232)
                && ours.size <= 1232
                && (1233..=question.edns.as_ref().map_or(0, |opt| opt.size.into())).contains(&theirs.size)
        },
    },
    Rule {
        id: "dns-glue",
        explains: |field, question, ours, theirs| {
            matches!(field, Field::Flags | Field::Additional)
                && question.kind == RecordType::SRV
                && theirs.is_cut()
                && !ours.is_cut()
                && ours.answers == theirs.answers
        },
    },
    Rule {
        id: "dns-class",
        explains: |_, question, ours, _| {
            let is_known = is_cluster_name(question) || is_reverse(question);
            question.class != DNSClass::IN && is_known && ours.code == "Refused"
        },
    },
    Rule {
        id: "dns-soa-below-apex",
        explains: |field, question, ours, theirs| {
            question.kind == RecordType::SOA
                && matches!(field, Field::Code | Field::Authority)
                && (ours.code == "NXDomain" || !is_cluster_name(question))
                && theirs.code == "NoError"
                && theirs.answers.is_empty()
        },
    },
    Rule {
        id: "dns-reverse-services",
        explains: |_, question, ours, theirs| {
            let name = question.name.to_lowercase();
            let front = name.strip_suffix(".in-addr.arpa").or_else(|| name.strip_suffix(".ip6.arpa"));
            let last = front.and_then(|front| front.rsplit('.').next());
            matches!(last, Some("svc" | "pod")) && ours.code == "NXDomain" && theirs.code == "NoError"
        },
    },
    Rule {
        id: "dns-pod-srv",
        explains: |_, question, ours, theirs| {
            question.kind == RecordType::SRV
                && question.name.to_lowercase().ends_with(".pod.cluster.local")
                && ours.answers.is_empty()
                && only(theirs, " srv 0 100 0 ")
        },
    },
    Rule {
        id: "dns-below-pod",
        explains: |_, question, ours, theirs| {
            let name = question.name.to_lowercase();
            let below = name.strip_suffix(".pod.cluster.local").is_some_and(|rest| rest.split('.').count() > 2);
            below && ours.code == "NXDomain" && theirs.code == "NoError"
        },
    },
    Rule {
        id: "dns-empty-non-terminal",
        explains: |field, question, ours, theirs| {
            let first = question.name.split('.').next().unwrap_or_default().to_lowercase();
            field == Field::Code
                && ["_tcp", "tcp", "_udp", "udp", "_sctp", "sctp", "_", "dns"].contains(&&*first)
                && ours.code == "NoError"
                && theirs.code == "NXDomain"
        },
    },
    Rule {
        id: "dns-cache",
        explains: |field, question, ours, theirs| {
            let is_forwarded = |said: &Said| said.answers.iter().chain(&said.authority).any(|line| line.contains("example.com"));
            let without_ttl =
                |said: &Said| said.answers.iter().chain(&said.authority).map(|line| without_word(line, 1)).collect::<Vec<_>>();
            let failure = ours.code == "ServFail" && theirs.code == "ServFail";
            let is_kept = is_forwarded(ours) || is_reverse(question);
            let is_older = matches!(field, Field::Answers | Field::Authority)
                || field == Field::Flags && ours.flags.symmetric_difference(&theirs.flags).eq(["aa"].iter());
            let is_same = ours.code == theirs.code && without_ttl(ours) == without_ttl(theirs);
            failure && field == Field::Flags || is_kept && is_older && is_same
        },
    },
    Rule {
        id: "dns-nodata",
        explains: |field, question, ours, theirs| {
            let name = question.name.to_lowercase();
            let special = ["dns-version.cluster.local", "ns.dns.cluster.local"].contains(&&*name);
            let is_text = question.kind == RecordType::TXT;
            let exists = special || is_text && is_cluster_name(question);
            // What does not exist there is asked upstream.
            let of_reverse = is_text && ["in-addr.arpa", "ip6.arpa"].contains(&&*name);
            let is_concerned = field == Field::Code && exists || matches!(field, Field::Code | Field::Authority) && of_reverse;
            is_concerned && ours.code == "NoError" && theirs.code == "NXDomain"
        },
    },
    Rule {
        id: "dns-version-ttl",
        explains: |field, question, ours, theirs| {
            field == Field::Answers
                && question.name.to_lowercase() == "dns-version.cluster.local"
                && only(ours, " 28800 ")
                && only(theirs, " 30 ")
        },
    },
    Rule {
        id: "dns-apex-case",
        explains: |field, question, ours, theirs| {
            let mixed_apex = question.name.eq_ignore_ascii_case("cluster.local") && question.name != "cluster.local";
            let server = "ns.dns.cluster.local";
            let mixed_server = question.name.eq_ignore_ascii_case(server) && question.name != server && theirs.code == "NXDomain";
            (mixed_apex || mixed_server) && ours.code == "NoError" && (field == Field::Code || ours.answers != theirs.answers)
        },
    },
    Rule {
        id: "dns-alias-failing",
        explains: |field, _, ours, theirs| {
            field == Field::Code
                && ours.code == "ServFail"
                && theirs.code == "NoError"
                && ours.answers == theirs.answers
                && only(ours, " cname broken.example.com")
        },
    },
    Rule {
        id: "dns-alias-loop",
        explains: |_, question, ours, theirs| {
            question.name.to_lowercase().starts_with("loop-")
                && ours.code == "ServFail"
                && theirs.code == "NoError"
                && theirs.answers.is_empty()
        },
    },
    Rule {
        id: "dns-name-server-prefix",
        explains: |_, question, ours, theirs| {
            let name = question.name.to_lowercase();
            name.starts_with("ns.dns.cluster.local.") && ours.code == "NXDomain" && theirs.code == "NoError"
        },
    },
    Rule {
        id: "dns-alias-kept",
        explains: |_, _, ours, theirs| {
            ours.answers.iter().any(|line| line.contains(" cname ")) && theirs.answers.is_empty() && theirs.code == "NoError"
        },
    },
];

/// Whether it is no message, or not the one that its sender meant: it ends before its records do, has two OPT records or one in a wrong place, or a
/// client subnet with less than its prefix.
fn is_malformed(question: &Question) -> bool {
    let has_short_subnet = || question.edns.iter().flat_map(|opt| &opt.options).any(|(code, data)| *code == 8 && data.len() < 7);
    match question.oddity {
        Some(Oddity::Count(..) | Oddity::SecondOpt | Oddity::OptAmongAnswers) => true,
        _ => has_short_subnet(),
    }
}

/// Whether there is nothing but a header.
fn is_bare(said: &Said) -> bool {
    said.questions.is_empty()
        && said.answers.is_empty()
        && said.authority.is_empty()
        && said.additional.is_empty()
        && said.opt.is_none()
}

/// Whether there are answers, all with this in them.
fn only(said: &Said, part: &str) -> bool {
    !said.answers.is_empty() && said.answers.iter().all(|line| line.contains(part))
}

fn without_word(line: &str, number: usize) -> String {
    let words = line.split(' ').enumerate().filter(|(place, _)| *place != number);
    words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
}

fn is_reverse(question: &Question) -> bool {
    question.name.to_lowercase().ends_with(".arpa")
}

fn is_cluster_name(question: &Question) -> bool {
    let name = question.name.to_lowercase();
    name == "cluster.local" || name.ends_with(".cluster.local")
}
