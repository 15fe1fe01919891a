//! Where values come from, and what is said about wrong ones.

use clap::Parser;

use super::*;
use crate::auth::ListenerMatch;

fn config(flags: &[&str]) -> Result<Config, ConfigError> {
    match Args::try_parse_from([&["farcall-relay"], flags].concat()) {
        Ok(args) => Config::load(args),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn without_a_word_everything_has_its_default() {
    let config = config(&[]).unwrap();
    assert_eq!(config.listen, ["0.0.0.0:3478".parse().unwrap()]);
    assert_eq!(
        (config.auth.default_realm.name.as_str(), config.relay_ports.clone()),
        ("farcall", 49152..=65535)
    );
    assert_eq!((config.user_limits, config.unauthenticated_rate), (Limits::default(), NonZeroU32::new(1000)));
    assert_eq!((config.channels, config.classic_stun), (ChannelRange::Rfc8656, ClassicStun::Silent));
}

#[test]
fn the_example_file_is_good() {
    let config = Config::from_toml(include_str!("../../deploy/relay.example.toml")).unwrap();
    assert!(!config.auth.default_realm.secrets.is_empty() && config.metrics_listen.is_some());
}

#[test]
fn every_flag_reads_in_a_file_as_on_the_command_line() {
    let flags = config(&[
        "--listen=127.0.0.1:1,[::1]:1",
        "--listen=127.0.0.1:2",
        "--alternate-listen=127.0.0.2:2,[::2]:0",
        "--realm=r",
        "--user=a:b:c",
        "--auth-secret=s",
        "--oauth-key=north:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        "--oauth-server=turn.example",
        "--jwt-key=a:HS256:YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4=",
        "--jwt-secret=s",
        "--jwt-audience=turn",
        "--auth-webhook=https://auth.example/turn",
        "--auth-webhook-token=t",
        "--auth-webhook-timeout=5",
        "--auth-webhook-concurrency=2",
        "--relay-ip=10.0.0.1",
        "--external-ip=1.2.3.4",
        "--relay-ports=1-9",
        "--allow-peer=10.0.0.0/8",
        "--deny-peer=1.1.1.1",
        "--only-allowed-peers",
        "--workers=3",
        "--data-plane=portable",
        "--receive-buffer=65536",
        "--send-buffer=131072",
        "--user-quota=5",
        "--user-bandwidth=1000",
        "--user-packets=50",
        "--user-new-peers=3",
        "--allocation-peers=4",
        "--unauthenticated-rate=0",
        "--rfc5766-channels",
        "--classic-stun",
        "--metrics-listen=127.0.0.1:9",
        "--external-ip-server=stun.example:3478",
        "--admin-listen=0.0.0.0:5",
        "--admin-token=0123456789abcdef",
        "--drain-timeout=30s",
        "--upgrade-socket=/run/x",
        "--usage-log=-",
        "--log=debug",
        "--log-format=json",
    ]);
    let file = Config::from_toml(
        r#"
        listen = ["127.0.0.1:1", "[::1]:1", "127.0.0.1:2"]
        alternate-listen = ["127.0.0.2:2", "[::2]:0"]
        realm = "r"
        user = "a:b:c"
        auth-secret = ["s"]
        oauth-key = "north:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
        oauth-server = "turn.example"
        jwt-key = "a:HS256:YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4="
        jwt-secret = ["s"]
        jwt-audience = "turn"
        auth-webhook = "https://auth.example/turn"
        auth-webhook-token = "t"
        auth-webhook-timeout = 5
        auth-webhook-concurrency = 2
        relay-ip = "10.0.0.1"
        external-ip = "1.2.3.4"
        relay-ports = "1-9"
        allow-peer = ["10.0.0.0/8"]
        deny-peer = ["1.1.1.1"]
        only-allowed-peers = true
        workers = 3
        data-plane = "portable"
        receive-buffer = 65536
        send-buffer = 131072
        user-quota = 5
        user-bandwidth = 1000
        user-packets = 50
        user-new-peers = 3
        allocation-peers = 4
        unauthenticated-rate = 0
        rfc5766-channels = true
        classic-stun = true
        metrics-listen = "127.0.0.1:9"
        external-ip-server = ["stun.example:3478"]
        admin-listen = "0.0.0.0:5"
        admin-token = "0123456789abcdef"
        drain-timeout = "30s"
        upgrade-socket = "/run/x"
        usage-log = "-"
        log = "debug"
        log-format = "json"
        "#,
    );
    let (flags, file) = (flags.unwrap(), file.unwrap());
    assert_eq!(format!("{flags:?}"), format!("{file:?}"));
    assert_eq!(flags.auth.default_realm.users, file.auth.default_realm.users);
    assert_eq!(flags.auth.default_realm.users[0].password, "b:c", "the first colon parts name and password");
    assert_eq!(flags.unauthenticated_rate, None);
}

#[test]
fn flags_win_over_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, b"realm = \"file\"\nworkers = 7\n").unwrap();
    let path = file.path().to_str().unwrap();
    let config = config(&["--config", path, "--realm", "flag"]).unwrap();
    assert_eq!((config.auth.default_realm.name.as_str(), config.workers.get()), ("flag", 7));
}

