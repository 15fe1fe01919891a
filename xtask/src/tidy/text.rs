//! Rules about any line of any file.

use super::{File, Violation};

/// Longer than this, a file has a seam that nobody cut.
const MAX_LINES: usize = 700;

pub(super) fn violations(files: &[File]) -> Vec<Violation> {
    let rules = [opens_with_its_purpose, is_not_too_long, is_portable, is_finished, keeps_the_core_pure];
    files.iter().flat_map(|file| rules.iter().flat_map(move |rule| rule(file))).collect()
}

/// Every Rust file says in its first line what it is for.
fn opens_with_its_purpose(file: &File) -> Vec<Violation> {
    if !is_rust(file) || file.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![Violation::new(file, 1, "a Rust file begins with `//!` and what it is for")]
}

fn is_not_too_long(file: &File) -> Vec<Violation> {
    let ours =
        ["rs", "proto", "md", "toml", "js", "ts", "css", "html"].iter().any(|kind| has_extension(file, kind));
    let lines = file.text.lines().count();
    if !ours || lines <= MAX_LINES {
        return Vec::new();
    }
    vec![Violation::new(file, 0, format!("{lines} lines, more than {MAX_LINES}: look for the seam"))]
}

/// No path of somebody's machine.
fn is_portable(file: &File) -> Vec<Violation> {
    // Put together here, since this file is read as well.
    let homes = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Use", "rs/")];
    search(file, |line| {
        let found = homes.iter().find(|home| contains_path(line, home))?;
        Some(format!("{found}… is a path of one machine"))
    })
}

/// Whether `line` has `folder` as the beginning of a path, not in the middle of one.
fn contains_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || "._-/}*$".contains(c))
    })
}

/// What is left for later is an issue, not a comment.
fn is_finished(file: &File) -> Vec<Violation> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    search(file, |line| {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let found = words.find(|word| marks.contains(word))?;
        Some(format!("{found}: finish it, or leave it out"))
    })
}

/// The relay's state machine has neither sockets nor a clock nor tasks.
fn keeps_the_core_pure(file: &File) -> Vec<Violation> {
    if !file.path.starts_with("relay/src/turn/") && file.path != "relay/src/turn.rs" {
        return Vec::new();
    }
    let banned = [
        "tokio",
        "mio",
        "socket2",
        "UdpSocket",
        "TcpStream",
        "TcpListener",
        "Instant::now",
        "SystemTime::now",
    ];
    search(file, |line| {
        let code = line.split("//").next().unwrap_or_default();
        let found = banned.iter().find(|banned| contains_path_of_code(code, banned))?;
        Some(format!("{found} in the state machine, which does no I/O and reads no clock"))
    })
}

/// Whether `code` has `name` as a whole.
fn contains_path_of_code(code: &str, name: &str) -> bool {
    let part_of_a_name = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code.get(..at).and_then(|before| before.chars().next_back());
        let after = code.get(at + name.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(part_of_a_name) && !after.is_some_and(part_of_a_name)
    })
}

fn search(file: &File, rule: impl Fn(&str) -> Option<String>) -> Vec<Violation> {
    let lines = file.text.lines().enumerate();
    lines.filter_map(|(at, line)| Some(Violation::new(file, at + 1, rule(line)?))).collect()
}

fn is_rust(file: &File) -> bool {
    has_extension(file, "rs")
}

fn has_extension(file: &File, extension: &str) -> bool {
    std::path::Path::new(&file.path).extension().is_some_and(|found| found == extension)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        violations(&[file]).iter().map(ToString::to_string).collect()
    }

    fn is_broken(path: &str, text: &str, rule: &str) {
        let broken = broken(path, text);
        assert!(
            broken.len() == 1 && broken[0].contains(rule),
            "{text:?} in {path} breaks {broken:?}, not {rule:?}"
        );
    }

    #[test]
    fn a_rust_file_opens_with_its_purpose() {
        is_broken("relay/src/main.rs", "use std::fmt;\n", "main.rs:1: a Rust file begins with");
        is_broken("relay/src/main.rs", "// A remark.\n", "a Rust file begins with");
        assert!(broken("relay/src/main.rs", "//! The process.\n").is_empty());
        assert!(broken("notes.md", "Some notes.\n").is_empty());
    }

    #[test]
    fn a_file_has_at_most_700_lines_unless_a_machine_wrote_it() {
        let lines = |number: usize| "//! x\n".repeat(number);
        is_broken("a.rs", &lines(701), "a.rs: 701 lines");
        assert!(broken("a.rs", &lines(700)).is_empty());
        assert!(broken("Cargo.lock", &lines(5000)).is_empty());
    }

    #[test]
    fn a_path_of_one_machine_is_found_and_a_path_within_a_repository_is_not() {
        let home = concat!("/ho", "me/");
        is_broken("README.md", &format!("\ncd {home}ada/farcall"), "README.md:2: /");
        is_broken("a.toml", &format!("path = \"{}x\"", concat!("/wo", "rk/")), "a path of one machine");
        is_broken("Dockerfile", &format!("COPY x {}", concat!("/ro", "ot/.cargo")), "a path of one machine");
        assert!(broken("README.md", &format!("see docs{home}start.md and $HOME/bin")).is_empty());
        assert!(broken("ci.yml", &format!("${{X}}{}", concat!("/wo", "rk/"))).is_empty());
    }

    #[test]
    fn nothing_is_left_for_later() {
        let mark = concat!("TO", "DO");
        is_broken("a.rs", &format!("//! A.\n// {mark}: more\n"), "a.rs:2: ");
        is_broken("a.md", &format!("({})", concat!("FIX", "ME")), "finish it");
        assert!(broken("a.md", &format!("{mark}S and lower case todo")).is_empty());
    }

    #[test]
    fn the_state_machine_knows_no_io_and_no_clock() {
        let inside = "relay/src/turn/server.rs";
        is_broken(inside, "//! S.\nuse tokio::sync::mpsc;\n", "server.rs:2: tokio");
        is_broken(inside, "//! S.\nlet socket = std::net::UdpSocket::bind(a);\n", "UdpSocket");
        is_broken(inside, "//! S.\nlet now = Instant::now();\n", "Instant::now");
        assert!(broken(inside, "//! S.\nuse std::net::SocketAddr; // not tokio\nlet mios = 1;\n").is_empty());
        assert!(broken("relay/src/io/linux.rs", "//! L.\nuse std::net::UdpSocket;\n").is_empty());
    }
}
