//! H.264 in RTP (RFC 6184), and as a byte stream (ITU-T H.264, Annex B).

use std::io;
use std::io::Write;

use bytes::{BufMut as _, Bytes, BytesMut};
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::rbsp::{BitReader, decode_nal};

use super::assembler::Piece;
use super::clip::{Clip, Frame};
use super::codec::Codec;
use super::{BadFile, VIDEO_CLOCK};

/// What a payload adds to the byte stream of its picture; nothing if it makes no sense. RFC 6184, section 5.2.
pub(super) fn piece(payload: &[u8]) -> Option<Piece<'_>> {
    let (&header, rest) = payload.split_first()?;
    match header & TYPE {
        1..=23 => Some(Piece::Unit { header: None, data: payload }),
        AGGREGATE => {
            let mut units = Vec::new();
            let mut rest = rest;
            while !rest.is_empty() {
                let (size, behind) = rest.split_first_chunk()?;
                let (unit, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
                units.push(unit);
                rest = behind;
            }
            Some(Piece::Units(units))
        }
        FRAGMENT => {
            let (&fragment, data) = rest.split_first()?;
            let header = header & !TYPE | fragment & TYPE;
            let begins = fragment & FRAGMENT_BEGINS != 0;
            Some(if begins { Piece::Unit { header: Some(header), data } } else { Piece::More(data) })
        }
        _ => None,
    }
}

/// Adds a unit to a byte stream.
pub(super) fn append(stream: &mut BytesMut, header: Option<u8>, data: &[u8]) {
    stream.extend_from_slice(&START_CODE);
    if let Some(header) = header {
        stream.put_u8(header);
    }
    stream.extend_from_slice(data);
}

/// Whether a picture begins a sequence.
pub(super) fn is_key_frame(picture: &[u8]) -> bool {
    units(picture).any(|unit| kind(unit) == Some(IDR))
}

/// Width and height, if the picture brings the parameters that tell them.
pub(super) fn dimensions(picture: &[u8]) -> Option<(u16, u16)> {
    is_key_frame(picture)
        .then(|| parameters(picture)?.pixel_dimensions().ok())
        .flatten()
        .and_then(|(width, height)| Some((u16::try_from(width).ok()?, u16::try_from(height).ok()?)))
}

fn parameters(stream: &[u8]) -> Option<SeqParameterSet> {
    let unit = units(stream).find(|unit| kind(unit) == Some(SEQUENCE_PARAMETERS))?;
    let rbsp = decode_nal(unit).ok()?;
    SeqParameterSet::from_bits(BitReader::new(&*rbsp)).ok()
}

/// Whether a file may be a byte stream.
pub(super) fn is_byte_stream(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0, 0, 1]) || bytes.starts_with(&START_CODE)
}

/// Whether a unit of this type, with this byte behind its header, may be the first of a picture: parameters and the
/// like, or a slice that holds the first macroblock, since ue(0) is a single bit.
fn may_begin(kind: u8, behind: Option<&u8>) -> bool {
    if SLICES.contains(&kind) { behind.is_some_and(|byte| byte & 0x80 != 0) } else { (6..=9).contains(&kind) }
}

/// Whether what a packet brings may be the beginning of a picture.
pub(super) fn may_begin_picture(piece: &Piece<'_>) -> bool {
    let (header, behind) = match piece {
        Piece::Unit { header: Some(header), data } => (Some(header), data.first()),
        Piece::Unit { header: None, data: unit } => (unit.first(), unit.get(1)),
        Piece::Units(units) => {
            let first = units.first().copied().unwrap_or_default();
            (first.first(), first.get(1))
        }
        Piece::Part { .. } | Piece::More(_) => (None, None),
    };
    header.is_some_and(|header| may_begin(header & TYPE, behind))
}

