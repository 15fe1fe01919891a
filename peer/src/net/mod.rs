//! Sockets, addresses and servers underneath a peer connection, with what webrtc 0.21.1 needs from outside.

mod addresses;
pub(crate) mod binding;
mod changes;
mod direct;
mod ice_servers;
mod ice_tcp;
mod repeat;
mod reservoir;
mod runtime;
mod socket;
mod sockets;
mod stun;
mod trust;
mod tunnel;
mod turn_watch;

pub(crate) use self::addresses::BindAddresses;
pub(crate) use self::changes::{Change, Changes};
pub(crate) use self::direct::{DirectPaths, Found};
pub(crate) use self::ice_servers::UsableServers;
pub use self::ice_servers::{IcePolicy, IceServer};
pub(crate) use self::runtime::CuredRuntime;
pub(crate) use self::socket::BurstGate;
pub(crate) use self::sockets::Sockets;
pub(crate) use self::trust::Trust;
pub(crate) use self::tunnel::{Eagerness, Tunnels};
pub(crate) use self::turn_watch::{ServerOutcome, TurnWatch};
