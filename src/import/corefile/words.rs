//! From text to words, by the rules of CoreDNS (`caddyfile/lexer.go`).

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word, without its quotes.
    pub text: String,
    /// Where it begins.
    pub place: Place,
    /// Whether it is the first one on its line.
    pub first: bool,
}

/// The words of a text, separated by white space. Within double quotes white space belongs to the word, and so does a quote after a backslash. The
/// rest of a line after a `#` outside of quotes is a comment.
pub fn words(file: &Arc<str>, text: &str) -> Vec<Word> {
    let mut rest = text.trim_start_matches('\u{feff}').chars().peekable();
    let (mut words, mut line, mut first) = (Vec::new(), 1, true);
    while let Some(next) = rest.peek().copied() {
        match next {
            '\n' => {
                rest.next();
                line += 1;
                first = true;
            }
            '#' => while rest.next_if(|character| *character != '\n').is_some() {},
            space if space.is_whitespace() => drop(rest.next()),
            _ => {
                let text = if next == '"' { quoted(&mut rest) } else { plain(&mut rest) };
                let place = Place { file: file.clone(), line };
                line += text.matches('\n').count();
                words.push(Word { text, place, first });
                first = false;
            }
        }
    }
    words
}

fn plain(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(character) = rest.next_if(|character| !character.is_whitespace() && *character != '#') {
        word.push(character);
    }
    word
}

fn quoted(rest: &mut Peekable<Chars<'_>>) -> String {
    rest.next();
    let mut word = String::new();
    while let Some(character) = rest.next() {
        match character {
            '"' => break,
            '\\' if rest.next_if_eq(&'"').is_some() => word.push('"'),
            _ => word.push(character),
        }
    }
    word
}
