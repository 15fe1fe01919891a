//! The page: what a browser gets that asks this server for anything but gRPC.
//!
//! Its files are part of the program, the same bytes in every build; `--web-dir` serves a folder instead, for whoever
//! changes them. Two more are made here, so that neither is written twice: the protocol's descriptor, by which the
//! page encodes its messages, and the list of safety words.

mod cors;
mod descriptor;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use tonic::body::Body;

use crate::live::Live;
pub use cors::Origins;

/// How browsers are served.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// A folder to serve instead of the page that is part of the program.
    pub dir: Option<PathBuf>,
    /// Other sites whose pages may call this server.
    pub origins: Arc<Live<Origins>>,
}

/// The files there are. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    files: Arc<BTreeMap<String, File>>,
    dir: Option<Arc<Path>>,
}

/// A file as it goes out.
#[derive(Debug, Clone)]
struct File {
    kind: HeaderValue,
    etag: HeaderValue,
    bytes: Bytes,
}

impl Page {
    pub(crate) fn new(dir: Option<&Path>) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        if dir.is_none() {
            for (name, bytes) in FILES {
                let kind = kind(name).unwrap_or(BINARY);
                files.insert((*name).to_owned(), File::new(kind, Bytes::from_static(bytes)));
            }
        }
        files.insert(DESCRIPTOR.to_owned(), File::new("application/json", descriptor::json()?.into()));
        let words = Bytes::from_static(farcall_proto::safety_words::LIST.as_bytes());
        files.insert(WORDS.to_owned(), File::new("text/plain; charset=utf-8", words));
        Ok(Self { files: Arc::new(files), dir: dir.map(Into::into) })
    }

    /// Answers a request that is no gRPC.
    pub(crate) async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Body> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "there are GET, HEAD and gRPC\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let Some(file) = self.find(path).await else {
            return without_body_if_head(method, text(StatusCode::NOT_FOUND, "there is nothing here\n"));
        };
        let mut response = if is_known(headers, &file.etag) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let mut response = Response::new(Body::new(Full::new(file.bytes.clone())));
            response.headers_mut().insert(header::CONTENT_TYPE, file.kind);
            response.headers_mut().insert(header::CONTENT_LENGTH, file.bytes.len().into());
            response
        };
        response.headers_mut().insert(header::ETAG, file.etag);
        // Names do not change with contents: keep a copy, and ask whether it is still good.
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        protect(response.headers_mut());
        without_body_if_head(method, response)
    }

    async fn find(&self, path: &str) -> Option<File> {
        let name = path.strip_prefix('/')?;
        let name = if name.is_empty() { "index.html" } else { name };
        match (self.files.get(name), &self.dir) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(dir)) => {
                let kind = kind(name).filter(|_| is_plain(name))?;
                let bytes = tokio::fs::read(dir.join(name)).await.ok()?;
                Some(File::new(kind, bytes.into()))
            }
            (None, None) => None,
        }
    }
}

impl File {
    fn new(kind: &'static str, bytes: Bytes) -> Self {
        let digest = Sha256::digest(&bytes);
        let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let etag = HeaderValue::try_from(format!("\"{hex}\"")).unwrap_or(HeaderValue::from_static("\"\""));
        Self { kind: HeaderValue::from_static(kind), etag, bytes }
    }
}

/// A line for people who are in the wrong place.
pub(crate) fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::from(text)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response.headers_mut().insert(header::CONTENT_LENGTH, text.len().into());
    protect(response.headers_mut());
    response
}

/// What a browser must not do with it.
fn protect(headers: &mut HeaderMap) {
    for (name, value) in PROTECTION {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn without_body_if_head(method: &Method, response: Response<Body>) -> Response<Body> {
    if method == Method::HEAD { response.map(|_| Body::empty()) } else { response }
}

/// Whether the browser has this already. RFC 9110, section 13.1.2.
fn is_known(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|list| list.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    known.any(|tag| tag == "*" || tag.as_bytes() == etag.as_bytes())
}

/// What a file is, by its name; nothing that is not listed here is served.
fn kind(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        "txt" => "text/plain; charset=utf-8",
        "webmanifest" => "application/manifest+json",
        _ => return None,
    })
}

