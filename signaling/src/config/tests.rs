//! What operators write, and what they are told about it.

use clap::Parser;

use super::*;

fn flags(flags: &[&str]) -> Raw {
    let line = ["farcall-signaling"].iter().chain(flags);
    CommandLine::try_parse_from(line).unwrap().settings
}

fn file(text: &str) -> Raw {
    toml::from_str(text).unwrap()
}

fn mistakes(raw: Raw) -> Vec<String> {
    Config::try_from(raw).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_said_is_a_valid_configuration() {
    let config = Config::try_from(Raw::default()).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.settings.limits.room_size, 2);
    assert_eq!(config.settings.limits.resume_window, Duration::from_secs(120));
    assert!(config.settings.tokens.is_open());
}

#[test]
fn the_example_file_is_valid_and_uses_every_key() {
    let text = include_str!("../../deploy/signaling.example.toml");
    Config::try_from(file(text)).unwrap();
    let uncommented: String =
        text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["example.org".into()]).unwrap();
    for (name, content) in [
        ("fullchain.pem", own.cert.pem()),
        ("privkey.pem", own.signing_key.serialize_pem()),
        ("clients.pem", own.cert.pem()),
        ("tokens.pub.pem", own.signing_key.public_key_pem()),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let uncommented = uncommented.replace("/etc/farcall", folder.path().to_str().unwrap());
    let raw = file(&uncommented);
    Config::try_from(file(&uncommented)).unwrap();
    let shown = format!("{raw:?}");
    assert!(!shown.contains("None"), "not every key is in the example: {shown}");
}

#[test]
fn flags_win_over_the_file() {
    let config =
        Config::try_from(flags(&["--room-size", "3"]).or(file("room-size = 4\ndrain-grace = '1s'"))).unwrap();
    assert_eq!((config.settings.limits.room_size, config.drain_grace), (3, Duration::from_secs(1)));
}

#[test]
fn every_mistake_is_reported_at_once_by_key() {
    let raw = flags(&["--listen", "here", "--stun", "http://x", "--turn", "turn:host"])
        .or(file("room-size = 1\nresume-window = 'soon'\nnonsense = true\nlog-format = 'xml'"));
    let found = mistakes(raw);
    for key in ["listen", "stun", "turn", "room-size", "resume-window", "nonsense", "log-format"] {
        assert!(
            found.iter().any(|mistake| mistake.starts_with(&format!("{key}: "))),
            "{key} not in {found:?}"
        );
    }
    assert_eq!(found.len(), 7, "{found:?}");
}

#[test]
fn a_turn_server_needs_a_secret() {
    assert_eq!(
        mistakes(flags(&["--turn", "turn:host"])),
        ["turn: needs turn-secret to make credentials with"]
    );
    assert_eq!(mistakes(flags(&["--turn-secret", ""])), ["turn-secret: the TURN secret is empty"]);
}

#[test]
fn a_backplane_is_this_process_or_a_redis() {
    for good in ["memory", "redis://h", "redis://u:p@h:6380/3", "rediss://h", "redis+unix:///run/redis.sock"]
    {
        Config::try_from(flags(&["--backplane", good])).unwrap();
    }
    for bad in ["", "memory://", "nats://h", "redis:h", "redis://", "redis://h/x", "redis://:sesame@h:port"] {
        let found = mistakes(flags(&["--backplane", bad]));
        assert_eq!(found.len(), 1, "{bad}: {found:?}");
        assert!(found[0].starts_with("backplane: is neither") && !found[0].contains("sesame"), "{found:?}");
    }
    let with_password = Config::try_from(flags(&["--backplane", "redis://:sesame@h"])).unwrap();
    assert!(!format!("{with_password:?}").contains("sesame"));
}

#[test]
fn operators_are_served_elsewhere_only_with_a_token() {
    let flags_of = |more: &[&str]| flags(&[&["--admin-listen", "0.0.0.0:1"], more].concat());
    assert_eq!(
        mistakes(flags_of(&[])),
        ["admin-listen: needs admin-token or token-key where it is not loopback"]
    );
    Config::try_from(flags_of(&["--admin-token", "x"])).unwrap();
    Config::try_from(flags(&["--admin-listen", "127.0.0.1:1"])).unwrap();
}

