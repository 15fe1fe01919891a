//! A code becomes a key that only the two have: SPAKE2, and then each proves that it has it.
//!
//! Whoever typed the code begins, and proves it first. So whoever made it reveals nothing that a guess could be tried
//! on before somebody else has staked one; a wrong stake burns the code. A signaling server that takes the place of
//! either has that one guess as well.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq as _;

use super::Code;

/// What the two say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A share of the key, masked with the words of the code.
    Share(Vec<u8>),
    /// Proof of having it.
    Confirmation(Vec<u8>),
}

/// What a step of the other side leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// To an answer, or to nothing.
    Going(Option<Step>),
    /// Both know that the other knows the code; the last answer may still be due.
    Done(Option<Step>),
    /// The other side does not know the code, which must not be used any more.
    Wrong,
}

/// One side of an introduction.
pub(crate) struct Introduction {
    code: Code,
    /// Whether it made the code; the other side typed it.
    host: bool,
    run: Option<Run>,
}

struct Run {
    with: String,
    phase: Phase,
}

enum Phase {
    /// The guest has said its share.
    Shared(Spake2<Ed25519Group>),
    /// Both shares are said.
    Unconfirmed(Keys),
    Done(Keys),
}

struct Keys {
    /// The guest's and the host's.
    confirmations: [[u8; 32]; 2],
    binding: [u8; 32],
}

impl Introduction {
    pub(crate) fn new(code: Code, host: bool) -> Self {
        Self { code, host, run: None }
    }

    /// The key, once both have proved to have it.
    pub(crate) fn key_with(&self, other: &str) -> Option<&[u8; 32]> {
        match &self.run {
            Some(Run { with, phase: Phase::Done(keys) }) if with == other => Some(&keys.binding),
            Some(_) | None => None,
        }
    }

    /// Somebody is there: what to say to them, unless it was said.
    pub(crate) fn begin(&mut self, own: &str, other: &str) -> Option<Step> {
        if self.host || self.run.as_ref().is_some_and(|run| run.with == other) {
            return None;
        }
        let (spake, share) =
            Spake2::<Ed25519Group>::start_a(&self.password(), &identity(own), &identity(other));
        self.run = Some(Run { with: other.to_owned(), phase: Phase::Shared(spake) });
        Some(Step::Share(share))
    }

    pub(crate) fn handle(&mut self, own: &str, other: &str, step: &Step) -> Outcome {
        match (step, self.host) {
            (Step::Share(share), true) => self.answer(own, other, share),
            (Step::Share(share), false) => self.prove(other, share),
            (Step::Confirmation(proof), _) => self.check(other, proof),
        }
    }

    /// The host hears a share. What an earlier guest left undone is forgotten: it learned nothing.
    fn answer(&mut self, own: &str, other: &str, theirs: &[u8]) -> Outcome {
        let (spake, share) =
            Spake2::<Ed25519Group>::start_b(&self.password(), &identity(other), &identity(own));
        let Ok(secret) = spake.finish(theirs) else { return Outcome::Wrong };
        let phase = Phase::Unconfirmed(Keys::of(&secret));
        self.run = Some(Run { with: other.to_owned(), phase });
        Outcome::Going(Some(Step::Share(share)))
    }

    /// The guest hears the host's share.
    fn prove(&mut self, other: &str, theirs: &[u8]) -> Outcome {
        let Some(Run { phase: Phase::Shared(spake), .. }) = self.run.take_if(|run| run.is_shared_with(other))
        else {
            return Outcome::Going(None);
        };
        let Ok(secret) = spake.finish(theirs) else { return Outcome::Wrong };
        let keys = Keys::of(&secret);
        let proof = keys.proof(!self.host);
        self.run = Some(Run { with: other.to_owned(), phase: Phase::Unconfirmed(keys) });
        Outcome::Going(Some(Step::Confirmation(proof)))
    }

    fn check(&mut self, other: &str, proof: &[u8]) -> Outcome {
        let Some(Run { phase: Phase::Unconfirmed(keys), .. }) =
            self.run.take_if(|run| run.is_unconfirmed_with(other))
        else {
            return Outcome::Going(None);
        };
        if !keys.accepts(self.host, proof) {
            return Outcome::Wrong;
        }
        let answer = self.host.then(|| Step::Confirmation(keys.proof(false)));
        self.run = Some(Run { with: other.to_owned(), phase: Phase::Done(keys) });
        Outcome::Done(answer)
    }

    fn password(&self) -> Password {
        Password::new(self.code.secret())
    }
}

impl Run {
    fn is_shared_with(&self, other: &str) -> bool {
        self.with == other && matches!(self.phase, Phase::Shared(_))
    }

    fn is_unconfirmed_with(&self, other: &str) -> bool {
        self.with == other && matches!(self.phase, Phase::Unconfirmed(_))
    }
}

impl Keys {
    /// One for each purpose.
    fn of(secret: &[u8]) -> Self {
        let derive =
            |purpose: &[u8]| mac(secret, purpose).map_or([0; 32], |mac| mac.finalize().into_bytes().into());
        Self { confirmations: [derive(GUEST), derive(HOST)], binding: derive(BINDING) }
    }

    fn proof(&self, guest: bool) -> Vec<u8> {
        let [of_guest, of_host] = self.confirmations;
        (if guest { of_guest } else { of_host }).to_vec()
    }

