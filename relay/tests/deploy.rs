//! What is installed beside the binary: the unit and the example are true to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_farcall-relay");
/// Where the unit expects it.
const INSTALLED: &str = "/usr/local/bin/farcall-relay";

fn deployed(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)).unwrap()
}

fn unit() -> String {
    deployed("farcall-relay.service")
}

/// What the unit says for this key, which it says once.
fn of_unit(key: &str) -> String {
    let unit = unit();
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}")).to_owned();
    assert_eq!(values.next(), None, "{key} twice");
    value
}

fn relay(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

/// Names of keys that the example has, as they are or as comments.
fn keys_of_example() -> BTreeSet<String> {
    let example = deployed("relay.example.toml");
    let key = |line: &str| {
        let (key, _) = line.trim_start_matches("# ").split_once(" = ")?;
        let is_key =
            key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        is_key.then(|| key.to_owned())
    };
    example.lines().filter_map(key).collect()
}

#[test]
fn the_example_has_every_key_and_no_other() {
    let help = String::from_utf8(relay(&["--help"]).stdout).unwrap();
    let flag =
        |line: &str| Some(line.trim_start().strip_prefix("--")?.split([' ', '[', '=']).next()?.to_owned());
    let mut flags: BTreeSet<_> = help.lines().filter_map(flag).collect();
    for other in ["config", "help", "version"] {
        flags.remove(other);
    }
    assert_eq!(keys_of_example(), flags);
}

#[test]
fn the_unit_starts_the_program_as_it_wants_to_be_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    fs::write(&path, deployed("relay.example.toml")).unwrap();
    let check = of_unit("ExecStartPre");
    let args =
        check.strip_prefix(INSTALLED).unwrap().replace("/etc/farcall/relay.toml", path.to_str().unwrap());
    let output = relay(&args.split_whitespace().collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(of_unit("ExecStart"), check.replace(" check", ""), "it starts with what it checks");

    assert_eq!(of_unit("Type"), "notify");
    assert_eq!(of_unit("RestartPreventExitStatus"), "64");
    assert_eq!(relay(&["--relay-ports", "9-1"]).status.code(), Some(64));
    let drain: u64 = deployed("relay.example.toml")
        .lines()
        .find_map(|line| line.strip_prefix("drain-timeout = ")?.parse().ok())
        .unwrap();
    assert!(of_unit("TimeoutStopSec").parse::<u64>().unwrap() > drain, "systemd waits for the drain");
    // Sockets and records go where the unit makes a folder for them.
    let example = deployed("relay.example.toml");
    for (prefix, folder) in [("/run/", "RuntimeDirectory"), ("/var/log/", "LogsDirectory")] {
        let paths: Vec<_> = example.split(['"', ':']).filter_map(|text| text.strip_prefix(prefix)).collect();
        assert!(!paths.is_empty(), "nothing below {prefix}");
        let folder = of_unit(folder) + "/";
        assert!(paths.iter().all(|path| path.starts_with(&folder)), "{paths:?} outside of {folder}");
    }
}

#[test]
fn systemd_understands_the_unit_and_has_little_to_say_against_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("farcall-relay.service");
    fs::write(&path, unit().replace(INSTALLED, PROGRAM)).unwrap();
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).arg(&path).output();
    let Ok(verified) = analyze(&["verify"]) else {
        eprintln!("NOT RUN: systemd-analyze is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
    // Of ten; 9.6 is a service without any hardening.
    let secured = analyze(&["security", "--offline=true", "--threshold=20"]).unwrap();
    assert!(secured.status.success(), "{}", String::from_utf8_lossy(&secured.stdout));
}
