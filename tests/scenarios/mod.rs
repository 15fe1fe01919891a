//! The registry: every scenario, what it claims, and where it is told.
//!
//! A scenario proves its claim by what others saw (a relay's counters, a decoded recording, the words that arrived),
//! never by an exit code alone.

mod beside;
mod browser;
mod cable;
mod candidates;
mod carry;
mod cluster;
mod coturn;
mod direct;
mod faults;
mod file_faults;
mod homes;
mod identity;
mod lab;
mod media;
mod nat;
mod nat_verb;
mod outages;
mod pair;
mod recordings;
mod relayed;
mod rooms;
mod servers;
mod transfer;
mod uclient;
mod upgrade;
mod variants;

use anyhow::Result;

use crate::tools::Tool;
use crate::{Context, Evidence};

/// One claim about the programs, and how to put it to the proof.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What filters match.
    pub name: &'static str,
    /// What holds if it passes.
    pub claim: &'static str,
    /// Programs of others that it cannot do without.
    pub needs: &'static [Tool],
    /// Puts the claim to the proof.
    pub run: fn(&Context) -> Result<Evidence>,
}

/// All of them, in the order of the table.
pub static ALL: &[Scenario] = &[
    Scenario {
        name: "direct-call",
        claim: "video, audio and text go both ways without a server",
        needs: &[Tool::Ffprobe],
        run: direct::call,
    },
    Scenario {
        name: "media-formats",
        claim: "a live pattern, VP9, H.264 and WAV arrive and are recorded frame by frame",
        needs: &[Tool::Ffmpeg, Tool::Ffprobe],
        run: media::formats,
    },
    Scenario {
        name: "candidates",
        claim: "gathering finds the host, the reflexive and the relayed address",
        needs: &[],
        run: candidates::gathered,
    },
    Scenario {
        name: "reflexive-candidate",
        claim: "a peer behind a translator learns its outer address",
        needs: &[],
        run: candidates::reflexive,
    },
    Scenario {
        name: "both-offer",
        claim: "two offers at once end in one connection",
        needs: &[],
        run: direct::both_offer,
    },
    Scenario {
        name: "relayed-call",
        claim: "a call through the relay, which counts what the peers count",
        needs: &[],
        run: relayed::call,
    },
    Scenario {
        name: "relay-upgrade",
        claim: "a relayed call goes on while one relay process takes over from another, twice, without a packet lost",
        needs: &[],
        run: upgrade::call,
    },
    Scenario {
        name: "relay-to-relay",
        claim: "what two clients of one relay say to each other passes the kernel twice, not three times",
        needs: &[],
        run: beside::past_the_kernel,
    },
    Scenario {
        name: "files-direct",
        claim: "files and folders arrive whole, without a server",
        needs: &[],
        run: carry::files,
    },
    Scenario {
        name: "files-relayed",
        claim: "the same through the relay",
        needs: &[],
        run: carry::files_relayed,
    },
    Scenario {
        name: "files-relayed-tls",
        claim: "the same with TURN over TLS, by a certificate that --ca names",
        needs: &[],
        run: carry::files_relayed_tls,
    },
    Scenario {
        name: "pipe",
        claim: "two programs talk through stdin and stdout of two peers",
        needs: &[],
        run: carry::pipe,
    },
    Scenario {
        name: "forward",
        claim: "a TCP port behind one peer is reached at the other",
        needs: &[],
        run: carry::forward,
    },
    Scenario {
        name: "somebody-in-between",
        claim: "a signaling server that puts somebody in between is found out by whoever has an identity",
        needs: &[],
        run: identity::somebody_in_between,
    },
    Scenario {
        name: "lab",
        claim: "the lab for a person brings two homes up, runs what was asked for in them, and ends with that",
        needs: &[],
        run: lab::for_a_person,
    },
    Scenario {
        name: "doctor",
        claim: "doctor finds the servers well, or names what to mend",
        needs: &[],
        run: carry::doctor,
    },
    Scenario {
        name: "wrong-turn-password",
        claim: "credentials made with another secret get no allocation",
        needs: &[],
        run: relayed::wrong_password,
    },
    Scenario {
        name: "third-peer-refused",
        claim: "a room of two refuses a third and the two go on",
        needs: &[],
        run: rooms::third_peer_refused,
    },
    Scenario {
        name: "peer-killed",
        claim: "the room mate of a killed peer is told, and its place is free again",
        needs: &[],
        run: rooms::peer_killed,
    },
    Scenario {
        name: "bad-join-token",
        claim: "only the right token opens a room",
        needs: &[],
        run: rooms::bad_join_token,
    },
    Scenario {
        name: "unreachable-signaling",
        claim: "a peer that finds no signaling says so and ends",
        needs: &[],
        run: rooms::unreachable_signaling,
    },
    Scenario {
        name: "signaling-killed",
        claim: "media outlives a killed signaling server, and the next call works",
        needs: &[],
        run: servers::signaling_killed,
    },
    Scenario {
        name: "daemons-terminated",
        claim: "SIGTERM during a call: GoAway, a bounded drain, exit 0",
        needs: &[],
        run: servers::terminated,
    },
    Scenario {
        name: "cluster-call",
        claim: "peers on different signaling nodes call each other through one redis",
        needs: &[Tool::Redis],
        run: cluster::call,
    },
    Scenario {
        name: "node-killed",
        claim: "signaling nodes are killed during a call's set-up and after: its sessions go on elsewhere",
        needs: &[Tool::Redis],
        run: cluster::node_killed,
    },
    Scenario {
        name: "coturn-udp",
        claim: "coturn's clients lose nothing over UDP",
        needs: &[Tool::TurnClient, Tool::StunClient],
        run: coturn::udp,
    },
    Scenario {
        name: "coturn-tcp",
        claim: "coturn's clients lose nothing over TCP",
        needs: &[Tool::TurnClient],
        run: coturn::tcp,
    },
    Scenario {
        name: "coturn-tls",
        claim: "coturn's clients lose nothing over TLS",
        needs: &[Tool::TurnClient],
        run: coturn::tls,
    },
    Scenario {
        name: "coturn-dtls",
        claim: "coturn's clients lose nothing over DTLS",
        needs: &[Tool::TurnClient],
        run: coturn::dtls,
    },
    Scenario {
        name: "coturn-to-each-other",
        claim: "coturn's clients are each other's peers, over every transport",
        needs: &[Tool::TurnClient],
        run: uclient::to_each_other,
    },
    Scenario {
        name: "coturn-connections",
        claim: "coturn's clients connect to each other by TCP allocations, over TCP and TLS",
        needs: &[Tool::TurnClient],
        run: uclient::connections,
    },
    Scenario {
        name: "coturn-passive",
        claim: "coturn's clients are connected to by TCP allocations, and fare as with coturn",
        needs: &[Tool::TurnClient, Tool::TurnServer],
        run: uclient::passive,
    },
    Scenario {
        name: "coturn-families",
        claim: "coturn's clients get IPv4, IPv6 and both, over every transport",
        needs: &[Tool::TurnClient],
        run: uclient::families,
    },
    Scenario {
        name: "coturn-extra-requests",
        claim: "permissions and channels that nobody needs disturb no client of coturn",
        needs: &[Tool::TurnClient],
        run: uclient::extra_requests,
    },
    Scenario {
        name: "coturn-access-tokens",
        claim: "access tokens let coturn's clients in, over every transport",
        needs: &[Tool::TurnClient],
        run: uclient::access_tokens,
    },
    Scenario {
        name: "coturn-mobility",
        claim: "coturn's clients go on from another address, over every transport",
        needs: &[Tool::TurnClient],
        run: uclient::mobility,
    },
    Scenario {
        name: "coturn-misbehaving",
        claim: "coturn's clients that break the rules are refused as coturn refuses them",
        needs: &[Tool::TurnClient, Tool::TurnServer],
        run: uclient::misbehaving,
    },
    Scenario {
        name: "coturn-discovery",
        claim: "turnutils_natdiscovery finds out that there is no NAT",
        needs: &[Tool::NatDiscovery],
        run: uclient::discovery,
    },
    Scenario {
        name: "page-to-page",
        claim: "two people call each other by a key, with video both ways",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::two_pages,
    },
    Scenario {
        name: "page-keyboard",
        claim: "a call by the keyboard alone, with TURN where the address asks for it",
        needs: &[Tool::Chromium, Tool::ChromeDriver],
        run: browser::keyboard_alone,
    },
    Scenario {
        name: "page-to-peer",
        claim: "a page and farcall-peer see, hear, write and trust each other",
        needs: &[Tool::ChromeDriver, Tool::Chromium, Tool::Ffprobe],
        run: browser::page_and_peer,
    },
    Scenario {
        name: "page-third-refused",
        claim: "a further page with the same key is refused in words",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::third_page_refused,
    },
    Scenario {
        name: "page-relayed-udp",
        claim: "two pages that may use nothing but the relay reach it over UDP",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::relayed_udp,
    },
    Scenario {
        name: "page-relayed-tcp",
        claim: "two pages that may use nothing but the relay reach it over TCP",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::relayed_tcp,
    },
    Scenario {
        name: "page-relayed-tls",
        claim: "two pages that may use nothing but the relay reach it over TLS",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::relayed_tls,
    },
    Scenario {
        name: "page-tones",
        claim: "a tone pressed at one page is heard at the other",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::tones,
    },
    Scenario {
        name: "page-peer-tones",
        claim: "a page and farcall-peer hear the keys that the other presses",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::tones_with_peer,
    },
    Scenario {
        name: "page-peer-live",
        claim: "a page shows what farcall-peer encodes while it sends it",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: media::live_in_a_page,
    },
    Scenario {
        name: "page-peer-tracks",
        claim: "what farcall-peer begins and ends to send during a call, a page shows and no longer shows",
        needs: &[Tool::ChromeDriver, Tool::Chromium, Tool::Ffmpeg],
        run: browser::tracks_of_the_peer,
    },
    Scenario {
        name: "page-tracks-recorded",
        claim: "a page's camera, off and on again, and its screen are recorded by farcall-peer, each in its file",
        needs: &[Tool::ChromeDriver, Tool::Chromium, Tool::Ffprobe],
        run: browser::tracks_of_the_page,
    },
    Scenario {
        name: "page-screen-share",
        claim: "a screen is shared beside the camera, and taken away again",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::screen,
    },
    Scenario {
        name: "page-signaling-killed",
        claim: "a call of two pages outlives a killed signaling server",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::signaling_killed,
    },
    Scenario {
        name: "page-relay-restarted",
        claim: "two pages whose relay is killed go on through the one that takes its place",
        needs: &[Tool::Chromium, Tool::ChromeDriver],
        run: browser::relay_restarted,
    },
    Scenario {
        name: "page-https-token",
        claim: "over HTTPS, whoever has a token for the room calls, and nobody else gets in",
        needs: &[Tool::Chromium, Tool::ChromeDriver],
        run: browser::https_and_tokens,
    },
    Scenario {
        name: "page-offline",
        claim: "a page that was without a network resumes with nothing lost",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::offline,
    },
    Scenario {
        name: "page-camera-refused",
        claim: "who refuses the camera is told what to do, and can still call",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: browser::camera_refused,
    },
    Scenario {
        name: "nat-matrix",
        claim: "every kind of NAT meets every other by the path that theory allows",
        needs: &[],
        run: nat::matrix,
    },
    Scenario {
        name: "nat-verb",
        claim: "farcall-peer nat says of every kind of NAT what it is",
        needs: &[],
        run: nat_verb::behind_each,
    },
    Scenario {
        name: "nat-faults",
        claim: "a call outlives what goes wrong with its network, and nothing said is lost",
        needs: &[],
        run: faults::during_a_call,
    },
    Scenario {
        name: "nat-file-faults",
        claim: "a file arrives whole, by itself, whatever goes wrong with a network or a server on the way",
        needs: &[],
        run: file_faults::during_a_transfer,
    },
    Scenario {
        name: "nat-ice-tcp",
        claim: "two peers meet over TCP where UDP is blocked and there is no relay",
        needs: &[],
        run: nat::without_udp,
    },
    Scenario {
        name: "nat-hairpin",
        claim: "two homes behind one carrier meet there if it turns packets back, and by the relay if not",
        needs: &[],
        run: variants::by_the_outer_address,
    },
    Scenario {
        name: "nat-carriers",
        claim: "homes behind carriers meet as the stricter of both translators allows",
        needs: &[],
        run: variants::behind_carriers,
    },
    Scenario {
        name: "nat-equal-subnets",
        claim: "two homes with the same inner addresses meet, whoever else has them",
        needs: &[],
        run: variants::equal_subnets,
    },
    Scenario {
        name: "nat-ports",
        claim: "peers meet whether translators keep ports or not",
        needs: &[],
        run: variants::kept_and_not,
    },
    Scenario {
        name: "nat-timeouts",
        claim: "a call outlives silence before translators that forget within seconds",
        needs: &[],
        run: variants::forgetful,
    },
    Scenario {
        name: "nat-symmetric",
        claim: "a whole call goes through the relay where both sides are symmetric",
        needs: &[],
        run: variants::with_media,
    },
    Scenario {
        name: "nat-moves-up",
        claim: "a relayed call moves to a direct path that appears later, loses nothing, and is left alone where none does",
        needs: &[],
        run: variants::moves_up,
    },
    Scenario {
        name: "nat-tls-alone",
        claim: "a call gets out of a home that lets out TLS to port 443 alone",
        needs: &[],
        run: variants::nothing_else,
    },
    Scenario {
        name: "nat-families",
        claim: "homes with IPv6 alone or beside IPv4 meet over IPv6 where they can, else by the relay",
        needs: &[],
        run: variants::over_ipv6,
    },
    Scenario {
        name: "nat-ordinary-user",
        claim: "whoever is not root has a lab too, or is told which setting forbids it",
        needs: &[],
        run: lab::for_an_ordinary_user,
    },
    Scenario {
        name: "nat-one-home",
        claim: "what two people in one home show each other does not leave it",
        needs: &[],
        run: homes::one_home,
    },
    Scenario {
        name: "nat-udp-impossible",
        claim: "without UDP a call goes by TURN over TCP, and over TLS where 443 alone is open",
        needs: &[],
        run: homes::without_udp,
    },
    Scenario {
        name: "nat-bad-line",
        claim: "over a line with 50 ms, jitter and 10 % loss a call goes on and a file arrives whole",
        needs: &[],
        run: cable::bad_line,
    },
    Scenario {
        name: "nat-bad-recording",
        claim: "what is recorded over a line with loss, jitter and swapped packets has no fault, and most of the pictures",
        needs: &[Tool::Ffprobe],
        run: recordings::over_a_bad_line,
    },
    Scenario {
        name: "nat-narrow-line",
        claim: "a live picture takes no more than the line carries, and more again when it can",
        needs: &[],
        run: cable::narrow_line,
    },
    Scenario {
        name: "nat-bad-start",
        claim: "peers find each other and open a channel although one packet in ten is lost",
        needs: &[],
        run: cable::bad_start,
    },
    Scenario {
        name: "nat-page-peer",
        claim: "a browser in one home and farcall-peer in another meet by the relay where nothing else helps",
        needs: &[Tool::Chromium, Tool::ChromeDriver],
        run: homes::browser_and_peer,
    },
    Scenario {
        name: "nat-pages",
        claim: "two browsers behind different NATs meet, and no server sees their media",
        needs: &[Tool::ChromeDriver, Tool::Chromium],
        run: homes::two_browsers,
    },
    Scenario {
        name: "nat-outages",
        claim: "a call survives the end of its relay and of signaling, and loses nothing that was said",
        needs: &[],
        run: outages::during_a_call,
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_fit_for_a_folder() {
        let names = ALL.iter().map(|scenario| scenario.name).collect::<BTreeSet<_>>();
        assert_eq!(names.len(), ALL.len());
        let fits = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        assert!(names.iter().all(|name| fits(name)), "{names:?}");
    }
}
