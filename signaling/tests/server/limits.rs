//! What one address may ask for. This machine itself is not limited, so a proxy says here who is asking.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use crate::harness::{Participant, Server, reason, request, soon};

const BEHIND: [&str; 2] = ["--trusted-proxy", "127.0.0.1/32"];

async fn start(flags: &[&str]) -> Server {
    Server::start(&[&BEHIND[..], flags].concat()).await
}

async fn join_from(server: &Server, address: &str, room: &str) -> Result<Participant, Status> {
    let mut join = Request::new(request(room));
    join.metadata_mut().insert("x-forwarded-for", address.parse().unwrap());
    Participant::join_with(server.client().await, join).await
}

/// Which limit it was about.
fn limit(status: &Status) -> String {
    assert_eq!(reason(status), (Code::ResourceExhausted, "LIMIT_EXCEEDED".into()));
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    status.get_details_quota_failure().unwrap().violations.remove(0).subject
}

#[tokio::test]
async fn one_address_opens_so_many_streams_and_others_are_not_hurt() {
    let server = start(&["--max-streams-per-address", "2"]).await;
    let first = join_from(&server, "203.0.113.1", "a").await.unwrap();
    let _second = join_from(&server, "203.0.113.1", "b").await.unwrap();
    let status = join_from(&server, "203.0.113.1", "c").await.err().unwrap();
    assert_eq!(limit(&status), "streams_per_address");
    join_from(&server, "203.0.113.2", "c").await.unwrap();
    drop(first);
    let again = async { while join_from(&server, "203.0.113.1", "c").await.is_err() {} };
    soon("a place", again).await;
}

#[tokio::test]
async fn joins_have_a_rate_by_address_and_by_room() {
    let server = start(&["--joins-per-minute-per-address", "3", "--joins-per-minute-per-room", "2"]).await;
    for _ in 0..2 {
        join_from(&server, "2001:db8::1", "busy").await.unwrap().leave().await;
    }
    let status = join_from(&server, "2001:db8:1::1", "busy").await.err().unwrap();
    assert_eq!(limit(&status), "joins_per_room");
    join_from(&server, "2001:db8::2", "quiet").await.unwrap().leave().await;
    let status = join_from(&server, "2001:db8::3", "quiet").await.err().unwrap();
    assert_eq!(limit(&status), "joins_per_address");
}

#[tokio::test]
async fn frames_and_bytes_have_rates_and_who_waits_may_go_on() {
    let server = start(&["--frames-per-second-per-session", "1", "--metrics-listen", "127.0.0.1:0"]).await;
    let mut ada = join_from(&server, "203.0.113.1", "red").await.unwrap();
    let mut bob = server.join("red").await;
    ada.address = Some("203.0.113.1".into());
    for number in 1..=10 {
        ada.text(&number.to_string()).await;
    }
    let too_fast = async {
        loop {
            if let Err(status) = ada.say_text("too fast").await {
                return status;
            }
        }
    };
    assert_eq!(limit(&soon("a refusal", too_fast).await), "frames_per_session");
    // Bob is nobody's neighbour.
    bob.text("unhurt").await;
    let metrics = server.ready["ready"]["metrics"].as_str().unwrap();
    let page = crate::transport::http(metrics, "GET /metrics HTTP/1.1").await;
    assert!(
        page.contains("farcall_signaling_limits_exceeded_total{limit=\"frames_per_session\"} 1"),
        "{page}"
    );
}

#[tokio::test]
async fn one_address_has_so_many_connections() {
    let server = start(&["--max-connections-per-address", "2"]).await;
    // PROXY protocol, version 2: TCP over IPv4 from 203.0.113.1.
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x01\x7f\x00\x00\x01\x04\x00\x01\x7f";
    let mut open = Vec::new();
    for number in 0..3 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(header).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        let answered = soon("an answer", stream.read_exact(&mut answer)).await.is_ok();
        assert_eq!(answered, number < 2, "connection {number}");
        open.push(stream);
    }
    server.join("red").await;
}

#[tokio::test]
async fn nobody_but_a_trusted_proxy_says_who_is_asking() {
    let server = Server::start(&["--max-streams-per-address", "1"]).await;
    let _first = join_from(&server, "203.0.113.1", "a").await.unwrap();
    // Not believed, so both are from this machine.
    join_from(&server, "203.0.113.1", "b").await.unwrap();
}