    /// Takes the same time whatever the proof is like.
    fn accepts(&self, from_guest: bool, proof: &[u8]) -> bool {
        let [of_guest, of_host] = &self.confirmations;
        let expected = if from_guest { of_guest } else { of_host };
        expected.as_slice().ct_eq(proof).into()
    }
}

impl fmt::Debug for Introduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = self.run.as_ref().map(|run| &run.with);
        f.debug_struct("Introduction").field("host", &self.host).field("with", &with).finish_non_exhaustive()
    }
}

fn identity(session: &str) -> Identity {
    Identity::new(session.as_bytes())
}

fn mac(key: &[u8], message: &[u8]) -> Option<Hmac<Sha256>> {
    Some(Hmac::<Sha256>::new_from_slice(key).ok()?.chain_update(message))
}

const GUEST: &[u8] = b"farcall code v1: the guest has it";
const HOST: &[u8] = b"farcall code v1: the host has it";
const BINDING: &[u8] = b"farcall code v1: certificates";

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(host: &Code, guest: &Code) -> (Introduction, Introduction) {
        (Introduction::new(host.clone(), true), Introduction::new(guest.clone(), false))
    }

    fn going(outcome: Outcome) -> Step {
        let Outcome::Going(Some(step)) = outcome else { panic!("{outcome:?}") };
        step
    }

    fn code(words: &str) -> Code {
        format!("1234-{words}").parse().unwrap()
    }

    #[test]
    fn two_who_know_the_code_have_one_key_and_each_run_another() {
        let code = Code::random();
        let mut keys = Vec::new();
        for _ in 0..2 {
            let (mut host, mut guest) = pair(&code, &code);
            assert_eq!(host.begin("h", "g"), None);
            let share = guest.begin("g", "h").unwrap();
            assert_eq!(guest.begin("g", "h"), None);
            let share = going(host.handle("h", "g", &share));
            let proof = going(guest.handle("g", "h", &share));
            let Outcome::Done(Some(proof)) = host.handle("h", "g", &proof) else { panic!() };
            assert_eq!(guest.key_with("h"), None);
            assert_eq!(guest.handle("g", "h", &proof), Outcome::Done(None));
            assert_eq!(host.key_with("g"), guest.key_with("h"));
            assert!(host.key_with("x").is_none());
            keys.push(*host.key_with("g").unwrap());
        }
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn a_wrong_word_is_found_out_by_the_host_which_has_proved_nothing_yet() {
        let (mut host, mut guest) = pair(&code("acorn-actor-album"), &code("acorn-actor-alley"));
        let share = guest.begin("g", "h").unwrap();
        let share = going(host.handle("h", "g", &share));
        let proof = going(guest.handle("g", "h", &share));
        assert_eq!(host.handle("h", "g", &proof), Outcome::Wrong);
        assert!(host.key_with("g").is_none());
    }

    #[test]
    fn a_host_that_does_not_know_the_code_cannot_prove_it() {
        let (mut host, mut guest) = pair(&code("acorn-actor-album"), &code("acorn-actor-alley"));
        let share = guest.begin("g", "h").unwrap();
        let share = going(host.handle("h", "g", &share));
        let _ = going(guest.handle("g", "h", &share));
        for proof in [vec![0; 32], Vec::new()] {
            let mut guest = Introduction::new(code("acorn-actor-alley"), false);
            let _ = guest.begin("g", "h");
            let _ = going(guest.handle("g", "h", &share));
            assert_eq!(guest.handle("g", "h", &Step::Confirmation(proof)), Outcome::Wrong);
        }
        let proof = host.run.take().map(|run| match run.phase {
            Phase::Unconfirmed(keys) => keys.proof(false),
            Phase::Shared(_) | Phase::Done(_) => Vec::new(),
        });
        assert_eq!(guest.handle("g", "h", &Step::Confirmation(proof.unwrap())), Outcome::Wrong);
    }

    #[test]
    fn another_session_than_the_one_it_was_said_to_spoils_it() {
        let code = Code::random();
        let (mut host, mut guest) = pair(&code, &code);
        let share = guest.begin("g", "h").unwrap();
        let share = going(host.handle("h", "x", &share));
        let proof = going(guest.handle("g", "h", &share));
        assert_eq!(host.handle("h", "x", &proof), Outcome::Wrong);
    }

    #[test]
    fn what_is_out_of_order_or_no_share_leads_nowhere() {
        let code = Code::random();
        let (mut host, mut guest) = pair(&code, &code);
        let early = Step::Confirmation(vec![1; 32]);
        assert_eq!(host.handle("h", "g", &early), Outcome::Going(None));
        assert_eq!(guest.handle("g", "h", &early), Outcome::Going(None));
        assert_eq!(guest.handle("g", "h", &Step::Share(vec![0; 33])), Outcome::Going(None));
        for junk in [Vec::new(), vec![0x41; 33], vec![0x41; 7], vec![0xff; 33]] {
            assert_eq!(host.handle("h", "g", &Step::Share(junk)), Outcome::Wrong);
        }
        let (one, mut other) = (guest.begin("g", "h").unwrap(), Introduction::new(code, false));
        let _ = other.begin("h", "g");
        assert_eq!(other.handle("h", "g", &one), Outcome::Wrong, "two guests");
    }
}
