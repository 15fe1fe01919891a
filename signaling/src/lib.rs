//! Rendezvous of peers that know the same room key: a gRPC server that brings offers, answers, candidates and text
//! from one participant of a room to the others, in order and without loss, and hands out ICE servers.
//!
//! ```text
//! main ── config
//!  └─ server ── http ── service ── backplane ── room
//!       │        └─ web   └─ wire, credentials, tokens, limits, status
//!       └─ metrics, traces
//! ```
//!
//! `room` decides and does nothing else; `backplane` says where its state lives; `service` translates between it
//! and gRPC; `http` sends each request where it belongs; `web` is the page; `server` accepts connections and drains them.

pub mod backplane;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod drain;
pub mod limits;
pub mod live;
pub mod metrics;
pub mod room;
pub mod server;
pub mod service;
pub mod tokens;
pub mod traces;
pub mod web;
pub mod wire;

mod http;
