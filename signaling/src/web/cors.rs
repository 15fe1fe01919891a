//! Pages of other sites that may call this server, by an explicit list. There is no wildcard, and cookies mean nothing
//! here, so that credentials are never allowed: a token travels in a header that the page sets itself.

use std::fmt;

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tonic::body::Body;

/// The origins of those pages: scheme, host and port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

/// Why something is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoOrigin;

impl fmt::Display for NoOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is no origin such as https://app.example.org or http://localhost:5173")
    }
}

impl Origins {
    /// Takes one more, written the way browsers write it.
    pub fn add(&mut self, origin: &str) -> Result<(), NoOrigin> {
        let (scheme, authority) = origin.split_once("://").ok_or(NoOrigin)?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let fit = |c: char| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '[' | ']' | ':')
        };
        let known = matches!(scheme, "http" | "https");
        if !known || host.is_empty() || !host.chars().all(fit) {
            return Err(NoOrigin);
        }
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|number| number.to_string() == port)) {
            return Err(NoOrigin);
        }
        self.0.push(origin.to_owned());
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What becomes of a request with these headers.
    pub(crate) fn judge(&self, method: &Method, headers: &HeaderMap) -> Cors {
        let origin = headers.get(header::ORIGIN);
        let allowed =
            origin.filter(|origin| self.0.iter().any(|known| known.as_bytes() == origin.as_bytes()));
        let preflight =
            method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        Cors { allowed: allowed.cloned(), preflight, varies: !self.0.is_empty() }
    }
}

/// What a browser is told about one request.
#[derive(Debug, Clone)]
pub(crate) struct Cors {
    allowed: Option<HeaderValue>,
    preflight: bool,
    varies: bool,
}

impl Cors {
    /// The answer, if the request only asks what it may ask.
    pub(crate) fn preflight(&self) -> Option<Response<Body>> {
        self.preflight.then(|| {
            let Some(origin) = &self.allowed else {
                return super::text(StatusCode::FORBIDDEN, "no page of that site may call this server\n");
            };
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            for (name, value) in PREFLIGHT {
                headers.insert(name, HeaderValue::from_static(value));
            }
            response
        })
    }

    /// Lets the page that asked read the answer.
    pub(crate) fn mark(self, headers: &mut HeaderMap) {
        if self.varies {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Some(origin) = self.allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(
                header::ACCESS_CONTROL_EXPOSE_HEADERS,
                HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin, etag"),
            );
        }
    }
}

const PREFLIGHT: [(HeaderName, &str); 4] = [
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        "authorization, content-type, grpc-timeout, if-none-match, traceparent, tracestate, x-grpc-web, x-user-agent",
    ),
    (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    (header::VARY, "origin"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(list: &[&str]) -> Origins {
        let mut origins = Origins::default();
        for origin in list {
            origins.add(origin).unwrap_or_else(|_| panic!("{origin}"));
        }
        origins
    }

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_no_browser_would_send_is_no_origin() {
        origins(&[
            "https://a.example",
            "http://localhost:5173",
            "https://[2001:db8::1]",
            "http://[::1]:8080",
        ]);
        for bad in [
            "*",
            "null",
            "a.example",
            "https://",
            "https://*.a.example",
            "https://a.example/",
            "https://A.example",
            "https://a.example:0x50",
            "https://a.example:080",
            "ftp://a.example",
            "https://u@a.example",
        ] {
            assert_eq!(Origins::default().add(bad), Err(NoOrigin), "{bad}");
        }
    }

    #[test]
    fn a_listed_origin_may_ask_and_read_and_no_other() {
        let list = origins(&["https://a.example"]);
        let asked =
            |origin| headers(&[(header::ORIGIN, origin), (header::ACCESS_CONTROL_REQUEST_METHOD, "POST")]);
        let preflight = list.judge(&Method::OPTIONS, &asked("https://a.example")).preflight().unwrap();
        assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
        assert_eq!(preflight.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        assert!(!preflight.headers().contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
        for other in ["https://b.example", "https://a.example:444", "http://a.example", "null"] {
            let cors = list.judge(&Method::OPTIONS, &asked(other));
            assert_eq!(cors.preflight().unwrap().status(), StatusCode::FORBIDDEN, "{other}");
            let mut answer = HeaderMap::new();
            list.judge(&Method::POST, &asked(other)).mark(&mut answer);
            assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{other}");
            assert_eq!(answer[header::VARY], "origin");
        }
        let mut answer = HeaderMap::new();
        list.judge(&Method::POST, &asked("https://a.example")).mark(&mut answer);
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        let exposed = answer[header::ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
        assert!(exposed.contains("grpc-status-details-bin"));
    }

    #[test]
    fn without_a_list_nobody_is_told_anything() {
        let mut answer = HeaderMap::new();
        Origins::default()
            .judge(&Method::GET, &headers(&[(header::ORIGIN, "https://a.example")]))
            .mark(&mut answer);
        assert!(answer.is_empty());
    }
}
