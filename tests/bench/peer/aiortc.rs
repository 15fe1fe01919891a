//! aiortc, what most scripts are written on, in a Python environment of its own below `target`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use farcall_tests::clock::Deadline;
use farcall_tests::host::Host;
use farcall_tests::process::Mark;
use farcall_tests::{Context, args};
use serde::Deserialize;

use super::channel::Measured;
use super::note;

/// Which one is measured.
const REQUIREMENT: &str = "aiortc==1.16.0";
/// It carries about one megabyte a second.
const BYTES: u32 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(120);
const SCRIPT: &str = include_str!("aiortc.py");

/// An environment with it.
pub(super) struct Aiortc {
    python: PathBuf,
}

impl Aiortc {
    /// Installs it, unless it is there.
    pub(super) fn install() -> Result<Self> {
        let folder = Path::new("target/aiortc");
        let python = folder.join("bin/python");
        let installed = folder.join("installed");
        if fs::read_to_string(&installed).is_ok_and(|installed| installed == REQUIREMENT) {
            return Ok(Self { python });
        }
        note(&format!("installing {REQUIREMENT} into {}", folder.display()));
        succeed(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
        succeed(Command::new(&python).args(pip).arg(REQUIREMENT))?;
        fs::write(&installed, REQUIREMENT)?;
        Ok(Self { python })
    }

    /// A data channel of it.
    pub(super) fn measure(&self, ctx: &Context) -> Result<Measured> {
        // By its own name it would be taken for the library.
        let script = ctx.folder().join("channel_of_aiortc.py");
        fs::create_dir_all(ctx.folder())?;
        fs::write(&script, SCRIPT)?;
        let args = args![script, BYTES.to_string()];
        let process = ctx.launch(&Host::local(), "aiortc", self.python.clone(), args)?;
        let took = process.wait_for("its measurement", Mark::START, Deadline::after(PATIENCE), |line| {
            Ok(Some(serde_json::from_str::<Took>(line)?))
        })?;
        Ok(Measured {
            megabytes_per_second: f64::from(BYTES) / 1e6 / took.seconds,
            cpu_seconds_per_gibibyte: took.cpu_seconds * f64::from(1 << 30) / f64::from(BYTES),
        })
    }
}

#[derive(Deserialize)]
struct Took {
    seconds: f64,
    cpu_seconds: f64,
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.lines().last().unwrap_or("it failed and said nothing"));
    Ok(())
}
