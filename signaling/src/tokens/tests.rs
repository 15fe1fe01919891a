//! Tokens that are good, and those that are not.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use farcall_proto::turn_credentials::UnixTime;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;
use crate::credentials::JoinTokens;

const SECRET: &str = "a secret of at least thirty-two bytes";
const NOW: UnixTime = UnixTime(1_000_000);

fn claims() -> Claims {
    Claims {
        sub: "ada".into(),
        room: OneOrMany::One("red".into()),
        grants: participant(),
        max_sessions: None,
        exp: NOW.0 + 60,
        nbf: None,
        aud: OneOrMany::None,
        iss: None,
    }
}

fn tokens(config: Config) -> Tokens {
    Tokens::load(config).unwrap()
}

fn with_secret() -> Tokens {
    tokens(Config { secrets: vec![SECRET.into()], ..Config::default() })
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn signed(claims: &Claims) -> String {
    bearer(&mint(SECRET.as_bytes(), None, claims).unwrap())
}

#[test]
fn a_token_says_who_may_do_what_and_where() {
    let rights = with_secret().judge(NOW, Some(&signed(&claims()))).unwrap();
    assert_eq!(rights.identity, "ada");
    assert!(rights.opens("red") && !rights.opens("blue"));
    assert!(rights.has(Grant::Create) && rights.has(Grant::Relay) && !rights.has(Grant::Admin));
    let watcher = Claims { grants: vec![Grant::Admin], ..claims() };
    assert!(!with_secret().judge(NOW, Some(&signed(&watcher))).unwrap().opens("red"));
    let nowhere = Claims { room: OneOrMany::None, ..claims() };
    assert!(!with_secret().judge(NOW, Some(&signed(&nowhere))).unwrap().opens("red"));
}

#[test]
fn a_star_stands_for_any_characters() {
    for (pattern, room) in [
        ("*", ""),
        ("*", "red"),
        ("team-*", "team-"),
        ("team-*", "team-a"),
        ("*-x-*", "a-x-b"),
        ("a*a", "aa"),
    ] {
        assert!(matches(pattern, room), "{pattern} {room}");
    }
    for (pattern, room) in
        [("", "red"), ("red", "red2"), ("team-*", "tea"), ("a*a", "a"), ("*b", "ba"), ("r?d", "red")]
    {
        assert!(!matches(pattern, room), "{pattern} {room}");
    }
}

#[test]
fn a_token_has_its_time_with_some_leeway() {
    let tokens = with_secret();
    let judge = |now, claims: &Claims| tokens.judge(UnixTime(now), Some(&signed(claims))).map(drop);
    assert_eq!(judge(NOW.0 + 89, &claims()), Ok(()));
    assert_eq!(judge(NOW.0 + 90, &claims()), Err(Refused::Expired));
    let later = Claims { nbf: Some(NOW.0), ..claims() };
    assert_eq!((judge(NOW.0 - 30, &later), judge(NOW.0 - 31, &later)), (Ok(()), Err(Refused::Bad)));
}

#[test]
fn audience_and_issuer_are_asked_for_where_they_are_configured() {
    let tokens = tokens(Config {
        secrets: vec![SECRET.into()],
        audience: vec!["us".into()],
        issuer: vec!["them".into()],
        ..Config::default()
    });
    let good = Claims {
        aud: OneOrMany::Many(vec!["others".into(), "us".into()]),
        iss: Some("them".into()),
        ..claims()
    };
    tokens.judge(NOW, Some(&signed(&good))).unwrap();
    for bad in [
        Claims { aud: OneOrMany::One("others".into()), ..good.clone() },
        Claims { aud: OneOrMany::None, ..good.clone() },
        Claims { iss: None, ..good },
    ] {
        assert_eq!(tokens.judge(NOW, Some(&signed(&bad))), Err(Refused::Bad));
    }
}

#[test]
fn keys_of_three_kinds_are_good_at_once_and_follow_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ec = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key_files = vec![
        file("ed.pem", &ed.public_key_pem()),
        file("ec.pem", &ec.public_key_pem()),
        file("old.key", SECRET),
    ];
    let tokens = tokens(Config { key_files, ..Config::default() });
    let judge = |key: &str, id: Option<&str>| {
        let token = mint(key.as_bytes(), id.map(Into::into), &claims()).unwrap();
        tokens.judge(NOW, Some(&bearer(&token))).map(drop)
    };
    for (key, own) in [(&*ed.serialize_pem(), "ed"), (&*ec.serialize_pem(), "ec"), (SECRET, "old")] {
        assert_eq!((judge(key, None), judge(key, Some(own))), (Ok(()), Ok(())), "{own}");
        assert_eq!(judge(key, Some("another")), Err(Refused::Bad), "{own}");
    }
    // The old one goes; what cannot be read changes nothing.
    file("old.key", "too short");
    assert!(tokens.reload().unwrap_err().to_string().contains("32 bytes"));
    assert_eq!(judge(SECRET, None), Ok(()));
    let set = format!(
        r#"{{"keys":[{{"kty":"oct","kid":"new","k":"{}"}}]}}"#,
        URL_SAFE_NO_PAD.encode("another secret of at least thirty-two bytes")
    );
    file("old.key", &set);
    tokens.reload().unwrap();
    assert_eq!(judge(SECRET, None), Err(Refused::Bad));
    assert_eq!(judge("another secret of at least thirty-two bytes", Some("new")), Ok(()));
    file("old.key", &ed.serialize_pem());
    assert!(tokens.reload().unwrap_err().to_string().contains("private key"));
}

