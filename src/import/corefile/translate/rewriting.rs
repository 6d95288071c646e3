//! The plugin rewrite: one rule on its line, or several in braces.

use super::super::parse::{CorefileError, Directive};
use super::wrong;
use crate::dns::chain::model::{Match, Rewrite, RewriteWhat};

/// The rules of a directive.
pub fn rewrite(directive: &Directive) -> Result<Vec<Rewrite>, CorefileError> {
    if directive.options.is_empty() {
        return Ok(vec![rule(directive, &directive.arguments)?]);
    }
    // In braces each line has a part of one rule: `name …` and `answer …`.
    let mut words = directive.arguments.clone();
    for option in &directive.options {
        words.push(option.name.clone());
        words.extend(option.arguments.iter().cloned());
    }
    Ok(vec![rule(directive, &words)?])
}

fn rule(directive: &Directive, words: &[String]) -> Result<Rewrite, CorefileError> {
    let place = &directive.place;
    let (r#continue, words) = match words.split_first() {
        Some((mode, rest)) if mode.eq_ignore_ascii_case("continue") => (true, rest),
        Some((mode, rest)) if mode.eq_ignore_ascii_case("stop") => (false, rest),
        _ => (false, words),
    };
    let Some((kind, words)) = words.split_first() else {
        return Err(wrong(place, "rewrite needs a rule, such as name a.example b.example"));
    };
    let what = match kind.to_ascii_lowercase().as_str() {
        "name" => RewriteWhat::Name,
        "type" => RewriteWhat::Type,
        "ttl" => RewriteWhat::Ttl,
        "class" => {
            let problem = "rewrite class is not there: questions of other classes than IN are refused, and none is made one of them; take it out";
            return Err(wrong(place, problem));
        }
        other => {
            let problem = format!("rewrite {other} is not there; names, types and TTLs are rewritten (name, type, ttl)");
            return Err(wrong(place, problem));
        }
    };
    let (r#match, words) = match words {
        [kind, from, to, ..] if matches!(what, RewriteWhat::Name | RewriteWhat::Ttl) => match match_of(kind) {
            Some(found) => (Some(found), &words[1..]),
            None if from == "answer" || to == "answer" => (None, words),
            None => {
                return Err(wrong(
                    place,
                    format!("{kind:?} is not there; names match exact, prefix, suffix, substring or regex"),
                ));
            }
        },
        _ => (None, words),
    };
    let [from, to, answer @ ..] = words else {
        return Err(wrong(place, format!("rewrite {kind} needs what is looked for and what it becomes")));
    };
    if what != RewriteWhat::Name && !answer.is_empty() {
        return Err(wrong(place, format!("rewrite {kind} takes two values")));
    }
    Ok(Rewrite { r#continue, what, r#match, from: from.clone(), to: to.clone(), answer: answers(directive, answer)? })
}

fn match_of(word: &str) -> Option<Match> {
    Some(match word.to_ascii_lowercase().as_str() {
        "exact" => Match::Exact,
        "prefix" => Match::Prefix,
        "suffix" => Match::Suffix,
        "substring" => Match::Substring,
        "regex" => Match::Regex,
        _ => return None,
    })
}

/// `answer auto`, `answer name FROM TO`, `answer value FROM TO`, several of them; `answer` may be left out from the second one on.
fn answers(directive: &Directive, words: &[String]) -> Result<Vec<String>, CorefileError> {
    let mut answers = Vec::new();
    let mut words = words;
    while let Some((first, rest)) = words.split_first() {
        if first == "answer" {
            words = rest;
            continue;
        }
        words = match (first.as_str(), rest) {
            ("auto", _) => {
                answers.push("auto".to_string());
                rest
            }
            ("name" | "value", [from, to, rest @ ..]) => {
                answers.push(format!("{first} {from} {to}"));
                rest
            }
            _ => {
                let problem = format!("{first:?} is no rule for answers; there are auto, name FROM TO and value FROM TO");
                return Err(wrong(&directive.place, problem));
            }
        };
    }
    Ok(answers)
}
