//! `shop`: the application that the demo and the tests deploy and roll back. A small HTTP server whose
//! version, start-up time and faults are chosen by its environment. Not part of the product.
//!
//! - `SHOP_VERSION`: what `GET /` answers; `SHOP_PORT`: where (8080)
//! - `SHOP_STARTUP`: how long before it listens, for instance `3s` or `250ms`
//! - `SHOP_FAIL`: `health` (`/health` answers 500), `crash` (exit 1 after a second), `errors` (`/` answers
//!   500 and the log fills with ERROR lines while `/health` stays fine), `deaf` (SIGTERM is not heard), `mood`
//!   (`/health` answers 500 while there is a file `/mood/ill`), or several: `health,errors`
//! - `SHOP_SOCKET=stdin`: it listens on the socket that is its standard input, as a unit with `StandardInput=socket` has it
//!
//! It tells a service manager that waits for that (`NOTIFY_SOCKET`) when it listens.
//!
//! `GET /slow/MS` answers after so many milliseconds; `GET /reset` resets the connection. `shop check` asks the `/health` of a running shop and
//! exits 0 or 1; `shop hang` never ends.

use std::{
    env,
    fmt::Display,
    future::pending,
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How long requests in flight may take after SIGTERM. Below the ten seconds of `docker stop`.
const DRAIN: Duration = Duration::from_secs(8);
/// The largest request head that is read.
const HEAD_BYTES: usize = 16 * 1024;
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// What makes a shop with the fault `mood` unhealthy.
const ILL: &str = "/mood/ill";

#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each may come with each")]
struct Faults {
    health: bool,
    crash: bool,
    errors: bool,
    deaf: bool,
    mood: bool,
}

impl Faults {
    fn parse(text: &str) -> Option<Self> {
        let mut faults = Self::default();
        for word in text.split(',') {
            match word.trim() {
                "health" => faults.health = true,
                "crash" => faults.crash = true,
                "errors" => faults.errors = true,
                "deaf" => faults.deaf = true,
                "mood" => faults.mood = true,
                "none" => {}
                _ => return None,
            }
        }
        Some(faults)
    }
}

#[derive(Clone)]
struct Shop {
    version: String,
    faults: Faults,
    /// Rises to true at SIGTERM: idle connections close, busy ones answer and close.
    stopping: watch::Receiver<bool>,
}

struct Answer {
    status: &'static str,
    body: String,
}

impl Answer {
    fn ok(body: impl Into<String>) -> Self {
        Self {
            status: "200 OK",
            body: body.into(),
        }
    }

    fn error(body: impl Into<String>) -> Self {
        Self {
            status: "500 Internal Server Error",
            body: body.into(),
        }
    }
}

fn log(level: &str, message: impl Display) {
    // A closed log is no reason to stop serving.
    let _ = writeln!(io::stdout().lock(), "{level} {message}");
}

/// `3s`, `250ms` or plain seconds.
fn duration(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.trim().parse().ok().map(Duration::from_millis);
    }
    let seconds = text.strip_suffix('s').unwrap_or(text).trim();
    seconds.parse().ok().map(Duration::from_secs)
}

fn setting<T>(name: &str, default: T, parse: impl Fn(&str) -> Option<T>) -> Result<T, String> {
    match env::var(name) {
        Ok(text) if !text.is_empty() => {
            parse(&text).ok_or_else(|| format!("{name}={text:?} is not understood"))
        }
        _ => Ok(default),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["serve"] => serve().await,
        ["check"] => check().await,
        ["hang"] => pending().await,
        _ => Err("usage: shop [serve|check|hang]".to_owned()),
    };
    match outcome {
        Ok(code) => code,
        Err(problem) => {
            log("ERROR", problem);
            ExitCode::FAILURE
        }
    }
}

fn port() -> Result<u16, String> {
    setting("SHOP_PORT", 8080, |text| text.parse().ok())
}

async fn serve() -> Result<ExitCode, String> {
    let port = port()?;
    let startup = setting("SHOP_STARTUP", Duration::ZERO, duration)?;
    let faults = setting("SHOP_FAIL", Faults::default(), Faults::parse)?;
    let version = env::var("SHOP_VERSION").unwrap_or_else(|_| "unversioned".to_owned());
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| e.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| e.to_string())?;

    log("INFO", format_args!("shop {version} starts"));
    tokio::select! {
        biased;
        _ = terminate.recv(), if !faults.deaf => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        () = sleep(startup) => {}
    }
    let listener = listener(port)
        .await
        .map_err(|e| format!("cannot listen on port {port}: {e}"))?;
    log(
        "INFO",
        format_args!("shop {version} listens on port {port}"),
    );
    notify().map_err(|e| format!("cannot tell the service manager: {e}"))?;

    let (stop_switch, stopping) = watch::channel(false);
    let shop = Shop {
        version,
        faults,
        stopping,
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv(), if !faults.deaf => break,
            _ = interrupt.recv() => break,
            () = crash(faults.crash) => {
                log("ERROR", "shop crashes, as told by SHOP_FAIL=crash");
                return Ok(ExitCode::FAILURE);
            }
            () = complain(faults.errors) => log("ERROR", "cannot reach the payment service"),
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(connection(stream, shop.clone()));
            }
        }
    }
    log("INFO", "shop stops: the requests in flight are finished");
    // Connections that the kernel has accepted already are served, not reset.
    while let Ok(Ok((stream, _))) = timeout(Duration::from_millis(1), listener.accept()).await {
        connections.spawn(connection(stream, shop.clone()));
    }
    drop(listener);
    let _ = stop_switch.send(true);
    let drained = timeout(DRAIN, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        log("ERROR", "requests were still in flight at the end");
    }
    Ok(ExitCode::SUCCESS)
}