#[test]
fn what_makes_no_sense_about_tls_tokens_and_proxies_is_said() {
    for (bad, rule) in [
        (&["--tls-cert", "a"][..], "tls-key: 0 keys for 1 certificates"),
        (&["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "tls-cert: /nowhere: "),
        (&["--tls-client-ca", "a"], "tls-client-ca: needs tls-cert"),
        (&["--tls-client-auth", "maybe"], "tls-client-auth: `maybe` is neither"),
        (&["--cleartext", "some"], "cleartext: `some` is neither"),
        (&["--cleartext", "none"], "cleartext: is for nobody"),
        (&["--trusted-proxy", "here"], "trusted-proxy: `here` is no network"),
        (&["--token-secret", "short"], "token-key: token-secret: a secret of less than 32 bytes"),
        (&["--token-key", "/nowhere"], "token-key: /nowhere: "),
    ] {
        let found = mistakes(flags(bad));
        assert!(found.len() == 1 && found[0].starts_with(rule), "{bad:?}: {found:?}");
    }
}

#[test]
fn what_few_mean_on_an_open_network_is_warned_of() {
    let warnings = |raw: &[&str]| Config::try_from(flags(raw)).unwrap().warnings().join(";");
    let open = warnings(&["--listen", "0.0.0.0:1", "--metrics-listen", "0.0.0.0:2"]);
    for key in ["token-key: ", "tls-cert: ", "metrics-listen: ", "turn: "] {
        assert!(open.contains(key), "{key} not in {open}");
    }
    let secret = "0123456789012345678901234567890123456789";
    let closed = ["--token-secret", secret, "--turn", "turn:h", "--turn-secret", "s"];
    assert_eq!(warnings(&closed), "");
}

#[test]
fn good_uris_are_taken() {
    let good = "stun:a.example,stun:a.example:3478,stuns:1.2.3.4,stun:[2001:db8::1]:3478,stun:[::1]";
    let turn = "turn:a.example?transport=udp,turns:a.example:5349?transport=tcp,turn:[::1]:3478";
    let raw = flags(&["--stun", good, "--turn", turn, "--turn-secret", "s"]);
    let ice = Config::try_from(raw).unwrap().settings.ice.get();
    assert_eq!((ice.stun.len(), ice.turn.as_ref().unwrap().urls.len()), (5, 3));
}

#[test]
fn bad_uris_are_refused() {
    for bad in [
        "stun",
        "stun:",
        "stun:host:0",
        "stun:host:65536",
        "stun:[::1",
        "stun:[x]",
        "turn:host",
        "stun://host",
        "stun:[::1]3478",
    ] {
        assert_eq!(mistakes(flags(&["--stun", bad])).len(), 1, "{bad}");
    }
    for bad in ["stun:host", "turn:host?transport=sctp", "turn:?transport=udp"] {
        assert_eq!(mistakes(flags(&["--turn", bad, "--turn-secret", "s"])).len(), 1, "{bad}");
    }
}

#[test]
fn secrets_do_not_show() {
    let raw = flags(&["--turn", "turn:h", "--turn-secret", "north", "--join-token", "south"]);
    assert!(!format!("{raw:?}").contains("north"));
    let shown = format!("{:?}", Config::try_from(raw).unwrap());
    assert!(!shown.contains("north") && !shown.contains("south"), "{shown}");
}

#[test]
fn durations_have_a_unit() {
    for (text, millis) in [("500ms", 500), ("120s", 120_000), ("10m", 600_000), ("1h", 3_600_000)] {
        let config = Config::try_from(flags(&["--resume-window", text])).unwrap();
        assert_eq!(config.settings.limits.resume_window, Duration::from_millis(millis));
    }
    for bad in ["10", "", "s", "-1s", "1.5s", "1 s", "0s", "31d", "99999999999999999999s"] {
        assert_eq!(mistakes(flags(&[&format!("--resume-window={bad}")])).len(), 1, "{bad}");
    }
}

#[test]
fn a_line_that_is_wrong_is_named_but_not_quoted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("signaling.toml");
    std::fs::write(&path, "listen = \"127.0.0.1:0\"\njoin-token = [\"hunter2\"\n").unwrap();
    let mistake = read(&path).unwrap_err().rule;
    assert!(mistake.contains("line 2: ") && !mistake.contains("hunter2"), "{mistake}");
}

#[test]
fn what_changed_is_told_by_name_and_secrets_are_not() {
    let written = |text: &str| Written { said: file(text).said(), ..Written::default() };
    let before = written("turn-secret = 'north'\nroom-size = 2\njoins-per-minute-per-room = 9\nlog = 'info'");
    let after =
        written("turn-secret = 'south'\nroom-size = 3\ncors-origin = 'https://a.example'\nlog = 'info'");
    let told: Vec<_> = before
        .changes(&after)
        .into_iter()
        .map(|change| {
            (change.setting, change.from.unwrap_or_default(), change.to.unwrap_or_default(), change.live)
        })
        .collect();
    let expected = [
        ("cors-origin", "", r#"["https://a.example"]"#, true),
        ("joins-per-minute-per-room", r#""9""#, "", true),
        ("room-size", r#""2""#, r#""3""#, false),
        ("turn-secret", "redacted", "redacted", true),
    ];
    assert_eq!(
        told,
        expected.map(|(setting, from, to, live)| (setting.into(), from.into(), to.into(), live))
    );
}

#[test]
fn what_can_change_while_serving_are_settings() {
    let text = include_str!("../../deploy/signaling.example.toml");
    let known: String =
        text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
    let known = file(&known).said();
    for name in written::LIVE.iter().chain(&written::SECRET) {
        assert!(known.contains_key(*name), "{name}");
    }
}
