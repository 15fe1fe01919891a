//! `pipe` and `forward`.

use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::super::{DEADLINE, Peer, Service};

#[tokio::test]
async fn a_pipe_carries_both_directions_and_each_ends_by_itself() {
    let service = Service::start(2).await;
    let (mut left, mut right) = (pipe(&service, &["room"]), pipe(&service, &["room"]));
    let question: Vec<u8> =
        (0..5_000_000u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    let mut to_left = left.stdin.take().unwrap();
    let mut from_right = right.stdout.take().unwrap();
    let ask = async {
        to_left.write_all(&question).await.unwrap();
        drop(to_left);
    };
    let mut heard = Vec::new();
    let ((), length) = timeout(DEADLINE, async {
        tokio::join!(ask, async { from_right.read_to_end(&mut heard).await.unwrap_or(0) })
    })
    .await
    .unwrap_or_else(|_| panic!("the question did not arrive"));
    // It was closed when the other side's input ended, while this side's is still open.
    assert!(length == question.len() && heard == question);
    let mut to_right = right.stdin.take().unwrap();
    to_right.write_all(b"the answer comes after the end of the question").await.unwrap();
    drop(to_right);
    let mut answer = String::new();
    timeout(DEADLINE, left.stdout.take().unwrap().read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "the answer comes after the end of the question");
    for mut side in [left, right] {
        assert!(timeout(DEADLINE, side.wait()).await.unwrap().unwrap().success());
    }
}

#[tokio::test]
async fn tcp_is_forwarded_both_ways_where_it_is_allowed() {
    let service = Service::start(2).await;
    let port = echo_server().await;
    let allow = format!("127.0.0.1:{port}");
    let mut sharing =
        Peer::spawn(&service, &["forward", "room", "--allow", &allow, "--allow-listen", "127.0.0.1:0"]);
    sharing.until("joined", |_| true).await;
    let (near, far) = (format!("0:127.0.0.1:{port}"), "0:127.0.0.1:1".to_owned());
    let back = format!("127.0.0.1:0:127.0.0.1:{port}");
    let mut using = Peer::spawn(&service, &["forward", "room", "-L", &near, "-L", &far, "-R", &back]);
    let mut addresses = Vec::new();
    for _ in 0..3 {
        let listening = using.until("listening", |_| true).await;
        addresses.push((listening["address"].as_str().unwrap().to_owned(), listening["remote"] == true));
    }
    assert_eq!(addresses.iter().map(|(_, remote)| *remote).collect::<Vec<_>>(), [false, false, true]);
    for address in [&addresses[0].0, &addresses[2].0] {
        // Several at once, each with a direction that ends before the other.
        let mut talks = tokio::task::JoinSet::new();
        for number in 0..8u8 {
            let address = address.clone();
            talks.spawn(async move {
                let mut connection = TcpStream::connect(&address).await.unwrap();
                let (mut reader, mut writer) = connection.split();
                let said = vec![number; 300_000];
                let speak = async {
                    writer.write_all(&said).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                let mut heard = Vec::new();
                let ((), length) =
                    tokio::join!(speak, async { reader.read_to_end(&mut heard).await.unwrap() });
                assert!(length == said.len() && heard == said, "{length} bytes of {number}");
            });
        }
        timeout(DEADLINE, talks.join_all()).await.unwrap();
    }
    // What is not allowed is closed, and told.
    let mut refused = TcpStream::connect(&addresses[1].0).await.unwrap();
    let mut nothing = Vec::new();
    let _ = timeout(DEADLINE, refused.read_to_end(&mut nothing)).await.unwrap();
    assert!(nothing.is_empty());
    let warning = using.until("warning", |_| true).await;
    assert!(warning["message"].as_str().unwrap().contains("not allowed"), "{warning}");
}

#[tokio::test]
async fn datagrams_are_forwarded() {
    let service = Service::start(2).await;
    let target = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = target.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            let (length, from) = target.recv_from(&mut buffer).await.unwrap();
            target.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    let mut sharing = Peer::spawn(&service, &["forward", "room", "--allow", "udp:127.0.0.1:*"]);
    sharing.until("joined", |_| true).await;
    let mut using = Peer::spawn(&service, &["forward", "room", "-L", &format!("udp:0:127.0.0.1:{port}")]);
    let listening = using.until("listening", |_| true).await;
    let address = listening["address"].as_str().unwrap();
    using.until("channel_open", |_| true).await;
    for client in 0..3u8 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        for number in 0..5u8 {
            let said = [client, number].repeat(500);
            socket.send(&said).await.unwrap();
            let mut heard = vec![0; 2000];
            let length = timeout(DEADLINE, socket.recv(&mut heard)).await.unwrap().unwrap();
            assert!(heard[..length] == said, "{client} {number}");
        }
    }
}

#[tokio::test]
async fn a_pipe_leads_to_a_port_as_a_proxy_command_does() {
    let service = Service::start(2).await;
    let port = echo_server().await;
    let target = format!("127.0.0.1:{port}");
    let mut sharing = Peer::spawn(&service, &["forward", "room", "--allow", &target]);
    sharing.until("joined", |_| true).await;
    let mut side = pipe(&service, &["room", "--to", &target]);
    let mut input = side.stdin.take().unwrap();
    input.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    let mut output = side.stdout.take().unwrap();
    let mut line = [0; 14];
    timeout(DEADLINE, output.read_exact(&mut line)).await.unwrap().unwrap();
    assert_eq!(&line, b"SSH-2.0-test\r\n");
    drop(input);
    let mut rest = Vec::new();
    timeout(DEADLINE, output.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty());
    assert!(timeout(DEADLINE, side.wait()).await.unwrap().unwrap().success());
}

#[tokio::test]
async fn a_pipe_to_what_is_not_allowed_fails_with_the_reason() {
    let service = Service::start(2).await;
    let mut sharing = Peer::spawn(&service, &["forward", "room", "--allow", "127.0.0.1:22"]);
    sharing.until("joined", |_| true).await;
    let side = pipe(&service, &["room", "--to", "127.0.0.1:23"]);
    let output = timeout(DEADLINE, side.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.contains("\"reason\":\"REFUSED\""), "{said}");
}

/// Sends back what comes, until it ends.
async fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = connection.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
        }
    });
    port
}

/// `farcall-peer pipe`, whose stdout is data.
fn pipe(service: &Service, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_farcall-peer"))
        .args(["--json", "--bind", "127.0.0.1", "--signaling", service.url(), "pipe"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}
