//! Users whom an HTTP service knows, and credentials that the binary makes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use farcall_relay::stun::Method;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::support::{Client, DEADLINE, Relay, coturn_tool, echo_peer, udp};

/// A service that answers by status and body, and counts how often it was asked.
struct Service {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
}

type Reply = Arc<dyn Fn(&Value) -> (u16, Value) + Send + Sync>;

impl Service {
    fn start(tls: Option<Arc<ServerConfig>>, reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (tls, reply, counted) = (tls.clone(), Arc::clone(&reply), Arc::clone(&counted));
                thread::spawn(move || {
                    stream.set_read_timeout(Some(DEADLINE)).unwrap();
                    match tls {
                        None => serve(stream, &reply, &counted),
                        Some(config) => {
                            serve(
                                StreamOwned::new(ServerConnection::new(config).unwrap(), stream),
                                &reply,
                                &counted,
                            );
                        }
                    }
                });
            }
        });
        Self { address, calls }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// One request, one response; whatever goes wrong, the connection ends.
fn serve(stream: impl Read + Write, reply: &Reply, calls: &AtomicUsize) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            return;
        }
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.trim().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    assert!(head.contains("authorization: bearer letmein"), "{head}");
    calls.fetch_add(1, Ordering::SeqCst);
    let (status, body) = reply(&serde_json::from_slice(&body).unwrap());
    let body = body.to_string();
    let response =
        format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    let _ = reader.get_mut().write_all(response.as_bytes());
    let _ = reader.get_mut().flush();
}

fn relay(url: &str, flags: &[&str]) -> Relay {
    let webhook = ["--auth-webhook", url, "--auth-webhook-token", "letmein", "--auth-webhook-timeout", "20"];
    Relay::start_with(&[&webhook[..], &["--allow-peer", "127.0.0.0/8"], flags].concat())
}

fn carol(request: &Value) -> (u16, Value) {
    match request["username"].as_str() {
        Some("carol") => (200, json!({ "password": "secret", "limits": { "quota": 2 }, "ttl": 60 })),
        Some("broken") => (200, json!({ "password": 7 })),
        Some("down") => (503, json!({})),
        _ => (404, json!({})),
    }
}

#[test]
fn users_of_a_webhook_are_served_and_it_is_asked_once() {
    let service = Service::start(None, Arc::new(carol));
    let relay = relay(&format!("http://{}/turn", service.address), &[]);
    let mut clients = vec![
        Client::udp(relay.address).with_user("carol", "secret"),
        Client::tcp(relay.address).with_user("carol", "secret"),
    ];
    for client in &mut clients {
        let peer = echo_peer();
        client.allocate();
        assert_eq!(client.bind(0x4000, peer), None);
        client.send_by_channel(0x4000, b"hello");
        assert_eq!(client.receive()[4..9], *b"hello");
    }
    let mut third = Client::udp(relay.address).with_user("carol", "secret");
    assert_eq!(third.ask(Method::ALLOCATE, &udp()).code(), Some(486), "the limits are the webhook's");
    assert_eq!(service.calls(), 1);

    let code =
        |name: &str| Client::tcp(relay.address).with_user(name, "x").ask(Method::ALLOCATE, &udp()).code();
    assert_eq!((code("eve"), code("eve"), code("carol")), (Some(401), Some(401), Some(401)));
    assert_eq!(service.calls(), 2, "who is unknown is remembered, too");
    assert_eq!((code("down"), code("broken")), (Some(500), Some(500)));
    // Who is known here is known here.
    Client::udp(relay.address).allocate();
}

