//! `farcall-relay check`: what would be in force, and what looks wrong about it. No socket is opened.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;

use rustix::process::{Resource, getrlimit};

use crate::config::{Config, ExternalIp};
use crate::external::is_private;
use crate::policy::peer::Unnamed;

/// What would be in force, one key a line, secrets redacted; then every warning.
#[must_use]
pub fn summary(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    for (key, shown) in config.written.iter() {
        let _ = writeln!(text, "{key} = {shown}");
    }
    let realm = &config.auth.default_realm;
    let listen: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    let _ = writeln!(
        text,
        "# serves {} with {} workers; relay ports {}-{}; realm {:?} with {} users and {} secrets; {} more realms",
        listen.join(", "),
        config.workers,
        config.relay_ports.start(),
        config.relay_ports.end(),
        realm.name,
        realm.users.len(),
        realm.secrets.len(),
        config.auth.other_realms.len(),
    );
    for warning in warnings(config, &[]) {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// What is no mistake but seldom meant. `advertised` is what clients will be told, once that is known.
#[must_use]
pub fn warnings(config: &Config, advertised: &[IpAddr]) -> Vec<String> {
    let mut warnings = Vec::new();
    if !config.auth.knows_anybody() {
        warnings.push("no user and no secret: STUN is served, every TURN request is refused".into());
    }
    if config.unnamed_peers == Unnamed::Refused && config.allow_peers.is_empty() {
        warnings.push("only-allowed-peers without an allow-peer: no peer can be reached".into());
    }
    let configured: Vec<IpAddr> =
        if advertised.is_empty() { configured(config) } else { advertised.to_vec() };
    for ip in configured.into_iter().filter(|ip| is_private(*ip)) {
        warnings.push(format!(
            "clients are told the private address {ip}, which the world cannot reach: set --external-ip, or auto"
        ));
    }
    let ports = u64::from(config.relay_ports.end() - config.relay_ports.start()) + 1;
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && limit < ports.min(ENOUGH_DESCRIPTORS)
    {
        warnings.push(format!(
            "only {limit} descriptors: every allocation and stream client takes one (ulimit -n, LimitNOFILE)"
        ));
    }
    let rmem_max = fs::read_to_string("/proc/sys/net/core/rmem_max").ok();
    if let Some(bytes) = rmem_max.and_then(|text| text.trim().parse::<u64>().ok())
        && bytes < ENOUGH_RMEM
    {
        warnings.push(format!(
            "net.core.rmem_max is {bytes}: bursts will be lost (sysctl net.core.rmem_max={ENOUGH_RMEM})"
        ));
    }
    warnings
}

/// What clients would be told as far as it was written.
fn configured(config: &Config) -> Vec<IpAddr> {
    if config.external_ips.contains(&ExternalIp::Auto) {
        return Vec::new();
    }
    let externals: Vec<IpAddr> = config.external_ips.iter().filter_map(|ip| ip.known()).collect();
    let has_external = |ip: &IpAddr| externals.iter().any(|external| external.is_ipv4() == ip.is_ipv4());
    let relays = config.relay_ips.iter().copied().filter(|ip| !has_external(ip));
    relays.chain(externals.iter().copied()).collect()
}

const ENOUGH_DESCRIPTORS: u64 = 16_384;
const ENOUGH_RMEM: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_address_and_nobody_to_serve_are_worth_a_warning() {
        let of = |text: &str| warnings(&Config::from_toml(text).unwrap(), &[]).join("\n");
        assert!(of("").contains("no user and no secret"));
        assert!(!of("user = [\"a:b\"]").contains("no user"));
        assert!(of("only-allowed-peers = true").contains("no peer can be reached"));
        assert!(!of("only-allowed-peers = true\nallow-peer = \"10.0.0.1\"").contains("no peer"));
        assert!(of("relay-ip = \"10.0.0.1\"").contains("private address 10.0.0.1"));
        assert!(!of("relay-ip = \"10.0.0.1\"\nexternal-ip = \"198.18.0.1\"").contains("private address"));
        assert!(of("external-ip = \"10.0.0.2\"").contains("private address 10.0.0.2"));
    }

    #[test]
    fn a_summary_has_every_key_and_no_secret() {
        let config =
            Config::from_toml("user = [\"alice:hunter2\"]\nauth-secret = [\"hunter2\"]\nworkers = 3")
                .unwrap();
        let text = summary(&config);
        assert!(text.contains("workers = 3\n") && text.contains("user = (redacted)\n"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
