//! What people and CI get to see: a line as each scenario ends, the table, the JUnit file.

pub mod junit;
pub mod matrix;
mod table;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::evidence::Evidence;
use crate::terminal::{Style, shown};
use table::{Align, Cell, Table};

/// How a scenario ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Its name in the registry.
    pub name: &'static str,
    /// What it claims.
    pub claim: &'static str,
    /// Whether the claim holds.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// Where its logs are.
    pub folder: PathBuf,
}

/// Whether a claim holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It does, and here is why.
    Passed(Evidence),
    /// It does not, and here is why.
    Failed(String),
    /// Nobody knows: something that the machine lacks.
    CouldNotRun(String),
}

/// How many scenarios ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Claims that hold.
    pub passed: usize,
    /// Claims that do not.
    pub failed: usize,
    /// Scenarios that could not run.
    pub not_run: usize,
}

impl Tally {
    /// Counts.
    #[must_use]
    pub fn of(outcomes: &[Outcome]) -> Self {
        outcomes.iter().fold(Self::default(), |mut tally, outcome| {
            match outcome.verdict {
                Verdict::Passed(_) => tally.passed += 1,
                Verdict::Failed(_) => tally.failed += 1,
                Verdict::CouldNotRun(_) => tally.not_run += 1,
            }
            tally
        })
    }
}

/// What is printed the moment a scenario ends: the claim, and what proves or refutes it.
#[must_use]
pub fn paragraph(style: Style, outcome: &Outcome) -> String {
    let Outcome { name, claim, verdict, took, folder } = outcome;
    let took = style.dim(&format!("{:.1} s", took.as_secs_f64()));
    let below = |text: &str| wrapped(text, WIDTH).map(|line| format!("\n{INDENT}{line}")).collect::<String>();
    match verdict {
        Verdict::Passed(evidence) => {
            let facts = evidence.facts.iter().map(|fact| style.dim(&below(fact))).collect::<String>();
            format!(" {}   {name}: {claim}  {took}{facts}", style.green("ok"))
        }
        Verdict::Failed(why) => {
            let (why, logs) = (below(why), shown(folder));
            let repeat = format!("{INDENT}logs:   {logs}\n{INDENT}repeat: {REPEAT} {name}");
            format!("{}  {name}: {claim}  {took}{why}\n{repeat}", style.red("FAIL"))
        }
        Verdict::CouldNotRun(why) => {
            format!(" {}   {name}: {claim}{}", style.yellow("--"), below(&format!("could not run: {why}")))
        }
    }
}

/// `text` in lines of at most `width` characters, broken between words. Its own line breaks stay.
fn wrapped(text: &str, width: usize) -> impl Iterator<Item = String> {
    text.lines().flat_map(move |line| {
        let indent = line.chars().take_while(|c| *c == ' ').count();
        let mut lines = vec![" ".repeat(indent)];
        for word in line.split_whitespace() {
            let last = lines.last().map_or(0, |line| line.chars().count());
            if last > indent && last + 1 + word.chars().count() > width {
                lines.push(" ".repeat(indent + 2));
            }
            if let Some(last) = lines.last_mut() {
                let gap = if last.trim().is_empty() { "" } else { " " };
                last.push_str(gap);
                last.push_str(word);
            }
        }
        lines
    })
}

/// What is told of a scenario stands below its name, within the width of a usual terminal.
const INDENT: &str = "       ";
const WIDTH: usize = 103;

/// The table of all scenarios, and what it comes to.
#[must_use]
pub fn summary(style: Style, outcomes: &[Outcome], took: Duration) -> String {
    let mut table = Table::new([
        ("scenario", Align::Left),
        ("result", Align::Left),
        ("path", Align::Left),
        ("connected", Align::Right),
        ("frames", Align::Right),
        ("received", Align::Right),
        ("time", Align::Right),
    ]);
    for outcome in outcomes {
        table.push(row(style, outcome));
    }
    let Tally { passed, failed, not_run } = Tally::of(outcomes);
    let mut text = table.render(style);
    let passed = style.green(&format!("{passed} passed"));
    let failed = match failed {
        0 => "0 failed".to_owned(),
        number => style.red(&format!("{number} failed")),
    };
    let _ = writeln!(text, "\nscenarios: {passed}, {failed} in {:.1} s", took.as_secs_f64());
    if not_run > 0 {
        let _ = writeln!(text, "{}", style.yellow(&format!("{not_run} could not run, named above")));
    }
    let failed = || outcomes.iter().filter(|outcome| matches!(outcome.verdict, Verdict::Failed(_)));
    let width = failed().map(|outcome| outcome.name.len()).max().unwrap_or(0);
    for Outcome { name, folder, .. } in failed() {
        let _ = writeln!(text, "repeat: {REPEAT} {name:width$}   logs: {}", shown(folder));
    }
    text
}