#[test]
fn while_a_webhook_takes_its_time_everybody_else_is_served() {
    let (release, held) = mpsc::channel::<()>();
    let (asked, was_asked) = mpsc::channel();
    let held = std::sync::Mutex::new(held);
    let reply = move |request: &Value| {
        asked.send(()).unwrap();
        held.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        carol(request)
    };
    let service = Service::start(None, Arc::new(reply));
    let relay = relay(&format!("http://{}/", service.address), &[]);
    let mut waiting = Client::udp(relay.address).with_user("carol", "secret");
    let address = relay.address;
    let waiter = thread::spawn(move || waiting.allocate());
    was_asked.recv_timeout(DEADLINE).unwrap();
    // So many that some are the business of the worker that asked.
    for _ in 0..8 {
        Client::udp(address).allocate();
        Client::tcp(address).allocate();
    }
    assert!(!waiter.is_finished());
    release.send(()).unwrap();
    assert!(waiter.join().unwrap().port() > 0);
}

#[test]
fn a_webhook_is_asked_over_tls_if_its_certificate_is_good() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate], key.into()).unwrap();
    let service = Service::start(Some(Arc::new(config)), Arc::new(carol));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(made.cert.pem().as_bytes()).unwrap();
    let url = format!("https://localhost:{}/turn", service.address.port());

    let trusting = relay(&url, &["--auth-webhook-ca", file.path().to_str().unwrap()]);
    Client::udp(trusting.address).with_user("carol", "secret").allocate();
    let wary = relay(&url, &[]);
    let mut client = Client::udp(wary.address).with_user("carol", "secret");
    assert_eq!(client.ask(Method::ALLOCATE, &udp()).code(), Some(500));
    assert_eq!(service.calls(), 1);
}

/// What `farcall-relay credential …` says.
fn credential(args: &[&str]) -> Value {
    let output =
        Command::new(env!("CARGO_BIN_EXE_farcall-relay")).arg("credential").args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn allocates(relay: &Relay, made: &Value) -> Option<u16> {
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    let mut client = Client::udp(relay.address).with_user(&text("username"), &text("password"));
    client.ask(Method::ALLOCATE, &udp()).code()
}

#[test]
fn the_binary_makes_credentials_that_it_takes() {
    let key = "a:HS256:YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcy4uLi4=";
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (private, public) = (folder.path().join("private.pem"), folder.path().join("public.pem"));
    std::fs::write(&private, pair.serialize_pem()).unwrap();
    std::fs::write(&public, pair.public_key_pem()).unwrap();
    let (private, public) =
        (format!("b:EdDSA:@{}", private.display()), format!("b:EdDSA:@{}", public.display()));

    let user = credential(&["static", "--name", "dora"]);
    let flags = ["--user", user["user"].as_str().unwrap(), "--jwt-key", key, "--jwt-key", &public];
    let relay = Relay::start_with(&[&flags[..], &["--jwt-secret", "s"]].concat());
    assert_eq!(allocates(&relay, &user), None);
    let ephemeral = credential(&["ephemeral", "--auth-secret", "north", "--session", "x"]);
    assert_eq!(allocates(&relay, &ephemeral), None);
    for key in [key, &private] {
        let limits = r#"{"quota":1}"#;
        let subject = key.split(':').next().unwrap();
        let args = ["jwt", "--jwt-key", key, "--jwt-secret", "s", "--subject", subject, "--limits", limits];
        let made = credential(&args);
        assert_eq!((allocates(&relay, &made), allocates(&relay, &made)), (None, Some(486)), "{subject}");
        let mut guessed = made.clone();
        guessed["password"] = made["username"].clone();
        assert_eq!(allocates(&relay, &guessed), Some(401), "a token is not its own password");
        let late = credential(&[&args[..], &["--lifetime", "0"]].concat());
        assert_eq!(allocates(&relay, &late), Some(401), "it has expired");
    }
    let oauth = credential(&["oauth", "--oauth-key", "k:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="]);
    let read = coturn_tool("turnutils_oauth")
        .args(["-v", "-d", "-i", "farcall", "-j", "k", "-k", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="])
        .args([
            "-l",
            "1400000000",
            "-m",
            "2000000000",
            "-n",
            "A256GCM",
            "-t",
            oauth["access-token"].as_str().unwrap(),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&read.stdout).into_owned() + &String::from_utf8_lossy(&read.stderr);
    assert!(said.contains("lifetime: 3600"), "{said}");
}
