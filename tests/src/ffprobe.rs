//! A second opinion on recorded media: what `ffprobe` makes of a file after decoding all of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The one stream of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// `vp8`, `opus`.
    pub codec: String,
    /// Frames that could be decoded.
    pub frames: u64,
    /// Width and height, for pictures.
    pub size: Option<(u32, u32)>,
    /// How long it lasts, where the container tells.
    pub seconds: Option<f64>,
}

impl Probe {
    /// Decodes `file` from end to end. Anything `ffprobe` finds fault with is an error.
    pub fn of(file: &Path) -> Result<Self> {
        let output = Command::new("ffprobe")
            .args(["-v", "error", "-count_frames", "-of", "json", "-show_entries"])
            .arg("stream=codec_name,width,height,nb_read_frames:format=duration")
            .arg(file)
            .output()
            .context("running ffprobe")?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        let of_file = || format!("ffprobe on {}", file.display());
        ensure!(output.status.success() && complaints.is_empty(), "{}: {}", of_file(), complaints.trim());
        Self::parse(&output.stdout).with_context(of_file)
    }

    fn parse(json: &[u8]) -> Result<Self> {
        let answer: Answer =
            serde_json::from_slice(json).context("an answer that is not what was asked for")?;
        let [stream] = answer.streams.as_slice() else {
            bail!("{} streams instead of one", answer.streams.len())
        };
        let frames =
            stream.nb_read_frames.as_deref().unwrap_or("0").parse().context("no number of frames")?;
        let seconds = answer.format.and_then(|format| format.duration);
        let seconds = seconds.map(|seconds| seconds.parse()).transpose().context("no duration")?;
        Ok(Self { codec: stream.codec_name.clone(), frames, size: stream.width.zip(stream.height), seconds })
    }
}

#[derive(Deserialize)]
struct Answer {
    streams: Vec<Stream>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    /// A string, too.
    duration: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    codec_name: String,
    width: Option<u32>,
    height: Option<u32>,
    /// A string, and absent if not one frame could be read.
    nb_read_frames: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_codec_and_size_are_read() {
        let json = br#"{"programs":[],"streams":[{"codec_name":"vp8","width":320,"height":180,"nb_read_frames":"75"}],"format":{"duration":"5.0"}}"#;
        let probe = Probe { codec: "vp8".to_owned(), frames: 75, size: Some((320, 180)), seconds: Some(5.0) };
        assert_eq!(Probe::parse(json).unwrap(), probe);
        let json = br#"{"streams":[{"codec_name":"opus","nb_read_frames":"250"}]}"#;
        let probe = Probe { codec: "opus".to_owned(), frames: 250, size: None, seconds: None };
        assert_eq!(Probe::parse(json).unwrap(), probe);
    }

    #[test]
    fn a_file_without_a_stream_or_without_a_frame_is_told_apart() {
        assert!(Probe::parse(br#"{"streams":[]}"#).is_err());
        assert_eq!(Probe::parse(br#"{"streams":[{"codec_name":"vp8"}]}"#).unwrap().frames, 0);
    }
}