/// Whether a name stays below its folder, in every way of writing one.
fn is_plain(name: &str) -> bool {
    let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && part.chars().all(fit))
}

const BINARY: &str = "application/octet-stream";
const DESCRIPTOR: &str = "farcall/descriptor.json";
const WORDS: &str = "farcall/safety-words.txt";

/// Nothing but our own files, and no way to turn text into code; the room key in the address goes nowhere.
const PROTECTION: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(self), microphone=(self), display-capture=(self), geolocation=(), payment=(), usb=()",
    ),
];

include!(concat!(env!("OUT_DIR"), "/web.rs"));

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn ask(page: &Page, method: Method, path: &str, known: &str) -> (StatusCode, HeaderMap, Bytes) {
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, HeaderValue::try_from(known).unwrap());
        let (head, body) = page.answer(&method, path, &headers).await.into_parts();
        (head.status, head.headers, body.collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn the_page_is_what_the_root_answers_and_it_is_not_sent_twice() {
        let page = Page::new(None).unwrap();
        let (status, headers, body) = ask(&page, Method::GET, "/", "").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(body.starts_with(b"<!doctype html>"));
        let etag = headers[header::ETAG].to_str().unwrap();
        for known in [etag.to_owned(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
            let (status, headers, body) = ask(&page, Method::GET, "/index.html", &known).await;
            assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
            assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
        }
        assert_eq!(ask(&page, Method::GET, "/", "\"other\"").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_head_is_told_the_length_and_nothing_more() {
        let page = Page::new(None).unwrap();
        let (_, _, body) = ask(&page, Method::GET, "/", "").await;
        let (status, headers, nothing) = ask(&page, Method::HEAD, "/", "").await;
        assert_eq!((status, nothing.len()), (StatusCode::OK, 0));
        assert_eq!(headers[header::CONTENT_LENGTH], body.len().to_string());
        assert_eq!(ask(&page, Method::HEAD, "/nothing", "").await.0, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn other_methods_are_told_which_there_are() {
        let page = Page::new(None).unwrap();
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let (status, headers, _) = ask(&page, method, "/", "").await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(headers[header::ALLOW], "GET, HEAD");
        }
    }

    /// The policy forbids it anyway; this says so before a browser does.
    #[test]
    fn every_file_is_our_own_and_says_nothing_inline() {
        for (name, bytes) in FILES {
            assert!(kind(name).is_some() && is_plain(name), "{name} would not be served from a folder");
            let text = std::str::from_utf8(bytes).unwrap();
            for bad in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", " style=\"", " onclick="]
            {
                assert!(!text.contains(bad), "{name} has {bad}");
            }
            for (at, _) in text.match_indices("https://").chain(text.match_indices("http://")) {
                let named = &text[at..];
                assert!(named.starts_with("http://www.w3.org/2000/svg"), "{name} names a site: {named:.60}");
            }
        }
    }

    #[tokio::test]
    async fn a_folder_is_served_as_it_is_and_nothing_outside_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let web = folder.path().join("web");
        std::fs::create_dir(&web).unwrap();
        std::fs::write(web.join("index.html"), "first").unwrap();
        std::fs::write(web.join(".hidden.txt"), "hidden").unwrap();
        std::fs::write(web.join("data.bin"), "binary").unwrap();
        std::fs::write(folder.path().join("secret.txt"), "secret").unwrap();
        let page = Page::new(Some(&web)).unwrap();
        assert_eq!(ask(&page, Method::GET, "/", "").await.2, "first");
        std::fs::write(web.join("index.html"), "second").unwrap();
        assert_eq!(ask(&page, Method::GET, "/", "").await.2, "second");
        for outside in [
            "/../secret.txt",
            "//secret.txt",
            "/./index.html",
            "/%2e%2e/secret.txt",
            "/.hidden.txt",
            "/data.bin",
        ] {
            assert_eq!(ask(&page, Method::GET, outside, "").await.0, StatusCode::NOT_FOUND, "{outside}");
        }
        let (_, _, descriptor) = ask(&page, Method::GET, "/farcall/descriptor.json", "").await;
        assert!(descriptor.starts_with(b"{"));
    }
}
