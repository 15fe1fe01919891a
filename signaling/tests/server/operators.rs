//! `RoomAdminService`, on a listener of its own.

use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::room_admin_service_client::RoomAdminServiceClient;
use farcall_proto::signaling::v1::{
    CloseRoomRequest, DrainRequest, GetRoomRequest, GetStatsRequest, GoAwayAction, LeaveReason,
    ListRoomsRequest, RemoveSessionRequest,
};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_reflection::pb::v1;

use crate::harness::{Server, reason, soon};

type Operator = RoomAdminServiceClient<Channel>;

const LISTEN: [&str; 2] = ["--admin-listen", "127.0.0.1:0"];

async fn channel(server: &Server) -> Channel {
    let address = server.ready["ready"]["admin"].as_str().unwrap();
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn operator(server: &Server) -> Operator {
    Operator::new(channel(server).await)
}

fn room(name: &str) -> GetRoomRequest {
    GetRoomRequest { room: name.into() }
}

#[tokio::test]
async fn rooms_are_listed_and_looked_into() {
    let server = Server::start(&LISTEN).await;
    let mut operator = operator(&server).await;
    let mut ada = server.join("red").await;
    let bob = server.join("red").await;
    let _carol = server.join("blue").await;
    ada.text("waits for bob").await;
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let page = ListRoomsRequest { page_size: 1, page_token };
        let page = operator.list_rooms(page).await.unwrap().into_inner();
        found.extend(page.rooms.into_iter().map(|summary| (summary.room, summary.sessions)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    found.sort();
    assert_eq!(found, [("blue".to_owned(), 1), ("red".to_owned(), 2)]);
    let red = operator.get_room(room("red")).await.unwrap().into_inner();
    let seen: Vec<_> =
        red.sessions.iter().map(|s| (s.participant.clone().unwrap().session_id, s.attached)).collect();
    assert_eq!(seen, [(ada.id().to_owned(), true), (bob.id().to_owned(), true)]);
    assert_eq!(red.sessions[1].waiting_frames, 1);
    assert!(red.sessions[0].join_time.unwrap().seconds > 0);
    let status = operator.get_room(room("green")).await.unwrap_err();
    assert_eq!(reason(&status), (Code::NotFound, "ROOM_NOT_FOUND".into()));
    let bad = ListRoomsRequest { page_size: 0, page_token: "?".into() };
    assert_eq!(reason(&operator.list_rooms(bad).await.unwrap_err()).1, "BAD_FIELD");
}

#[tokio::test]
async fn who_is_removed_is_told_and_so_are_the_others() {
    let server = Server::start(&LISTEN).await;
    let mut operator = operator(&server).await;
    let mut ada = server.join("red").await;
    let mut bob = server.join("red").await;
    ada.next_event().await;
    let remove = RemoveSessionRequest { session_id: bob.id().into() };
    operator.remove_session(remove.clone()).await.unwrap();
    match bob.next().await.body {
        Some(Body::GoAway(away)) => assert_eq!(away.action(), GoAwayAction::Stop),
        other => panic!("{other:?}"),
    }
    bob.end().await.unwrap();
    assert_eq!(ada.next_event().await.reason(), LeaveReason::Removed);
    assert_eq!(reason(&operator.remove_session(remove).await.unwrap_err()).1, "SESSION_NOT_FOUND");
    let closed = operator.close_room(CloseRoomRequest { room: "red".into() }).await.unwrap();
    assert_eq!(closed.into_inner().sessions, 1);
    assert!(matches!(ada.next().await.body, Some(Body::GoAway(_))));
    assert!(operator.get_room(room("red")).await.is_err());
}

#[tokio::test]
async fn numbers_are_there_for_programs() {
    let server = Server::start(&LISTEN).await;
    let mut operator = operator(&server).await;
    let _ada = server.join("red").await;
    let stats = operator.get_stats(GetStatsRequest {}).await.unwrap().into_inner();
    assert_eq!((stats.rooms, stats.sessions, stats.streams, stats.draining), (1, 1, 1, false));
    assert_eq!(stats.counters["farcall_signaling_joins_total{result=\"new\"}"], 1);
}

#[tokio::test]
async fn an_operator_drains_the_server() {
    let mut server = Server::start(&LISTEN).await;
    let mut operator = operator(&server).await;
    let mut ada = server.join("red").await;
    assert_eq!(operator.drain(DrainRequest {}).await.unwrap().into_inner().streams, 1);
    match ada.next().await.body {
        Some(Body::GoAway(away)) => assert_eq!(away.action(), GoAwayAction::Resume),
        other => panic!("{other:?}"),
    }
    drop((ada, operator));
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn operators_show_a_token_where_one_is_configured() {
    use farcall_signaling::tokens::{Claims, Grant, OneOrMany, mint};
    const SECRET: &str = "a secret of at least thirty-two bytes";
    let flags = ["--admin-token", "operator", "--token-secret", SECRET, "--join-token", "participant"];
    let server = Server::start(&[&LISTEN[..], &flags].concat()).await;
    let mut operator = operator(&server).await;
    let grants = |grants: Vec<Grant>| {
        let claims = Claims {
            sub: "olga".into(),
            room: OneOrMany::None,
            grants,
            max_sessions: None,
            exp: u64::from(u32::MAX),
            nbf: None,
            aud: OneOrMany::None,
            iss: None,
        };
        mint(SECRET.as_bytes(), None, &claims).unwrap()
    };
    for (shown, expected) in [
        (None, Some("BAD_TOKEN")),
        (Some("participant".to_owned()), Some("BAD_TOKEN")),
        (Some(grants(vec![Grant::Join])), Some("NOT_GRANTED")),
        (Some(grants(vec![Grant::Admin])), None),
        (Some("operator".to_owned()), None),
    ] {
        let mut ask = Request::new(GetStatsRequest {});
        if let Some(token) = &shown {
            ask.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let refused = operator.get_stats(ask).await.err().map(|status| reason(&status).1);
        assert_eq!(refused.as_deref(), expected, "{shown:?}");
    }
}

#[tokio::test]
async fn only_its_own_listener_describes_and_serves_it() {
    let server = Server::start(&LISTEN).await;
    for (channel, own) in [(channel(&server).await, true), (server.channel().await, false)] {
        let list = v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
        };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(tokio_stream::once(list)).await.unwrap().into_inner();
        let answer = soon("an answer", answers.next()).await.unwrap().unwrap();
        let described = format!("{answer:?}");
        assert_eq!(described.contains("RoomAdminService"), own, "{described}");
        assert_eq!(described.contains("SignalingService"), !own, "{described}");
        let served = Operator::new(channel).get_stats(GetStatsRequest {}).await;
        assert_eq!(served.is_ok(), own);
        if let Err(status) = served {
            assert_eq!(status.code(), Code::Unimplemented);
        }
    }
}
