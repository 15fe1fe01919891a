//! Sentences of RFC 8656 and what else the server promises, in virtual time.

mod allocate;
mod alternates;
mod authentication;
mod binding;
mod channels;
mod connections;
mod data;
mod discovery;
mod dual_stack;
mod icmp;
mod lifetimes;
mod limits;
mod lookups;
mod mobility;
mod permissions;
mod policy;
mod reservation;
mod retransmission;
mod silence;
mod tokens;
mod upgrade;

use std::time::Duration;

use farcall_proto::turn_credentials::{AuthSecret, UnixTime};

use super::world::*;
use super::*;
use crate::auth::NONCE_LIFETIME;
use crate::stun::{AttributeType, ChannelNumber, Class, Method, TransactionId, header::Header};

const SECOND: Duration = Duration::from_secs(1);
