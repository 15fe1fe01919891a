//! Opus in Ogg: pages with a checksum, each with pieces of packets. RFC 3533 and RFC 7845.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};

use super::clip::{Clip, Frame};
use super::codec::Codec;
use super::opus::packet_ticks;
use super::{BadFile, Cursor};

/// Reads the first logical stream of a whole file.
pub(super) fn read(bytes: &Bytes) -> Result<Clip, BadFile> {
    let mut cursor = Cursor::new(bytes);
    let mut serial = None;
    let mut packets = 0u64;
    let mut frames = Vec::new();
    let mut length = 0;
    let mut partial = BytesMut::new();
    while !cursor.is_at_end() {
        let page = page(&mut cursor)?;
        if *serial.get_or_insert(page.serial) != page.serial {
            continue;
        }
        let mut body = Cursor::new(page.body);
        for lacing in page.lacing {
            partial.extend_from_slice(body.take(usize::from(*lacing), "a page is cut off")?);
            if *lacing == 255 {
                continue;
            }
            let offset = page.offset;
            let packet = partial.split().freeze();
            packets += 1;
            match packets {
                1 => check_head(&packet, offset)?,
                2 if !packet.starts_with(b"OpusTags") => {
                    return Err(BadFile { what: "no OpusTags packet", offset });
                }
                2 => {}
                _ => {
                    let ticks = packet_ticks(&packet)
                        .ok_or(BadFile { what: "an Opus packet is malformed", offset })?;
                    frames.push(Frame { data: packet, at: length });
                    length += ticks;
                }
            }
        }
    }
    if frames.is_empty() {
        return Err(BadFile { what: "there is no sound", offset: cursor.offset });
    }
    Ok(Clip { codec: Codec::Opus, frames, length })
}

fn check_head(packet: &[u8], offset: usize) -> Result<(), BadFile> {
    if !packet.starts_with(b"OpusHead") || packet.len() < 19 {
        return Err(BadFile { what: "the codec is not Opus", offset });
    }
    match packet.get(9) {
        Some(1 | 2) => Ok(()),
        Some(_) | None => Err(BadFile { what: "neither mono nor stereo", offset }),
    }
}

struct Page<'a> {
    offset: usize,
    serial: u32,
    lacing: &'a [u8],
    body: &'a [u8],
}

fn page<'a>(cursor: &mut Cursor<'a>) -> Result<Page<'a>, BadFile> {
    let offset = cursor.offset;
    let mut whole = *cursor;
    if cursor.take(4, "no Ogg page")? != b"OggS" {
        return Err(BadFile { what: "no Ogg page", offset });
    }
    let _version_type_and_granule = cursor.take(10, "a page header is cut off")?;
    let serial = u32::from_le_bytes(cursor.array("a page header is cut off")?);
    let _number = cursor.take(4, "a page header is cut off")?;
    let stated = u32::from_le_bytes(cursor.array("a page header is cut off")?);
    let [segments] = cursor.array("a page header is cut off")?;
    let lacing = cursor.take(usize::from(segments), "a page header is cut off")?;
    let body = cursor.take(lacing.iter().map(|size| usize::from(*size)).sum(), "a page is cut off")?;
    let bytes = whole.take(cursor.offset - offset, "a page is cut off")?;
    // The checksum is made with zeros in its own place.
    let computed = bytes
        .iter()
        .enumerate()
        .fold(0, |crc, (at, byte)| checksum(crc, if CHECKSUM_FIELD.contains(&at) { 0 } else { *byte }));
    if computed == stated {
        Ok(Page { offset, serial, lacing, body })
    } else {
        Err(BadFile { what: "a page has a wrong checksum", offset })
    }
}

/// Writes packets as they come, each in a page of its own, so that the file can be read at any time.
#[derive(Debug)]
pub(super) struct Writer<W> {
    file: W,
    serial: u32,
    pages: u32,
    first: Option<u64>,
    packets: u64,
    /// Kept back so that the last one can be marked as such.
    held: Option<(u64, Bytes)>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(file: W, serial: u32) -> io::Result<Self> {
        let mut writer = Self { file, serial, pages: 0, first: None, packets: 0, held: None };
        let mut head = b"OpusHead\x01\x02".to_vec();
        head.extend_from_slice(&PRE_SKIP.to_le_bytes());
        head.extend_from_slice(&super::AUDIO_CLOCK.to_le_bytes());
        head.extend_from_slice(&[0; 3]);
        writer.page(BEGINNING, 0, &head)?;
        let vendor = concat!("farcall-peer ", env!("CARGO_PKG_VERSION"));
        let mut tags = b"OpusTags".to_vec();
        tags.extend_from_slice(&u32::try_from(vendor.len()).map_err(io::Error::other)?.to_le_bytes());
        tags.extend_from_slice(vendor.as_bytes());
        tags.extend_from_slice(&[0; 4]);
        writer.page(0, 0, &tags)?;
        Ok(writer)
    }

