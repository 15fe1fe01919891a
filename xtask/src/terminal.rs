//! What people see: headings, verdicts, and colour where it is a person who looks.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

/// Prints a line. A closed pipe is no reason to stop working.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Announces what comes next.
pub(crate) fn heading(text: &str) {
    say(format_args!("\n{}", bold(&format!("== {text}"))));
}

pub(crate) fn bold(text: &str) -> String {
    dress("1", text)
}

pub(crate) fn green(text: &str) -> String {
    dress("32", text)
}

pub(crate) fn red(text: &str) -> String {
    dress("31;1", text)
}

pub(crate) fn yellow(text: &str) -> String {
    dress("33", text)
}

/// Colour on a terminal, unless `NO_COLOR` is set (no-color.org).
pub(crate) fn coloured() -> bool {
    static COLOURED: OnceLock<bool> = OnceLock::new();
    *COLOURED.get_or_init(|| {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        wanted && std::io::stdout().is_terminal()
    })
}

fn dress(code: &str, text: &str) -> String {
    if coloured() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
