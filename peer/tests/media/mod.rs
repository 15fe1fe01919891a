//! Files that are cut off, damaged or lie: a reason and a code, or a call that is none the worse.

use std::path::{Path, PathBuf};

use super::*;

/// A folder of broken files.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

fn clip(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("media").join(name)).unwrap()
}

fn changed(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// The same in every run, and nothing that makes sense.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

/// A tenth of a second of a mono WAV that says this of its length and its channels.
fn wav(length: u32, channels: u16, bits: u16) -> Vec<u8> {
    let mut file = b"RIFF\xff\xff\xff\x7fWAVEfmt \x10\0\0\0\x01\0".to_vec();
    file.extend(channels.to_le_bytes());
    file.extend(8000u32.to_le_bytes());
    file.extend(16_000u32.to_le_bytes());
    file.extend(2u16.to_le_bytes());
    file.extend(bits.to_le_bytes());
    file.extend(b"data");
    file.extend(length.to_le_bytes());
    file.extend(noise(1600));
    file
}

/// Of 640 by 360 in Constrained Baseline, and what belongs to it.
const PARAMETERS: &[u8] = &[
    0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1e, 0xd9, 0x00, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00,
    0x01, 0x00, 0x00, 0x03, 0x00, 0x1e, 0x0f, 0x16, 0x2e, 0x48, 0, 0, 0, 1, 0x68, 0xcb, 0x83, 0xcb, 0x20,
];

#[tokio::test]
async fn what_is_no_media_is_refused_before_the_room_is_joined() {
    let (files, ivf, ogg) = (Files::new(), clip("test.ivf"), clip("test.ogg"));
    let second_page = ogg.windows(4).skip(1).position(|window| window == b"OggS").unwrap() + 1;
    let delta = {
        // Without its first frame, which is a key frame.
        let size = u32::from_le_bytes(ivf[32..36].try_into().unwrap()) as usize;
        [&ivf[..32], &ivf[32 + 12 + size..]].concat()
    };
    let noise = noise(20_000);
    let of_noise = [&[0, 0, 0, 1][..], &noise].concat();
    let folder = files.0.path().to_owned();
    for (flag, path, says) in [
        ("--video", files.write("cut.ivf", &ivf[..ivf.len() - 10]), "a frame is cut off at byte"),
        ("--video", files.write("header.ivf", &ivf[..20]), "the IVF header ends too early"),
        ("--video", files.write("frames.ivf", &ivf[..32]), "there is no frame"),
        ("--video", files.write("size.ivf", &changed(ivf.clone(), 32, &[0xff; 4])), "a frame is cut off"),
        ("--video", files.write("late.ivf", &changed(ivf.clone(), 36, &[0xff; 8])), "a frame"),
        ("--video", files.write("delta.ivf", &delta), "leans on others"),
        ("--video", files.write("noise.ivf", &noise), "no IVF signature at byte 0"),
        ("--video", files.write("noise.h264", &of_noise), "no sequence parameters"),
        ("--video", files.write("half.h264", &PARAMETERS[..29]), "no picture parameters"),
        ("--video", files.write("empty", b""), "the file is empty"),
        ("--video", folder.clone(), "directory"),
        ("--video", "/dev/zero".into(), "a device"),
        ("--audio", files.write("sum.ogg", &changed(ogg.clone(), second_page + 22, b"wrong")), "checksum"),
        ("--audio", files.write("cut.ogg", &ogg[..ogg.len() - 10]), "a page is cut off"),
        ("--audio", files.write("head.ogg", &ogg[..second_page]), "there is no sound"),
        ("--audio", files.write("noise.ogg", &noise), "no Ogg page at byte 0"),
        ("--audio", files.write("long.wav", &wav(1 << 31, 1, 16)), "the samples are cut off"),
        ("--audio", files.write("channels.wav", &wav(1600, 0, 16)), "the WAV header makes no sense"),
        ("--audio", files.write("bits.wav", &wav(1600, 1, 4096)), "the WAV header makes no sense"),
        ("--audio", files.write("nothing.wav", &wav(0, 1, 16)), "there is no sound"),
        ("--audio", files.write("silent", b""), "the file is empty"),
    ] {
        let path = path.to_str().unwrap();
        let mut peer = Peer::spawn_at("http://127.0.0.1:1", &["call", "room", flag, path]);
        let error = peer.until("error", |_| true).await;
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says) && message.contains(path), "{message}");
        assert_eq!(error["reason"], "BAD_MEDIA", "{error}");
        assert_eq!(peer.exit_code().await, 64, "{path}");
    }
}

