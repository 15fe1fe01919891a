//! `identity` and `known`: who this side is, and whom it knows.

use crate::cli;
use crate::failure::{Failure, Reason};
use crate::identity::{Folder, Identity};
use crate::report::{Event, Reporter};

/// Prints who this side is.
pub fn own(common: &cli::Common, reporter: &Reporter) -> Result<(), Failure> {
    let (identity, file, made) = match &common.identity {
        Some(file) => (Identity::from_file(file)?, file.clone(), false),
        None => {
            let folder = folder()?;
            let (identity, made) = match folder.identity()? {
                Some(identity) => (identity, false),
                None => (folder.make_identity()?, true),
            };
            (identity, folder.identity_file(), made)
        }
    };
    let (key, file) = (identity.public_key().to_string(), file.display().to_string());
    reporter.event(&Event::OwnIdentity { key, file, made });
    Ok(())
}

/// Prints whom this side knows, or forgets somebody.
pub fn known(flags: &cli::Known, reporter: &Reporter) -> Result<(), Failure> {
    let folder = folder()?;
    if let Some(room) = &flags.forget {
        return match folder.change_known_peers(|known| known.forget(room))? {
            0 => Err(Failure::new(Reason::BadUsage, format!("nobody is known in {room:?}"))),
            _ => Ok(()),
        };
    }
    for peer in folder.known_peers()?.peers() {
        let (key, server, room) = (peer.key.to_string(), peer.server.clone(), peer.room.clone());
        reporter.event(&Event::KnownPeer { key, server, room });
    }
    Ok(())
}

fn folder() -> Result<Folder, Failure> {
    Folder::of_the_user().ok_or_else(|| {
        Failure::new(Reason::BadUsage, "there is no home to keep files in: set FARCALL_PEER_HOME to a folder")
    })
}