/// The socket that the service manager gave, or one of its own.
async fn listener(port: u16) -> io::Result<TcpListener> {
    if env::var_os("SHOP_SOCKET").is_none_or(|from| from != "stdin") {
        return TcpListener::bind(("0.0.0.0", port)).await;
    }
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn notify() -> io::Result<()> {
    let Some(manager) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    UnixDatagram::unbound()?.send_to(b"READY=1", manager)?;
    Ok(())
}

async fn crash(wanted: bool) {
    // Restarted by every event of the loop: a shop under load would never crash, so the clock is absolute.
    static START: std::sync::OnceLock<tokio::time::Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(tokio::time::Instant::now);
    if wanted {
        tokio::time::sleep_until(start + Duration::from_secs(1)).await;
    } else {
        pending::<()>().await;
    }
}

async fn complain(wanted: bool) {
    if wanted {
        sleep(Duration::from_millis(250)).await;
    } else {
        pending::<()>().await;
    }
}

async fn connection(mut stream: TcpStream, mut shop: Shop) {
    let _ = stream.set_nodelay(true);
    let mut pending_bytes = Vec::new();
    loop {
        let Some(head) = read_head(&mut stream, &mut pending_bytes, &mut shop.stopping).await
        else {
            return;
        };
        if path(&head) == "/reset" {
            let _ = stream.set_zero_linger();
            return;
        }
        let answer = shop.answer(&head).await;
        let keep = keeps_alive(&head) && !*shop.stopping.borrow();
        let text = format!(
            "HTTP/1.1 {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: {}\r\nserver: shop/{}\r\n\r\n{}",
            answer.status,
            answer.body.len(),
            if keep { "keep-alive" } else { "close" },
            shop.version,
            answer.body,
        );
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
        if !keep {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

/// The head of the next request; `None` when the peer is gone, sends nonsense, or the shop stops while the
/// connection is idle. A request that has begun to arrive is still read.
async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    stopping: &mut watch::Receiver<bool>,
) -> Option<String> {
    let mut told = false;
    loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            return String::from_utf8(head).ok();
        }
        if buffer.len() > HEAD_BYTES {
            return None;
        }
        tokio::select! {
            biased;
            read = stream.read_buf(buffer) => match read {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            },
            // A fresh connection may have its request on the way: it gets a moment.
            () = idle_stop(stopping, told) => {
                if told { return None; }
                told = true;
            }
        }
    }
}

async fn idle_stop(stopping: &mut watch::Receiver<bool>, told: bool) {
    if told {
        sleep(Duration::from_millis(100)).await;
    } else if stopping.wait_for(|stop| *stop).await.is_err() {
        pending::<()>().await;
    }
}

fn path(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or("/")
}

fn keeps_alive(head: &str) -> bool {
    let connection = head.lines().skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("connection")
            .then(|| value.trim().to_ascii_lowercase())
    });
    let http_1_0 = head.lines().next().is_some_and(|l| l.ends_with("HTTP/1.0"));
    match connection.as_deref() {
        Some("close") => false,
        Some("keep-alive") => true,
        _ => !http_1_0,
    }
}

impl Shop {
    async fn answer(&self, head: &str) -> Answer {
        let path = path(head);
        if let Some(ms) = path.strip_prefix("/slow/") {
            let Ok(ms) = ms.parse() else {
                return Answer {
                    status: "400 Bad Request",
                    body: "milliseconds are a number\n".to_owned(),
                };
            };
            sleep(Duration::from_millis(ms)).await;
            return Answer::ok(format!("{}\n", self.version));
        }
        match path {
            "/health" if self.faults.health => {
                log("ERROR", "health check fails, as told by SHOP_FAIL=health");
                Answer::error("unhealthy\n")
            }
            "/health" if self.faults.mood && Path::new(ILL).exists() => {
                log("ERROR", format!("health check fails: there is {ILL}"));
                Answer::error("unhealthy\n")
            }
            "/health" => Answer::ok("healthy\n"),
            "/" if self.faults.errors => {
                log(
                    "ERROR",
                    "request / failed: cannot reach the payment service",
                );
                Answer::error("no payment service\n")
            }
            "/" => Answer::ok(format!("{}\n", self.version)),
            _ => Answer {
                status: "404 Not Found",
                body: "nothing here\n".to_owned(),
            },
        }
    }
}

/// Asks the shop of this container for its health: what a HEALTHCHECK runs.
async fn check() -> Result<ExitCode, String> {
    let port = port()?;
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    match timeout(CHECK_TIMEOUT, ask).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") => {
            log("INFO", "healthy");
            Ok(ExitCode::SUCCESS)
        }
        Ok(Ok(answer)) => Err(answer.lines().next().unwrap_or("no answer").to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}