#[test]
fn a_public_key_is_no_secret_and_no_signature_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let ed = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let path = folder.path().join("ed.pem");
    std::fs::write(&path, ed.public_key_pem()).unwrap();
    let tokens = tokens(Config { key_files: vec![path], ..Config::default() });
    let forged = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims(),
        &EncodingKey::from_secret(ed.public_key_pem().as_bytes()),
    )
    .unwrap();
    let good = mint(ed.serialize_pem().as_bytes(), None, &claims()).unwrap();
    let body = good.split('.').nth(1).unwrap();
    let none = format!("{}.{body}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    let tampered = good.replacen('.', ".A", 1);
    for bad in [&forged, &none, &tampered, "", "x", &"x".repeat(9000)] {
        assert_eq!(tokens.judge(NOW, Some(&bearer(bad))), Err(Refused::Bad), "{bad}");
    }
    assert!(tokens.judge(NOW, Some(&good)).is_err(), "without its scheme");
    assert!(tokens.judge(NOW, Some(&bearer(&good))).is_ok());
}

#[test]
fn a_key_of_another_curve_is_refused_where_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let path = folder.path().join("p384.pem");
    std::fs::write(&path, p384.public_key_pem()).unwrap();
    let error = Tokens::load(Config { key_files: vec![path], ..Config::default() }).unwrap_err();
    assert!(error.to_string().ends_with("p384.pem: holds a key of a curve other than P-256"), "{error}");
    let error = mint(p384.serialize_pem().as_bytes(), None, &claims()).unwrap_err();
    assert_eq!(error, "holds a key of a curve other than P-256");
}

#[test]
fn without_keys_everybody_may_and_with_static_tokens_their_bearers() {
    assert!(tokens(Config::default()).judge(NOW, None).unwrap().opens("anything"));
    let fixed = tokens(Config {
        fixed: JoinTokens::new(["blue"]),
        secrets: vec![SECRET.into()],
        ..Config::default()
    });
    assert!(fixed.judge(NOW, Some("Bearer blue")).unwrap().opens("anything"));
    assert!(fixed.judge(NOW, Some(&signed(&claims()))).unwrap().opens("red"));
    assert_eq!(fixed.judge(NOW, None), Err(Refused::Bad));
    let only_keys = with_secret();
    assert_eq!(only_keys.judge(NOW, None), Err(Refused::Bad));
    assert_eq!(only_keys.judge(NOW, Some("Bearer blue")), Err(Refused::Bad));
}
