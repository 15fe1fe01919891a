//! A combined STUN and TURN server.
//!
//! `stun` (bytes to messages, no state) ← `turn` (decides, no I/O) ← `io` (sockets and workers) ← `main`. The state
//! machine decides, `routes` caches its decisions, `io` forwards without asking.

pub mod admin;
pub mod auth;
pub mod certificates;
pub mod check;
pub mod clock;
pub mod config;
pub mod credential;
pub mod crew;
pub mod dtls;
pub mod external;
pub mod io;
pub mod log_queue;
pub mod metrics;
pub mod notify;
pub mod operate;
pub mod policy;
pub mod proxy_protocol;
pub mod reload;
pub mod routes;
pub mod service;
mod sorted_map;
pub mod stun;
pub mod telemetry;
pub mod turn;
pub mod upgrade;
pub mod usage;
pub mod webhook;
