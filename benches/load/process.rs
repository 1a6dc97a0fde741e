//! A server process: started and stopped, and what the kernel and its own metrics say about it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde::{Deserialize, Serialize};

/// Ticks a second of the times in `/proc/PID/stat`; Linux shows 100 to user space everywhere.
const TICKS_PER_SECOND: f64 = 100.0;

const PATIENCE: Duration = Duration::from_secs(180);

/// How often memory is read under load.
const MEMORY_INTERVAL: Duration = Duration::from_millis(200);

/// A server to measure: one of ours, ended when dropped, or one that was there before.
pub struct Server {
    child: Option<Child>,
    pub pid: u32,
    pub address: SocketAddr,
}

impl Server {
    /// Starts this build's server with these variables on a free port and waits until it is ready.
    pub fn start(variables: &[(&str, String)]) -> Self {
        Self::start_command(Command::new(env!("CARGO_BIN_EXE_emotion-server")), variables)
    }

    /// The same by a command that ends by running it.
    pub fn start_command(mut command: Command, variables: &[(&str, String)]) -> Self {
        let mut child = command
            .env("PORT", "0")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok);
        let port = lines
            .by_ref()
            .inspect(|line| eprintln!("  {line}"))
            .find_map(|line| line.split_once("listening on ")?.1.rsplit(':').next()?.trim_end_matches('"').parse().ok())
            .unwrap_or_else(|| panic!("the server ended before it listened"));
        // The rest of the log is shown too, but for the line of each request; the pipe must not fill up.
        thread::spawn(move || lines.filter(|line| !line.contains(" access] ")).for_each(|line| eprintln!("  {line}")));
        let server = Self { pid: child.id(), child: Some(child), address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let started = Instant::now();
        while server.get("/readyz").0 != 200 {
            assert!(started.elapsed() < PATIENCE, "the server is not ready");
            thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// A server that runs already.
    pub fn running(address: SocketAddr, pid: u32) -> Self {
        Self { child: None, pid, address }
    }

    /// Status and body of a GET on a connection of its own.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).expect("the server listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("the server replies");
        let status = reply.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// What `GET path` replies.
    fn read(&self, path: &str) -> String {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// What the server says of the model that plays `role`.
    pub fn model(&self, role: &str) -> Model {
        let models: Models = serde_json::from_str(&self.read("/models")).expect("both roles are listed");
        models.models.into_iter().find(|model| model.role == role).expect("the role is listed")
    }

    /// What the server says of itself.
    pub fn health(&self) -> Health {
        serde_json::from_str(&self.read("/health")).expect("version and cache are told")
    }

    /// The ONNX Runtime library that the server has mapped.
    pub fn library(&self) -> PathBuf {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid)).expect("the process may be read");
        let path = maps
            .lines()
            .find_map(|line| line.find('/').map(|start| &line[start..]).filter(|path| path.contains("libonnxruntime")));
        path.expect("a server with a model has mapped ONNX Runtime").into()
    }

    /// What the server has counted for `role` so far.
    pub fn counts(&self, role: &str) -> Counts {
        let metrics = self.read("/metrics");
        let value = |name: &str| -> u64 {
            let with_role = format!("{name}{{role=\"{role}\"}} ");
            let plain = format!("{name} ");
            metrics
                .lines()
                .find_map(|line| line.strip_prefix(&with_role).or_else(|| line.strip_prefix(&plain)))
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        Counts {
            batches: value("emotion_batches_total"),
            texts: value("emotion_batch_texts_total"),
            tokens: value("emotion_batch_tokens_total"),
            padding_tokens: value("emotion_batch_padding_tokens_total"),
            attention_padding_tokens: value("emotion_batch_attention_padding_tokens_total"),
            cache_hits: value("emotion_cache_hits_total"),
            cache_misses: value("emotion_cache_misses_total"),
        }
    }

    /// Memory of the process now.
    pub fn memory(&self) -> Memory {
        let path = format!("/proc/{}/smaps_rollup", self.pid);
        let rollup = fs::read_to_string(path).expect("the process may be read");
        let mb = |field: &str| {
            let line = rollup.lines().find(|line| line.starts_with(field)).expect("the kernel tells it");
            line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).expect("it is a number") / 1024.0
        };
        Memory { proportional_mb: mb("Pss:"), anonymous_mb: mb("Anonymous:"), mapped_mb: mb("Rss:") }
    }

    /// Does `work`, and reads meanwhile how much memory the server holds at most.
    pub fn most_memory_during<T>(&self, work: impl FnOnce() -> T) -> (T, Memory) {
        let (done, wait) = channel::<()>();
        thread::scope(|scope| {
            let most = scope.spawn(move || {
                let mut most = self.memory();
                while wait.recv_timeout(MEMORY_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    most = most.max(self.memory());
                }
                most.max(self.memory())
            });
            let result = work();
            drop(done);
            (result, most.join().expect("memory can be read"))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ended_already = child.kill();
            let _reaped = child.wait();
        }
    }
}

/// Counters of the server's `/metrics`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub batches: u64,
    pub texts: u64,
    pub tokens: u64,
    pub padding_tokens: u64,
    pub attention_padding_tokens: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
}

impl Counts {
    pub fn plus(self, other: Self) -> Self {
        Self {
            batches: self.batches + other.batches,
            texts: self.texts + other.texts,
            tokens: self.tokens + other.tokens,
            padding_tokens: self.padding_tokens + other.padding_tokens,
            attention_padding_tokens: self.attention_padding_tokens + other.attention_padding_tokens,
            cache_hits: self.cache_hits + other.cache_hits,
            cache_misses: self.cache_misses + other.cache_misses,
        }
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            batches: self.batches - before.batches,
            texts: self.texts - before.texts,
            tokens: self.tokens - before.tokens,
            padding_tokens: self.padding_tokens - before.padding_tokens,
            attention_padding_tokens: self.attention_padding_tokens - before.attention_padding_tokens,
            cache_hits: self.cache_hits - before.cache_hits,
            cache_misses: self.cache_misses - before.cache_misses,
        }
    }
}

/// Memory of a process in MB.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// Its proportional set size: a page that several sessions map counts once.
    pub proportional_mb: f64,
    pub anonymous_mb: f64,
    /// Its resident set size: such a page counts once for each session.
    pub mapped_mb: f64,
}

impl Memory {
    /// The greater of each figure.
    pub fn max(self, other: Self) -> Self {
        Self {
            proportional_mb: self.proportional_mb.max(other.proportional_mb),
            anonymous_mb: self.anonymous_mb.max(other.anonymous_mb),
            mapped_mb: self.mapped_mb.max(other.mapped_mb),
        }
    }
}

/// A model in the reply of `GET /models`.
#[derive(Debug, Deserialize)]
pub struct Model {
    pub role: String,
    pub name: String,
    pub state: String,
    pub precision: String,
    pub weights: Option<String>,
    pub workers: Option<usize>,
    pub revision: Option<String>,
}

#[derive(Deserialize)]
struct Models {
    models: Vec<Model>,
}

/// The reply of `GET /health`, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Health {
    pub version: String,
    pub cache: Cache,
}

/// The cache of answers.
#[derive(Debug, Deserialize)]
pub struct Cache {
    /// What it holds; 0 where there is none.
    pub bytes: u64,
}

/// CPU-seconds that a process and its ended threads have used, in user and kernel mode.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The name, in brackets, may hold spaces; utime and stime are the 12th and 13th after it.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |index| after_name.split_whitespace().nth(index).and_then(|ticks| ticks.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_SECOND
}