#[tokio::test]
async fn one_address_is_in_so_many_rooms_at_once() {
    let server = start(&["--max-rooms-per-address", "2"]).await;
    let red = join_from(&server, "203.0.113.1", "red").await.unwrap();
    let _red_again = join_from(&server, "203.0.113.1", "red").await.unwrap();
    let mut blue = join_from(&server, "203.0.113.1", "blue").await.unwrap();
    let status = join_from(&server, "203.0.113.1", "green").await.err().unwrap();
    assert_eq!(limit(&status), "rooms_per_address");
    join_from(&server, "203.0.113.2", "green").await.unwrap();
    drop(red);
    blue.leave().await;
    drop(blue);
    let again = async { while join_from(&server, "203.0.113.1", "green").await.is_err() {} };
    soon("a place", again).await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_their_connection() {
    flood_ends(|number| {
        let id = (number * 2 + 1).to_be_bytes();
        // GET / over http with an authority, then RST_STREAM with CANCEL.
        let request = frame(1, 5, id, &[0x82, 0x84, 0x86, 0x41, 0x01, b'x']);
        [request, frame(3, 0, id, &[0, 0, 0, 8])].concat()
    })
    .await;
}

#[tokio::test]
async fn frames_that_ask_for_nothing_end_their_connection_when_there_are_too_many() {
    const SESSION: [u8; 4] = [0; 4];
    flood_ends(|_| frame(6, 0, SESSION, b"are you?")).await;
    // Settings that change nothing, and have to be acknowledged.
    flood_ends(|_| frame(4, 0, SESSION, &[])).await;
    // Priority is no longer of use to anybody.
    flood_ends(|_| frame(2, 0, [0, 0, 0, 1], &[0, 0, 0, 0, 9])).await;
    let request = |id| frame(1, 4, id, &[0x83, 0x84, 0x86, 0x41, 0x01, b'x']);
    flood_ends(|number| match number {
        0 => request([0, 0, 0, 1]),
        _ => frame(0, 0, [0, 0, 0, 1], &[]),
    })
    .await;
}

#[tokio::test]
async fn headers_that_do_not_end_end_their_connection() {
    // CONTINUATION without END_HEADERS, CVE-2024-27316: a header of 16 KiB each time.
    let mut field = vec![0x00, 0x01, b'x', 0x7f, 0x81, 0x7f];
    field.resize(16_000, b'y');
    flood_ends(|number| match number {
        0 => frame(1, 1, [0, 0, 0, 1], &[0x82, 0x84, 0x86, 0x41, 0x01, b'x']),
        _ => frame(9, 0, [0, 0, 0, 1], &field),
    })
    .await;
}

#[tokio::test]
async fn who_reads_nothing_holds_no_more_than_its_bounds_and_others_go_on() {
    let server = Server::start(&["--max-streams-per-connection", "100"]).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    // A window of nothing: what is asked for can never be sent.
    let settings = frame(4, 0, [0; 4], &[0, 4, 0, 0, 0, 0]);
    stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat()).await.unwrap();
    for number in 0..150_u32 {
        let id = (number * 2 + 1).to_be_bytes();
        let page = frame(1, 5, id, &[0x82, 0x84, 0x86, 0x41, 0x01, b'x']);
        if stream.write_all(&page).await.is_err() {
            break;
        }
    }
    // A hundred are under way, and each of the others is refused: REFUSED_STREAM.
    let mut refused = 0;
    let mut head = [0; 9];
    while refused < 50 {
        soon("a frame", stream.read_exact(&mut head)).await.unwrap();
        let [high, middle, low, kind, ..] = head;
        let mut payload = vec![0; usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)];
        soon("its payload", stream.read_exact(&mut payload)).await.unwrap();
        assert!(kind != 0 || payload.is_empty(), "data without a window");
        refused += usize::from(kind == 3 && payload == [0, 0, 0, 7]);
    }
    server.join("red").await;
}

fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, length[0], length[1], kind, flags], &stream[..], payload].concat()
}

/// Sends frame after frame until the server ends the connection; somebody else is not hurt.
async fn flood_ends(flood: impl Fn(u32) -> Vec<u8>) {
    let server = Server::start(&[]).await;
    let mut ada = server.join("red").await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (mut read, mut write) = stream.split();
    let flood = async {
        for number in 0..200_000_u32 {
            if write.write_all(&flood(number)).await.is_err() {
                return;
            }
        }
        panic!("the flood was taken to its end");
    };
    let swallow = async {
        let mut buffer = [0; 4096];
        while read.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
    };
    soon("the end of the connection", async { tokio::join!(flood, swallow) }).await;
    let mut bob = server.join("red").await;
    ada.next_event().await;
    bob.text("unhurt").await;
    assert_eq!(ada.next_text().await, "unhurt");
}
