//! What Waypost answers differently from CoreDNS on purpose where both obey another Corefile than kubeadm's. Each has its reason in
//! `docs/differences.md`, in the second table.

use super::dns_question::{Field, Question, Said, SaidOpt};
use hickory_proto::rr::{DNSClass, RecordType};

/// A field that differs.
pub struct Difference<'a> {
    /// What both obey.
    pub corefile: &'a str,
    /// The field.
    pub field: Field,
    /// What both were asked.
    pub question: &'a Question,
    /// What Waypost says.
    pub ours: &'a Said,
    /// What CoreDNS says.
    pub theirs: &'a Said,
}

/// Whether it explains a difference.
type Explains = fn(&Difference) -> bool;

/// The names by which the document lists them, and what they explain; the first that does counts.
pub const KNOWN: &[(&str, Explains)] = &[
    ("corefile-cache", is_kept),
    ("corefile-cache-disable", is_ttl_of_what_is_not_kept),
    ("corefile-extended-errors", is_opt_of_extended_error),
    ("corefile-nsid", is_do_of_nsid),
    ("corefile-bufsize", is_size_of_bufsize),
    ("corefile-chaos", is_of_another_class),
    ("corefile-rewrite-continue", is_question_that_was_rewritten),
    ("corefile-autopath", is_search_without_pods),
    ("corefile-autopath-alias", is_second_alias),
    ("corefile-pods-verified", is_second_address),
    ("corefile-multicluster", is_name_server_of_other_clusters),
    ("corefile-multicluster-names", is_name_of_cluster),
    ("corefile-namespace-labels", is_at_an_address_of_a_hidden_namespace),
    ("corefile-namespace-labels-imports", is_import_without_labels),
    ("corefile-dns64", is_failure_behind_dns64),
    ("corefile-ds", is_of_another_block),
    ("corefile-forward-cut", is_cut_by_the_upstream_server),
    ("corefile-forward-tcp", is_failure_over_tcp),
];

/// That CoreDNS listens where the Corefile says.
pub const LISTENERS: &str = "corefile-listeners";
/// Those that no test can rely on.
pub const NOT_COMPARED: [&str; 1] = ["corefile-silence"];

/// CoreDNS's cache keeps the cluster's names too, five seconds at least, and counts down.
fn is_kept(difference: &Difference) -> bool {
    let Difference { corefile, field, ours, theirs, .. } = difference;
    let keeps_names = corefile.contains("cache") && corefile.contains("kubernetes") && !corefile.contains("disable success");
    keeps_names
        && matches!(field, Field::Answers | Field::Authority | Field::Additional)
        && without_word(&field.of(ours), 1) == without_word(&field.of(theirs), 1)
}

/// CoreDNS cuts the TTLs of what it does not keep to those of what it keeps.
fn is_ttl_of_what_is_not_kept(difference: &Difference) -> bool {
    let Difference { corefile, field, question, ours, theirs } = difference;
    let is_not_kept = ["success", "denial"].iter().any(|kind| corefile.contains(&format!("disable {kind} {}\n", question.name)));
    let (ours, theirs) = (field.of(ours), field.of(theirs));
    is_not_kept && ours.contains(" 60 ") && theirs.contains(". 20 ") && without_word(&ours, 1) == without_word(&theirs, 1)
}

/// CoreDNS sets DO beside extended errors, whatever the client has set, and says them to clients without EDNS.
fn is_opt_of_extended_error(difference: &Difference) -> bool {
    let Difference { corefile, field, question, ours, theirs } = difference;
    let says_errors = corefile.contains("acl") || corefile.contains("ederror");
    let Some(their_opt) = &theirs.opt else { return false };
    let is_explained = match (&ours.opt, &question.edns) {
        (Some(our_opt), Some(_)) => *our_opt == SaidOpt { dnssec_ok: false, ..their_opt.with_size(1232) },
        (None, None) => !their_opt.options.is_empty(),
        _ => false,
    };
    *field == Field::Opt && says_errors && their_opt.dnssec_ok && is_explained
}

/// CoreDNS sets DO beside its name, whatever the client has set.
fn is_do_of_nsid(difference: &Difference) -> bool {
    let Difference { corefile, field, ours, theirs, .. } = difference;
    let (Some(ours), Some(theirs)) = (&ours.opt, &theirs.opt) else { return false };
    let has_name = theirs.options.iter().any(|(code, data)| *code == 3 && !data.is_empty());
    let is_without_do = theirs.dnssec_ok && *ours == SaidOpt { dnssec_ok: false, ..theirs.clone() };
    *field == Field::Opt && corefile.contains("nsid ") && has_name && is_without_do
}

/// CoreDNS repeats the client's size, which `bufsize` has made smaller.
fn is_size_of_bufsize(difference: &Difference) -> bool {
    let Difference { corefile, field, ours, theirs, .. } = difference;
    let sizes = [ours, theirs].map(|said| said.opt.as_ref().map(|opt| opt.size));
    let is_else_the_same = ours.opt == theirs.opt.as_ref().map(|opt| opt.with_size(1232));
    *field == Field::Opt && corefile.contains("bufsize 512") && sizes == [Some(1232), Some(512)] && is_else_the_same
}