#[test]
fn every_mistake_is_reported_at_once_and_by_key() {
    let error = config(&[
        "--listen=nowhere",
        "--alternate-listen=127.0.0.1",
        "--alternate-server=turn.example",
        "--alternate-tls-server=5349",
        "--realm=",
        "--user=alice",
        "--auth-secret=",
        "--oauth-key=north:AAAA",
        "--oauth-server=",
        "--jwt-key=a:HS512:AAAA",
        "--jwt-secret=",
        "--auth-webhook=ftp://x",
        "--auth-webhook-ca=/nonexistent",
        "--auth-webhook-timeout=0",
        "--auth-webhook-concurrency=0",
        "--relay-ip=0.0.0.0",
        "--external-ip=x",
        "--relay-ports=9-1",
        "--allow-peer=10.0.0.0/33",
        "--deny-peer=10.0.0.1/8",
        "--data-plane=fast",
        "--receive-buffer=65535",
        "--send-buffer=2000000000",
        "--workers=0",
        "--user-quota=-1",
        "--user-bandwidth=10M",
        "--user-packets=x",
        "--user-new-peers=0.5",
        "--allocation-peers=-1",
        "--unauthenticated-rate=many",
        "--rfc5766-channels=2",
        "--classic-stun=maybe",
        "--metrics-listen=1",
        "--external-ip-server=nowhere",
        "--admin-listen=unix:",
        "--admin-token=short",
        "--drain-timeout=soon",
        "--upgrade-socket=",
        "--usage-log=",
        "--log-format=xml",
        "--log=a=b=c",
    ])
    .unwrap_err();
    let keys: Vec<_> = error.mistakes().iter().map(|mistake| mistake.split(':').next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "listen",
            "alternate-listen",
            "alternate-server",
            "alternate-tls-server",
            "realm",
            "user",
            "auth-secret",
            "oauth-key",
            "oauth-server",
            "jwt-key",
            "jwt-secret",
            "auth-webhook",
            "auth-webhook-ca",
            "auth-webhook-timeout",
            "relay-ip",
            "external-ip",
            "relay-ports",
            "allow-peer",
            "deny-peer",
            "data-plane",
            "receive-buffer",
            "send-buffer",
            "workers",
            "auth-webhook-concurrency",
            "user-quota",
            "user-bandwidth",
            "user-packets",
            "user-new-peers",
            "allocation-peers",
            "unauthenticated-rate",
            "rfc5766-channels",
            "classic-stun",
            "metrics-listen",
            "external-ip-server",
            "admin-listen",
            "admin-token",
            "drain-timeout",
            "upgrade-socket",
            "usage-log",
            "log",
            "log-format"
        ]
    );
    assert_eq!(error.to_string().lines().count(), keys.len());
}

#[test]
fn what_only_shows_across_values_is_a_mistake_too() {
    let error = config(&[
        "--listen=127.0.0.1:1,127.0.0.1:1",
        "--relay-ip=10.0.0.1,10.0.0.2",
        "--user=a:1",
        "--user=a:2",
    ])
    .unwrap_err();
    assert_eq!(error.mistakes().len(), 3, "{error}");
    assert!(config(&["--listen=127.0.0.1:0,127.0.0.1:0"]).is_ok(), "two ports of the system's choice");
}

