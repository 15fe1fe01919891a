//! Tables that name tests: every name must be one that `cargo test NAME` finds in the crate of the table.
//!
//! A table counts if its last column is headed `Test`. Its rows name tests in backticks; a row whose status is "no" may
//! do without.

use super::{File, Violation};

pub(super) fn violations(files: &[File]) -> Vec<Violation> {
    let readmes = files.iter().filter_map(|file| Some((file, file.path.strip_suffix("/README.md")?)));
    readmes
        .flat_map(|(readme, folder)| {
            let rows = rows(&readme.text);
            let tests = if rows.is_empty() { Vec::new() } else { tests(files, folder) };
            rows.into_iter().flat_map(move |row| row.violations(readme, folder, &tests))
        })
        .collect()
}

/// A row of a table that names tests.
struct Row<'a> {
    line: usize,
    cells: Vec<&'a str>,
}

impl Row<'_> {
    fn violations(&self, readme: &File, folder: &str, tests: &[String]) -> Vec<Violation> {
        let last = self.cells.last().copied().unwrap_or_default();
        let names = last.split('`').skip(1).step_by(2).collect::<Vec<_>>();
        let is_absent = self.cells.iter().rev().nth(1).is_some_and(|status| *status == "no");
        if names.is_empty() && !is_absent {
            return vec![Violation::new(readme, self.line, "this row names no test")];
        }
        let missing = names.into_iter().filter(|name| !tests.iter().any(|test| test.contains(name)));
        let rule = |name| format!("no test under {folder}/ is called {name}");
        missing.map(|name| Violation::new(readme, self.line, rule(name))).collect()
    }
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let mut counts = false;
    for (at, line) in text.lines().enumerate() {
        let Some(inner) = line.strip_prefix('|').and_then(|rest| rest.trim_end().strip_suffix('|')) else {
            counts = false;
            continue;
        };
        let cells = inner.split('|').map(str::trim).collect::<Vec<_>>();
        if cells.last() == Some(&"Test") {
            counts = true;
        } else if counts && !inner.starts_with("---") {
            rows.push(Row { line: at + 1, cells });
        }
    }
    rows
}

/// The tests of a crate as `cargo test` calls them, as far as files and names say.
fn tests(files: &[File], folder: &str) -> Vec<String> {
    let mut tests = Vec::new();
    for file in files {
        let Some(path) = file.path.strip_prefix(folder).and_then(|path| path.strip_suffix(".rs")) else {
            continue;
        };
        let (module, is_source) = match (path.strip_prefix("/src/"), path.strip_prefix("/tests/")) {
            (Some(module), _) => (module, true),
            (None, Some(module)) => (module, false),
            (None, None) => continue,
        };
        let module = module.trim_end_matches("/mod").replace('/', "::");
        // Tests beside the code are in a module of their own.
        let inner = if is_source && file.text.contains("\nmod tests {") { "::tests" } else { "" };
        tests.extend(functions(&file.text).map(|name| format!("{module}{inner}::{name}")));
    }
    tests
}

/// What follows a `#[test]`.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.split("#[test]").skip(1).filter_map(|after| {
        let (_, name) = after.split_once("fn ")?;
        name.split(['(', '<']).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: &str =
        "//! T.\n#[test]\nfn it_holds() {}\n\n#[test]\n#[ignore]\nfn it_lasts() {}\nfn helper() {}\n";

    fn broken(table: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let beside = format!("//! B.\nmod tests {{\n{TESTS}}}\n");
        let files = [
            file(
                "relay/README.md",
                &format!("# Relay\n\n| What | Status | Test |\n|---|---|---|\n{table}\n"),
            ),
            file("relay/tests/hostile/limits.rs", TESTS),
            file("relay/src/turn/mod.rs", &beside),
            file("peer/src/alone.rs", "//! A.\n#[test]\nfn elsewhere() {}\n"),
        ];
        violations(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_are_found_as_cargo_test_finds_them() {
        for name in ["it_holds", "hostile::limits", "limits::it_lasts", "turn::tests", "it_"] {
            assert_eq!(broken(&format!("| a | yes | `{name}` |")), Vec::<String>::new(), "{name}");
        }
        assert_eq!(broken("| a | no | |"), Vec::<String>::new());
    }

    #[test]
    fn a_name_of_nothing_is_found() {
        for name in ["it_held", "helper", "elsewhere", "turn::it_holds"] {
            let expected = format!("relay/README.md:5: no test under relay/ is called {name}");
            assert_eq!(broken(&format!("| a | yes | `it_holds`, `{name}` |")), [expected]);
        }
    }

    #[test]
    fn a_row_without_a_test_is_found_and_other_tables_are_left_alone() {
        assert_eq!(broken("| a | yes | soon |"), ["relay/README.md:5: this row names no test"]);
        assert_eq!(broken("\n| Flag | Default |\n|---|---|\n| a | b |"), Vec::<String>::new());
    }
}
