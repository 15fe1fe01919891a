//! What browsers do on the port: gRPC-Web over both versions of HTTP, questions of other sites' pages, and the page.

use bytes::{Buf, Bytes};
use farcall_proto::signaling::v1::join_response::Body;
use farcall_proto::signaling::v1::{JoinRequest, JoinResponse, SendRequest, SendResponse};
use http_body_util::{BodyExt, Full};
use hyper::Version;
use hyper::http::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

use crate::harness::{Server, request, soon};
use crate::transport::http;

type Incoming = Response<hyper::body::Incoming>;

/// A browser's connection.
enum Browser {
    Http1(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Browser {
    async fn open(server: &Server, version: Version) -> Self {
        let stream = TokioIo::new(TcpStream::connect(server.address()).await.unwrap());
        if version == Version::HTTP_2 {
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http2(sender)
        } else {
            let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Self::Http1(sender)
        }
    }

    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Incoming {
        match self {
            Self::Http1(sender) => soon("an answer", sender.send_request(request)).await.unwrap(),
            Self::Http2(sender) => soon("an answer", sender.send_request(request)).await.unwrap(),
        }
    }

    /// A gRPC-Web call with one message.
    async fn call(&mut self, method: &str, message: &impl Message) -> Incoming {
        self.call_path(&format!("farcall.signaling.v1.SignalingService/{method}"), message).await
    }

    async fn call_path(&mut self, path: &str, message: &impl Message) -> Incoming {
        let encoded = message.encode_to_vec();
        let mut framed = vec![0];
        framed.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
        framed.extend(encoded);
        let request = Request::post(format!("http://x/{path}"))
            .header("host", "x")
            .header("content-type", "application/grpc-web+proto")
            .header("x-grpc-web", "1")
            .header("origin", "https://app.example")
            .body(Full::from(framed))
            .unwrap();
        self.ask(request).await
    }
}

/// What comes in gRPC-Web's frames: messages with flag 0, trailers with flag 0x80.
struct Frames {
    body: hyper::body::Incoming,
    read: Vec<u8>,
}

impl Frames {
    fn of(answer: Incoming) -> Self {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/grpc-web+proto");
        Self { body: answer.into_body(), read: Vec::new() }
    }

    async fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((mut head, rest)) = self.read.split_at_checked(5) {
                let (flag, length) = (head.get_u8(), head.get_u32() as usize);
                if rest.len() >= length {
                    let frame = rest[..length].to_vec();
                    self.read.drain(..5 + length);
                    return (flag, frame);
                }
            }
            let more = soon("a frame", self.body.frame()).await.expect("the body ended").unwrap();
            self.read.extend_from_slice(&more.into_data().unwrap_or_default());
        }
    }

    async fn message<M: Message + Default>(&mut self) -> M {
        let (flag, bytes) = self.next().await;
        assert_eq!(flag, 0, "{}", String::from_utf8_lossy(&bytes));
        M::decode(bytes.as_slice()).unwrap()
    }

    async fn status(&mut self) -> String {
        let (flag, bytes) = self.next().await;
        assert_eq!(flag, 0x80);
        let trailers = String::from_utf8(bytes).unwrap();
        trailers.lines().find_map(|line| line.strip_prefix("grpc-status:")).unwrap().trim().to_owned()
    }
}

