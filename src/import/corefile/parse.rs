//! From words to server blocks, by the rules of CoreDNS (`caddyfile/parse.go`).

use super::words::{Place, Word, words};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Imports within imports count too. CoreDNS allows more; a file that needs more is one that imports itself.
const MAX_IMPORTS: usize = 1000;

/// A Corefile that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct CorefileError {
    /// Where.
    pub place: Place,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Servers that share what follows: zones and plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The zones, each perhaps with a protocol in front and a port behind, as written.
    pub keys: Vec<String>,
    /// The plugins, in the order in which they are written.
    pub directives: Vec<Directive>,
    /// Where the block begins.
    pub place: Place,
}

/// One line: a plugin, or within its braces an option of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The first word.
    pub name: String,
    /// The other words.
    pub arguments: Vec<String>,
    /// The lines in braces behind it.
    pub options: Vec<Directive>,
    /// Where it stands.
    pub place: Place,
}

/// The files of an import: their names and texts.
pub type Files = Vec<(String, String)>;

/// What a Corefile refers to.
pub struct Surroundings<'a> {
    /// An environment variable (`{$NAME}`).
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Where imported files come from.
    pub import: &'a dyn Fn(&str) -> Result<Files, String>,
}

/// Reads a Corefile.
///
/// # Errors
/// The first thing that CoreDNS would not take either, with its line.
pub fn parse(file: &str, text: &str, surroundings: &Surroundings<'_>) -> Result<Vec<Block>, CorefileError> {
    let words = words(&file.into(), text);
    let end = Place { file: file.into(), line: text.lines().count().max(1) };
    let mut parser = Parser { rest: words.into(), snippets: HashMap::new(), imports: 0, surroundings, end };
    let mut blocks = Vec::new();
    while !parser.rest.is_empty() {
        blocks.extend(parser.block()?);
    }
    Ok(blocks)
}

struct Parser<'a> {
    rest: VecDeque<Word>,
    snippets: HashMap<String, Vec<Word>>,
    imports: usize,
    surroundings: &'a Surroundings<'a>,
    end: Place,
}

