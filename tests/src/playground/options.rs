//! What a person asks of a lab: `NAT-A NAT-B` and flags. All mistakes are told at once.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::Nat;
use crate::lab::cable::{Rate, Traits};

/// What to open, and what for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The names of the two, as they were given.
    pub names: [String; 2],
    /// What they mean; none for a host without a router.
    pub nats: [Option<Nat>; 2],
    /// What the line of each home is like, if it has a character.
    pub cable: Option<Traits>,
    /// Where a shell is to be opened.
    pub shell: Option<Place>,
    /// What is to run, and where.
    pub runs: Vec<(Place, String)>,
    /// Whose packets are to be recorded.
    pub recorded: Vec<Place>,
}

/// A host of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In the first home.
    A,
    /// In the second one.
    B,
    /// Where relay and signaling run.
    Relay,
}

impl Place {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::A, Self::B, Self::Relay];

    /// What people call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
            Self::Relay => "relay",
        }
    }

    fn named(name: &str) -> Result<Self> {
        let place = Self::ALL.into_iter().find(|place| place.name() == name);
        place.with_context(|| format!("there is no host {name}; there are a, b and relay"))
    }
}

impl Options {
    /// What the words mean.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut words = words.into_iter();
        let (mut names, mut wrong) = (Vec::new(), Vec::new());
        let (mut cable, mut shell) = (Traits::default(), None);
        let (mut runs, mut recorded) = (Vec::new(), Vec::new());
        while let Some(word) = words.next() {
            if !word.starts_with('-') {
                names.push(word);
                continue;
            }
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
                None => (word.clone(), words.next()),
            };
            let mut take = || -> Result<()> {
                let value = value.clone().context("wants a value");
                match flag.as_str() {
                    "--delay" => cable.delay = duration(&value?)?,
                    "--jitter" => cable.jitter = duration(&value?)?,
                    "--loss" => cable.loss = share(&value?)?,
                    "--reorder" => cable.reordering = share(&value?)?,
                    "--duplicate" => cable.duplication = share(&value?)?,
                    "--rate" => cable.rate = Some(rate(&value?)?),
                    "--shell" => shell = Some(Place::named(&value?)?),
                    "--tcpdump" => recorded.push(Place::named(&value?)?),
                    "--run-a" => runs.push((Place::A, value?)),
                    "--run-b" => runs.push((Place::B, value?)),
                    "--run-relay" => runs.push((Place::Relay, value?)),
                    _ => bail!("is not a flag"),
                }
                Ok(())
            };
            if let Err(error) = take() {
                wrong.push(format!("{flag}: {error:#}"));
            }
        }
        if let Err(error) = cable.check() {
            wrong.push(format!("{error:#}"));
        }
        if shell.is_some() && !runs.is_empty() {
            wrong.push("a shell and commands to run exclude each other".to_owned());
        }
        let nats =
            names.iter().map(|name| kind(name).map_err(|error| wrong.push(format!("{name}: {error:#}"))));
        let nats = nats.filter_map(Result::ok).collect::<Vec<_>>();
        let given = names.len();
        let (names, nats) = (<[String; 2]>::try_from(names), <[Option<Nat>; 2]>::try_from(nats));
        if given != 2 {
            wrong.push(format!("two kinds of NAT are wanted, and {given} given"));
        }
        recorded.sort_unstable();
        recorded.dedup();
        match (names, nats) {
            (Ok(names), Ok(nats)) if wrong.is_empty() => {
                let cable = (cable != Traits::default()).then_some(cable);
                Ok(Self { names, nats, cable, shell, runs, recorded })
            }
            _ => bail!("{}", wrong.join("\n")),
        }
    }
}

fn kind(name: &str) -> Result<Option<Nat>> {
    if name == "public" { Ok(None) } else { name.parse().map(Some) }
}

/// `50ms`, `0.2s`.
fn duration(text: &str) -> Result<Duration> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        _ => bail!("{text} is no time, such as 50ms or 0.2s"),
    };
    ensure!(seconds <= 60.0, "{text} is more than a minute");
    Ok(Duration::from_secs_f64(seconds))
}

/// `1%`, `0.5%`, in thousandths.
fn share(text: &str) -> Result<u16> {
    let (number, unit) = split(text)?;
    ensure!(unit == "%" && number <= 100.0, "{text} is no share, such as 0.5%");
    let thousandths = (0..=1000_u16).find(|thousandths| f64::from(*thousandths) >= number * 10.0 - 1e-6);
    thousandths.context("more than everything")
}

/// `20mbit`, `500kbit`.
fn rate(text: &str) -> Result<Rate> {
    let (number, unit) = split(text)?;
    let unit = match unit {
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => bail!("{text} is no rate, such as 20mbit or 500kbit"),
    };
    let bits = number * unit;
    ensure!((1e3..=1e10).contains(&bits), "{text} is beyond what a cable carries");
    let bits = Duration::from_secs_f64(bits).as_secs();
    Ok(Rate::of(bits))
}

fn split(text: &str) -> Result<(f64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Ok((number.parse().with_context(|| format!("{text} does not begin with a number"))?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn a_line_is_read() {
        let options =
            parse("public symmetric --delay 50ms --loss=1.5% --rate 20mbit --shell a --tcpdump b").unwrap();
        assert_eq!(options.nats, [None, Some(Nat::SYMMETRIC)]);
        let cable = options.cable.unwrap();
        assert_eq!((cable.delay, cable.loss), (Duration::from_millis(50), 15));
        assert_eq!(cable.rate, Some(Rate::of(20_000_000)));
        assert_eq!((options.shell, options.recorded), (Some(Place::A), vec![Place::B]));
        assert_eq!(parse("linux linux").unwrap().cable, None);
        let runs = parse("linux linux --run-b true --run-a=false").unwrap().runs;
        assert_eq!(runs, [(Place::B, "true".to_owned()), (Place::A, "false".to_owned())]);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let error = parse("cone --delay 50 --loss 200% --rate fast --shell c --magic --tcpdump")
            .unwrap_err()
            .to_string();
        for what in ["cone", "--delay", "--loss", "--rate", "--shell", "--magic", "two kinds"] {
            assert!(error.contains(what), "{what} in {error}");
        }
        assert!(parse("linux linux --shell a --run-a true").is_err());
        assert!(parse("linux linux --delay").unwrap_err().to_string().contains("wants a value"));
    }
}
