//! What is generated from the command line's own description: completions for shells, and manual pages.

use clap::CommandFactory as _;

use crate::cli::{self, Cli};
use crate::failure::{Failure, Reason};

/// Prints what a shell needs to complete the words of this program.
pub fn completions(flags: &cli::Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), NAME, &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)
        .map_err(|error| Failure::new(Reason::CannotWrite, format!("stdout: {error}")))
}

/// Writes a manual page for the program and one for each verb.
pub fn pages(flags: &cli::Man) -> Result<(), Failure> {
    let folder = &flags.folder;
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| Failure::new(Reason::CannotWrite, format!("{}: {error}", folder.display())))
}

const NAME: &str = "farcall-peer";

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_verb_has_a_page_and_is_completed() {
        let folder = tempfile::tempdir().unwrap();
        pages(&cli::Man { folder: folder.path().to_owned() }).unwrap();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
            let script = String::from_utf8(script).unwrap();
            for verb in Cli::command().get_subcommands() {
                let name = verb.get_name();
                assert!(script.contains(name), "{shell} does not know {name}");
                let page = folder.path().join(format!("{NAME}-{name}.1"));
                assert!(page.exists(), "{} is missing", page.display());
            }
        }
    }
}
