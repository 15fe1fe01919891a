//! Names that come from elsewhere: which of them may become paths here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::state;
use crate::failure::{Failure, Reason};

/// A path below the receiver's folder, or why it may be none.
pub(super) fn safe(path: &[Vec<u8>]) -> Result<PathBuf, Failure> {
    let shown = shown(path);
    let refuse =
        |why: &str| Err(Failure::new(Reason::BadData, format!("the name {shown:?} is refused: {why}")));
    if path.is_empty() || path.len() > DEEPEST {
        return refuse("it has no part, or too many");
    }
    let mut whole = PathBuf::new();
    for name in path {
        match name.as_slice() {
            b"" | b"." | b".." => return refuse("it leads elsewhere"),
            name if name.contains(&b'/') || name.contains(&0) => return refuse("a part of it is no name"),
            name if name.len() > LONGEST_NAME => return refuse("it is too long"),
            name => whole.push(OsStr::from_bytes(name)),
        }
    }
    if path.first().is_some_and(|first| first == state::FOLDER.as_bytes()) {
        return refuse("the receiver keeps its notes there");
    }
    if whole.as_os_str().len() > LONGEST_PATH {
        return refuse("it is too long");
    }
    Ok(whole)
}

/// As people read it.
pub(super) fn shown(path: &[Vec<u8>]) -> String {
    let names: Vec<_> = path.iter().map(|name| String::from_utf8_lossy(name)).collect();
    names.join("/")
}

const DEEPEST: usize = 128;
/// What Linux takes.
const LONGEST_NAME: usize = 255;
/// Leaves room for the receiver's own folder.
const LONGEST_PATH: usize = 3500;

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn names(path: &[&str]) -> Vec<Vec<u8>> {
        path.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn odd_names_are_kept() {
        for path in [&["a"][..], &["a b", "...", "ünï\n", "-rf", "con", "~", "*", "\\..\\"]] {
            assert_eq!(safe(&names(path)).unwrap(), path.iter().collect::<PathBuf>());
        }
        assert!(safe(&[vec![0xff, 0xfe]]).is_ok(), "names need not be UTF-8");
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        let long = "x".repeat(256);
        for path in [
            &[][..],
            &[""],
            &["."],
            &[".."],
            &["a", ".."],
            &["/etc"],
            &["a/../../b"],
            &["a\0b"],
            &[&long],
            &[".farcall-partial", "x"],
        ] {
            let failure = safe(&names(path)).unwrap_err();
            assert_eq!(failure.reason, Reason::BadData, "{path:?}");
        }
    }

    proptest! {
        #[test]
        fn no_name_leaves_the_folder(path in prop::collection::vec(prop::collection::vec(
            prop_oneof![Just(b'.'), Just(b'/'), Just(0), Just(b'a'), any::<u8>()], 0..4), 0..5)) {
            if let Ok(whole) = safe(&path) {
                prop_assert!(whole.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert_eq!(whole.components().count(), path.len());
                prop_assert!(Path::new("/out").join(&whole).starts_with("/out"));
            }
        }
    }
}
