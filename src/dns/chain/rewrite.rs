//! Rewriting: a question is changed on its way in, and names in its answer on their way out. Pure: names are texts in lower case with the final
//! dot, as CoreDNS compares them.

use super::model::{Match, Rewrite, RewriteWhat};
use super::values::RecordKind;
use regex::Regex;

/// CoreDNS's limit.
const LONGEST_PATTERN: usize = 10_000;

/// One rule, ready.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whether the next rule is looked at after this one.
    pub goes_on: bool,
    change: Change,
}

#[derive(Clone, Debug)]
enum Change {
    Name { from: Pattern, to: String, auto: bool, fixed: Vec<AnswerRule> },
    Type(u16, u16),
    Ttl { from: Pattern, least: u32, most: u32 },
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Substring(String),
    Regex(Regex),
}

/// What of a question may be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name: lower case, with the final dot.
    pub name: String,
    /// The type.
    pub rtype: u16,
}

/// What is changed in an answer.
#[derive(Clone, Debug)]
pub enum AnswerRule {
    /// Owners.
    Owner(Renaming),
    /// Names in the data of records.
    Value(Renaming),
    /// TTLs, to be within these bounds.
    Ttl(u32, u32),
}

/// From one name to another.
#[derive(Clone, Debug)]
pub enum Renaming {
    /// This name, and those below it.
    Whole(String, String),
    /// Names that end so.
    Suffix(String, String),
    /// Names that match; `{1}` is the first group.
    Regex(Regex, String),
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(spec: &Rewrite) -> Result<Rule, String> {
        let (from, to) = (spec.from.as_str(), spec.to.as_str());
        let change = match spec.what {
            RewriteWhat::Type => Change::Type(from.parse::<RecordKind>()?.0, to.parse::<RecordKind>()?.0),
            RewriteWhat::Ttl => {
                let (least, most) = ttl_bounds(to)?;
                Change::Ttl { from: pattern(spec.r#match, from)?, least, most }
            }
            RewriteWhat::Name => name_change(spec)?,
        };
        if spec.what != RewriteWhat::Name && !spec.answer.is_empty() {
            return Err("only a rule for names may have rules for answers".to_string());
        }
        Ok(Rule { goes_on: spec.r#continue, change })
    }

    /// Changes a question, and says what is to be changed in its answer; `None` where the rule does not fit.
    pub fn apply(&self, question: &mut Question) -> Option<Vec<AnswerRule>> {
        match &self.change {
            Change::Type(from, to) => (question.rtype == *from).then(|| {
                question.rtype = *to;
                Vec::new()
            }),
            Change::Ttl { from, least, most } => from.matches(&question.name).then(|| vec![AnswerRule::Ttl(*least, *most)]),
            Change::Name { from, to, auto, fixed } => {
                let name = from.replaced(&question.name, to)?;
                let before = std::mem::replace(&mut question.name, name);
                let mut rules = Vec::new();
                if *auto {
                    let back = match from {
                        Pattern::Suffix(suffix) => Renaming::Suffix(to.clone(), suffix.clone()),
                        _ => Renaming::Whole(question.name.clone(), before),
                    };
                    rules.extend([AnswerRule::Owner(back.clone()), AnswerRule::Value(back)]);
                }
                rules.extend(fixed.iter().cloned());
                Some(rules)
            }
        }
    }
}

fn name_change(spec: &Rewrite) -> Result<Change, String> {
    let from = pattern(spec.r#match, &spec.from)?;
    let to = normal(&spec.to);
    if let Pattern::Regex(regex) = &from {
        groups_exist(regex, &to)?;
    }
    let (mut auto, mut fixed) = (matches!(from, Pattern::Exact(_)), Vec::new());
    for text in &spec.answer {
        match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["auto"] => auto = true,
            ["name", from, to] => fixed.push(AnswerRule::Owner(renaming(from, to)?)),
            ["value", from, to] => fixed.push(AnswerRule::Value(renaming(from, to)?)),
            _ => return Err(format!("{text:?} is no rule for answers; there are auto, name FROM TO and value FROM TO")),
        }
    }
    let explicit = fixed.iter().any(|rule| matches!(rule, AnswerRule::Owner(_)));
    if spec.answer.iter().any(|text| text == "auto") && explicit {
        return Err("answer auto and answer name exclude each other".to_string());
    }
    Ok(Change::Name { from, to, auto, fixed })
}

fn pattern(kind: Option<Match>, text: &str) -> Result<Pattern, String> {
    Ok(match kind.unwrap_or_default() {
        Match::Exact => Pattern::Exact(normal(text)),
        Match::Prefix => Pattern::Prefix(normal(text)),
        Match::Suffix => Pattern::Suffix(normal(text)),
        Match::Substring => Pattern::Substring(normal(text)),
        Match::Regex => Pattern::Regex(regex(text)?),
    })
}

fn renaming(from: &str, to: &str) -> Result<Renaming, String> {
    let (regex, to) = (regex(from)?, normal(to));
    groups_exist(&regex, &to)?;
    Ok(Renaming::Regex(regex, to))
}

/// A regular expression within CoreDNS's bounds.
///
/// # Errors
/// What is wrong with it.
pub fn regex(text: &str) -> Result<Regex, String> {
    if text.len() > LONGEST_PATTERN {
        return Err(format!("a regular expression may have {LONGEST_PATTERN} characters"));
    }
    Regex::new(text).map_err(|error| format!("{text:?} is no regular expression: {}", last_line(&error.to_string())))
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim().to_string()
}

fn groups_exist(regex: &Regex, to: &str) -> Result<(), String> {
    let used = (0..=100).filter(|number| to.contains(&format!("{{{number}}}"))).count();
    match used < regex.captures_len() {
        true => Ok(()),
        false => Err(format!("{to:?} has more groups than {:?}", regex.as_str())),
    }
}

/// Lower case, with the final dot.
fn normal(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    if name.ends_with('.') { name } else { name + "." }
}

/// A number, or `MIN-MAX` of which one may be left out.
fn ttl_bounds(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text:?} is no TTL such as 30, 30-300, -300 or 30-");
    let number = |text: &str, missing: u32| if text.is_empty() { Ok(missing) } else { text.parse().map_err(|_| wrong()) };
    let (least, most) = match text.split_once('-') {
        None => (number(text, 0)?, number(text, 0)?),
        Some((least, most)) => (number(least, 0)?, number(most, i32::MAX as u32)?),
    };
    if text.is_empty() || text == "-" || least > most { Err(wrong()) } else { Ok((least, most)) }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::Exact(text) => name == text,
            Pattern::Prefix(text) => name.starts_with(text.as_str()),
            Pattern::Suffix(text) => name.ends_with(text.as_str()),
            Pattern::Substring(text) => name.contains(text.as_str()),
            Pattern::Regex(regex) => regex.is_match(name),
        }
    }

    fn replaced(&self, name: &str, to: &str) -> Option<String> {
        match self {
            Pattern::Exact(text) => (name == text).then(|| to.to_string()),
            Pattern::Prefix(text) => name.strip_prefix(text.as_str()).map(|rest| format!("{to}{rest}")),
            Pattern::Suffix(text) => name.strip_suffix(text.as_str()).map(|rest| format!("{rest}{to}")),
            Pattern::Substring(text) => name.contains(text.as_str()).then(|| name.replace(text.as_str(), to)),
            Pattern::Regex(regex) => substituted(regex, name, to),
        }
    }
}

fn substituted(regex: &Regex, text: &str, to: &str) -> Option<String> {
    let found = regex.captures(text)?;
    let mut replaced = to.to_string();
    for (number, group) in found.iter().enumerate() {
        replaced = replaced.replace(&format!("{{{number}}}"), group.map_or("", |group| group.as_str()));
    }
    Some(replaced)
}

impl Renaming {
    /// The new name, where it is another one.
    pub fn rename(&self, name: &str) -> Option<String> {
        match self {
            Renaming::Whole(from, to) if name == from => Some(to.clone()),
            Renaming::Whole(from, to) => {
                let rest = name.strip_suffix(from.as_str()).filter(|rest| rest.ends_with('.'))?;
                Some(format!("{rest}{to}"))
            }
            Renaming::Suffix(from, to) => name.strip_suffix(from.as_str()).map(|rest| format!("{rest}{to}")),
            Renaming::Regex(regex, to) => substituted(regex, name, to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: Option<Match>, from: &str, to: &str, answer: &[&str]) -> Result<Rule, String> {
        let answer = answer.iter().map(ToString::to_string).collect();
        Rule::new(&Rewrite {
            r#continue: false,
            what: RewriteWhat::Name,
            r#match: kind,
            from: from.into(),
            to: to.into(),
            answer,
        })
    }

    /// The name that a question becomes, and what an owner in its answer becomes.
    fn there_and_back(rule: &Rule, name: &str, owner: &str) -> Option<(String, String)> {
        let mut question = Question { name: name.into(), rtype: 1 };
        let mut rules = rule.apply(&mut question)?;
        rules.reverse();
        let mut owner = owner.to_string();
        for rule in &rules {
            if let AnswerRule::Owner(renaming) = rule {
                owner = renaming.rename(&owner).unwrap_or(owner);
            }
        }
        Some((question.name, owner))
    }

    #[test]
    fn names_are_rewritten_and_answers_back() {
        let cases = [
            (rule(None, "a.example", "b.example", &[]), "a.example.", "b.example.", "b.example.", "a.example."),
            (
                rule(Some(Match::Suffix), ".a.example", ".b.example", &["auto"]),
                "x.a.example.",
                "x.b.example.",
                "y.b.example.",
                "y.a.example.",
            ),
            (
                rule(Some(Match::Prefix), "old.", "new.", &["auto"]),
                "old.a.example.",
                "new.a.example.",
                "new.a.example.",
                "old.a.example.",
            ),
            (
                rule(Some(Match::Substring), "a.b.", "c.", &["auto"]),
                "x.a.b.example.",
                "x.c.example.",
                "x.c.example.",
                "x.a.b.example.",
            ),
            (
                rule(
                    Some(Match::Regex),
                    r"(.*)\.shop\.example\.$",
                    "{1}.default.svc.cluster.local",
                    &[r"name (.*)\.default\.svc\.cluster\.local\. {1}.shop.example"],
                ),
                "web.shop.example.",
                "web.default.svc.cluster.local.",
                "web.default.svc.cluster.local.",
                "web.shop.example.",
            ),
        ];
        for (rule, name, becomes, owner, back) in cases {
            assert_eq!(there_and_back(&rule.unwrap(), name, owner), Some((becomes.to_string(), back.to_string())));
        }
    }

    #[test]
    fn what_does_not_match_stays() {
        for (kind, from) in
            [(Match::Exact, "a.example"), (Match::Prefix, "a."), (Match::Suffix, ".a.example"), (Match::Regex, "^a")]
        {
            assert_eq!(there_and_back(&rule(Some(kind), from, "b.example", &[]).unwrap(), "xa.example.", ""), None, "{from}");
        }
    }

    #[test]
    fn wrong_rules_are_named() {
        for (rule, problem) in [
            (rule(Some(Match::Regex), "(", "a", &[]), "is no regular expression"),
            (rule(Some(Match::Regex), "a", "{1}", &[]), "has more groups"),
            (rule(None, "a", "b", &["value x"]), "is no rule for answers"),
            (rule(Some(Match::Suffix), "a", "b", &["auto", "name a b"]), "exclude each other"),
        ] {
            let error = rule.unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        assert_eq!((ttl_bounds("30"), ttl_bounds("5-60"), ttl_bounds("-60")), (Ok((30, 30)), Ok((5, 60)), Ok((0, 60))));
        assert!(ttl_bounds("-").is_err() && ttl_bounds("60-5").is_err());
    }
}
