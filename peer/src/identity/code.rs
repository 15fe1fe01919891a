//! Codes for a first contact: `4821-crow-maple-tiger`. The number is the room, the words are what only the two know.

use std::fmt;
use std::str::FromStr;

use farcall_proto::safety_words::LIST;
use rand::RngExt as _;

/// A room that anybody may guess, and a secret of three words that must be guessed right the first time.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    number: u16,
    words: [&'static str; WORDS],
}

impl Code {
    /// A new one.
    #[must_use]
    pub fn random() -> Self {
        let mut rng = rand::rng();
        let list: Vec<&'static str> = LIST.lines().collect();
        let mut word = || list.get(rng.random_range(0..list.len())).copied().unwrap_or_default();
        let words = [word(), word(), word()];
        Self { number: rng.random_range(NUMBERS), words }
    }

    /// The room key, which the signaling server sees.
    #[must_use]
    pub fn room(&self) -> String {
        format!("code-{}", self.number)
    }

    /// What nobody but the two sees.
    pub(super) fn secret(&self) -> String {
        self.words.join("-")
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        // As people say it on the telephone and type it.
        let text = text.trim().to_lowercase();
        let parts: Vec<&str> = text.split(['-', ' ']).filter(|part| !part.is_empty()).collect();
        let [number, typed @ ..] = parts.as_slice() else { return Err(CodeError::NoCode) };
        let typed: [&str; WORDS] = typed.try_into().map_err(|_| CodeError::NoCode)?;
        let number = Some(*number).filter(|part| part.len() == 4).and_then(|part| part.parse().ok());
        let number = number.filter(|number| NUMBERS.contains(number)).ok_or(CodeError::NoCode)?;
        let mut words = [""; WORDS];
        for (word, typed) in words.iter_mut().zip(typed) {
            let known = LIST.lines().find(|known| *known == typed);
            *word = known.ok_or_else(|| CodeError::UnknownWord(typed.to_owned()))?;
        }
        Ok(Self { number, words })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, self.words.join("-"))
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What was typed is no code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It does not look like one.
    #[error("a code is a number of four digits and three words, such as 4821-crow-maple-tiger")]
    NoCode,
    /// Which saves a guess.
    #[error("no code has the word {0:?}: it was mistyped")]
    UnknownWord(String),
}

const WORDS: usize = 3;
const NUMBERS: std::ops::RangeInclusive<u16> = 1000..=9999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_is_typed_however_carelessly() {
        for _ in 0..100 {
            let code = Code::random();
            assert_eq!(code.to_string().parse(), Ok(code.clone()));
            assert_eq!(format!("  {} ", code.to_string().to_uppercase().replace('-', " ")).parse(), Ok(code));
        }
    }

    #[test]
    fn what_is_no_code_is_told_from_a_mistyped_one() {
        let words: Vec<&str> = LIST.lines().take(3).collect();
        let good = format!("1234-{}", words.join("-"));
        assert!(good.parse::<Code>().is_ok());
        for bad in
            ["", "room", "1234", "1234-a", "0123-x-y-z", "12345-x-y-z", &format!("{good}-{}", words[0])]
        {
            let error = bad.parse::<Code>().unwrap_err();
            assert!(!error.to_string().is_empty(), "{bad}");
        }
        let mistyped = format!("1234-{}-{}-zzz", words[0], words[1]);
        assert_eq!(mistyped.parse::<Code>(), Err(CodeError::UnknownWord("zzz".into())));
    }

    #[test]
    fn the_room_tells_nothing_of_the_words_and_neither_does_debug_output() {
        let code = Code::random();
        for shown in [code.room(), format!("{code:?}")] {
            assert!(code.words.iter().all(|word| !shown.contains(word)), "{shown}");
        }
    }
}
