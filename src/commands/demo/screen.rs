//! What the user sees: headings, aligned lines, marks, and a count of what went wrong.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

/// How wide a bar of a distribution gets.
const BAR: usize = 12;

/// Writes to standard output and remembers the checks that failed.
#[derive(Debug)]
pub struct Screen {
    colours: bool,
    passed: usize,
    failed: Vec<String>,
    /// How many more good lines are shown, and how many were not.
    room: usize,
    left_out: usize,
}

impl Default for Screen {
    /// Colours only on a terminal, and not where `NO_COLOR` is set (<https://no-color.org>).
    fn default() -> Screen {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen { colours: stdout().is_terminal() && !unwanted, passed: 0, failed: Vec::new(), room: usize::MAX, left_out: 0 }
    }
}

impl Screen {
    /// A heading, after an empty line.
    pub fn heading(&self, title: &str, remark: &str) {
        println!("\n{}  {}", self.paint("1;36", title), self.faint(remark));
    }

    /// A line that claims nothing.
    pub fn line(&self, text: &str) {
        println!("  {text}");
    }

    /// A checked line: `what` with a mark, and the advice when it failed.
    pub fn check(&mut self, good: bool, what: &str, advice: impl FnOnce() -> String) {
        if good {
            self.passed += 1;
            if self.room > 0 {
                println!("  {} {what}", self.paint("32", "✓"));
                self.room -= 1;
            } else {
                self.left_out += 1;
            }
        } else {
            let advice = advice();
            println!("  {} {what}", self.paint("31", "✗"));
            println!("    {}", self.paint("31", &advice));
            self.failed.push(what.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }

    /// From here on shows at most so many good lines; bad ones are always shown.
    pub fn limit(&mut self, lines: usize) {
        (self.room, self.left_out) = (lines, 0);
    }

    /// Ends a limit, and tells how many lines it has swallowed.
    pub fn no_limit(&mut self) {
        if self.left_out > 0 {
            println!("  {} {}", self.paint("32", "✓"), self.faint(&format!("{} more like these", self.left_out)));
        }
        self.limit(usize::MAX);
    }

    /// How many checks passed.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// The checks that failed.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// Text that matters less.
    pub fn faint(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Text that matters more.
    pub fn strong(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// One pod's share of the connections: its name, a bar and the count.
    pub fn share(&self, name: &str, count: usize, most: usize) -> String {
        let length = (count * BAR).div_ceil(most.max(1));
        format!("{name} {} {count}", self.paint("36", &"▪".repeat(length)))
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// A duration as people read it.
pub fn short(duration: Duration) -> String {
    match duration.as_secs_f64() * 1000.0 {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// `1 pod`, `2 pods`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_three_digits_at_most() {
        assert_eq!(short(Duration::from_micros(1234)), "1.23 ms");
        assert_eq!(short(Duration::from_micros(61_700)), "62 ms");
        assert_eq!(short(Duration::from_millis(2340)), "2.3 s");
    }

    #[test]
    fn a_share_that_is_not_empty_shows() {
        let screen = Screen { colours: false, passed: 0, failed: Vec::new(), room: usize::MAX, left_out: 0 };
        assert_eq!(screen.share("a", 1, 100), "a ▪ 1");
        assert_eq!(screen.share("a", 0, 100), "a  0");
    }
}
