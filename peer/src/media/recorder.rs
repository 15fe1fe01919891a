//! Writes what a track brings to a file, on a thread that may wait for the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::codec::Codec;
use super::{h264, ivf, ogg};

/// A frame of video or a packet of sound.
#[derive(Debug)]
pub(crate) struct Unit {
    /// Tick of the RTP clock.
    pub(crate) at: u64,
    pub(crate) data: Bytes,
    /// Of a key frame of video.
    pub(crate) dimensions: Option<(u16, u16)>,
}

/// A file being written.
#[derive(Debug)]
pub(crate) struct Recording {
    units: mpsc::Sender<Unit>,
    writing: JoinHandle<io::Result<Option<(PathBuf, u64)>>>,
}

impl Recording {
    /// Records into a new file of this directory, once there is something to record.
    pub(crate) fn start(codec: Codec, directory: PathBuf) -> Self {
        let (units, queue) = mpsc::channel(QUEUE);
        let writing = tokio::task::spawn_blocking(move || match codec {
            Codec::Vp8 | Codec::Vp9 => video(codec, &directory, queue),
            Codec::H264 => byte_stream(&directory, queue),
            Codec::Opus => audio(&directory, queue),
        });
        Self { units, writing }
    }

    /// Adds to it. If the disk is too slow the call does not wait for it; an error shows at the end.
    pub(crate) fn write(&self, unit: Unit) {
        let _ = self.units.try_send(unit);
    }

    /// Ends it: the file and the frames in it, if there was anything to record.
    pub(crate) async fn finish(self) -> io::Result<Option<(PathBuf, u64)>> {
        drop(self.units);
        self.writing.await.map_err(io::Error::other)?
    }
}

fn video(
    codec: Codec,
    directory: &Path,
    mut units: mpsc::Receiver<Unit>,
) -> io::Result<Option<(PathBuf, u64)>> {
    // The header wants the dimensions, which the first key frame has.
    let (first, dimensions) = loop {
        let Some(unit) = units.blocking_recv() else { return Ok(None) };
        if let Some(dimensions) = unit.dimensions {
            break (unit, dimensions);
        }
    };
    let (path, file) = create(directory, "video", "ivf")?;
    let mut writer = ivf::Writer::new(file, codec, dimensions)?;
    writer.write(first.at, &first.data)?;
    while let Some(unit) = units.blocking_recv() {
        writer.write(unit.at, &unit.data)?;
    }
    Ok(Some((path, writer.finish()?)))
}

fn byte_stream(directory: &Path, mut units: mpsc::Receiver<Unit>) -> io::Result<Option<(PathBuf, u64)>> {
    let Some(first) = units.blocking_recv() else { return Ok(None) };
    let (path, file) = create(directory, "video", "h264")?;
    let mut writer = h264::Writer::new(file);
    writer.write(&first.data)?;
    while let Some(unit) = units.blocking_recv() {
        writer.write(&unit.data)?;
    }
    Ok(Some((path, writer.finish()?)))
}

fn audio(directory: &Path, mut units: mpsc::Receiver<Unit>) -> io::Result<Option<(PathBuf, u64)>> {
    let Some(first) = units.blocking_recv() else { return Ok(None) };
    let (path, file) = create(directory, "audio", "ogg")?;
    let mut writer = ogg::Writer::new(file, rand::random())?;
    writer.write(first.at, first.data)?;
    while let Some(unit) = units.blocking_recv() {
        writer.write(unit.at, unit.data)?;
    }
    Ok(Some((path, writer.finish()?)))
}

/// A file that did not exist: `video.ivf`, or `video-2.ivf` and so on.
fn create(directory: &Path, stem: &str, extension: &str) -> io::Result<(PathBuf, File)> {
    fs::create_dir_all(directory)?;
    let mut number = 1;
    loop {
        let name =
            if number == 1 { format!("{stem}.{extension}") } else { format!("{stem}-{number}.{extension}") };
        let path = directory.join(name);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Several seconds of both kinds.
const QUEUE: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Clip;
    use crate::report::MediaKind;

    #[tokio::test]
    async fn a_clip_that_is_recorded_reads_as_it_was_and_never_replaces_another() {
        let directory = tempfile::tempdir().unwrap();
        for kind in [MediaKind::Video, MediaKind::Audio] {
            let clip = Clip::test(kind).unwrap();
            for _ in 0..2 {
                let recording = Recording::start(clip.codec, directory.path().to_owned());
                for frame in &clip.frames {
                    let unit = Unit {
                        at: 77 + frame.at,
                        data: frame.data.clone(),
                        dimensions: clip.codec.dimensions(&frame.data),
                    };
                    recording.units.send(unit).await.unwrap();
                }
                let (path, frames) = recording.finish().await.unwrap().unwrap();
                assert_eq!(frames, clip.frames.len() as u64);
                assert_eq!(Clip::load(kind, &path).unwrap(), clip);
            }
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
    }

    #[tokio::test]
    async fn nothing_to_record_makes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let recording = Recording::start(Codec::Opus, directory.path().to_owned());
        assert_eq!(recording.finish().await.unwrap(), None);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
