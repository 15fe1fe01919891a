//! Asks an HTTP service who somebody is, on threads of its own: no worker ever waits for it.
//!
//! Workers that ask about the same user at the same time share one call, and answers are remembered for all of them.
//! Calls at a time, questions that wait for one, and remembered answers are bounded.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::debug;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::auth::{Answer, LookUp, Profile, Proof, Query, opaque_string};
use crate::clock;
use crate::policy::Limits;
use crate::stun::{IntegrityKey, PasswordAlgorithm};

/// Where to ask about the users of one realm.
#[derive(Clone)]
pub struct WebhookConfig {
    /// `https://…`; `http://` for a service next door.
    pub url: String,
    /// Said as `authorization: Bearer …`.
    pub token: Option<String>,
    /// Whoever signed the service's certificate, in PEM; none, whom browsers trust.
    pub authorities: Option<Vec<u8>>,
    /// How long one call may take, all in all.
    pub timeout: Duration,
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, timeout, .. } = self;
        f.debug_struct("WebhookConfig").field("url", url).field("timeout", timeout).finish_non_exhaustive()
    }
}

impl WebhookConfig {
    fn hook(&self) -> Hook {
        let roots = self.authorities.as_ref().map_or(RootCerts::WebPki, |pem| {
            let certificates: Vec<_> = certificates(pem).collect();
            RootCerts::new_with_certs(&certificates)
        });
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(self.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .build()
            .new_agent();
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        Hook { agent, url: self.url.clone(), bearer }
    }
}

/// The certificates in a PEM.
pub fn certificates(pem: &[u8]) -> impl Iterator<Item = Certificate<'static>> {
    parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        Ok(_) | Err(_) => None,
    })
}

/// The threads that ask. Dropping it ends them once their calls are over.
#[derive(Debug)]
pub struct Webhooks {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Webhooks {
    /// Starts so many threads for these realms.
    pub fn start<'a>(
        realms: impl Iterator<Item = (&'a str, &'a WebhookConfig)>,
        concurrency: usize,
    ) -> io::Result<Self> {
        let hooks = realms.map(|(realm, config)| (realm.into(), config.hook())).collect();
        let shared = Arc::new(Shared { hooks, state: Mutex::default(), work: Condvar::new() });
        let mut webhooks = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        for index in 0..concurrency {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(format!("webhook-{index}"));
            webhooks.threads.push(thread.spawn(move || shared.serve())?);
        }
        Ok(webhooks)
    }

    /// Asks for one worker, which `tell` reaches. It is called on any thread, and once for each question.
    #[must_use]
    pub fn asker(&self, tell: Arc<dyn Fn(Query, Answer) + Send + Sync>) -> Asker {
        Asker { shared: Arc::clone(&self.shared), tell: Tell(tell) }
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.shared.lock().is_stopping = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

/// One worker's way to ask.
#[derive(Debug, Clone)]
pub struct Asker {
    shared: Arc<Shared>,
    tell: Tell,
}

#[derive(Clone)]
struct Tell(Arc<dyn Fn(Query, Answer) + Send + Sync>);

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}

impl Asker {
    /// Asks, and comes back at once.
    pub fn ask(&self, now: Instant, question: LookUp) {
        let mut state = self.shared.lock();
        let query = question.query.clone();
        let State { questions, waiting, answers, .. } = &mut *state;
        let remembered = answers.get(&query).filter(|(_, until)| *until > now);
        let at_once = if let Some((answer, _)) = remembered {
            Some(answer.clone())
        } else if let Some(waiting) = waiting.get_mut(&query) {
            waiting.push(self.tell.clone());
            None
        } else if questions.len() >= MAX_QUESTIONS {
            Some(Answer::Failed)
        } else {
            waiting.insert(query.clone(), vec![self.tell.clone()]);
            questions.push_back(question);
            self.shared.work.notify_one();
            None
        };
        drop(state);
        if let Some(answer) = at_once {
            (self.tell.0)(query, answer);
        }
    }
}

#[derive(Debug)]
struct Shared {
    hooks: HashMap<Box<str>, Hook>,
    /// Held for a look-up or an insertion, never during a call.
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State {
    questions: VecDeque<LookUp>,
    waiting: HashMap<Query, Vec<Tell>>,
    answers: HashMap<Query, (Answer, Instant)>,
    is_stopping: bool,
}

impl Shared {
    fn serve(&self) {
        while let Some(question) = self.next() {
            let hook = self.hooks.get(&*question.query.realm);
            let answer = hook.map_or(Answer::Unknown, |hook| hook.call(&question));
            let waiting = self.keep(&question.query, &answer);
            for tell in waiting {
                (tell.0)(question.query.clone(), answer.clone());
            }
        }
    }

