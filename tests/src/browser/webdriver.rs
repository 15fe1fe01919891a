//! The W3C's WebDriver protocol, as far as scenarios speak it: JSON over HTTP/1.1, one connection a command.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::host::Host;

/// A driver's address.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    address: SocketAddr,
    host: Host,
}

impl Driver {
    /// On the loopback of `host`, wherever its own address is.
    pub(super) fn at(host: &Host, port: u16) -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), host: host.clone() }
    }

    /// Carries out a command and returns its `value`.
    pub(super) fn command(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let answer = self.exchange(method, path, body).with_context(|| format!("{method} {path}"))?;
        let mut answer: Value = serde_json::from_slice(&answer).context("an answer that is no JSON")?;
        let value = answer.get_mut("value").map(Value::take).context("an answer without a value")?;
        if let Some(error) = value.get("error").and_then(Value::as_str) {
            let message = value.get("message").and_then(Value::as_str).unwrap_or_default();
            bail!("{error}: {}", message.lines().next().unwrap_or_default());
        }
        Ok(value)
    }

    fn exchange(&self, method: &str, path: &str, body: &Value) -> Result<Vec<u8>> {
        let connect = || Ok(TcpStream::connect_timeout(&self.address, PATIENCE)?);
        let mut stream = self.host.within(connect)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let body = if method == "POST" { body.to_string() } else { String::new() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len(),
        )?;
        read_answer(stream)
    }
}

/// The body of an answer. The driver keeps its connection open, so that its length alone says where it ends.
fn read_answer(stream: impl Read) -> Result<Vec<u8>> {
    let mut stream = BufReader::new(stream);
    let mut length = None;
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line)? > 0, "the driver hung up");
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.trim().parse().context("a length that is no number")?);
            }
            None if line.trim_end().is_empty() => break,
            Some(_) | None => {}
        }
    }
    let mut body = vec![0; length.context("an answer without a length")?];
    stream.read_exact(&mut body)?;
    Ok(body)
}

/// A browser that starts on a busy machine may take its time.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;

    /// Answers one command with this body.
    fn driver(body: &'static str) -> Driver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1000];
            let _ = stream.read(&mut asked).unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length:{}\r\n\r\n{body}", body.len()).unwrap();
            // Closed with something unread, it would reset the connection and take the answer back.
            let _ = stream.read_to_end(&mut Vec::new());
        });
        Driver::at(&Host::local(), port)
    }

    #[test]
    fn an_answer_is_its_value_and_an_error_is_told_in_one_line() {
        let value = driver(r#"{"value":{"x":1}}"#).command("POST", "/session", &json!({})).unwrap();
        assert_eq!(value, json!({"x": 1}));
        let error = driver(r#"{"value":{"error":"no such element","message":"it is gone\nat 0x1"}}"#)
            .command("GET", "/x", &Value::Null)
            .unwrap_err();
        assert_eq!(error.to_string(), "no such element: it is gone");
        assert!(driver("nothing").command("GET", "/x", &Value::Null).is_err());
    }
}
