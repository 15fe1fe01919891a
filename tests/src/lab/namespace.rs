//! A network namespace without a name: it lives as long as somebody holds it, and nothing is left of it afterwards.
//!
//! Threads enter and leave it, never a thread that does anything else: sockets stay where they were made, so that one
//! process can hold sockets of several networks.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::CloneFlags;
use rustix::net::{self, AddressFamily, SendFlags, SocketFlags, SocketType, netlink};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::args;

/// A network of its own: interfaces, addresses, routes, firewall.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Held>);

#[derive(Debug)]
struct Held {
    fd: OwnedFd,
    /// What it is attached to, which has to be there for as long as this is.
    upstream: Mutex<Vec<Namespace>>,
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Namespace {}

impl Namespace {
    /// A new one, in which nothing but loopback is up.
    pub fn new() -> Result<Self> {
        let made = std::thread::spawn(|| -> Result<File> {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("opening a network namespace")
        });
        let file = made.join().map_err(|_| anyhow!("the thread that makes a namespace panicked"))??;
        let namespace = Self(Arc::new(Held { fd: file.into(), upstream: Mutex::default() }));
        // Duplicate address detection takes a second, in which IPv6 does not work. Nobody else has our addresses.
        namespace.set("ipv6/conf/default/accept_dad", "0")?;
        namespace.set("ipv6/conf/all/accept_dad", "0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Where other programs find it, while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.fd.as_raw_fd())
    }

    /// What to put before a command line so that it runs here.
    #[must_use]
    pub fn enter(&self) -> Vec<OsString> {
        args!["nsenter", format!("--net={}", self.path()), "--"]
    }

    /// Keeps what this is attached to for as long as this.
    pub(super) fn hold(&self, upstream: &Self) {
        self.0.upstream.lock().unwrap_or_else(PoisonError::into_inner).push(upstream.clone());
    }

    /// Does `work` here, on a thread of its own.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let entered = || {
            move_into_link_name_space(self.0.fd.as_fd(), Some(LinkNameSpaceType::Network))
                .context("entering a network namespace")?;
            work()
        };
        std::thread::scope(|scope| scope.spawn(entered).join())
            .map_err(|_| anyhow!("what ran in a network namespace panicked"))?
    }

    /// Commands of `ip`, one a line.
    pub fn ip(&self, commands: &str) -> Result<()> {
        self.run("ip", &["-batch", "-"], commands).map(drop)
    }

    /// What `ip` lists.
    pub fn list_ip(&self, arguments: &[&str]) -> Result<String> {
        self.run("ip", arguments, "")
    }

    /// Rules of `nft`, in the syntax of its files.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.run("nft", &["-f", "-"], rules).map(drop)
    }

    /// What `nft` lists, as JSON.
    pub fn nft_list(&self, what: &[&str]) -> Result<serde_json::Value> {
        let listed = self.run("nft", &[&["-j", "list"], what].concat(), "")?;
        serde_json::from_str(&listed).with_context(|| format!("nft list {what:?} printed: {listed}"))
    }

    /// Sets a parameter below `/proc/sys/net`.
    pub fn set(&self, parameter: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{parameter}");
        self.within(|| std::fs::write(&path, value).with_context(|| format!("writing {value} to {path}")))
    }

    /// The same, where the kernel has such a parameter.
    pub fn set_if_there(&self, parameter: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{parameter}");
        let is_there = self.within(|| Ok(std::path::Path::new(&path).exists()))?;
        if is_there { self.set(parameter, value) } else { Ok(()) }
    }

    /// Forgets every connection that the firewall follows, as a router does that was switched off and on.
    pub fn forget_connections(&self) -> Result<()> {
        self.within(|| {
            let protocol = Some(netlink::NETFILTER);
            let socket =
                net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
                    .context("opening a netlink socket")?;
            let to_kernel = netlink::SocketAddrNetlink::new(0, 0);
            net::sendto(&socket, &DELETE_ALL_CONNECTIONS, SendFlags::empty(), &to_kernel)
                .context("asking for connections to be deleted")?;
            let mut answer = [0; 64];
            let (length, _) = net::recv(&socket, &mut answer, net::RecvFlags::empty())
                .context("waiting for connections to be deleted")?;
            // An error message whose code is 0 is an acknowledgement.
            ensure!(length >= 20, "an acknowledgement of {length} bytes");
            ensure!(answer.get(16..20) == Some(&[0; 4]), "the kernel refused to delete the connections");
            Ok(())
        })
    }

    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        self.within(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("starting {program}"))?;
            let mut stdin = child.stdin.take().context("a child without stdin")?;
            stdin.write_all(input.as_bytes()).with_context(|| format!("telling {program} what to do"))?;
            drop(stdin);
            let output = child.wait_with_output().with_context(|| format!("waiting for {program}"))?;
            if output.status.success() {
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            bail!("{program} failed: {}\n{input}", String::from_utf8_lossy(&output.stderr).trim())
        })
    }
}

/// `struct nlmsghdr` and `struct nfgenmsg`: NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE, any family, acknowledged.
const DELETE_ALL_CONNECTIONS: [u8; 20] = {
    let mut message = [0; 20];
    let (length, kind, flags) = (20_u32.to_ne_bytes(), 0x102_u16.to_ne_bytes(), 0x5_u16.to_ne_bytes());
    (message[0], message[1], message[2], message[3]) = (length[0], length[1], length[2], length[3]);
    (message[4], message[5], message[6], message[7]) = (kind[0], kind[1], flags[0], flags[1]);
    message
};
