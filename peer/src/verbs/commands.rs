//! What can be typed during a call besides text: lines that begin with a slash.

use std::str::FromStr;

use crate::media::{Source, Tones};
use crate::report::MediaKind;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Change what is sent.
    Send(MediaKind, Source),
    /// Press these keys.
    Dial(Tones),
    /// End the call.
    HangUp,
}

impl FromStr for Command {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, Self::Err> {
        let command = line.strip_prefix('/').unwrap_or(line);
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let kind = match verb {
            "video" => MediaKind::Video,
            "audio" => MediaKind::Audio,
            "dtmf" => return Ok(Self::Dial(rest.trim().parse()?)),
            "hangup" => return Ok(Self::HangUp),
            _ => return Err(format!("there is no command /{verb}, but {COMMANDS}")),
        };
        match rest.trim() {
            "" => Err(format!("/{verb} wants a source: a file, test, live or none")),
            source => source.parse().map(|source| Self::Send(kind, source)).map_err(|never| match never {}),
        }
    }
}

const COMMANDS: &str = "/video SOURCE, /audio SOURCE, /dtmf TONES, /hangup; a text begins with two slashes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        for (line, command) in [
            ("/video live", Command::Send(MediaKind::Video, Source::Live)),
            ("/audio none", Command::Send(MediaKind::Audio, Source::None)),
            ("/video  my clip.ivf ", Command::Send(MediaKind::Video, Source::File("my clip.ivf".into()))),
            ("/dtmf 12#", Command::Dial("12#".parse().unwrap())),
            ("/hangup", Command::HangUp),
        ] {
            assert_eq!(line.parse(), Ok(command), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_explained() {
        for (line, explanation) in [
            ("/vidoe live", "/video SOURCE"),
            ("/video", "wants a source"),
            ("/dtmf x", ""),
            ("/", "/hangup"),
        ] {
            let problem = line.parse::<Command>().unwrap_err();
            assert!(problem.contains(explanation), "{line}: {problem}");
        }
    }
}
