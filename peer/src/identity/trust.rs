//! Which keys are acceptable, and what is found out about the key of the other side.

use serde::Serialize;

use super::PublicKey;

/// Whom a peer talks to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// Whoever is in the room. A key that is shown must be the other side's own.
    #[default]
    Anybody,
    /// Those with one of these keys.
    Keys(Vec<PublicKey>),
    /// In each room whoever was met there first, as ssh does with hosts.
    Known {
        /// Who that is.
        expected: Option<PublicKey>,
    },
}

/// How the other side's key is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is the other side's own; nobody asked for more.
    Proven,
    /// It is one of those that were asked for.
    Trusted,
    /// It was met in this room before.
    Known,
    /// It is met in this room for the first time, and will be known from now on.
    New,
}

/// What is known of the other side's key, and whether that will do.
#[derive(Debug)]
pub(crate) struct Judge {
    trust: Trust,
}

impl Judge {
    pub(crate) fn new(trust: Trust) -> Self {
        Self { trust }
    }

    /// About somebody who has proved to have this key, or has shown none; in words why not.
    pub(crate) fn judge(&mut self, key: Option<PublicKey>) -> Result<Option<Standing>, String> {
        let Some(key) = key else {
            return match &self.trust {
                Trust::Anybody | Trust::Known { expected: None } => Ok(None),
                Trust::Keys(_) => {
                    Err("the other side has no identity, and only certain ones are trusted".to_owned())
                }
                Trust::Known { expected: Some(expected) } => Err(format!(
                    "the other side has no identity, and the one known in this room is {expected}"
                )),
            };
        };
        match &mut self.trust {
            Trust::Anybody => Ok(Some(Standing::Proven)),
            Trust::Keys(keys) if keys.contains(&key) => Ok(Some(Standing::Trusted)),
            Trust::Keys(_) => Err(format!("the other side is {key}, which is not trusted")),
            Trust::Known { expected: Some(expected) } if *expected == key => Ok(Some(Standing::Known)),
            Trust::Known { expected: Some(expected) } => Err(format!(
                "the other side is {key}, but the one known in this room is {expected}: either it has a new identity, \
                 or somebody pretends to be it"
            )),
            Trust::Known { expected } => {
                *expected = Some(key);
                Ok(Some(Standing::New))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::*;

    fn keys() -> [PublicKey; 2] {
        [Identity::generate().0.public_key(), Identity::generate().0.public_key()]
    }

    #[test]
    fn certain_keys_are_trusted_and_no_others() {
        let [one, other] = keys();
        let mut judge = Judge::new(Trust::Keys(vec![one]));
        assert_eq!(judge.judge(Some(one)), Ok(Some(Standing::Trusted)));
        assert!(judge.judge(Some(other)).unwrap_err().contains(&other.to_string()));
        assert!(judge.judge(None).is_err());
    }

    #[test]
    fn the_first_one_met_is_the_only_one_from_then_on() {
        let [one, other] = keys();
        let mut judge = Judge::new(Trust::Known { expected: None });
        assert_eq!(judge.judge(None), Ok(None));
        assert_eq!(judge.judge(Some(one)), Ok(Some(Standing::New)));
        assert_eq!(judge.judge(Some(one)), Ok(Some(Standing::Known)));
        assert!(judge.judge(Some(other)).is_err() && judge.judge(None).is_err());
    }

    #[test]
    fn anybody_is_anybody() {
        let [one, _] = keys();
        let mut judge = Judge::new(Trust::Anybody);
        assert_eq!((judge.judge(None), judge.judge(Some(one))), (Ok(None), Ok(Some(Standing::Proven))));
    }
}
