//! Headless Chromium under test, driven the way a person would: keys, clicks, and looking at what is shown.
//!
//! Every page has a browser of its own with an empty profile, so that no two share a connection, a cache or a
//! permission. Console messages are kept beside the logs; whatever a browser finds wrong with a page is an error.

mod webdriver;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::clock::{self, Deadline, poll};
use crate::host::Host;
use crate::process::{Mark, Process};
use crate::tools::Tool;
use crate::{Context, args};
use webdriver::Driver;

/// The driver of one scenario's browsers.
#[derive(Debug)]
pub struct Browsers {
    driver: Driver,
    /// Starts a browser that ends with its driver.
    launcher: PathBuf,
    folder: PathBuf,
    _process: Process,
}

/// What a browser is started with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What messages and files call it.
    pub name: &'static str,
    /// Whether the person says yes to the camera, or no.
    pub camera: Camera,
    /// Further switches.
    pub switches: Vec<String>,
}

/// What becomes of the question for the camera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Camera {
    /// A pretended one, granted.
    Granted,
    /// Refused by the person.
    Refused,
}

/// A key of the keyboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Leads on.
    Tab,
    /// Does it.
    Enter,
}

impl Setup {
    /// A browser with a camera.
    #[must_use]
    pub fn named(name: &'static str) -> Self {
        Self { name, camera: Camera::Granted, switches: Vec::new() }
    }

    /// With a person who refuses the camera.
    #[must_use]
    pub fn refusing_the_camera(mut self) -> Self {
        self.camera = Camera::Refused;
        self
    }

    /// With one more switch.
    #[must_use]
    pub fn switch(mut self, switch: &str) -> Self {
        self.switches.push(switch.to_owned());
        self
    }
}

impl Browsers {
    /// Starts the driver.
    pub fn start(ctx: &Context) -> Result<Self> {
        Self::start_at(ctx, &Host::local(), "chromedriver")
    }

    /// Starts it on `host`, where its browsers will be as well; `name` tells its logs from those of another.
    pub fn start_at(ctx: &Context, host: &Host, name: &str) -> Result<Self> {
        let process = ctx.spawn_tool(host, name, Tool::ChromeDriver, args!["--port=0"])?;
        let port = process.wait_for("its port", Mark::START, Deadline::after(PATIENCE), |line| {
            let port =
                line.split_once("started successfully on port ").map(|(_, rest)| rest.trim_end_matches('.'));
            Ok(port.and_then(|port| port.parse().ok()))
        })?;
        let folder = ctx.folder().to_owned();
        let launcher = folder.join(format!("{name}.sh"));
        std::fs::write(&launcher, "#!/bin/sh\nexec setpriv --pdeathsig KILL chromium \"$@\"\n")?;
        std::fs::set_permissions(&launcher, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self { driver: Driver::at(host, port), launcher, folder, _process: process })
    }

    /// Opens a page in a browser of its own.
    pub fn open(&self, setup: &Setup, url: &str) -> Result<Page> {
        let Setup { name, camera, switches } = setup;
        let profile = self.folder.join(format!("{name}-profile"));
        let mut flags: Vec<String> = SWITCHES.iter().map(|&switch| switch.to_owned()).collect();
        flags.push(format!("--user-data-dir={}", profile.display()));
        flags.push(match camera {
            Camera::Granted => "--use-fake-ui-for-media-stream".to_owned(),
            Camera::Refused => "--deny-permission-prompts".to_owned(),
        });
        flags.extend_from_slice(switches);
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": self.launcher, "args": flags },
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let session = self.driver.command("POST", "/session", &capabilities)?;
        let id = session.get("sessionId").and_then(Value::as_str).context("a session without an id")?;
        let page = Page {
            driver: self.driver.clone(),
            session: format!("/session/{id}"),
            name: (*name).to_owned(),
            folder: self.folder.clone(),
            profile,
        };
        page.command("url", &json!({ "url": url }))?;
        Ok(page)
    }
}

