//! Reads what a daemon counts: `GET /metrics`, Prometheus text exposition format 0.0.4.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use crate::clock::PATIENCE;

/// Every sample of one scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    families: BTreeSet<String>,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Asks `address` for its metrics.
    pub fn scrape(address: SocketAddr) -> Result<Self> {
        let text = get(address, "/metrics").with_context(|| format!("scraping http://{address}/metrics"))?;
        Self::parse(&text)
    }

    /// Reads a scrape.
    pub fn parse(text: &str) -> Result<Self> {
        let mut families = BTreeSet::new();
        let mut samples = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                if let Some(declared) = comment.trim_start().strip_prefix("TYPE ") {
                    families.extend(declared.split_whitespace().next().map(str::to_owned));
                }
                continue;
            }
            let sample = Sample::parse(line).with_context(|| format!("not a sample: {line}"))?;
            families.insert(sample.name.clone());
            samples.push(sample);
        }
        Ok(Self { families, samples })
    }

    /// The sum over all samples of `name` that carry these labels; others are allowed. A family that is known but has
    /// no such sample has counted nothing; one that is not known at all is an error, so that a misspelt name never
    /// reads as zero.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        ensure!(self.families.contains(name), "there is no metric {name}");
        let carries = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.iter().any(|(k, v)| k == key && v == value))
        };
        Ok(self.samples.iter().filter(carries).map(|sample| sample.value).sum())
    }

    /// [`sum`](Self::sum) as a count.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let sum = self.sum(name, labels)?;
        ensure!((0.0..=MAX_EXACT).contains(&sum) && sum.fract() == 0.0, "{name} is {sum}, which is no count");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
        Ok(sum as u64)
    }
}

/// Up to here every whole number is an `f64`.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

impl Sample {
    /// `name{key="value",…} 1.5 [timestamp]`
    fn parse(line: &str) -> Result<Self> {
        let end = line.find(|c: char| c == '{' || c.is_whitespace()).context("no value")?;
        let (name, mut rest) = line.split_at(end);
        let mut labels = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            rest = parse_labels(inner, &mut labels)?;
        }
        let value = rest.split_whitespace().next().context("no value")?;
        // `f64::from_str` knows NaN and the infinities, also as Prometheus spells them: +Inf.
        let value = value.parse().with_context(|| format!("{value} is no number"))?;
        Ok(Self { name: name.to_owned(), labels, value })
    }
}

/// Reads `key="value",…}` and returns what follows.
fn parse_labels<'a>(mut rest: &'a str, labels: &mut Vec<(String, String)>) -> Result<&'a str> {
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(after) = rest.strip_prefix('}') {
            return Ok(after);
        }
        let (key, quoted) = rest.split_once("=\"").context("a label without a value")?;
        let (value, after) = parse_quoted(quoted)?;
        labels.push((key.trim().to_owned(), value));
        rest = after;
    }
}

/// Reads up to the closing quote. The format knows three escapes: `\\`, `\"` and `\n`.
fn parse_quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match characters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, other)) => value.push(other),
                None => break,
            },
            other => value.push(other),
        }
    }
    bail!("a label value without its closing quote")
}

/// The body of a `200` answer. HTTP/1.0, so that the body is neither chunked nor kept open.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "the answer is {status}");
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = r#"
# HELP requests_total Requests, by method.
# TYPE requests_total counter
requests_total{method="allocate",result="success"} 3
requests_total{method="allocate",result="401"} 4
requests_total{result="success",method="binding",} 1.7e1 1395066363000
# TYPE dropped_total counter
# TYPE allocations gauge
allocations 2
strange{text="a \"b\", {c} \\ d\n"} +Inf
"#;

    #[test]
    fn samples_are_summed_over_the_labels_that_were_not_asked_for() {
        let metrics = Metrics::parse(SCRAPE).unwrap();
        assert_eq!(metrics.count("requests_total", &[("method", "allocate")]).unwrap(), 7);
        assert_eq!(metrics.count("requests_total", &[("method", "allocate"), ("result", "401")]).unwrap(), 4);
        assert_eq!(metrics.count("requests_total", &[("method", "binding")]).unwrap(), 17);
        assert_eq!(metrics.count("requests_total", &[]).unwrap(), 24);
        assert_eq!(metrics.count("allocations", &[]).unwrap(), 2);
    }

    #[test]
    fn a_declared_metric_without_samples_is_zero_and_an_unknown_one_is_an_error() {
        let metrics = Metrics::parse(SCRAPE).unwrap();
        assert_eq!(metrics.count("dropped_total", &[("reason", "no_route")]).unwrap(), 0);
        let error = metrics.count("requests_totl", &[]).unwrap_err();
        assert_eq!(error.to_string(), "there is no metric requests_totl");
    }

    #[test]
    fn label_values_are_unescaped() {
        let metrics = Metrics::parse(SCRAPE).unwrap();
        let text = "a \"b\", {c} \\ d\n";
        assert_eq!(metrics.sum("strange", &[("text", text)]).unwrap(), f64::INFINITY);
        assert!(metrics.count("strange", &[]).unwrap_err().to_string().contains("no count"));
    }

    #[test]
    fn what_is_no_sample_is_refused() {
        for line in ["lonely", "a{b=\"c\" 1", "a{b} 1", "a one", "a{b=\"c\"}"] {
            assert!(Metrics::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_scrape_takes_the_body_of_a_200_and_nothing_else() {
        let answer = |text: &'static str| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                let read = stream.read(&mut request).unwrap();
                assert!(request[..read].starts_with(b"GET /metrics HTTP/1.0\r\n"));
                stream.write_all(text.as_bytes()).unwrap();
            });
            let metrics = Metrics::scrape(address);
            server.join().unwrap();
            metrics
        };
        let metrics = answer("HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\na 1\n").unwrap();
        assert_eq!(metrics.count("a", &[]).unwrap(), 1);
        assert!(answer("HTTP/1.0 404 Not Found\r\n\r\na 1\n").is_err());
    }
}
