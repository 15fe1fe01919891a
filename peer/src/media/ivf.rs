//! VP8 and VP9 in IVF: a header of 32 bytes, then frames with 12 bytes before each. All numbers are little-endian.

use std::io::{self, Seek, SeekFrom, Write};

use bytes::Bytes;

use super::clip::{Clip, Frame};
use super::codec::Codec;
use super::{BadFile, Cursor, VIDEO_CLOCK};

/// Reads a whole file.
pub(super) fn read(bytes: &Bytes) -> Result<Clip, BadFile> {
    let mut cursor = Cursor::new(bytes);
    if cursor.take(4, "no IVF signature")? != b"DKIF" {
        return Err(BadFile { what: "no IVF signature", offset: 0 });
    }
    let _version = cursor.take(2, "the IVF header ends too early")?;
    let header_bytes = u16::from_le_bytes(cursor.array("the IVF header ends too early")?);
    let fourcc: [u8; 4] = cursor.array("the IVF header ends too early")?;
    let codec = CODECS.into_iter().find(|(name, _)| **name == fourcc).map(|(_, codec)| codec);
    let codec = codec.ok_or(BadFile { what: "the codec is neither VP8 nor VP9", offset: 8 })?;
    let _dimensions = cursor.take(4, "the IVF header ends too early")?;
    let rate = u64::from(u32::from_le_bytes(cursor.array("the IVF header ends too early")?));
    let scale = u64::from(u32::from_le_bytes(cursor.array("the IVF header ends too early")?));
    if rate == 0 || scale == 0 {
        return Err(BadFile { what: "the time base is zero", offset: 16 });
    }
    let _counts = cursor.take(8, "the IVF header ends too early")?;
    cursor.take(usize::from(header_bytes).saturating_sub(HEADER_BYTES), "the IVF header ends too early")?;

    let mut frames: Vec<Frame> = Vec::new();
    let mut first = None;
    while !cursor.is_at_end() {
        let offset = cursor.offset;
        let size = u32::from_le_bytes(cursor.array("a frame header is cut off")?);
        let timestamp = u64::from_le_bytes(cursor.array("a frame header is cut off")?);
        let data = bytes.slice_ref(cursor.take(size as usize, "a frame is cut off")?);
        if data.is_empty() {
            continue;
        }
        let since = timestamp
            .checked_sub(*first.get_or_insert(timestamp))
            .ok_or(BadFile { what: "a frame is earlier than the first", offset })?;
        let at = u128::from(since) * u128::from(scale) * u128::from(VIDEO_CLOCK) / u128::from(rate);
        let at = u64::try_from(at).ok().filter(|at| *at <= LATEST);
        let at = at.ok_or(BadFile { what: "a time is out of range", offset })?;
        if frames.last().is_some_and(|last| at <= last.at) {
            return Err(BadFile { what: "a frame is not later than the one before", offset });
        }
        frames.push(Frame { data, at });
    }
    let Some(last) = frames.last() else {
        return Err(BadFile { what: "there is no frame", offset: cursor.offset });
    };
    // The last frame lasts as long as they do on average.
    let intervals = (frames.len() as u64).saturating_sub(1).max(1);
    let length = last.at + (last.at / intervals).max(1).max(if frames.len() == 1 { SINGLE_FRAME } else { 0 });
    Ok(Clip { codec, frames, length })
}

/// Writes frames as they come. The file can be read at any time: its header is kept true.
#[derive(Debug)]
pub(super) struct Writer<W> {
    file: W,
    frames: u64,
    first: Option<u64>,
    last: u64,
    interval: u64,
}

impl<W: Write + Seek> Writer<W> {
    pub(super) fn new(mut file: W, codec: Codec, (width, height): (u16, u16)) -> io::Result<Self> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(b"DKIF\0\0\x20\0");
        let fourcc = CODECS.into_iter().find(|(_, known)| *known == codec).map(|(name, _)| name);
        header.extend_from_slice(fourcc.ok_or_else(|| io::Error::other("no codec of this container"))?);
        header.extend_from_slice(&width.to_le_bytes());
        header.extend_from_slice(&height.to_le_bytes());
        header.extend_from_slice(&VIDEO_CLOCK.to_le_bytes());
        header.extend_from_slice(&1u32.to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        file.write_all(&header)?;
        Ok(Self { file, frames: 0, first: None, last: 0, interval: 0 })
    }

