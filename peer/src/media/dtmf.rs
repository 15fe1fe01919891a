//! Tones of a telephone's keys (DTMF) as events in RTP: when to send which, and which came. RFC 4733.

use std::collections::VecDeque;
use std::str::FromStr;

use super::AUDIO_CLOCK;

/// The format that both sides must have agreed on.
pub(crate) const MIME_TYPE: &str = "audio/telephone-event";

/// Keys to press one after another.
///
/// Written as `0`–`9`, `*`, `#` and `A`–`D`, with `,` for a pause of two seconds, as
/// [`insertDTMF`](https://www.w3.org/TR/webrtc/#dom-rtcdtmfsender-insertdtmf) has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tones(Vec<Press>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Press {
    Key(Tone),
    Pause,
}

/// The code of a key in RFC 4733, section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tone(u8);

impl Tone {
    /// As it is printed on the key.
    pub(crate) fn key(self) -> char {
        KEYS.get(usize::from(self.0)).copied().map_or('?', char::from)
    }
}

impl FromStr for Tones {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MOST_PRESSES {
            return Err(format!("between one and {MOST_PRESSES} tones"));
        }
        let press = |char: char| match char {
            ',' => Some(Press::Pause),
            key => {
                let code = KEYS.iter().position(|known| char::from(*known) == key.to_ascii_uppercase())?;
                Some(Press::Key(Tone(u8::try_from(code).ok()?)))
            }
        };
        let presses: Option<Vec<Press>> = text.chars().map(press).collect();
        presses.map(Self).ok_or_else(|| "tones are 0-9, *, #, A-D, and a comma for a pause".to_owned())
    }
}

/// Presses keys in time with the packets of an audio stream, whose timestamps the events share.
#[derive(Debug, Default)]
pub(crate) struct Dialer {
    waiting: VecDeque<Press>,
    state: State,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Idle,
    Pressed {
        tone: Tone,
        since: u64,
    },
    /// Until then nothing is pressed.
    Released {
        until: u64,
    },
}

/// What takes the place of a packet of sound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EventPackets {
    /// When the key was pressed, in ticks: the timestamp of all packets of this tone.
    pub(crate) since: u64,
    /// Whether it was pressed just now.
    pub(crate) marker: bool,
    pub(crate) payload: [u8; 4],
    /// How often to send it: the last one is repeated, since it tells the end.
    pub(crate) times: usize,
}

impl Dialer {
    /// Presses these after those that wait; more than anybody would press are ignored.
    pub(crate) fn press(&mut self, tones: Tones) {
        let room = MOST_PRESSES.saturating_sub(self.waiting.len());
        self.waiting.extend(tones.0.into_iter().take(room));
    }

    /// What to send in place of the sound that begins at `at` and lasts for `ticks`, if a key is pressed then.
    pub(crate) fn handle_slot(&mut self, at: u64, ticks: u64) -> Option<EventPackets> {
        if let State::Released { until } = self.state
            && at >= until
        {
            self.state = State::Idle;
        }
        if matches!(self.state, State::Idle) {
            self.state = match self.waiting.pop_front()? {
                Press::Key(tone) => State::Pressed { tone, since: at },
                Press::Pause => State::Released { until: at + PAUSE },
            };
        }
        let State::Pressed { tone, since } = self.state else { return None };
        let lasted = at + ticks - since;
        let is_over = lasted >= DURATION;
        if is_over {
            self.state = State::Released { until: since + lasted + GAP };
        }
        let [high, low] = u16::try_from(lasted).unwrap_or(u16::MAX).to_be_bytes();
        let end = if is_over { END } else { 0 };
        Some(EventPackets {
            since,
            marker: since == at,
            payload: [tone.0, end | VOLUME, high, low],
            times: if is_over { ENDS } else { 1 },
        })
    }
}

/// Finds the keys that the other side pressed in its packets.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// The last tone, when it was pressed, and how long it has lasted.
    last: Option<(Tone, u64, u64)>,
}

impl Listener {
    /// Takes an event with its timestamp: returns the key if it was not heard of before.
    pub(crate) fn handle_packet(&mut self, at: u64, payload: &[u8]) -> Option<Tone> {
        let [code, _, high, low, ..] = *payload else { return None };
        let tone = Tone(code);
        if usize::from(code) >= KEYS.len() {
            return None;
        }
        let lasted = u64::from(u16::from_be_bytes([high, low]));
        let is_news = match self.last {
            // A repetition, or one that was overtaken.
            Some((_, since, _)) if at <= since => false,
            // A tone longer than the field goes on in segments. Section 2.5.1.3.
            Some((last, since, before)) if last == tone && at == since + before => false,
            Some(_) | None => true,
        };
        if is_news || self.last.is_some_and(|(_, since, _)| at >= since) {
            self.last = Some((tone, at, lasted));
        }
        is_news.then_some(tone)
    }
}