    fn next(&self) -> Option<LookUp> {
        let mut state = self.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            if let Some(question) = state.questions.pop_front() {
                return Some(question);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn keep(&self, query: &Query, answer: &Answer) -> Vec<Tell> {
        let now = clock::now();
        let mut state = self.lock();
        if state.answers.len() >= MAX_ANSWERS {
            state.answers.retain(|_, (_, until)| *until > now);
        }
        if state.answers.len() >= MAX_ANSWERS {
            state.answers.clear();
        }
        state.answers.insert(query.clone(), (answer.clone(), now + answer.ttl()));
        state.waiting.remove(query).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one step: a panic elsewhere cannot leave it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One service.
struct Hook {
    agent: ureq::Agent,
    url: String,
    bearer: Option<String>,
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hook").field("url", &self.url).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Request<'a> {
    realm: &'a str,
    username: &'a str,
    client: SocketAddr,
    transport: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Response {
    password: Option<String>,
    /// 32 hexadecimal digits under MD5, or 64 under SHA-256.
    key: Option<String>,
    account: Option<String>,
    #[serde(default)]
    limits: Limits,
    ttl: Option<u64>,
}

impl Hook {
    fn call(&self, question: &LookUp) -> Answer {
        match self.try_call(question) {
            Ok(answer) => answer,
            Err(error) => {
                debug!(url = %self.url, error = %format_args!("{error:#}"), "Webhook failed");
                Answer::Failed
            }
        }
    }

    fn try_call(&self, question: &LookUp) -> anyhow::Result<Answer> {
        let LookUp { query, client, transport } = question;
        let request = Request { realm: &query.realm, username: &query.name, client: *client, transport };
        let mut post = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(bearer) = &self.bearer {
            post = post.header("authorization", bearer);
        }
        let mut response = post.send(serde_json::to_vec(&request)?.as_slice())?;
        match response.status().as_u16() {
            200 => {
                let body = response.body_mut().with_config().limit(MAX_BODY_BYTES).read_to_vec()?;
                Ok(Answer::Known(Arc::new(serde_json::from_slice::<Response>(&body)?.profile()?)))
            }
            401 | 403 | 404 => Ok(Answer::Unknown),
            other => anyhow::bail!("status {other}"),
        }
    }
}

impl Response {
    fn profile(self) -> anyhow::Result<Profile> {
        let proof = match (self.password, self.key) {
            (Some(password), None) => Proof::Password(opaque_string::prepare(&password)?),
            (None, Some(key)) => {
                let bytes = from_hexadecimal(&key).ok_or_else(|| anyhow::anyhow!("a key is hexadecimal"))?;
                let algorithm = match bytes.len() {
                    16 => PasswordAlgorithm::Md5,
                    32 => PasswordAlgorithm::Sha256,
                    other => anyhow::bail!("a key of {other} bytes"),
                };
                Proof::Key(algorithm, IntegrityKey::from_bytes(&bytes))
            }
            (Some(_), Some(_)) | (None, None) => anyhow::bail!("neither password nor key, or both"),
        };
        let ttl = self.ttl.map_or(DEFAULT_TTL, Duration::from_secs);
        Ok(Profile { proof, account: self.account.map(Into::into), limits: self.limits, ttl })
    }
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<_> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |[high, low]: &[u32; 2]| u8::try_from(high * 16 + low).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

const DEFAULT_TTL: Duration = Duration::from_secs(60);
const MAX_BODY_BYTES: u64 = 64 * 1024;
/// Questions that wait for a thread.
const MAX_QUESTIONS: usize = 1024;
const MAX_ANSWERS: usize = 16_384;