impl Parser<'_> {
    /// The next server block; `None` for a snippet, which is kept for imports.
    fn block(&mut self) -> Result<Option<Block>, CorefileError> {
        let place = self.place();
        let keys = self.keys()?;
        let braces = self.take_if("{");
        if let [key] = keys.as_slice()
            && let Some(name) = key.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'))
            && braces
        {
            let name = name.to_string();
            let body = self.raw_body(&place)?;
            return match self.snippets.insert(name.clone(), body) {
                Some(_) => Err(wrong(&place, format!("the snippet ({name}) is defined twice"))),
                None => Ok(None),
            };
        }
        let directives = self.directives(braces, &place)?;
        Ok((!keys.is_empty()).then_some(Block { keys, directives, place }))
    }

    /// The words up to a brace, or to the end of the line; a comma at the end of a word says that another one follows.
    fn keys(&mut self) -> Result<Vec<String>, CorefileError> {
        let mut keys = Vec::new();
        let mut another = true;
        while let Some(word) = self.rest.front() {
            let starts_line = word.first && !keys.is_empty();
            if word.text == "{" || starts_line && !another {
                break;
            }
            if word.text == "}" {
                return Err(unopened(&word.place));
            }
            if word.first && word.text == "import" {
                self.import()?;
                continue;
            }
            let text = self.next_text();
            another = text.ends_with(',');
            let key = text.trim_end_matches(',');
            keys.extend((!key.is_empty()).then(|| key.to_string()));
        }
        match self.rest.front() {
            Some(brace) if another && !keys.is_empty() => {
                Err(wrong(&brace.place, "another zone is expected after the comma".to_string()))
            }
            _ => Ok(keys),
        }
    }

    /// Lines up to the closing brace, or to the end of the file where there was no opening one.
    fn directives(&mut self, braces: bool, opened: &Place) -> Result<Vec<Directive>, CorefileError> {
        let mut directives = Vec::new();
        loop {
            let Some(word) = self.rest.front() else {
                return if braces { Err(self.unclosed(opened)) } else { Ok(directives) };
            };
            match word.text.as_str() {
                "}" if braces => {
                    self.rest.pop_front();
                    return Ok(directives);
                }
                "}" => return Err(unopened(&word.place)),
                "import" => self.import()?,
                _ => directives.push(self.directive()?),
            }
        }
    }

    fn directive(&mut self) -> Result<Directive, CorefileError> {
        let place = self.place();
        let name = self.next_text();
        let mut arguments = Vec::new();
        while let Some(word) = self.rest.front().filter(|word| !word.first && word.text != "}") {
            if word.text == "{" {
                self.rest.pop_front();
                let options = self.directives(true, &place)?;
                return Ok(Directive { name, arguments, options, place });
            }
            arguments.push(self.next_text());
        }
        Ok(Directive { name, arguments, options: Vec::new(), place })
    }

    /// The words up to the brace that closes the one that was just taken.
    fn raw_body(&mut self, opened: &Place) -> Result<Vec<Word>, CorefileError> {
        let mut body = Vec::new();
        let mut depth = 0;
        while let Some(word) = self.rest.pop_front() {
            match word.text.as_str() {
                "{" => depth += 1,
                "}" if depth == 0 => return Ok(body),
                "}" => depth -= 1,
                _ => {}
            }
            body.push(word);
        }
        Err(self.unclosed(opened))
    }

    /// Puts the words of a snippet or of files in the place of `import NAME`.
    fn import(&mut self) -> Result<(), CorefileError> {
        let place = self.place();
        self.rest.pop_front();
        let what = match self.rest.front() {
            Some(word) if !word.first => self.next_text(),
            _ => return Err(wrong(&place, "import needs the name of a snippet or of a file".to_string())),
        };
        if self.rest.front().is_some_and(|word| !word.first && word.text != "}") {
            return Err(wrong(&place, "import takes one snippet or file".to_string()));
        }
        self.imports += 1;
        if self.imports > MAX_IMPORTS {
            return Err(wrong(&place, format!("more than {MAX_IMPORTS} imports: does {what} import itself?")));
        }
        let imported = match self.snippets.get(&what) {
            Some(snippet) => snippet.clone(),
            None => {
                let files = (self.surroundings.import)(&what)
                    .map_err(|reason| wrong(&place, format!("cannot import {what}: {reason}")))?;
                files.iter().flat_map(|(name, text)| words(&Arc::from(name.as_str()), text)).collect()
            }
        };
        imported.into_iter().rev().for_each(|word| self.rest.push_front(word));
        Ok(())
    }

    /// The next word, with environment variables filled in.
    fn next_text(&mut self) -> String {
        self.rest.pop_front().map(|word| self.with_variables(&word.text)).unwrap_or_default()
    }

    /// `{$NAME}` and `{%NAME%}` stand for variables; one that is not set for nothing.
    fn with_variables(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, from)) =
            ["{$", "{%"].iter().filter_map(|mark| rest.split_once(mark)).min_by_key(|(before, _)| before.len())
        {
            let close = if rest[before.len()..].starts_with("{$") { "}" } else { "%}" };
            let Some((name, after)) = from.split_once(close) else { break };
            filled += before;
            filled += &(self.surroundings.variable)(name).unwrap_or_default();
            rest = after;
        }
        filled + rest
    }

    fn take_if(&mut self, text: &str) -> bool {
        let is_next = self.rest.front().is_some_and(|word| word.text == text);
        if is_next {
            self.rest.pop_front();
        }
        is_next
    }

    fn place(&self) -> Place {
        self.rest.front().map_or(&self.end, |word| &word.place).clone()
    }

    fn unclosed(&self, opened: &Place) -> CorefileError {
        wrong(&self.end, format!("the file ends before the brace that was opened in line {} is closed", opened.line))
    }
}

fn unopened(place: &Place) -> CorefileError {
    wrong(place, "there is no opening brace for this closing one".to_string())
}

fn wrong(place: &Place, problem: String) -> CorefileError {
    CorefileError { place: place.clone(), problem }
}