/// A page in its browser, which ends when this is dropped.
#[derive(Debug)]
pub struct Page {
    driver: Driver,
    session: String,
    name: String,
    folder: PathBuf,
    profile: PathBuf,
}

impl Page {
    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a script returns.
    pub fn ask(&self, script: &str) -> Result<Value> {
        self.command("execute/sync", &json!({ "script": script, "args": [] }))
            .with_context(|| format!("{}: {script}", self.name))
    }

    /// What a script's promise comes to.
    pub fn ask_async(&self, script: &str) -> Result<Value> {
        // Chromium's driver waits for a promise that a script returns.
        self.ask(&format!("return (async () => {{ {script} }})();"))
    }

    /// Waits until an expression is true to the page; returns what it is.
    pub fn wait(&self, what: &str, expression: &str) -> Result<Value> {
        let script = format!("return {expression};");
        let waited = poll(&format!("{what} at {}", self.name), Deadline::after(PATIENCE), || {
            let value = self.ask(&script)?;
            let is_true = !matches!(&value, Value::Null | Value::Bool(false))
                && value != json!(0)
                && value != json!("");
            Ok(is_true.then_some(value))
        });
        waited.with_context(|| {
            let state = self.ask(
                "return [document.getElementById('status')?.innerText, \
                                  document.getElementById('notice')?.innerText].join(' | ');",
            );
            format!("{} shows {}", self.name, state.unwrap_or_default())
        })
    }

    /// Waits until the status line says so.
    pub fn status_is(&self, status: &str) -> Result<()> {
        let shown = "document.getElementById('status').dataset.status";
        self.wait(&format!("the status {status}"), &format!("{shown} === {}", json!(status))).map(drop)
    }

    /// Waits for a text that a person can see in an element.
    pub fn shows(&self, id: &str, text: &str) -> Result<()> {
        let expression = format!("document.getElementById('{id}').innerText.includes({})", json!(text));
        self.wait(&format!("\"{text}\" in {id}"), &expression).map(drop)
    }

    /// Clicks on an element as a person does.
    pub fn click(&self, id: &str) -> Result<()> {
        let element = self.element(&format!("#{id}"))?;
        self.command(&format!("element/{element}/click"), &json!({})).map(drop)
    }

    /// Clicks on the element that a selector finds.
    pub fn click_on(&self, selector: &str) -> Result<()> {
        let element = self.element(selector)?;
        self.command(&format!("element/{element}/click"), &json!({})).map(drop)
    }

    /// Types into a field; `\u{e007}` is the Enter key.
    pub fn write(&self, id: &str, text: &str) -> Result<()> {
        let element = self.element(&format!("#{id}"))?;
        self.command(&format!("element/{element}/value"), &json!({ "text": text })).map(drop)
    }

    /// Sends a line of chat.
    pub fn say(&self, text: &str) -> Result<()> {
        self.write("text", &format!("{text}\u{e007}"))
    }

    /// Waits for a line of chat.
    pub fn hears(&self, text: &str) -> Result<()> {
        self.shows("received", text)
    }

    /// Frames decoded of the other side's camera, so far.
    pub fn frames(&self) -> Result<u64> {
        let counted =
            self.ask("return document.getElementById('remote').getVideoPlaybackQuality().totalVideoFrames;")?;
        counted.as_u64().context("no number of frames")
    }

    /// Waits until so many more frames have been decoded; returns how many there are then.
    pub fn sees(&self, more: u64) -> Result<u64> {
        let wanted = self.frames()? + more;
        poll(&format!("{more} more frames at {}", self.name), Deadline::after(PATIENCE), || {
            let now = self.frames()?;
            Ok((now >= wanted).then_some(now))
        })
    }

    /// Waits for the safety words; returns them.
    pub fn safety_words(&self) -> Result<Vec<String>> {
        let words = self.wait(
            "the safety words",
            "document.querySelectorAll('#words li').length === 12 \
             && [...document.querySelectorAll('#words li')].map((word) => word.textContent)",
        )?;
        serde_json::from_value(words).context("words that are none")
    }