/// By their code.
const KEYS: &[u8; 16] = b"0123456789*#ABCD";
const MOST_PRESSES: usize = 256;
/// The W3C's defaults: a tone of 100 ms, then 70 ms of none; a comma is a pause of two seconds.
const DURATION: u64 = milliseconds(100);
const GAP: u64 = milliseconds(70);
const PAUSE: u64 = milliseconds(2000);
/// Section 2.3: the end bit, and a volume of -10 dBm0.
const END: u8 = 0x80;
const VOLUME: u8 = 10;
/// Section 2.5.1.4.
const ENDS: usize = 3;

const fn milliseconds(count: u64) -> u64 {
    count * AUDIO_CLOCK as u64 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: u64 = milliseconds(20);

    fn dial(text: &str, slots: u64) -> Vec<(u64, EventPackets)> {
        let mut dialer = Dialer::default();
        dialer.press(text.parse().unwrap());
        (0..slots)
            .filter_map(|slot| dialer.handle_slot(slot * SLOT, SLOT).map(|events| (slot, events)))
            .collect()
    }

    #[test]
    fn a_tone_grows_and_its_end_is_told_three_times() {
        let sent = dial("5", 50);
        let durations: Vec<u16> =
            sent.iter().map(|(_, one)| u16::from_be_bytes([one.payload[2], one.payload[3]])).collect();
        assert_eq!(durations, [960, 1920, 2880, 3840, 4800]);
        assert!(sent.iter().all(|(_, one)| one.since == 0 && one.payload[0] == 5));
        let marked: Vec<bool> = sent.iter().map(|(_, one)| one.marker).collect();
        assert_eq!(marked, [true, false, false, false, false]);
        let ends: Vec<(bool, usize)> =
            sent.iter().map(|(_, one)| (one.payload[1] & END != 0, one.times)).collect();
        assert_eq!(ends, [(false, 1), (false, 1), (false, 1), (false, 1), (true, 3)]);
    }

    #[test]
    fn between_tones_there_is_a_gap_and_a_comma_is_a_pause() {
        let pressed_at = |text| {
            let sent = dial(text, 300);
            sent.iter().filter(|(_, one)| one.marker).map(|(slot, _)| *slot).collect::<Vec<_>>()
        };
        // 70 ms are four slots of 20.
        assert_eq!(pressed_at("12#"), [0, 9, 18]);
        assert_eq!(pressed_at("1,2"), [0, 109]);
    }

    #[test]
    fn what_was_dialed_is_heard_once_each() {
        for lost in 0..8 {
            let mut listener = Listener::default();
            let mut heard = String::new();
            let mut count = 0;
            for (_, events) in dial("1123*#AD", 400) {
                for _ in 0..events.times {
                    count += 1;
                    if count % 8 != lost {
                        heard.extend(listener.handle_packet(events.since, &events.payload).map(Tone::key));
                    }
                }
            }
            assert_eq!(heard, "1123*#AD", "with each eighth packet lost, from the {lost}th");
        }
    }

    #[test]
    fn a_long_tone_in_segments_is_one() {
        let mut listener = Listener::default();
        let packet = |duration: u16| [&[7, VOLUME][..], &duration.to_be_bytes()].concat();
        assert_eq!(listener.handle_packet(1000, &packet(u16::MAX)).map(Tone::key), Some('7'));
        assert_eq!(listener.handle_packet(1000 + u64::from(u16::MAX), &packet(960)), None);
        assert_eq!(listener.handle_packet(200_000, &packet(960)).map(Tone::key), Some('7'));
    }

    #[test]
    fn other_events_and_short_packets_are_no_keys() {
        let mut listener = Listener::default();
        for payload in [&[][..], &[1, 2, 3], &[16, 0, 0, 0], &[255; 4]] {
            assert_eq!(listener.handle_packet(1, payload), None);
        }
    }

    #[test]
    fn what_is_on_no_key_is_refused() {
        for text in ["", "12x", "1 2", &"1".repeat(MOST_PRESSES + 1)] {
            text.parse::<Tones>().unwrap_err();
        }
        assert_eq!("a,d".parse::<Tones>(), "A,D".parse::<Tones>());
    }
}