/// Reads a whole byte stream, which knows no times: pictures come at the rate that its parameters tell, or 30 a second.
pub(super) fn read(bytes: &Bytes) -> Result<Clip, BadFile> {
    if !is_byte_stream(bytes) {
        return Err(BadFile { what: "no start code", offset: 0 });
    }
    let Some(first) = parameters(bytes) else {
        return Err(BadFile { what: "no sequence parameters that can be read", offset: 0 });
    };
    if !units(bytes).any(|unit| kind(unit) == Some(PICTURE_PARAMETERS)) {
        return Err(BadFile { what: "no picture parameters", offset: 0 });
    }
    let interval = interval(&first);
    let mut pictures = Pictures::default();
    for unit in units(bytes) {
        pictures.add(unit);
    }
    let pictures = pictures.finish();
    if !pictures.first().is_some_and(|first| is_key_frame(first)) {
        return Err(BadFile { what: "it does not begin with a picture that leans on no other", offset: 0 });
    }
    let frames: Vec<Frame> =
        pictures.into_iter().zip(0..).map(|(data, index)| Frame { data, at: index * interval }).collect();
    let length = frames.len() as u64 * interval;
    Ok(Clip { codec: Codec::H264, frames, length })
}

/// Ticks of a picture. A clock tick is a field, of which a picture has two: section E.2.1.
fn interval(parameters: &SeqParameterSet) -> u64 {
    let timing = parameters.vui_parameters.as_ref().and_then(|vui| vui.timing_info.as_ref());
    let ticks = timing.and_then(|timing| {
        let ticks = u64::from(VIDEO_CLOCK) * 2 * u64::from(timing.num_units_in_tick);
        ticks.checked_div(u64::from(timing.time_scale))
    });
    ticks.filter(|ticks| PLAUSIBLE_INTERVAL.contains(ticks)).unwrap_or(USUAL_INTERVAL)
}

/// Puts units together to pictures. Every key frame gets the parameters that hold for it, since whoever is called may
/// begin with any.
#[derive(Default)]
struct Pictures {
    done: Vec<Bytes>,
    current: BytesMut,
    has_slice: bool,
    sequence: Bytes,
    picture: Bytes,
}

impl Pictures {
    fn add(&mut self, unit: &[u8]) {
        let Some(kind) = kind(unit) else { return };
        let is_slice = SLICES.contains(&kind);
        if may_begin(kind, unit.get(1)) && self.has_slice {
            self.done.push(self.current.split().freeze());
            self.has_slice = false;
        }
        match kind {
            SEQUENCE_PARAMETERS => self.sequence = Bytes::copy_from_slice(unit),
            PICTURE_PARAMETERS => self.picture = Bytes::copy_from_slice(unit),
            IDR if !self.has_slice => {
                append(&mut self.current, None, &self.sequence);
                append(&mut self.current, None, &self.picture);
                append(&mut self.current, None, unit);
            }
            // What has no meaning in a file would have one in packets.
            DELIMITER | FILLER | 0 | AGGREGATE.. => {}
            _ => append(&mut self.current, None, unit),
        }
        self.has_slice |= is_slice;
    }

    fn finish(mut self) -> Vec<Bytes> {
        if self.has_slice {
            self.done.push(self.current.freeze());
        }
        self.done
    }
}

/// Writes pictures one after another, which is all that a byte stream is.
#[derive(Debug)]
pub(super) struct Writer<W> {
    file: W,
    pictures: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(file: W) -> Self {
        Self { file, pictures: 0 }
    }

    pub(super) fn write(&mut self, picture: &[u8]) -> io::Result<()> {
        self.file.write_all(picture)?;
        self.pictures += 1;
        Ok(())
    }

    /// Ends the file and says how many pictures it has.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.file.flush()?;
        Ok(self.pictures)
    }
}

/// The units between start codes, without the zeros that may follow each.
fn units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = find(stream).map(|(_, behind)| behind);
    std::iter::from_fn(move || {
        let stream = rest?;
        let unit = match find(stream) {
            Some((unit, behind)) => {
                rest = Some(behind);
                unit
            }
            None => {
                rest = None;
                stream
            }
        };
        let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        unit.get(..end)
    })
}

/// What is before and behind the next start code.
fn find(stream: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = stream.windows(3).position(|window| window == [0, 0, 1])?;
    Some((stream.get(..start)?, stream.get(start + 3..)?))
}

fn kind(unit: &[u8]) -> Option<u8> {
    unit.first().map(|header| header & TYPE)
}

