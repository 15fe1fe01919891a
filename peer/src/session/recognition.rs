//! Whether the other side is whom it should be: what both assert, and what came of a code.

use std::collections::VecDeque;
use std::sync::Arc;

use super::types::{Payload, SessionId};
use crate::identity::{
    Algorithm, Assertion, Certificates, Claim, Identity, Introduction, Judge, Outcome, PublicKey, Standing,
    Step,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Recognition {
    identity: Option<Arc<Identity>>,
    judge: Judge,
    introduction: Option<Introduction>,
    /// By whom, to whom and about what the last assertions were said.
    said: Option<(SessionId, SessionId, Certificates)>,
    /// The last ones of others.
    heard: VecDeque<(SessionId, Assertion)>,
}

/// What is found out about whoever is at the other end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It will do.
    Accepted(Option<(PublicKey, Standing)>),
    /// It has not proved yet that it knows the code.
    Waiting,
    /// It will not do, and this is why.
    Refused(String),
}

impl Recognition {
    pub(super) fn new(
        identity: Option<Arc<Identity>>,
        judge: Judge,
        introduction: Option<Introduction>,
    ) -> Self {
        Self { identity, judge, introduction, said: None, heard: VecDeque::new() }
    }

    /// Whether there may be a connection to it: where there is a code, it must know it.
    pub(super) fn admits(&self, other: &SessionId) -> bool {
        self.introduction.as_ref().is_none_or(|code| code.key_with(other.as_str()).is_some())
    }

    /// What to say to somebody who is there, if an introduction is due.
    pub(super) fn greet(&mut self, own: &SessionId, other: &SessionId) -> Option<Payload> {
        let step = self.introduction.as_mut()?.begin(own.as_str(), other.as_str())?;
        Some(Payload::Introduction(step))
    }

    pub(super) fn introduce(&mut self, own: &SessionId, other: &SessionId, step: &Step) -> Outcome {
        match &mut self.introduction {
            Some(introduction) => introduction.handle(own.as_str(), other.as_str(), step),
            None => Outcome::Going(None),
        }
    }

    /// What to say before a description, unless it was said before another one.
    pub(super) fn assertions(&mut self, own: &SessionId, other: &SessionId, sdp: &str) -> Vec<Payload> {
        let certificates = Certificates::of_description(sdp);
        let now = (own.clone(), other.clone(), certificates);
        if self.said.as_ref() == Some(&now) || now.2.is_empty() {
            return Vec::new();
        }
        let certificates = &now.2;
        let claim = Claim { from: own.as_str(), to: other.as_str() };
        let by_code = self.introduction.as_ref().and_then(|code| code.key_with(other.as_str()));
        let by_code = by_code.map(|key| certificates.signed_with(key, claim));
        let by_key = self.identity.as_ref().map(|identity| certificates.signed_by(identity, claim));
        let assertions = [by_code, by_key].into_iter().flatten().map(Payload::Assertion).collect();
        self.said = Some(now);
        assertions
    }

    pub(super) fn heard(&mut self, from: &SessionId, assertion: Assertion) {
        if self.heard.len() >= MOST_ASSERTIONS {
            self.heard.pop_front();
        }
        self.heard.push_back((from.clone(), assertion));
    }

    /// Looks at the certificate that the other side showed.
    pub(super) fn recognise(
        &mut self,
        own: &SessionId,
        other: &SessionId,
        certificate: Option<&[u8]>,
    ) -> Verdict {
        let claim = Claim { from: other.as_str(), to: own.as_str() };
        let certificate = certificate.unwrap_or_default();
        let said = || self.heard.iter().filter(|(from, _)| from == other).map(|(_, assertion)| assertion);
        if let Some(introduction) = &self.introduction {
            let Some(key) = introduction.key_with(other.as_str()) else { return Verdict::Waiting };
            let mut proofs = said().filter(|assertion| assertion.is_signed_with(key, claim)).peekable();
            if proofs.peek().is_none() {
                return Verdict::Waiting;
            }
            if !proofs.any(|assertion| assertion.names(certificate)) {
                return Verdict::Refused(IN_BETWEEN.to_owned());
            }
        }
        let mut lasting = said().filter(|assertion| assertion.algorithm == Algorithm::Ed25519).peekable();
        let asserted = lasting.peek().is_some();
        let key = lasting.filter(|assertion| assertion.names(certificate)).find_map(|it| it.signer(claim));
        if asserted && key.is_none() {
            return Verdict::Refused(IN_BETWEEN.to_owned());
        }
        match self.judge.judge(key) {
            Ok(standing) => Verdict::Accepted(key.zip(standing)),
            Err(why) => Verdict::Refused(why),
        }
    }
}

const IN_BETWEEN: &str =
    "the connection does not end at the other side: somebody sits in between, such as the signaling server";