    /// Keeps what is shown as a picture, which must be one.
    pub fn screenshot(&self, name: &str) -> Result<PathBuf> {
        let shot = self.driver.command("GET", &format!("{}/screenshot", self.session), &Value::Null)?;
        let picture = STANDARD.decode(shot.as_str().context("no picture")?).context("no picture")?;
        ensure!(picture.len() > 10_000, "{name} is an empty picture of {} bytes", picture.len());
        let path = self.folder.join(format!("{name}.png"));
        std::fs::write(&path, picture).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Presses a key of the keyboard, wherever the focus is.
    pub fn press(&self, key: Key) -> Result<()> {
        let (name, code, text) = match key {
            Key::Tab => ("Tab", 9, ""),
            Key::Enter => ("Enter", 13, "\r"),
        };
        let event = |kind: &str| json!({ "type": kind, "key": name, "code": name, "windowsVirtualKeyCode": code, "text": text });
        self.emulate("Input.dispatchKeyEvent", &event("keyDown"))?;
        self.emulate("Input.dispatchKeyEvent", &event("keyUp"))
    }

    /// Goes from one thing to the next by the keyboard until it is at this one.
    pub fn tab_to(&self, id: &str) -> Result<()> {
        for _ in 0..MOST_TABS {
            if self.ask("return document.activeElement ? document.activeElement.id : '';")? == id {
                return Ok(());
            }
            self.press(Key::Tab)?;
        }
        bail!("{}: the keyboard does not lead to #{id}", self.name)
    }

    /// Pretends to be another device: a phone's screen, a dark theme.
    pub fn emulate(&self, command: &str, parameters: &Value) -> Result<()> {
        self.command("goog/cdp/execute", &json!({ "cmd": command, "params": parameters })).map(drop)
    }

    /// Fails if the browser found anything wrong with the page, but for what contains one of `expected`.
    pub fn is_clean(&self, expected: &[&str]) -> Result<()> {
        let log = self.command("se/log", &json!({ "type": "browser" }))?;
        let entries = log.as_array().context("no log")?;
        let text =
            |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let lines: Vec<String> = entries
            .iter()
            .map(|entry| format!("{} {}", text(entry, "level"), text(entry, "message")))
            .collect();
        std::fs::write(self.folder.join(format!("{}-console.log", self.name)), lines.join("\n"))?;
        let bad: Vec<&String> = lines
            .iter()
            .filter(|line| line.starts_with("SEVERE") || line.contains("Content Security Policy"))
            .filter(|line| !expected.iter().any(|expected| line.contains(expected)))
            .collect();
        ensure!(bad.is_empty(), "{}: the browser complains: {bad:?}", self.name);
        Ok(())
    }

    /// Leaves the page as a person does who closes its tab.
    pub fn leave(&self) -> Result<()> {
        self.command("url", &json!({ "url": "about:blank" })).map(drop)
    }

    fn element(&self, selector: &str) -> Result<String> {
        let found = self.command("element", &json!({ "using": "css selector", "value": selector }))?;
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        Ok(id.with_context(|| format!("{}: no {selector}", self.name))?.to_owned())
    }

    fn command(&self, command: &str, body: &Value) -> Result<Value> {
        self.driver.command("POST", &format!("{}/{command}", self.session), body)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.driver.command("DELETE", &self.session, &Value::Null);
        // Megabytes of it, of no use to anybody.
        let _ = remove(&self.profile);
    }
}

fn remove(profile: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(profile)
}

/// Browsers are the heaviest of all programs here, and several run at once.
const PATIENCE: Duration = clock::PATIENCE.saturating_mul(2);
/// No network but ours, a pretended camera, and a screen of a usual size.
/// More than the page has things to go to.
const MOST_TABS: usize = 60;
const SWITCHES: [&str; 14] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--window-size=1280,900",
    "--lang=en-GB",
    "--use-fake-device-for-media-stream=fps=10",
    // Of TURN servers; the page itself comes without any.
    "--ignore-certificate-errors",
];
