//! What people get to see: colour where it is a person who looks, paths as one would type them.

use std::io::IsTerminal;
use std::path::Path;

/// How text is dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Plain text.
    Plain,
    /// ANSI colours.
    Colour,
}

impl Style {
    /// Colour on a terminal, unless `NO_COLOR` is set (no-color.org).
    #[must_use]
    pub fn of_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted && std::io::stdout().is_terminal() { Self::Colour } else { Self::Plain }
    }

    /// For what went well.
    #[must_use]
    pub fn green(self, text: &str) -> String {
        self.dress("32", text)
    }

    /// For what failed.
    #[must_use]
    pub fn red(self, text: &str) -> String {
        self.dress("31;1", text)
    }

    /// For what could not be done.
    #[must_use]
    pub fn yellow(self, text: &str) -> String {
        self.dress("33", text)
    }

    /// For what may be overlooked.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.dress("2", text)
    }

    /// For headings.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.dress("1", text)
    }

    fn dress(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// A path as a person would type it here.
#[must_use]
pub fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
