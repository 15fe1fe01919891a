//! Signed tokens: what `farcall-signaling token` makes, and what the server makes of it.

use std::process::Stdio;

use farcall_proto::signaling::v1::GetIceServersRequest;
use farcall_proto::signaling::v1::join_response::Body;
use rcgen::KeyPair;
use tonic::{Code, Request, Status};

use crate::harness::{Client, Participant, Server, command, reason, request, soon};

const SECRET: &str = "a secret of at least thirty-two bytes";

/// A token as the program makes it.
async fn token(flags: &[&str]) -> String {
    let mut made = command(&["token"]);
    let output = made.args(flags).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = soon("a token", output).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn with_token<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

async fn join(server: &Server, room: &str, token: &str) -> Result<Participant, Status> {
    Participant::join_with(server.client().await, with_token(request(room), token)).await
}

async fn refused(server: &Server, room: &str, token: &str) -> (Code, String) {
    reason(&join(server, room, token).await.err().expect("it was not refused"))
}

#[tokio::test]
async fn a_token_says_who_somebody_is_and_the_others_see_it() {
    let server = Server::start(&["--token-secret", SECRET]).await;
    let make = async |who| token(&["--secret", SECRET, "--room", "red", "--identity", who]).await;
    let mut ada = join(&server, "red", &make("ada").await).await.unwrap();
    assert_eq!(ada.welcome.self_.as_ref().unwrap().identity, "ada");
    let bob = join(&server, "red", &make("bob").await).await.unwrap();
    assert_eq!(bob.welcome.others[0].identity, "ada");
    assert_eq!(ada.next_event().await.participant.unwrap().identity, "bob");
}

#[tokio::test]
async fn a_token_opens_its_rooms_and_does_what_it_grants() {
    let server = Server::start(&["--token-secret", SECRET]).await;
    let guest =
        token(&["--secret", SECRET, "--room", "team-*", "--grant", "join", "--identity", "guest"]).await;
    let host = token(&["--secret", SECRET, "--room", "team-a", "--room", "lobby"]).await;
    assert_eq!(refused(&server, "red", &guest).await, (Code::PermissionDenied, "NOT_GRANTED".into()));
    assert_eq!(refused(&server, "team-a", &guest).await, (Code::PermissionDenied, "MAY_NOT_CREATE".into()));
    let _host = join(&server, "team-a", &host).await.unwrap();
    join(&server, "team-a", &guest).await.unwrap();
    let watcher = token(&["--secret", SECRET, "--grant", "admin"]).await;
    assert_eq!(refused(&server, "team-a", &watcher).await, (Code::PermissionDenied, "NOT_GRANTED".into()));
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_with_its_reason() {
    let server = Server::start(&["--token-secret", SECRET]).await;
    let other = "another secret of at least thirty-two bytes";
    let forged = token(&["--secret", other, "--room", "red"]).await;
    assert_eq!(refused(&server, "red", &forged).await, (Code::Unauthenticated, "BAD_TOKEN".into()));
    let status = Participant::join(server.client().await, request("red")).await.err().unwrap();
    assert_eq!(reason(&status), (Code::Unauthenticated, "BAD_TOKEN".into()));
    let expired = {
        // {"room":"*","exp":1}, signed as it should be.
        use farcall_signaling::tokens::{Claims, OneOrMany, mint};
        let claims = Claims {
            sub: String::new(),
            room: OneOrMany::One("*".into()),
            grants: Vec::new(),
            max_sessions: None,
            exp: 1,
            nbf: None,
            aud: OneOrMany::None,
            iss: None,
        };
        mint(SECRET.as_bytes(), None, &claims).unwrap()
    };
    assert_eq!(refused(&server, "red", &expired).await, (Code::Unauthenticated, "TOKEN_EXPIRED".into()));
}

#[tokio::test]
async fn turn_credentials_are_for_those_who_are_granted_them() {
    let turn = ["--turn", "turn:turn.example.org", "--turn-secret", "s"];
    let server = Server::start(&[&["--token-secret", SECRET][..], &turn].concat()).await;
    let plain = token(&["--secret", SECRET, "--room", "red", "--grant", "join", "--grant", "create"]).await;
    let relayed = token(&["--secret", SECRET, "--room", "red"]).await;
    for (token, servers) in [(plain, 0), (relayed, 1)] {
        let mut ada = join(&server, "red", &token).await.unwrap();
        assert_eq!(ada.welcome.ice_servers.len(), servers);
        let ask = GetIceServersRequest {
            session_id: ada.welcome.session_id.clone(),
            resume_secret: ada.welcome.resume_secret.clone(),
        };
        let status = ada.client.get_ice_servers(ask.clone()).await.unwrap_err();
        assert_eq!(reason(&status).1, "BAD_TOKEN");
        let fresh = ada.client.get_ice_servers(with_token(ask, &token)).await.unwrap().into_inner();
        assert_eq!(fresh.ice_servers.len(), servers);
        ada.leave().await;
    }
}

#[tokio::test]
async fn a_session_outlives_its_token_and_is_resumed_with_a_new_one() {
    let server = Server::start(&["--token-secret", SECRET]).await;
    let make = async || token(&["--secret", SECRET, "--room", "red", "--identity", "ada"]).await;
    let mut ada = join(&server, "red", &make().await).await.unwrap();
    // What is said needs no token: the session's own secret is enough.
    ada.text("anybody?").await;
    let again = ada.resumption(0);
    let status = Participant::join(server.client().await, again.clone()).await.err().unwrap();
    assert_eq!(reason(&status).1, "BAD_TOKEN");
    let resumed = Participant::join_with(server.client().await, with_token(again, &make().await)).await;
    assert_eq!(resumed.unwrap().id(), ada.id());
}

#[tokio::test]
async fn a_restarted_participant_takes_its_own_place_in_a_full_room() {
    let server = Server::start(&["--token-secret", SECRET]).await;
    let make = async |who| token(&["--secret", SECRET, "--room", "red", "--identity", who]).await;
    let mut ada = join(&server, "red", &make("ada").await).await.unwrap();
    let bob = join(&server, "red", &make("bob").await).await.unwrap();
    ada.next_event().await;
    let (old, bobs) = (bob.id().to_owned(), make("bob").await);
    assert_eq!(refused(&server, "red", &bobs).await.1, "ROOM_FULL");
    drop(bob);
    // The server sees that the stream is gone when it sees it.
    let anew = async {
        loop {
            match join(&server, "red", &bobs).await {
                Ok(bob) => return bob,
                Err(status) => assert_eq!(reason(&status).1, "ROOM_FULL"),
            }
        }
    };
    let bob = soon("bob's place", anew).await;
    assert_ne!(bob.id(), old);
    let gone = ada.next_event().await;
    assert_eq!(gone.participant.as_ref().unwrap().session_id, old);
    assert_eq!(gone.reason(), farcall_proto::signaling::v1::LeaveReason::Replaced);
    assert_eq!(ada.next_event().await.participant.unwrap().session_id, bob.id());
    assert_eq!(refused(&server, "red", &make("eve").await).await.1, "ROOM_FULL");
}

#[tokio::test]
async fn a_key_follows_another_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(path("ed.pub.pem"), pair.public_key_pem()).unwrap();
    std::fs::write(path("ed.pem"), pair.serialize_pem()).unwrap();
    std::fs::write(path("rotating.key"), SECRET).unwrap();
    let (public, rotating) = (path("ed.pub.pem"), path("rotating.key"));
    let server = Server::start(&["--token-key", &public, "--token-key", &rotating]).await;
    let signed = token(&["--key", &path("ed.pem"), "--kid", "ed.pub", "--room", "red"]).await;
    join(&server, "red", &signed).await.unwrap();
    let old = token(&["--secret", SECRET, "--kid", "rotating", "--room", "blue"]).await;
    join(&server, "blue", &old).await.unwrap();
    std::fs::write(path("rotating.key"), "the next secret of at least thirty-two bytes").unwrap();
    server.signal("HUP").await;
    let new = token(&["--key", &rotating, "--kid", "rotating", "--room", "green"]).await;
    let taken = async { while join(&server, "green", &new).await.is_err() {} };
    soon("the new key", taken).await;
    assert_eq!(refused(&server, "blue", &old).await.1, "BAD_TOKEN");
    join(&server, "red", &signed).await.unwrap();
}

#[tokio::test]
async fn a_token_that_makes_no_sense_is_not_made() {
    for (flags, said) in [
        (&["--secret", SECRET][..], "room: "),
        (&["--secret", "short", "--room", "x"], "key: a secret of less than 32 bytes"),
        (&["--key", "/nowhere", "--room", "x"], "/nowhere: "),
        (&["--room", "x"], "--key"),
    ] {
        let (code, stderr) = crate::harness::run(&[&["token"][..], flags].concat()).await;
        assert_eq!(code, Some(64), "{flags:?}");
        assert!(stderr.contains(said), "{flags:?}: {stderr}");
    }
}

#[tokio::test]
async fn static_tokens_go_on_beside_signed_ones() {
    let server = Server::start(&["--join-token", "fixed", "--token-secret", SECRET]).await;
    let ada = join(&server, "red", "fixed").await.unwrap();
    assert_eq!(ada.welcome.self_.unwrap().identity, "");
    let mut client: Client = server.client().await;
    let stream = client.join(with_token(request("blue"), "fixed")).await.unwrap();
    let first = stream.into_inner().message().await.unwrap().unwrap();
    assert!(matches!(first.body, Some(Body::Welcome(_))));
}