#[tokio::test]
async fn a_browser_joins_sends_and_receives_over_both_versions_of_http() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let server = Server::start(&[]).await;
        let mut browser = Browser::open(&server, version).await;
        let join = JoinRequest { room: "red".into(), ..JoinRequest::default() };
        // The stream stays open; each frame comes when there is one.
        let mut stream = Frames::of(browser.call("Join", &join).await);
        let first: JoinResponse = stream.message().await;
        let Some(Body::Welcome(welcome)) = first.body else { panic!("{first:?}") };
        let mut bob = server.join("red").await;
        bob.text("hello, browser").await;
        assert!(matches!(stream.message::<JoinResponse>().await.body, Some(Body::Participant(_))));
        let Some(Body::Message(message)) = stream.message::<JoinResponse>().await.body else { panic!() };
        assert_eq!(message.from_session_id, bob.id());

        let mut other = Browser::open(&server, version).await;
        let send = SendRequest {
            session_id: welcome.session_id.clone(),
            resume_secret: welcome.resume_secret.clone(),
            frames: vec![crate::harness::text_frame(1, "hello, program")],
            ack: 2,
        };
        let mut answer = Frames::of(other.call("Send", &send).await);
        assert_eq!(answer.message::<SendResponse>().await.last_client_seq, 1);
        assert_eq!(answer.status().await, "0");
        assert_eq!(bob.next_text().await, "hello, program");
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_browser_with_its_details() {
    let server = Server::start(&["--cors-origin", "https://app.example"]).await;
    let mut browser = Browser::open(&server, Version::HTTP_11).await;
    let answer = browser.call("Join", &request("")).await;
    let headers: &HeaderMap = answer.headers();
    assert_eq!((answer.status().as_u16(), &headers["grpc-status"]), (200, &"3".parse().unwrap()));
    assert!(headers.contains_key("grpc-status-details-bin"));
    assert_eq!(headers["access-control-allow-origin"], "https://app.example");
    assert!(headers["access-control-expose-headers"].to_str().unwrap().contains("grpc-status-details-bin"));
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_to_a_browser_too() {
    let server = Server::start(&[]).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for path in ["farcall.signaling.v1.SignalingService/Nothing", "nothing.at.All/Here", "nowhere"] {
            let mut browser = Browser::open(&server, version).await;
            let answer = browser.call_path(path, &request("red")).await;
            assert_eq!(answer.headers()["grpc-status"], "12", "{path}");
        }
    }
}

#[tokio::test]
async fn the_page_and_the_descriptor_are_there_over_both_versions_of_http() {
    let server = Server::start(&[]).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (path, kind) in
            [("", "text/html; charset=utf-8"), ("farcall/descriptor.json", "application/json")]
        {
            for method in ["GET", "HEAD"] {
                let mut browser = Browser::open(&server, version).await;
                let request = Request::builder().method(method).uri(format!("http://x/{path}"));
                let answer = browser.ask(request.header("host", "x").body(Full::default()).unwrap()).await;
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.headers()["content-type"], kind);
                let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
                assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
                let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
                assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
                let body = answer.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body.len(), if method == "HEAD" { 0 } else { length });
            }
        }
    }
}

#[tokio::test]
async fn who_is_in_the_wrong_place_is_told_so() {
    let server = Server::start(&[]).await;
    for (asked, expected) in [
        ("GET / HTTP/1.1", "HTTP/1.1 200"),
        ("GET /nothing HTTP/1.1", "HTTP/1.1 404"),
        ("GET /../Cargo.toml HTTP/1.1", "HTTP/1.1 404"),
        ("POST / HTTP/1.1\r\ncontent-type: application/json", "HTTP/1.1 405"),
        ("POST /x HTTP/1.1\r\ncontent-type: application/grpc", "HTTP/1.1 505"),
        ("GET /x HTTP/1.1\r\ncontent-type: application/grpc-web+proto", "HTTP/1.1 405"),
        (
            "OPTIONS /x HTTP/1.1\r\norigin: https://evil.example\r\naccess-control-request-method: POST",
            "HTTP/1.1 403",
        ),
    ] {
        let answer = http(&server.address().to_string(), asked).await;
        assert!(answer.starts_with(expected), "{asked}: {answer}");
    }
}

#[tokio::test]
async fn a_page_of_a_listed_site_may_ask() {
    let server = Server::start(&["--cors-origin", "https://app.example"]).await;
    let asked = "OPTIONS /farcall.signaling.v1.SignalingService/Join HTTP/1.1\r\norigin: https://app.example\r\n\
                 access-control-request-method: POST\r\naccess-control-request-headers: authorization";
    let answer = http(&server.address().to_string(), asked).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 204"), "{answer}");
    assert!(answer.contains("access-control-allow-origin: https://app.example\r\n"), "{answer}");
    assert!(answer.contains("authorization, content-type"), "{answer}");
    assert!(!answer.contains("credentials"), "{answer}");
}