#[test]
fn an_alternate_differs_from_a_listener_of_its_family_in_address_and_port() {
    for (listen, alternate) in [
        ("127.0.0.1:1", "127.0.0.1:2"),
        ("127.0.0.1:1", "127.0.0.2:1"),
        ("127.0.0.1:1", "[::2]:2"),
        ("127.0.0.1:1", "0.0.0.0:2"),
        ("0.0.0.0:1", "127.0.0.2:2"),
        ("127.0.0.1:1", "127.0.0.2:2,127.0.0.3:3"),
    ] {
        let flags = [format!("--listen={listen}"), format!("--alternate-listen={alternate}")];
        let error = config(&[&flags[0], &flags[1]]).unwrap_err();
        assert!(error.to_string().starts_with("alternate-listen: "), "{listen} {alternate}: {error}");
        assert_eq!(error.mistakes().len(), 1, "{error}");
    }
    assert!(config(&["--alternate-listen=127.0.0.2:2"]).is_err(), "the default names no address");
    for alternate in ["127.0.0.2:2", "127.0.0.2:0"] {
        let alternate = format!("--alternate-listen={alternate}");
        assert!(config(&["--listen=127.0.0.1:1", &alternate]).is_ok(), "{alternate}");
    }
}

#[test]
fn a_wrong_secret_is_not_repeated_and_a_right_one_not_shown() {
    let error = config(&["--user=hunter2", "--user=:hunter2", "--oauth-key=x:hunter2", "--jwt-key=hunter2"])
        .unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let config = config(&["--user=alice:hunter2", "--auth-secret=hunter2"]).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn unknown_flags_and_keys_are_refused() {
    for flag in ["--quic-listen=127.0.0.1:1", "--x"] {
        assert!(Args::try_parse_from(["farcall-relay", flag]).is_err(), "{flag}");
    }
    let error = Config::from_toml("quic-listen = \"127.0.0.1:1\"").unwrap_err();
    assert!(error.to_string().contains("quic-listen"), "{error}");
    assert!(config(&["--config", "/nonexistent/relay.toml"]).unwrap_err().to_string().contains("relay.toml"));
}

const REALMS: &str = r#"
user = "flag:1"

[[realm]]
name = "default.example"
user = ["alice:1"]
auth-secret = "s"

[[realm]]
name = "one.example"
listen = ["10.0.0.1", ":3479", "10.0.0.2:3480", "[::1]:3481"]
user = ["alice:2", "bob:3"]

[[realm]]
name = "two.example"
listen = ":3482"
oauth-key = "north:MTIzNDU2Nzg5MDEyMzQ1Ng==:1700000000-"
"#;

#[test]
fn realms_come_in_tables_and_flags_speak_of_the_default_one() {
    let auth = Config::from_toml(REALMS).unwrap().auth;
    assert_eq!(auth.default_realm.name, "default.example");
    assert_eq!(auth.default_realm.users[0].name, "flag", "what stands outside of tables wins");
    assert_eq!(auth.default_realm.secrets.len(), 1);
    let [one, two] = &auth.other_realms[..] else { panic!() };
    assert_eq!((one.name.as_str(), one.users.len(), one.listeners.len()), ("one.example", 2, 4));
    assert_eq!(one.listeners[1], ListenerMatch { ip: None, port: Some(3479) });
    let oauth = two.oauth.as_ref().unwrap();
    assert_eq!((oauth.server_name.as_str(), oauth.keys.len()), ("two.example", 1));
    assert!(oauth.keys[0].from.is_some() && oauth.keys[0].until.is_none());

    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, REALMS.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let auth = config(&["--config", path, "--realm", "flag.example", "--auth-secret=t"]).unwrap().auth;
    assert_eq!((auth.default_realm.name.as_str(), auth.other_realms.len()), ("flag.example", 2));
}

#[test]
fn mistakes_in_a_realm_name_it() {
    let error = Config::from_toml(
        r#"
        [[realm]]
        name = "a"
        [[realm]]
        name = "b"
        [[realm]]
        listen = ":1"
        [[realm]]
        name = "c"
        listen = ["nowhere"]
        user = ["x", "d:1", "d:2"]
        oauth-server = "turn"
        "#,
    );
    let error = error.unwrap_err();
    let keys: Vec<_> = error.mistakes().iter().map(|mistake| mistake.split(':').next().unwrap()).collect();
    assert_eq!(
        keys,
        ["realm", "realm", "realm.c.user", "realm.c.user", "realm.c.oauth-server", "realm.c.listen"]
    );
    assert!(Config::from_toml("[[realm]]\nname = \"a\"\nworkers = 1").is_err());
}

#[test]
fn a_line_that_is_wrong_is_named_but_not_quoted() {
    for (text, line) in [
        ("listen = []\nuser = [\"alice:hunter2\"\n", "line 2: "),
        ("user = \"alice:hunter2\" oops", "line 1: "),
    ] {
        let error = Config::from_toml(text).unwrap_err().to_string();
        assert!(error.contains(line) && !error.contains("hunter2"), "{error}");
    }
}
