//! The relay under test, killed when its test ends, and coturn's tools.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::DEADLINE;

/// A relay that serves.
pub(crate) struct Relay {
    child: Child,
    pub(crate) address: SocketAddr,
    metrics: SocketAddr,
    alternate: Option<SocketAddr>,
    tls: Option<SocketAddr>,
    dtls: Option<SocketAddr>,
    admin: Option<String>,
}

impl Relay {
    /// Everything on loopback, static and ephemeral credentials, two workers.
    pub(crate) fn start() -> Self {
        Self::start_with(&["--allow-peer", "127.0.0.0/8"])
    }

    /// The same with these flags instead of `--allow-peer`.
    pub(crate) fn start_with(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farcall-relay"));
        command
            .args(["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--workers", "2"])
            .args(["--user", "alice:wonder", "--user", "bob:builder", "--auth-secret", "north"])
            .args(flags);
        Self::spawn(command)
    }

    /// Whatever this command starts.
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stderr(Stdio::null());
        Self::spawn_as_it_is(command)
    }

    /// The same, with its log where the command says.
    pub(crate) fn spawn_as_it_is(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let _ = sender.send(lines.next());
            // Whoever takes over has something to say, too.
            lines.for_each(drop);
        });
        let line = receiver.recv_timeout(DEADLINE).expect("a ready line in time").expect("a line").unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse().ok());
        let udp: SocketAddr = address(&ready["ready"]["udp"][0]).expect("an UDP address");
        assert_eq!(address(&ready["ready"]["tcp"][0]), Some(udp), "one port for both");
        let metrics = address(&ready["ready"]["metrics"]).expect("a metrics address");
        let alternate = address(&ready["ready"]["alternate"][0]);
        let (tls, dtls) = (address(&ready["ready"]["tls"][0]), address(&ready["ready"]["dtls"][0]));
        let admin = ready["ready"]["admin"].as_str().map(str::to_owned);
        Self { child, address: udp, metrics, alternate, tls, dtls, admin }
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    /// The other address of behaviour discovery.
    pub(crate) fn alternate(&self) -> SocketAddr {
        self.alternate.expect("an alternate address")
    }

    pub(crate) fn tls(&self) -> SocketAddr {
        self.tls.expect("a TLS address")
    }

    pub(crate) fn dtls(&self) -> SocketAddr {
        self.dtls.expect("a DTLS address")
    }

    /// Where the operator's service is.
    pub(crate) fn admin(&self) -> &str {
        self.admin.as_deref().expect("an operator's service")
    }

    pub(crate) fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// One GET, its whole response.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    /// One sample of the metrics page, given with its labels.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = self.get("/metrics");
        let samples: HashMap<_, _> = page.lines().filter_map(|line| line.rsplit_once(' ')).collect();
        samples[format!("farcall_relay_{name}").as_str()].parse().unwrap()
    }

    /// Asks for a sample until it is this, since workers count a moment after they send.
    pub(crate) fn wait_for_metric(&self, name: &str, expected: u64) {
        let begun = farcall_relay::clock::now();
        while self.metric(name) != expected {
            assert!(begun.elapsed() < DEADLINE, "{name} is {} and not {expected}", self.metric(name));
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// How it ended, in time.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let (sender, receiver) = mpsc::channel();
        let pid = self.child.id();
        thread::scope(|scope| {
            let child = &mut self.child;
            scope.spawn(move || sender.send(child.wait()));
            receiver.recv_timeout(DEADLINE).unwrap_or_else(|_| {
                let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
                kill_process(pid, Signal::KILL).unwrap();
                panic!("it did not end in time");
            })
        })
        .unwrap()
    }

    /// Waits until nothing is left in its UDP sockets' queues: what came while one was full was lost.
    pub(crate) fn wait_until_idle(&self) {
        let begun = farcall_relay::clock::now();
        let port = format!(":{:04X}", self.address.port());
        let waits = |line: &str| {
            let columns: Vec<_> = line.split_whitespace().collect();
            columns[1].ends_with(&port) && !columns[4].ends_with(":00000000")
        };
        while std::fs::read_to_string("/proc/net/udp").unwrap().lines().skip(1).any(waits) {
            assert!(begun.elapsed() < DEADLINE, "datagrams still wait");
        }
    }

    /// Resident kilobytes.
    pub(crate) fn resident_kilobytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One of coturn's client tools. Without it the test fails, and says what to install.
pub(crate) fn coturn_tool(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    let file: PathBuf =
        found.unwrap_or_else(|| panic!("{name} is missing: install Debian's package `coturn`"));
    Command::new(file)
}

/// Asks until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = farcall_relay::clock::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "no {what} in time");
        thread::yield_now();
    }
}
