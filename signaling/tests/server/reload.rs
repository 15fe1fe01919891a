//! What SIGHUP changes while the server runs, and what it does not.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::ChildStderr;
use tonic::Request;

use crate::harness::{Participant, Server, command, reason, request, soon};

struct Reloading {
    server: Server,
    log: Lines<BufReader<ChildStderr>>,
    file: tempfile::NamedTempFile,
}

impl Reloading {
    async fn start(settings: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), settings).unwrap();
        let path = file.path().to_str().unwrap();
        let mut command = command(&["--listen", "127.0.0.1:0", "--config", path]);
        let mut server = Server::launch(command.stderr(Stdio::piped())).await;
        let log = BufReader::new(server.stderr()).lines();
        Self { server, log, file }
    }

    /// Writes other settings, and returns what the log says until one line of it says this.
    async fn reload(&mut self, settings: &str, until: &str) -> String {
        std::fs::write(self.file.path(), settings).unwrap();
        self.server.signal("HUP").await;
        let mut said = String::new();
        while !said.contains(until) {
            said += &soon("a line of the log", self.log.next_line()).await.unwrap().expect("it ended");
            said.push('\n');
        }
        said
    }

    async fn may_join(&self, token: &str) -> bool {
        let mut join = Request::new(request("red"));
        join.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        match Participant::join_with(self.server.client().await, join).await {
            Ok(mut participant) => {
                participant.leave().await;
                true
            }
            Err(status) => {
                assert_eq!(reason(&status).1, "BAD_TOKEN");
                false
            }
        }
    }

    async fn preflight(&self, origin: &str) -> bool {
        let mut stream = TcpStream::connect(self.server.address()).await.unwrap();
        let ask = format!(
            "OPTIONS / HTTP/1.1\r\nhost: x\r\norigin: {origin}\r\naccess-control-request-method: POST\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        soon("an answer", stream.read_exact(&mut answer)).await.unwrap();
        &answer[9..] == b"204"
    }
}

const DONE: &str = "were read anew";

#[tokio::test]
async fn tokens_limits_origins_and_ice_servers_change_without_a_restart() {
    let mut run = Reloading::start(
        "join-token = ['blue']\ncors-origin = ['https://a.example']\nstun = ['stun:one.example']\nroom-size = 2\n",
    )
    .await;
    assert!(run.may_join("blue").await && !run.may_join("green").await);
    let said = run
        .reload(
            "join-token = ['green']\ncors-origin = ['https://b.example']\nstun = ['stun:two.example']\n\
             room-size = 3\nmax-streams-per-address = 7\n",
            DONE,
        )
        .await;
    assert!(!run.may_join("blue").await && run.may_join("green").await);
    assert!(!run.preflight("https://a.example").await && run.preflight("https://b.example").await);
    let mut join = Request::new(request("red"));
    join.metadata_mut().insert("authorization", "Bearer green".parse().unwrap());
    let ada = Participant::join_with(run.server.client().await, join).await.unwrap();
    assert_eq!(ada.welcome.ice_servers[0].urls, ["stun:two.example"]);
    // What changed is told by name, a secret without its value, and what has to wait is named.
    let line = |setting: &str| {
        let line = said.lines().find(|line| line.contains(&format!("setting=\"{setting}\"")));
        line.unwrap_or_else(|| panic!("{setting} not in {said}"))
    };
    assert!(line("stun").contains("Setting changed") && line("stun").contains("two.example"));
    assert!(line("max-streams-per-address").contains("Setting changed"));
    assert!(line("join-token").contains("redacted") && !said.contains("green"), "{said}");
    assert!(line("room-size").contains("Setting changes with the next start"), "{said}");
    assert_eq!(ada.welcome.limits.unwrap().max_participants, 2);
}

#[tokio::test]
async fn a_mistake_changes_nothing_and_is_named() {
    let mut run = Reloading::start("join-token = ['blue']\n").await;
    let said = run.reload("join-token = ['green']\nroom-size = 1\n", "stays as it was").await;
    assert!(said.contains("room-size") && said.contains("is not valid"), "{said}");
    assert!(run.may_join("blue").await && !run.may_join("green").await);
    run.reload("join-token = ['green']\n", DONE).await;
    assert!(run.may_join("green").await);
}
