//! The end-to-end harness: it starts the real programs, listens to what they say, and proves what happened.
//!
//! A scenario (`scenarios/`) speaks through [`Context`]: it starts a [`relay::Relay`], a [`signaling::Signaling`] and
//! [`peer::Peer`]s on a [`host::Host`], waits for events with a deadline, and returns [`evidence::Evidence`].
//! [`runner`] runs the registry, [`report`] prints the table and writes the JUnit file.
//!
//! Two rules hold everywhere: nothing sleeps (wait for an event with a [`clock::Deadline`]), and nothing picks a port
//! (bind port 0 and read the `ready` line). A network of namespaces is another source of [`host::Host`]s.

#![deny(unsafe_code)]

pub mod balancer;
pub mod browser;
pub mod clock;
pub mod context;
pub mod coturn;
pub mod event;
pub mod evidence;
pub mod ffprobe;
pub mod host;
pub mod impostor;
pub mod lab;
pub mod peer;
pub mod playground;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod relay;
pub mod report;
pub mod runner;
pub mod signaling;
pub mod stack;
pub mod terminal;
pub mod tools;
pub mod translator;
pub mod turn_client;
pub mod watcher;

#[path = "../scenarios/mod.rs"]
pub mod scenarios;

pub use context::Context;
pub use evidence::Evidence;
