//! How a verb gets into a room: by a key that both sides know, by a code that it was told, or by one that it makes.

use crate::cli::{Common, Manner, TrustArg};
use crate::failure::{Failure, Reason};
use crate::identity::{Code, CodeError, Folder, Identity, Trust};
use crate::peer::{CodeSide, Config, Peer};
use crate::report::{Event, Reporter};

/// What all verbs make of their flags; the room is still to be said.
pub(super) fn config(common: &Common, manner: &Manner) -> Result<Config, Failure> {
    let folder = Folder::of_the_user();
    Ok(Config {
        token: common.token.clone(),
        ca: common.ca.clone(),
        display_name: manner.name.clone(),
        offer: manner.offer.into(),
        policy: common.policy(),
        bind: common.bind.clone(),
        stats: manner.stats,
        connect_timeout: manner.connect_timeout,
        identity: identity(common, folder.as_ref())?.map(Into::into),
        trust: trust(&common.trust)?,
        folder,
        ..Config::new(&common.signaling, "")
    })
}

/// Enters the room of this name, or the one of this code. Without either it makes a code and says so, with the `words`
/// that the other side must type after the program's name, where `CODE` stands for it.
pub(super) async fn meet(
    config: Config,
    room: Option<&str>,
    words: &str,
    reporter: &Reporter,
) -> Result<Peer, Failure> {
    let Some(room) = room else { return host(config, words, reporter).await };
    match room.parse::<Code>() {
        Ok(code) => Peer::start(Config { code: Some(CodeSide::Told(code)), ..of_a_code(config) }),
        Err(error @ CodeError::UnknownWord(_)) if !room.contains(' ') => {
            Err(Failure::new(Reason::BadUsage, error.to_string()))
        }
        Err(CodeError::UnknownWord(_) | CodeError::NoCode) => Peer::start(in_room(config, room)?),
    }
}

/// The configuration for the room of this name.
pub(super) fn in_room(config: Config, room: &str) -> Result<Config, Failure> {
    let mut config = Config { room: room.to_owned(), ..config };
    if let (Trust::Known { expected }, Some(folder)) = (&mut config.trust, &config.folder) {
        *expected = folder.known_peers()?.key_of(&config.server, room);
    }
    Ok(config)
}

/// Who knows the code is the right one; its room is nobody's for long.
fn of_a_code(config: Config) -> Config {
    let trust = match config.trust {
        Trust::Keys(keys) => Trust::Keys(keys),
        Trust::Known { .. } | Trust::Anybody => Trust::Anybody,
    };
    Config { trust, ..config }
}

async fn host(config: Config, words: &str, reporter: &Reporter) -> Result<Peer, Failure> {
    let config = of_a_code(config);
    for _ in 0..MOST_TRIES {
        let code = Code::random();
        let mut peer = Peer::start(Config { code: Some(CodeSide::Made(code.clone())), ..config.clone() })?;
        match peer.event().await {
            Some(joined @ Event::Joined { others: 0, .. }) => {
                let code = code.to_string();
                let command = command(&config.server, &words.replace("CODE", &code));
                reporter.event(&Event::Code { code, command });
                reporter.event(&joined);
                return Ok(peer);
            }
            // Somebody else's code has the same number.
            Some(_) => {
                peer.hang_up("taken");
                while peer.event().await.is_some() {}
                peer.finish().await?;
            }
            None => match peer.finish().await {
                Err(Failure { reason: Reason::RoomFull, .. }) => {}
                Err(failure) => return Err(failure),
                Ok(()) => return Err(Failure::new(Reason::Internal, "it ended before it had begun")),
            },
        }
    }
    Err(Failure::new(Reason::RoomFull, "no code is free at this signaling server"))
}

fn command(server: &str, words: &str) -> String {
    if server == Common::SIGNALING {
        format!("farcall-peer {words}")
    } else {
        format!("farcall-peer --signaling {server} {words}")
    }
}

fn identity(common: &Common, folder: Option<&Folder>) -> Result<Option<Identity>, Failure> {
    match (&common.identity, folder) {
        (Some(file), _) if file.as_os_str() == "none" => Ok(None),
        (Some(file), _) => Identity::from_file(file).map(Some),
        (None, Some(folder)) => folder.identity(),
        (None, None) => Ok(None),
    }
}

fn trust(flags: &[TrustArg]) -> Result<Trust, Failure> {
    let keys: Vec<_> = flags.iter().filter_map(TrustArg::key).collect();
    match flags {
        [TrustArg::Known] => Ok(Trust::Known { expected: None }),
        [TrustArg::Anybody] => Ok(Trust::Anybody),
        _ if keys.len() == flags.len() => Ok(Trust::Keys(keys)),
        _ => Err(Failure::new(
            Reason::BadUsage,
            "--trust is keys, or known, or anybody, but not several of these",
        )),
    }
}

/// Of nine thousand numbers.
const MOST_TRIES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_keys_or_a_word() {
        let key = Identity::generate().0.public_key();
        assert_eq!(trust(&[TrustArg::Key(key), TrustArg::Key(key)]), Ok(Trust::Keys(vec![key, key])));
        assert_eq!(trust(&[TrustArg::Known]), Ok(Trust::Known { expected: None }));
        assert_eq!(trust(&[TrustArg::Anybody]), Ok(Trust::Anybody));
        assert_eq!(trust(&[TrustArg::Anybody, TrustArg::Key(key)]).unwrap_err().reason, Reason::BadUsage);
    }

    #[test]
    fn the_other_side_is_told_which_server_unless_it_is_the_usual_one() {
        assert_eq!(command(Common::SIGNALING, "receive x"), "farcall-peer receive x");
        assert_eq!(command("http://a:1", "receive x"), "farcall-peer --signaling http://a:1 receive x");
    }
}
