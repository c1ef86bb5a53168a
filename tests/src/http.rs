//! A small HTTP client with short, separate timeouts for connecting and for the answer: what a prober needs to
//! see an outage as long as it is.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// With a longer one a half-open port makes an outage look a second longer than it is.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
/// From the connection to the whole answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES: u64 = 1024 * 1024;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Without white space at its ends.
    pub body: String,
}

/// `GET http://ADDRESS PATH`, on a connection of its own.
///
/// # Errors
/// No connection or no whole answer in time.
pub async fn get(address: &str, path: &str) -> io::Result<Answer> {
    get_within(address, path, CONNECT_TIMEOUT, ANSWER_TIMEOUT).await
}

/// As [`get`], with timeouts of the caller's choice.
///
/// # Errors
/// No connection or no whole answer in time.
pub async fn get_within(
    address: &str,
    path: &str,
    connecting: Duration,
    answering: Duration,
) -> io::Result<Answer> {
    let mut stream = timeout(connecting, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connecting timed out"))?
        .map_err(|error| io::Error::new(error.kind(), format!("connecting: {error}")))?;
    let exchange = async {
        stream.set_nodelay(true)?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        (&mut stream)
            .take(ANSWER_BYTES)
            .read_to_end(&mut bytes)
            .await?;
        parse(&String::from_utf8_lossy(&bytes))
    };
    timeout(answering, exchange)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the answer timed out"))?
}

fn parse(text: &str) -> io::Result<Answer> {
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer is cut off");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(cut)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().parse::<usize>().ok()?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    if length.is_some_and(|length| body.len() < length) {
        return Err(cut());
    }
    Ok(Answer {
        status,
        body: body.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_off_is_no_answer() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nv1\n";
        assert_eq!(parse(whole).expect("whole").body, "v1");
        for end in [0, 5, 30, whole.len() - 1] {
            assert!(parse(whole.get(..end).expect("ascii")).is_err(), "{end}");
        }
    }
}
