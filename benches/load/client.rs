//! A cheap load generator: it shares the cores with the server, so it is one thread, keeps its
//! connections open, sends bytes made beforehand, and looks at no more of a reply than it must.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::{JoinSet, LocalSet};

/// Connections that open-loop load may need at most.
const MOST_CONNECTIONS: usize = 1024;

/// Which text the request of a number asks for; none where there is nothing more to ask.
pub type Choose = Box<dyn Fn(usize) -> Option<usize>>;

/// What one stretch of load brought.
#[derive(Debug, Default)]
pub struct Outcome {
    pub latencies: Vec<Duration>,
    pub errors: usize,
    pub elapsed: Duration,
}

impl Outcome {
    /// Latency in ms under which `share` of all replies were.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
        sorted.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }
}

/// The bytes of a request for one text. It is strict: where the light model would answer for the
/// heavy one, the reply is an error and is counted as one.
pub fn request(role: &str, text: &str) -> Vec<u8> {
    let body = serde_json::json!({"text": text, "model": role, "strict": true}).to_string();
    format!(
        "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One kept-alive connection.
pub struct Connection {
    stream: TcpStream,
    reply: Vec<u8>,
    /// Whether the last reply said that nothing more may be sent.
    pub is_closed: bool,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, reply: Vec::with_capacity(8192), is_closed: false })
    }

    /// Sends bytes and waits for nothing.
    pub async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a request and reads its reply whole; returns the status.
    pub async fn ask(&mut self, request: &[u8]) -> std::io::Result<u16> {
        self.send(request).await?;
        self.reply.clear();
        let mut head = None;
        loop {
            if self.stream.read_buf(&mut self.reply).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            head = head.or_else(|| Head::of(&self.reply));
            if let Some(head) = &head
                && head.is_whole(&self.reply)
            {
                self.is_closed = head.closes;
                return Ok(head.status);
            }
        }
    }
}

/// What must be known of a reply to find its end.
struct Head {
    status: u16,
    bytes: usize,
    /// Of the body; absent where it comes in chunks.
    content_length: Option<usize>,
    closes: bool,
}

impl Head {
    /// Of a reply whose head has arrived.
    fn of(reply: &[u8]) -> Option<Self> {
        let bytes = reply.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&reply[..bytes]).ok()?;
        let status = head.get(9..12)?.parse().ok()?;
        let value = |wanted: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(':'));
            fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
        };
        let content_length = value("content-length").and_then(|length| length.parse().ok());
        let closes = value("connection").is_some_and(|what| what.eq_ignore_ascii_case("close"));
        Some(Self { status, bytes, content_length, closes })
    }

    fn is_whole(&self, reply: &[u8]) -> bool {
        match self.content_length {
            Some(length) => reply.len() >= self.bytes + length,
            // JSON has no line breaks of its own that could look like the last chunk.
            None => reply[self.bytes - 2..].ends_with(b"\r\n0\r\n\r\n"),
        }
    }
}

/// `clients` connections, each sending its next request when it has the reply to the last one, until
/// `time` is over or nothing is left to ask.
pub fn closed_loop(
    address: SocketAddr,
    requests: &Rc<Vec<Vec<u8>>>,
    clients: usize,
    time: Duration,
    choose: Choose,
) -> Outcome {
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let next = Rc::new(Cell::new(0));
    let choose = Rc::new(choose);
    let shared = Rc::clone(&outcome);
    let requests = Rc::clone(requests);
    let elapsed = run(async move {
        let mut tasks = JoinSet::new();
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(Connection::open(address).await.expect("the server accepts"));
        }
        let started = Instant::now();
        for mut connection in connections {
            let (outcome, next, choose, requests) =
                (Rc::clone(&shared), Rc::clone(&next), Rc::clone(&choose), Rc::clone(&requests));
            tasks.spawn_local(async move {
                while started.elapsed() < time
                    && let Some(text) = choose(next.replace(next.get() + 1))
                {
                    let sent = Instant::now();
                    let status = connection.ask(&requests[text]).await;
                    let mut outcome = outcome.borrow_mut();
                    match status {
                        Ok(200) => outcome.latencies.push(sent.elapsed()),
                        Ok(_) => outcome.errors += 1,
                        Err(_) => {
                            outcome.errors += 1;
                            break;
                        }
                    }
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        started.elapsed()
    });
    Outcome { elapsed, ..outcome.take() }
}

/// Requests at a fixed rate, whatever the server does; a latency counts from the time at which the
/// request should have been sent.
pub fn open_loop(
    address: SocketAddr,
    requests: &Rc<Vec<Vec<u8>>>,
    per_second: f64,
    time: Duration,
    choose: Choose,
) -> Outcome {
    let outcome = Rc::new(RefCell::new(Outcome::default()));
    let idle = Rc::new(RefCell::new(Vec::<Connection>::new()));
    let shared = Rc::clone(&outcome);
    let requests = Rc::clone(requests);
    let count = (time.as_secs_f64() * per_second) as usize;
    let elapsed = run(async move {
        let mut tasks = JoinSet::new();
        let started = Instant::now();
        // A thread keeps the time: tokio's timers are late by up to 1 ms, which would count as latency.
        let (timer, mut dues) = unbounded_channel();
        thread::spawn(move || {
            for number in 0..count {
                let due = started + Duration::from_secs_f64(number as f64 / per_second);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if timer.send((number, due)).is_err() {
                    break;
                }
            }
        });
        while let Some((number, due)) = dues.recv().await {
            let Some(text) = choose(number) else { break };
            while tasks.try_join_next().is_some() {}
            if tasks.len() >= MOST_CONNECTIONS {
                shared.borrow_mut().errors += 1;
                continue;
            }
            let (outcome, idle, requests) = (Rc::clone(&shared), Rc::clone(&idle), Rc::clone(&requests));
            tasks.spawn_local(async move {
                let connection = idle.borrow_mut().pop();
                let mut connection = match connection {
                    Some(connection) => connection,
                    None => match Connection::open(address).await {
                        Ok(connection) => connection,
                        Err(_) => return outcome.borrow_mut().errors += 1,
                    },
                };
                match connection.ask(&requests[text]).await {
                    Ok(200) => {
                        outcome.borrow_mut().latencies.push(due.elapsed());
                        idle.borrow_mut().push(connection);
                    }
                    Ok(_) | Err(_) => outcome.borrow_mut().errors += 1,
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        started.elapsed()
    });
    Outcome { elapsed, ..outcome.take() }
}

/// Runs on this thread until done.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    LocalSet::new().block_on(&runtime, work)
}