/// With `chaos` CoreDNS answers whatever is asked of that class.
fn is_of_another_class(difference: &Difference) -> bool {
    let Difference { corefile, question, ours, .. } = difference;
    corefile.contains("chaos") && question.class == DNSClass::CH && ours.code == "Refused"
}

/// The question that CoreDNS repeats is the one that its rules have made of it.
fn is_question_that_was_rewritten(difference: &Difference) -> bool {
    let Difference { corefile, field, question, ours, theirs } = difference;
    let asks = |said: &Said| said.questions == [format!("{}. IN {}", question.name, question.kind)];
    corefile.contains("rewrite continue") && *field == Field::Questions && asks(ours) && !asks(theirs)
}

/// CoreDNS knows the namespaces of clients from pods alone.
fn is_search_without_pods(difference: &Difference) -> bool {
    let Difference { corefile, ours, theirs, .. } = difference;
    let without_pods = corefile.contains("autopath @kubernetes") && !corefile.contains("pods verified");
    without_pods && ours.code == "NoError" && !ours.answers.is_empty() && theirs.code == "NXDomain"
}

/// CoreDNS puts an alias in front of an alias of the same name.
fn is_second_alias(difference: &Difference) -> bool {
    let Difference { corefile, field, question, ours, theirs } = difference;
    let aliases = |said: &Said| {
        let owner = format!("{}. ", question.name);
        said.answers.iter().filter(|line| line.starts_with(&owner) && line.contains(" cname ")).count()
    };
    corefile.contains("autopath") && *field == Field::Answers && (aliases(ours), aliases(theirs)) == (1, 2)
}

/// The name of a pod's second address, which CoreDNS does not know.
fn is_second_address(Difference { question, ours, theirs, .. }: &Difference) -> bool {
    question.name.starts_with("fd00-244--9-1.") && ours.code == "NoError" && theirs.code == "NXDomain"
}

/// The name of a cluster below that of a service: `dns-empty-non-terminal` with names of other clusters.
fn is_name_of_cluster(Difference { question, ours, theirs, .. }: &Difference) -> bool {
    question.name.starts_with("east.db.") && ours.code == "NoError" && theirs.code == "NXDomain"
}

/// CoreDNS looks for a Service whose endpoint it is, here `kubernetes`, and names it in whatever zone is asked.
fn is_name_server_of_other_clusters(Difference { question, ours, theirs, .. }: &Difference) -> bool {
    let names = |said: &Said, name: &str| said.answers.iter().any(|line| line.contains(name));
    let (own, service) = ("ns ns.dns.clusterset.local.", "ns kubernetes.default.svc.clusterset.local.");
    question.name == "clusterset.local" && names(ours, own) && names(theirs, service)
}

/// CoreDNS names services at addresses whatever the labels of their namespaces, though they have no such name.
fn is_at_an_address_of_a_hidden_namespace(Difference { question, ours, theirs, .. }: &Difference) -> bool {
    question.name == "1.2.8.10.in-addr.arpa"
        && ours.answers.is_empty()
        && theirs.answers.iter().any(|line| line.contains(".back.svc."))
}

/// CoreDNS looks for the labels at the ServiceImport.
fn is_import_without_labels(difference: &Difference) -> bool {
    let Difference { corefile, question, ours, theirs, .. } = difference;
    let both = corefile.contains("namespace_labels") && corefile.contains("multicluster");
    both && question.name.ends_with(".clusterset.local") && ours.code == "NoError" && theirs.code == "NXDomain"
}

/// CoreDNS says that a name has no addresses when it could not learn them.
fn is_failure_behind_dns64(difference: &Difference) -> bool {
    let Difference { corefile, field, question, ours, theirs } = difference;
    let is_failure = ["ServFail", "NXDomain"].contains(&&*ours.code) && theirs.code == "NoError" && theirs.answers.is_empty();
    corefile.contains("dns64") && question.kind == RecordType::AAAA && *field == Field::Code && is_failure
}

/// CoreDNS asks the topmost block for DS.
fn is_of_another_block(difference: &Difference) -> bool {
    let Difference { field, question, ours, theirs, .. } = difference;
    let is_from = |said: &Said, block: &str| said.authority.iter().any(|line| line.contains(&format!(" soa ns.{block}. ")));
    question.kind == RecordType::DS && *field == Field::Authority && is_from(ours, "third") && is_from(theirs, "second")
}

/// CoreDNS hands on an answer that its upstream server has cut.
fn is_cut_by_the_upstream_server(difference: &Difference) -> bool {
    let Difference { field, question, ours, theirs, .. } = difference;
    let is_field = matches!(field, Field::Flags | Field::Answers);
    question.name.ends_with(".cut.example") && is_field && !ours.is_cut() && theirs.is_cut() && ours.size > 512
}

/// CoreDNS asks over TCP what came over TCP, and nowhere else.
fn is_failure_over_tcp(difference: &Difference) -> bool {
    let Difference { question, ours, theirs, .. } = difference;
    question.name.ends_with(".numbered.example") && ours.code == "NXDomain" && theirs.code == "ServFail"
}

/// A section without a word of each of its lines.
pub fn without_word(section: &str, number: usize) -> Vec<String> {
    let without = |line: &str| {
        line.split(' ').enumerate().filter(|(place, _)| *place != number).map(|(_, word)| format!("{word} ")).collect()
    };
    section.lines().map(without).collect()
}