fn row(style: Style, outcome: &Outcome) -> [Cell; 7] {
    let none = Evidence::default();
    let (result, evidence) = match &outcome.verdict {
        Verdict::Passed(evidence) => (Cell::dressed("ok", style.green("ok")), evidence),
        Verdict::Failed(_) => (Cell::dressed("FAIL", style.red("FAIL")), &none),
        Verdict::CouldNotRun(_) => (Cell::dressed("not run", style.yellow("not run")), &none),
    };
    let optional =
        |text: Option<String>| text.map_or_else(|| Cell::dressed("-", style.dim("-")), Cell::plain);
    [
        Cell::plain(outcome.name),
        result,
        optional(
            evidence.path.as_ref().map(|path| format!("{}/{} {}", path.local, path.remote, path.protocol)),
        ),
        optional(evidence.connected_ms.map(|ms| format!("{ms:.0} ms"))),
        optional(evidence.frames.map(|(first, second)| format!("{first} + {second}"))),
        optional(evidence.bytes.map(size)),
        Cell::plain(format!("{:.1} s", outcome.took.as_secs_f64())),
    ]
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = bytes as f64;
    match bytes {
        ..1e3 => format!("{bytes} B"),
        ..1e6 => format!("{:.1} kB", bytes / 1e3),
        _ => format!("{:.1} MB", bytes / 1e6),
    }
}

const REPEAT: &str = "cargo xtask e2e";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Path;

    fn outcome(name: &'static str, verdict: Verdict) -> Outcome {
        let folder = PathBuf::from("target/e2e").join(name);
        Outcome { name, claim: "it works", verdict, took: Duration::from_millis(5120), folder }
    }

    fn outcomes() -> Vec<Outcome> {
        let path = Path { local: "host".into(), remote: "prflx".into(), protocol: "udp".into() };
        let evidence = Evidence {
            path: Some(path),
            connected_ms: Some(38.4),
            frames: Some((112, 98)),
            bytes: Some(1_234_567),
            facts: vec!["112 frames decode".to_owned()],
        };
        vec![
            outcome("direct-call", Verdict::Passed(evidence)),
            outcome("glare", Verdict::Failed("no rollback".to_owned())),
            outcome("coturn", Verdict::CouldNotRun("no turnutils_uclient".to_owned())),
        ]
    }

    #[test]
    fn the_summary_is_one_aligned_table_with_the_sums_and_how_to_repeat() {
        let text = summary(Style::Plain, &outcomes(), Duration::from_secs(61));
        let expected = "\
scenario     result   path            connected    frames  received   time
--------------------------------------------------------------------------
direct-call  ok       host/prflx udp      38 ms  112 + 98    1.2 MB  5.1 s
glare        FAIL     -                       -         -         -  5.1 s
coturn       not run  -                       -         -         -  5.1 s

scenarios: 1 passed, 1 failed in 61.0 s
1 could not run, named above
repeat: cargo xtask e2e glare   logs: target/e2e/glare
";
        assert_eq!(text, expected);
    }

    #[test]
    fn colour_does_not_move_a_column() {
        let colour = summary(Style::Colour, &outcomes(), Duration::from_secs(61));
        let mut stripped = String::new();
        for (at, part) in colour.split('\x1b').enumerate() {
            let text = if at == 0 { part } else { part.split_once('m').unwrap().1 };
            stripped.push_str(text);
        }
        assert_eq!(stripped, summary(Style::Plain, &outcomes(), Duration::from_secs(61)));
    }

    #[test]
    fn a_failure_says_why_where_and_how_to_repeat_it() {
        let text = paragraph(Style::Plain, &outcomes()[1]);
        assert!(text.contains("FAIL  glare: it works  5.1 s\n       no rollback\n"), "{text}");
        assert!(text.ends_with("logs:   target/e2e/glare\n       repeat: cargo xtask e2e glare"), "{text}");
    }

    #[test]
    fn long_lines_are_broken_between_words_and_no_word_is_lost() {
        let lines = |text| wrapped(text, 12).collect::<Vec<_>>();
        assert_eq!(lines("one two three four"), ["one two", "  three four"]);
        assert_eq!(lines("a\n    indented text"), ["a", "    indented", "      text"]);
        assert_eq!(lines("http://a.very.long/word and more"), ["http://a.very.long/word", "  and more"]);
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!([size(999), size(1500), size(2_500_000)], ["999 B", "1.5 kB", "2.5 MB"]);
    }
}
