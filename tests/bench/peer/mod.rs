//! What `farcall-peer` reaches: how soon a connection is up, how much it carries, and what it costs when it is idle.
//!
//! Rows take turns, so that whatever else the machine does meets all of them; `peer/ROW` is one row. The soak takes minutes
//! and runs only when it is named.

mod aiortc;
mod channel;
mod files;
mod idle;
mod open;
mod soak;

use anyhow::{Result, bail};
use farcall_tests::Context;

use crate::figures::Figures;

/// Some of the measurements.
struct Row {
    name: &'static str,
    run: fn(&Context, &mut Figures) -> Result<()>,
}

const ROWS: [Row; 5] = [
    Row { name: "open", run: open::run },
    Row { name: "channel", run: channel::run },
    Row { name: "files", run: files::run },
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
            run(&ctx.in_folder(ctx.folder().join(name)), figures)?;
        }
    }
    Ok(())
}

/// Says something between the figures.
#[expect(clippy::print_stdout, reason = "a program speaks to its user")]
fn note(text: &str) {
    println!("{text}");
}