    /// Adds a frame that is due at this tick of the RTP clock.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len()).map_err(io::Error::other)?;
        let at = at.saturating_sub(*self.first.get_or_insert(at));
        if self.frames > 0 {
            self.interval = at.saturating_sub(self.last);
        }
        self.last = at;
        let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + data.len());
        frame.extend_from_slice(&size.to_le_bytes());
        frame.extend_from_slice(&at.to_le_bytes());
        frame.extend_from_slice(data);
        self.file.write_all(&frame)?;
        self.frames += 1;
        self.update()
    }

    /// Ends the file and says how many frames it has.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.file.flush()?;
        Ok(self.frames)
    }

    /// Notes the length in the header, in units of the time base, which is what players read there.
    fn update(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.last + self.interval).unwrap_or(u32::MAX);
        self.file.seek(SeekFrom::Start(LENGTH_OFFSET))?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }
}

const CODECS: [(&[u8; 4], Codec); 2] = [(b"VP80", Codec::Vp8), (b"VP90", Codec::Vp9)];
const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 12;
const LENGTH_OFFSET: u64 = 24;
/// A clip of one frame shows it for a second.
const SINGLE_FRAME: u64 = VIDEO_CLOCK as u64;
/// A year: who waits longer for a picture has a broken file.
const LATEST: u64 = VIDEO_CLOCK as u64 * 365 * 24 * 3600;

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;

    use super::*;

    fn written(frames: &[(u64, &[u8])]) -> Bytes {
        let mut file = io::Cursor::new(Vec::new());
        let mut writer = Writer::new(&mut file, Codec::Vp8, (320, 180)).unwrap();
        for (at, data) in frames {
            writer.write(*at, data).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), frames.len() as u64);
        file.into_inner().into()
    }

    #[test]
    fn what_was_written_is_read_with_its_times() {
        let clip = read(&written(&[(1000, b"one"), (7000, b"two"), (13000, b"three")])).unwrap();
        let frames: Vec<_> = clip.frames.iter().map(|frame| (frame.at, &frame.data[..])).collect();
        assert_eq!(frames, [(0, &b"one"[..]), (6000, b"two"), (12000, b"three")]);
        assert_eq!(clip.length, 18000);
    }

    #[test]
    fn the_length_in_the_header_is_true_after_every_frame() {
        let mut file = io::Cursor::new(Vec::new());
        let mut writer = Writer::new(&mut file, Codec::Vp8, (320, 180)).unwrap();
        writer.write(0, b"one").unwrap();
        writer.write(6000, b"two").unwrap();
        // As it is when the process is killed.
        assert_eq!(file.into_inner()[24..28], 12_000u32.to_le_bytes());
    }

    #[test]
    fn a_frame_that_is_cut_off_is_told_with_its_place() {
        let file = written(&[(0, b"one"), (6000, b"two")]);
        let cut = file.slice(..file.len() - 1);
        assert_eq!(read(&cut), Err(BadFile { what: "a frame is cut off", offset: 32 + 12 + 3 + 12 }));
    }

    #[test]
    fn a_time_that_nobody_waits_for_is_refused_with_its_place() {
        for broken in [1 << 62, 1 << 50] {
            let file = written(&[(0, b"one"), (broken, b"two")]);
            assert_eq!(read(&file), Err(BadFile { what: "a time is out of range", offset: 32 + 12 + 3 }));
        }
    }

    #[test]
    fn another_codec_is_refused() {
        let mut file = written(&[(0, b"one")]).to_vec();
        file[8..12].copy_from_slice(b"AV01");
        assert_eq!(read(&file.into()).unwrap_err().what, "the codec is neither VP8 nor VP9");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), valid in any::<bool>()) {
            if valid {
                let mut file = written(&[(0, b"one")]).to_vec();
                file.append(&mut bytes);
                bytes = file;
            }
            let _ = read(&bytes.into());
        }
    }
}
