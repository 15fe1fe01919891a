//! Runs scenarios, several at once, and tells what became of them.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

use crate::Context;
use crate::clock::now;
use crate::report::{self, Outcome, Tally, Verdict};
use crate::scenarios::Scenario;
use crate::terminal::{Style, shown};
use crate::tools::Tool;

/// Where things are and how to run.
#[derive(Debug)]
pub struct Plan {
    /// The folder of our programs.
    pub programs: PathBuf,
    /// The folder for logs and reports.
    pub reports: PathBuf,
    /// How many scenarios run at once.
    pub jobs: usize,
    /// How to print.
    pub style: Style,
}

/// The scenarios in whose name a word, and what follows it, begins with one of `filters`; all, if there is none.
pub fn select(all: &'static [Scenario], filters: &[String]) -> Result<Vec<&'static Scenario>> {
    let fits = |scenario: &Scenario, filter: &String| {
        let mut places = scenario.name.match_indices(filter.as_str()).map(|(place, _)| place);
        places.any(|place| place == 0 || scenario.name.as_bytes().get(place - 1) == Some(&b'-'))
    };
    if let Some(filter) = filters.iter().find(|filter| !all.iter().any(|scenario| fits(scenario, filter))) {
        let names = all.iter().map(|scenario| scenario.name).collect::<Vec<_>>();
        bail!(
            "no scenario has a word that begins with \"{filter}\" in its name; there are: {}",
            names.join(", ")
        );
    }
    let wanted =
        |scenario: &&Scenario| filters.is_empty() || filters.iter().any(|filter| fits(scenario, filter));
    Ok(all.iter().filter(wanted).collect())
}

/// Runs them; prints each as it ends and the table at last; writes `junit.xml`.
pub fn run(plan: &Plan, scenarios: &[&'static Scenario], out: &mut (impl Write + Send)) -> Result<Tally> {
    let Plan { reports, jobs, style, .. } = plan;
    std::fs::create_dir_all(reports).with_context(|| format!("creating {}", reports.display()))?;
    let (number, logs) = (scenarios.len(), shown(reports));
    writeln!(out, "\n{}", style.bold(&format!("== {number} scenarios, {jobs} at once; logs in {logs}")))?;
    let started = now();
    let next = AtomicUsize::new(0);
    let done = Mutex::new((Vec::new(), out));
    std::thread::scope(|scope| {
        for _ in 0..(*jobs).max(1) {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run_one(plan, scenario);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    let (outcomes, out) = &mut *done;
                    // A closed terminal stops no scenario.
                    let _ = writeln!(out, "{}", report::paragraph(*style, &outcome));
                    outcomes.push(outcome);
                }
            });
        }
    });
    let took = now().duration_since(started);
    let (mut outcomes, out) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|outcome| scenarios.iter().position(|scenario| scenario.name == outcome.name));

    let junit = reports.join("junit.xml");
    std::fs::write(&junit, report::junit::document(&outcomes, took))
        .with_context(|| format!("writing {}", junit.display()))?;
    writeln!(out, "\n{}", report::summary(*style, &outcomes, took))?;
    Ok(Tally::of(&outcomes))
}

fn run_one(plan: &Plan, scenario: &Scenario) -> Outcome {
    let folder = plan.reports.join(scenario.name);
    let started = now();
    let verdict = match missing(scenario.needs) {
        Some(tool) => Verdict::CouldNotRun(format!("{tool} is not installed (cargo xtask setup)")),
        None => attempt(plan, scenario, &folder),
    };
    let Scenario { name, claim, .. } = *scenario;
    Outcome { name, claim, verdict, took: now().duration_since(started), folder }
}

fn missing(needs: &[Tool]) -> Option<Tool> {
    needs.iter().copied().find(|tool| !tool.is_there())
}

fn attempt(plan: &Plan, scenario: &Scenario, folder: &PathBuf) -> Verdict {
    // What an earlier run left there would only mislead.
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Verdict::Failed(format!("clearing {}: {error}", folder.display()));
    }
    let ctx = Context::new(plan.programs.clone(), folder.clone());
    match catch_unwind(AssertUnwindSafe(|| (scenario.run)(&ctx))) {
        Ok(Ok(evidence)) => Verdict::Passed(evidence),
        Ok(Err(error)) => Verdict::Failed(format!("{error:#}")),
        Err(_) => Verdict::Failed("the scenario itself panicked; the message is on stderr".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Evidence;

    static SCENARIOS: [Scenario; 3] = [
        Scenario { name: "good", claim: "holds", needs: &[], run: |_| Ok(Evidence::new().fact("proof")) },
        Scenario { name: "bad", claim: "does not", needs: &[], run: |_| bail!("no proof") },
        Scenario { name: "mad-very", claim: "crashes", needs: &[], run: |_| panic!("on purpose") },
    ];

    fn plan(reports: PathBuf) -> Plan {
        Plan { programs: PathBuf::new(), reports, jobs: 2, style: Style::Plain }
    }

    #[test]
    fn every_scenario_is_told_in_the_order_of_the_registry_and_counted() {
        let reports = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        let all = SCENARIOS.iter().collect::<Vec<_>>();
        let tally = run(&plan(reports.path().to_owned()), &all, &mut out).unwrap();
        assert_eq!(tally, Tally { passed: 1, failed: 2, not_run: 0 });
        let text = String::from_utf8(out).unwrap();
        let table = text.split_once("scenario ").unwrap().1;
        let at = |name| table.find(&format!("\n{name} ")).unwrap();
        assert!(at("good") < at("bad") && at("bad") < at("mad-very"), "{text}");
        assert!(text.contains("no proof") && text.contains("panicked"), "{text}");
        let junit = std::fs::read_to_string(reports.path().join("junit.xml")).unwrap();
        assert!(junit.contains("tests=\"3\" failures=\"2\""), "{junit}");
    }

    #[test]
    fn what_an_earlier_run_left_is_gone() {
        let reports = tempfile::tempdir().unwrap();
        let old = reports.path().join("good/old.log");
        std::fs::create_dir_all(old.parent().unwrap()).unwrap();
        std::fs::write(&old, "").unwrap();
        run(&plan(reports.path().to_owned()), &[&SCENARIOS[0]], &mut Vec::new()).unwrap();
        assert!(!old.exists());
    }

    #[test]
    fn a_filter_selects_by_the_beginning_of_a_word_and_a_wrong_one_is_an_error() {
        let names = |filters: &[&str]| {
            let filters = filters.iter().map(|filter| (*filter).to_owned()).collect::<Vec<_>>();
            select(&SCENARIOS, &filters).map(|found| found.iter().map(|s| s.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["good", "bad", "mad-very"]);
        assert_eq!(names(&["very"]).unwrap(), ["mad-very"]);
        assert_eq!(names(&["go", "mad-"]).unwrap(), ["good", "mad-very"]);
        let error = names(&["good", "ad"]).unwrap_err().to_string();
        assert!(error.starts_with("no scenario has a word that begins with \"ad\""), "{error}");
    }
}
