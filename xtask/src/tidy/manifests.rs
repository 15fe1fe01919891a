//! Rules about `Cargo.toml`: which way dependencies point, where versions live, who has the lints.

use anyhow::{Context, Result};

use super::{File, Violation};

/// Which of our crates each of ours may depend on. Whoever is not listed here has to be thought about first.
const MAY_DEPEND_ON: [(&str, &[&str]); 6] = [
    ("farcall-proto", &[]),
    ("farcall-signaling", &["farcall-proto"]),
    ("farcall-peer", &["farcall-proto"]),
    ("farcall-relay", &["farcall-proto"]),
    // The relay's codec alone: the load of the measurements speaks STUN.
    ("farcall-tests", &["farcall-proto", "farcall-relay"]),
    ("xtask", &[]),
];

pub(super) fn violations(files: &[File]) -> Result<Vec<Violation>> {
    let root = files.iter().find(|file| file.path == "Cargo.toml").context("there is no Cargo.toml")?;
    let mut violations = Vec::new();
    for member in members(&root.text) {
        let path = format!("{member}/Cargo.toml");
        let Some(manifest) = files.iter().find(|file| file.path == path) else {
            violations.push(Violation::new(root, 0, format!("the member {member} has no Cargo.toml")));
            continue;
        };
        violations.extend(has_the_lints(manifest));
        violations.extend(points_downward(manifest));
        violations.extend(takes_versions_from_the_root(manifest));
    }
    Ok(violations)
}

fn has_the_lints(manifest: &File) -> Option<Violation> {
    let has = entries(&manifest.text).any(|entry| {
        (entry.section == "lints" && entry.key == "workspace" && entry.value == "true")
            || (entry.section.is_empty() && entry.key == "lints.workspace" && entry.value == "true")
    });
    (!has).then(|| Violation::new(manifest, 0, "every member says `[lints] workspace = true`"))
}

fn points_downward(manifest: &File) -> Vec<Violation> {
    let name = entries(&manifest.text).find(|entry| entry.section == "package" && entry.key == "name");
    let name = name.map(|entry| entry.value.trim_matches('"').to_owned()).unwrap_or_default();
    let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(member, _)| *member == name) else {
        let rule = format!("tidy does not know which of our crates {name} may depend on");
        return vec![Violation::new(manifest, 0, rule)];
    };
    let ours = |dependency: &str| MAY_DEPEND_ON.iter().any(|(member, _)| *member == dependency);
    dependencies(&manifest.text)
        .filter(|(_, dependency, _)| ours(dependency) && !allowed.contains(&dependency.as_str()))
        .map(|(line, dependency, _)| {
            Violation::new(manifest, line, format!("{name} must not depend on {dependency}"))
        })
        .collect()
}

fn takes_versions_from_the_root(manifest: &File) -> Vec<Violation> {
    dependencies(&manifest.text)
        .filter(|(.., from_the_root)| !from_the_root)
        .map(|(line, dependency, _)| {
            Violation::new(
                manifest,
                line,
                format!("the version of {dependency} belongs into the root: `workspace = true`"),
            )
        })
        .collect()
}

/// Line, name, and whether the root says which version.
fn dependencies(manifest: &str) -> impl Iterator<Item = (usize, String, bool)> {
    entries(manifest).filter_map(|entry| {
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        let last = entry.section.rsplit('.').next().unwrap_or_default();
        if kinds.contains(&last) {
            let (name, attribute) = entry.key.split_once('.').unwrap_or((&entry.key, ""));
            let value = entry.value.replace(' ', "");
            let from_the_root =
                (attribute == "workspace" && value == "true") || value.contains("workspace=true");
            return Some((entry.line, name.to_owned(), from_the_root));
        }
        // [dependencies.name], of which one line is enough
        let (before, name) = entry.section.rsplit_once('.')?;
        let within = kinds.contains(&before.rsplit('.').next().unwrap_or_default());
        let telling = ["workspace", "version", "path", "git"].contains(&entry.key.as_str());
        (within && telling).then(|| (entry.line, name.to_owned(), entry.key == "workspace"))
    })
}

/// `key = value` of a manifest, with the table it stands in.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    line: usize,
    section: String,
    key: String,
    value: String,
}

/// As much of TOML as manifests use: one entry per line; a value that goes on below is cut at its first line.
fn entries(manifest: &str) -> impl Iterator<Item = Entry> {
    let mut section = String::new();
    manifest.lines().enumerate().filter_map(move |(at, line)| {
        let line = line.split(" #").next().unwrap_or_default().trim();
        if let Some(table) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = table.trim_matches(['[', ']']).trim().to_owned();
            return None;
        }
        let (key, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        Some(Entry {
            line: at + 1,
            section: section.clone(),
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        })
    })
}

/// `[workspace] members`, on one line or several.
fn members(root: &str) -> Vec<String> {
    let Some((_, list)) = root.split_once("members") else { return Vec::new() };
    let list = list.split(']').next().unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace]\nresolver = \"3\"\nmembers = [\n  \"relay\",\n]\n";
    const GOOD: &str = "[package]\nname = \"farcall-relay\"\n\n[dependencies]\nfarcall-proto.workspace = true\n\
                        serde = { workspace = true, features = [\"rc\"] }\n\n[lints]\nworkspace = true\n";

    fn broken(manifest: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files = [file("Cargo.toml", ROOT), file("relay/Cargo.toml", manifest)];
        violations(&files).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_good_manifest_breaks_nothing() {
        assert_eq!(broken(GOOD), Vec::<String>::new());
    }

    #[test]
    fn a_member_without_the_lints_is_found() {
        let without = GOOD.replace("[lints]\nworkspace = true\n", "");
        assert_eq!(broken(&without), ["relay/Cargo.toml: every member says `[lints] workspace = true`"]);
    }

    #[test]
    fn a_dependency_that_points_the_wrong_way_is_found_in_every_table() {
        let expected =
            |line| format!("relay/Cargo.toml:{line}: farcall-relay must not depend on farcall-peer");
        let wrong = GOOD.replace("farcall-proto", "farcall-peer");
        assert_eq!(broken(&wrong), [expected(5)]);
        let wrong = format!("{GOOD}\n[dev-dependencies]\nfarcall-peer = {{ workspace = true }}\n");
        assert_eq!(broken(&wrong), [expected(12)]);
        let wrong = format!("{GOOD}\n[target.'cfg(unix)'.dependencies]\nfarcall-peer.workspace = true\n");
        assert_eq!(broken(&wrong), [expected(12)]);
        let wrong = format!("{GOOD}\n[build-dependencies.farcall-peer]\nworkspace = true\n");
        assert_eq!(broken(&wrong), [expected(12)]);
    }

    #[test]
    fn a_version_outside_of_the_root_is_found() {
        let wrong = GOOD.replace("serde = { workspace = true,", "serde = { version = \"1\",");
        assert_eq!(
            broken(&wrong),
            ["relay/Cargo.toml:6: the version of serde belongs into the root: `workspace = true`"]
        );
        let wrong = format!("{GOOD}\n[dependencies.bytes]\nversion = \"1\"\n");
        assert_eq!(broken(&wrong).len(), 1);
    }

    #[test]
    fn a_crate_that_nobody_thought_about_is_found() {
        let wrong = GOOD.replace("farcall-relay", "farcall-new");
        assert_eq!(
            broken(&wrong),
            ["relay/Cargo.toml: tidy does not know which of our crates farcall-new may depend on"]
        );
    }
}