#[tokio::test]
async fn a_file_that_is_framed_well_and_makes_no_sense_does_no_harm() {
    let service = Service::start(2).await;
    let (files, ivf) = (Files::new(), clip("test.ivf"));
    let noise = noise(60_000);
    // Every frame but its beginning, as a bad disk leaves it.
    let mut damaged = ivf.clone();
    let mut at = 32;
    while at < damaged.len() {
        let size = u32::from_le_bytes(damaged[at..at + 4].try_into().unwrap()) as usize;
        let end = at + 12 + size;
        let from = (at + 12 + 10).min(end);
        damaged[from..end].copy_from_slice(&noise[..end - from]);
        at = end;
    }
    let mut pictures = [PARAMETERS, &[0, 0, 0, 1, 0x65, 0x88], &noise[..5000]].concat();
    for kind in 0..32 {
        pictures.extend([0, 0, 1, kind, 0x9a]);
        pictures.extend(&noise[usize::from(kind)..3000]);
    }
    let damaged = files.write("damaged.ivf", &damaged);
    let pictures = files.write("pictures.h264", &pictures);
    let cut = files.write("cut.ivf", &ivf[..ivf.len() - 10]);
    let record = files.0.path().join("recorded");

    let silent = ["call", "room", "--video", "none", "--audio", "none"];
    let mut early = Peer::spawn(&service, &[&silent[..], &["--record", record.to_str().unwrap()]].concat());
    early.until("status", |event| event["status"] == "Waiting").await;
    let mut late = Peer::spawn(&service, &[&silent[..], &["--commands"]].concat());
    late.until("channel_open", |_| true).await;
    for (file, codec) in [(&damaged, "video/VP8"), (&pictures, "video/H264")] {
        late.say(&format!("/video {}", file.display())).await;
        early.until("track", |event| event["codec"] == codec).await;
        late.say(&format!("/video {}", cut.display())).await;
        let warning = late.until("warning", |_| true).await;
        assert!(warning["message"].as_str().unwrap().contains("a frame is cut off"), "{warning}");
    }
    late.say("/video none").await;
    early.until("track_ended", |event| event["kind"] == "video").await;
    // And what makes sense is still understood.
    late.say("/video test").await;
    early.until("track", |event| event["codec"] == "video/VP8").await;
    late.say("/hangup").await;
    let recorded = early.until("recorded", |event| event["path"].as_str().unwrap().ends_with(".ivf")).await;
    assert!(recorded["frames"].as_u64().unwrap() > 0, "{recorded}");
    assert_eq!(late.exit_code().await, 0);
    early.terminate();
    assert_eq!(early.exit_code().await, 0);
}

#[tokio::test]
async fn a_pipe_that_never_ends_can_be_interrupted() {
    let service = Service::start(2).await;
    let files = Files::new();
    let pipe = files.0.path().join("pipe");
    let pipe = pipe.to_str().unwrap();
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let mut peer = Peer::spawn(&service, &["call", "room", "--commands"]);
    peer.until("status", |event| event["status"] == "Waiting").await;
    // Nothing waits for it, not even the next command.
    peer.say(&format!("/video {pipe}")).await;
    peer.say("/hangup").await;
    peer.until("ended", |_| true).await;
    assert_eq!(peer.exit_code().await, 0);

    let mut peer = Peer::spawn(&service, &["call", "room", "--video", pipe]);
    // It has begun to read when somebody may write, and by then it listens to signals.
    let writer = tokio::fs::OpenOptions::new().write(true).open(pipe).await.unwrap();
    peer.terminate();
    assert_eq!(peer.until("ended", |_| true).await["reason"], "terminated");
    assert_eq!(peer.exit_code().await, 0);
    drop(writer);
}