const START_CODE: [u8; 4] = [0, 0, 0, 1];
/// Of a unit, table 7-1.
const TYPE: u8 = 0x1f;
const SLICES: std::ops::RangeInclusive<u8> = 1..=5;
const IDR: u8 = 5;
const SEQUENCE_PARAMETERS: u8 = 7;
const PICTURE_PARAMETERS: u8 = 8;
const DELIMITER: u8 = 9;
const FILLER: u8 = 12;
/// Of a payload, RFC 6184, table 1: STAP-A and FU-A.
const AGGREGATE: u8 = 24;
const FRAGMENT: u8 = 28;
const FRAGMENT_BEGINS: u8 = 0x80;
const USUAL_INTERVAL: u64 = VIDEO_CLOCK as u64 / 30;
/// From 240 pictures a second to one in two.
const PLAUSIBLE_INTERVAL: std::ops::RangeInclusive<u64> = VIDEO_CLOCK as u64 / 240..=VIDEO_CLOCK as u64 * 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of 640 by 360 in Constrained Baseline, with 15 pictures a second.
    const SPS: &[u8] = &[
        0x67, 0x42, 0xc0, 0x1e, 0xd9, 0x00, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00,
        0x00, 0x03, 0x00, 0x1e, 0x0f, 0x16, 0x2e, 0x48,
    ];
    const PPS: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];

    fn stream(units: &[&[u8]]) -> Bytes {
        let mut stream = BytesMut::new();
        for unit in units {
            append(&mut stream, None, unit);
        }
        stream.freeze()
    }

    #[test]
    fn a_stream_falls_into_pictures_and_each_key_frame_has_its_parameters() {
        let (key, delta, second_slice) = (&[0x65, 0x88, 1][..], &[0x41, 0x9a, 2][..], &[0x41, 0x41, 3][..]);
        // Among them one that would be taken for an aggregate, were it sent.
        let bytes =
            stream(&[&[9, 0xf0], SPS, PPS, key, &[9, 0xf0], delta, second_slice, &[0x78, 1], delta, key]);
        let clip = read(&bytes).unwrap();
        let with_parameters = stream(&[SPS, PPS, key]);
        let pictures: Vec<&Bytes> = clip.frames.iter().map(|frame| &frame.data).collect();
        assert_eq!(
            pictures,
            [&with_parameters, &stream(&[delta, second_slice]), &stream(&[delta]), &with_parameters]
        );
        assert_eq!(dimensions(&with_parameters), Some((640, 360)));
        assert_eq!(dimensions(pictures[1]), None);
    }

    #[test]
    fn what_is_no_stream_is_told_with_a_reason() {
        for (bytes, what) in [
            (&b"RIFF"[..], "no start code"),
            (&[0, 0, 1, 0x65, 0x88], "no sequence parameters"),
            (&stream(&[SPS, &[0x65, 0x88, 1]]), "no picture parameters"),
            (&stream(&[SPS, PPS, &[0x41, 0x9a]]), "leans on no other"),
        ] {
            let error = read(&Bytes::copy_from_slice(bytes)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn payloads_are_units_aggregates_and_fragments() {
        let of = |payload: &'static [u8]| piece(payload);
        assert_eq!(of(&[0x41, 1, 2]), Some(Piece::Unit { header: None, data: &[0x41, 1, 2] }));
        assert_eq!(of(&[0x78, 0, 1, 7, 0, 2, 8, 9]), Some(Piece::Units(vec![&[7], &[8, 9]])));
        assert_eq!(of(&[0x7c, 0x85, 1]), Some(Piece::Unit { header: Some(0x65), data: &[1] }));
        assert_eq!(of(&[0x7c, 0x45, 2]), Some(Piece::More(&[2])));
        // An aggregate that is cut off, within a length and within a unit; a type of the future.
        for broken in [&[0x78, 0][..], &[0x78, 0, 2, 7], &[0x7c], &[30, 1], &[]] {
            assert_eq!(piece(broken), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x67), any::<u8>()], 0..80)) {
            let _ = piece(&bytes);
            let _ = dimensions(&bytes);
            let _ = read(&bytes.into());
        }

        #[test]
        fn no_parameters_panic(behind in prop::collection::vec(any::<u8>(), 0..60)) {
            let sps = [SPS.get(..4).unwrap_or_default(), &behind].concat();
            let _ = dimensions(&stream(&[&sps, &[0x65, 0x88]]));
        }
    }
}
