//! The JUnit XML that CI systems read.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Outcome, Tally, Verdict};

/// The whole document.
#[must_use]
pub fn document(outcomes: &[Outcome], took: Duration) -> String {
    let Tally { failed, not_run, .. } = Tally::of(outcomes);
    let counts = format!(
        r#"tests="{}" failures="{failed}" errors="0" skipped="{not_run}" time="{:.3}""#,
        outcomes.len(),
        took.as_secs_f64()
    );
    let cases = outcomes.iter().map(case).collect::<String>();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"farcall\" {counts}>\n  <testsuite name=\"e2e\" {counts}>\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

fn case(outcome: &Outcome) -> String {
    let Outcome { name, verdict, took, folder, .. } = outcome;
    let seconds = took.as_secs_f64();
    let mut text =
        format!("    <testcase classname=\"e2e\" name=\"{}\" time=\"{seconds:.3}\">\n", escape(name));
    match verdict {
        Verdict::Passed(evidence) => {
            let facts = evidence.facts.join("\n");
            let _ = writeln!(text, "      <system-out>{}</system-out>", escape(&facts));
        }
        Verdict::Failed(why) => {
            let first = why.lines().next().unwrap_or_default();
            let all = format!("{why}\nlogs: {}\nrepeat: {} {name}", folder.display(), super::REPEAT);
            let (first, all) = (escape(first), escape(&all));
            let _ = writeln!(text, "      <failure message=\"{first}\">{all}</failure>");
        }
        Verdict::CouldNotRun(why) => {
            let _ = writeln!(text, "      <skipped message=\"{}\"/>", escape(why));
        }
    }
    text + "    </testcase>\n"
}

/// Text as content or as an attribute. XML 1.0 has no way to write most control characters, not even escaped, so a
/// replacement character stands for them.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            '\n' | '\t' => escaped.push(character),
            '\r' => escaped.push_str("&#13;"),
            '\0'..' ' | '\u{FFFE}' | '\u{FFFF}' => escaped.push(char::REPLACEMENT_CHARACTER),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::evidence::Evidence;

    fn outcome(name: &'static str, verdict: Verdict) -> Outcome {
        let took = Duration::from_millis(1500);
        Outcome { name, claim: "", verdict, took, folder: PathBuf::from("target/e2e/x") }
    }

    #[test]
    fn every_kind_of_verdict_has_its_element_and_is_counted() {
        let outcomes = [
            outcome("good", Verdict::Passed(Evidence::new().fact("1 < 2"))),
            outcome("bad", Verdict::Failed("\"a\" & b\nmore".to_owned())),
            outcome("absent", Verdict::CouldNotRun("no ffprobe".to_owned())),
        ];
        let expected = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="farcall" tests="3" failures="1" errors="0" skipped="1" time="9.000">
  <testsuite name="e2e" tests="3" failures="1" errors="0" skipped="1" time="9.000">
    <testcase classname="e2e" name="good" time="1.500">
      <system-out>1 &lt; 2</system-out>
    </testcase>
    <testcase classname="e2e" name="bad" time="1.500">
      <failure message="&quot;a&quot; &amp; b">&quot;a&quot; &amp; b
more
logs: target/e2e/x
repeat: cargo xtask e2e bad</failure>
    </testcase>
    <testcase classname="e2e" name="absent" time="1.500">
      <skipped message="no ffprobe"/>
    </testcase>
  </testsuite>
</testsuites>
"#;
        assert_eq!(document(&outcomes, Duration::from_secs(9)), expected);
    }

    #[test]
    fn what_xml_cannot_say_is_replaced() {
        assert_eq!(escape("a\u{1b}[31m'b'\0\r"), "a\u{FFFD}[31m&apos;b&apos;\u{FFFD}&#13;");
    }
}