    /// Adds a packet whose sound begins at this tick of the RTP clock.
    pub(super) fn write(&mut self, at: u64, packet: Bytes) -> io::Result<()> {
        let Some(ticks) = packet_ticks(&packet) else { return Ok(()) };
        let end = at.saturating_sub(*self.first.get_or_insert(at)) + ticks;
        self.packets += 1;
        match self.held.replace((end, packet)) {
            Some((end, packet)) => self.page(0, end, &packet),
            None => Ok(()),
        }
    }

    /// Ends the file and says how many packets it has.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        if let Some((end, packet)) = self.held.take() {
            self.page(END, end, &packet)?;
        }
        self.file.flush()?;
        Ok(self.packets)
    }

    fn page(&mut self, flags: u8, granule: u64, packet: &[u8]) -> io::Result<()> {
        let full = packet.len() / 255;
        // A page has 255 segments, and no Opus packet comes near that.
        let segments = u8::try_from(full + 1).map_err(io::Error::other)?;
        let mut page = b"OggS\0".to_vec();
        page.push(flags);
        page.extend_from_slice(&granule.to_le_bytes());
        page.extend_from_slice(&self.serial.to_le_bytes());
        page.extend_from_slice(&self.pages.to_le_bytes());
        page.extend_from_slice(&[0; 4]);
        page.push(segments);
        page.resize(page.len() + full, 255);
        page.push(u8::try_from(packet.len() % 255).map_err(io::Error::other)?);
        page.extend_from_slice(packet);
        let sum = page.iter().fold(0, |crc, byte| checksum(crc, *byte));
        if let Some(field) = page.get_mut(CHECKSUM_FIELD) {
            field.copy_from_slice(&sum.to_le_bytes());
        }
        self.pages += 1;
        self.file.write_all(&page)
    }
}

/// CRC-32 with polynomial 04c11db7, not reflected, no inversion.
fn checksum(crc: u32, byte: u8) -> u32 {
    let index = usize::from(crc.to_be_bytes()[0] ^ byte);
    (crc << 8) ^ CHECKSUMS.get(index).copied().unwrap_or_default()
}

const CHECKSUMS: [u32; 256] = {
    let mut table = [0; 256];
    let mut rest: &mut [u32] = &mut table;
    let mut byte = 0u32;
    while let Some((entry, after)) = rest.split_first_mut() {
        *entry = byte << 24;
        let mut bit = 0;
        while bit < 8 {
            *entry = if *entry & 0x8000_0000 == 0 { *entry << 1 } else { (*entry << 1) ^ 0x04c1_1db7 };
            bit += 1;
        }
        byte += 1;
        rest = after;
    }
    table
};

const CHECKSUM_FIELD: std::ops::Range<usize> = 22..26;
const BEGINNING: u8 = 2;
const END: u8 = 4;
/// None: players would cut as much from the length, and what comes first is heard by nobody anyway.
const PRE_SKIP: u16 = 0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// CELT, 20 ms, one frame.
    const TOC: u8 = 31 << 3;

    fn packet(size: usize) -> Bytes {
        let mut packet = vec![0x55; size];
        packet[0] = TOC;
        packet.into()
    }

    fn written(sizes: &[usize]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, 7).unwrap();
        for (index, size) in sizes.iter().enumerate() {
            writer.write(5000 + 960 * index as u64, packet(*size)).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), sizes.len() as u64);
        file
    }

    #[test]
    fn what_was_written_is_read_whatever_the_size() {
        let sizes = [1, 254, 255, 256, 510, 1275];
        let clip = read(&written(&sizes).into()).unwrap();
        let read: Vec<_> = clip.frames.iter().map(|frame| frame.data.len()).collect();
        assert_eq!((read.as_slice(), clip.length), (&sizes[..], 6 * 960));
        assert_eq!(clip.frames[2].at, 2 * 960);
    }

    #[test]
    fn a_flipped_bit_is_noticed_with_its_page() {
        let mut file = written(&[100, 100]);
        let at = file.len() - 1;
        file[at] ^= 1;
        let error = read(&file.into()).unwrap_err();
        assert_eq!(error, BadFile { what: "a page has a wrong checksum", offset: at - 127 });
    }

    #[test]
    fn a_file_that_is_cut_off_is_told() {
        let file = written(&[100, 100]);
        let cut = Bytes::copy_from_slice(&file[..file.len() - 10]);
        assert_eq!(read(&cut).unwrap_err().what, "a page is cut off");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), valid in any::<bool>()) {
            if valid {
                let mut file = written(&[10]);
                file.append(&mut bytes);
                bytes = file;
            }
            let _ = read(&bytes.into());
        }
    }
}
