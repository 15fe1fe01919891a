//! What `farcall-peer` reaches: how soon a connection is up, how much it carries, and what it costs when it is idle.
//!
//! Rows take turns, so that whatever else the machine does meets all of them; `peer/ROW` is one row. The soak takes minutes
//! and runs only when it is named. Every wait has an end: a run that stands still is told and counted, and the others go on.

mod aiortc;
mod channel;
mod files;
mod idle;
mod line;
mod open;
mod soak;

use anyhow::{Result, bail};
use farcall_tests::Context;
use farcall_tests::host::Host;
use farcall_tests::stack::Stack;

use crate::figures::Figures;

/// Some of the measurements.
struct Row {
    name: &'static str,
    run: fn(&Context, &mut Figures) -> Result<()>,
}

const ROWS: [Row; 9] = [
    Row { name: "open", run: open::run },
    Row { name: "channel", run: channel::run },
    Row { name: "files", run: files::run },
    Row { name: "line-20", run: |ctx, figures| line::run(ctx, figures, 20, 0) },
    Row { name: "line-20-lossy", run: |ctx, figures| line::run(ctx, figures, 20, 1) },
    Row { name: "line-100", run: |ctx, figures| line::run(ctx, figures, 100, 0) },
    Row { name: "line-100-lossy", run: |ctx, figures| line::run(ctx, figures, 100, 1) },
    Row { name: "idle", run: idle::run },
    Row { name: "soak", run: soak::run },
];
/// The one that is left out unless it is named.
const LONG: &str = "soak";

/// All rows but the longest, or those that are named.
pub(crate) fn run(ctx: &Context, figures: &mut Figures, rows: &[String]) -> Result<()> {
    if let Some(unknown) = rows.iter().find(|wanted| ROWS.iter().all(|row| row.name != *wanted)) {
        bail!("peer has no row \"{unknown}\"; there are: {}", ROWS.map(|row| row.name).join(", "));
    }
    for Row { name, run } in ROWS {
        let wanted = if rows.is_empty() { name != LONG } else { rows.iter().any(|row| row == name) };
        if wanted {
            let ctx = ctx.in_folder(ctx.folder().join(name));
            let _ = attempt(figures, name, |figures| run(&ctx, figures));
        }
    }
    Ok(())
}

/// Two peers and where they meet.
struct Pair<'a> {
    signaling: String,
    receiver: &'a Host,
    sender: &'a Host,
}

impl<'a> Pair<'a> {
    fn on_loopback(stack: &'a Stack) -> Self {
        Self { signaling: stack.signaling.url(), receiver: &stack.host, sender: &stack.host }
    }
}

/// What a run brings; one that fails, or stands still, is told and counted.
fn attempt<T>(figures: &mut Figures, what: &str, run: impl FnOnce(&mut Figures) -> Result<T>) -> Option<T> {
    match run(figures) {
        Ok(brought) => Some(brought),
        Err(error) => {
            note(&format!("FAILED: {what}: {error:#}"));
            figures.fail(what);
            None
        }
    }
}

/// Says something between the figures.
#[expect(clippy::print_stdout, reason = "a program speaks to its user")]
fn note(text: &str) {
    println!("{text}");
}