/// Of each kind one for each of two connections.
const MOST_ASSERTIONS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Trust;

    fn session(name: &str) -> SessionId {
        SessionId::new(name)
    }

    fn sdp(byte: u8) -> String {
        format!("v=0\r\na=fingerprint:sha-256 {}\r\n", vec![format!("{byte:02x}"); 32].join(":"))
    }

    struct Pair {
        one: Recognition,
        other: Recognition,
        identity: Arc<Identity>,
    }

    /// `one` judges, `other` has an identity.
    fn pair(trust: impl FnOnce(PublicKey) -> Trust) -> Pair {
        let identity = Arc::new(Identity::generate().0);
        let judge = Judge::new(trust(identity.public_key()));
        let one = Recognition::new(None, judge, None);
        let other = Recognition::new(Some(Arc::clone(&identity)), Judge::new(Trust::Anybody), None);
        Pair { one, other, identity }
    }

    impl Pair {
        /// What `other` says about its certificate, and somebody may change.
        fn say(&mut self, byte: u8, change: impl Fn(&mut Assertion)) {
            for payload in self.other.assertions(&session("other"), &session("one"), &sdp(byte)) {
                let Payload::Assertion(mut assertion) = payload else { panic!("{payload:?}") };
                change(&mut assertion);
                self.one.heard(&session("other"), assertion);
            }
        }

        fn verdict(&mut self, shown: u8) -> Verdict {
            self.one.recognise(&session("one"), &session("other"), Some(&[shown; 32]))
        }
    }

    #[test]
    fn who_shows_the_certificate_that_it_signed_is_recognised() {
        let mut pair = pair(|key| Trust::Keys(vec![key]));
        pair.say(1, |_| {});
        let key = pair.identity.public_key();
        assert_eq!(pair.verdict(1), Verdict::Accepted(Some((key, Standing::Trusted))));
    }

    #[test]
    fn another_certificate_than_the_signed_one_is_refused_even_where_anybody_may_call() {
        let mut pair = pair(|_| Trust::Anybody);
        pair.say(1, |_| {});
        assert_eq!(pair.verdict(2), Verdict::Refused(IN_BETWEEN.to_owned()));
        let nothing = pair.one.recognise(&session("one"), &session("other"), None);
        assert_eq!(nothing, Verdict::Refused(IN_BETWEEN.to_owned()));
    }

    #[test]
    fn an_assertion_that_was_changed_on_the_way_is_refused() {
        let mut pair = pair(|_| Trust::Anybody);
        pair.say(1, |assertion| {
            assertion.fingerprints = vec![format!("sha-256 {}", ["02"; 32].join(":"))];
        });
        assert!(matches!(pair.verdict(2), Verdict::Refused(_)));
    }

    #[test]
    fn an_assertion_that_was_said_to_somebody_else_is_of_no_use() {
        let mut pair = pair(|_| Trust::Anybody);
        for payload in pair.other.assertions(&session("other"), &session("third"), &sdp(1)) {
            let Payload::Assertion(assertion) = payload else { panic!("{payload:?}") };
            pair.one.heard(&session("other"), assertion);
        }
        assert!(matches!(pair.verdict(1), Verdict::Refused(_)));
    }

    #[test]
    fn an_assertion_that_is_taken_away_fails_where_an_identity_is_asked_for() {
        assert!(matches!(pair(|key| Trust::Keys(vec![key])).verdict(1), Verdict::Refused(_)));
        let known = |key| Trust::Known { expected: Some(key) };
        assert!(matches!(pair(known).verdict(1), Verdict::Refused(_)));
        assert_eq!(pair(|_| Trust::Anybody).verdict(1), Verdict::Accepted(None));
    }

    #[test]
    fn it_is_said_once_for_each_certificate_and_each_listener() {
        let mut pair = pair(|_| Trust::Anybody);
        let mut said =
            |own: &str, to: &str, byte| pair.other.assertions(&session(own), &session(to), &sdp(byte)).len();
        assert_eq!(
            [said("a", "b", 1), said("a", "b", 1), said("a", "b", 2), said("a", "b", 2)],
            [1, 0, 1, 0]
        );
        assert_eq!([said("a", "c", 2), said("d", "c", 2)], [1, 1]);
        assert_eq!(pair.one.assertions(&session("a"), &session("b"), &sdp(1)), []);
    }

    #[test]
    fn a_second_connection_of_the_same_session_is_recognised_too() {
        let mut pair = pair(|_| Trust::Anybody);
        for byte in 1..=8 {
            pair.say(byte, |_| {});
            assert!(matches!(pair.verdict(byte), Verdict::Accepted(Some(_))), "{byte}");
        }
    }

    #[test]
    fn whoever_knows_the_code_must_also_be_at_the_end_of_the_connection() {
        let code = crate::identity::Code::random();
        let side = |host| {
            let introduction = Some(Introduction::new(code.clone(), host));
            Recognition::new(None, Judge::new(Trust::Anybody), introduction)
        };
        let (mut host, mut guest, h, g) = (side(true), side(false), session("h"), session("g"));
        assert!(host.greet(&h, &g).is_none() && !host.admits(&g));
        let Some(Payload::Introduction(mut step)) = guest.greet(&g, &h) else { panic!() };
        for to_host in [true, false, true] {
            let outcome =
                if to_host { host.introduce(&h, &g, &step) } else { guest.introduce(&g, &h, &step) };
            step = match outcome {
                Outcome::Going(Some(step)) | Outcome::Done(Some(step)) => step,
                Outcome::Going(None) | Outcome::Done(None) | Outcome::Wrong => panic!(),
            };
        }
        assert_eq!(guest.introduce(&g, &h, &step), Outcome::Done(None));
        assert!(host.admits(&g) && guest.admits(&h) && !guest.admits(&g));
        assert_eq!(host.recognise(&h, &g, Some(&[1; 32])), Verdict::Waiting);
        for payload in guest.assertions(&g, &h, &sdp(1)) {
            let Payload::Assertion(assertion) = payload else { panic!("{payload:?}") };
            host.heard(&g, assertion);
        }
        assert_eq!(host.recognise(&h, &g, Some(&[2; 32])), Verdict::Refused(IN_BETWEEN.to_owned()));
        assert_eq!(host.recognise(&h, &g, Some(&[1; 32])), Verdict::Accepted(None));
    }
}
