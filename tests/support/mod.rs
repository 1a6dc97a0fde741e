//! A real server of this build in a process of its own, and a client to ask it.

// Each test binary uses a part of this module.
#![allow(dead_code, reason = "shared by test binaries that each use a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on must fail")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;

/// Turns the administrative paths on, for `Server::administer`.
pub const ADMIN_KEY: (&str, &str) = ("ADMIN_KEY", "of the operator");

/// How long a server may take to listen, and a condition to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Stops its server when dropped.
pub struct Server {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
    log_is_stalled: Arc<AtomicBool>,
    client: Client,
}

impl Server {
    /// A server with these environment variables; all other settings are the defaults. Prepared
    /// weights are shared between tests, in the build's own folder.
    pub fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_command(command(variables))
    }

    /// A server started by this command, which listens on a port of its own choice.
    pub fn start_command(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the server starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("stderr is piped");
        let log_is_stalled = Arc::new(AtomicBool::new(false));
        let (written, is_stalled) = (Arc::clone(&log), Arc::clone(&log_is_stalled));
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                while is_stalled.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(5));
                }
                let mut log = written.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let client = Client::builder().timeout(PATIENCE).build().unwrap();
        // From here on the process ends with this value, also where it never listens.
        let mut server = Self { child, port: 0, log, log_is_stalled, client };
        let started = Instant::now();
        server.port = loop {
            let log = server.log();
            let found = log.lines().find_map(|line| {
                line.split_once("listening on ")?.1.rsplit(':').next()?.split(['"', ' ']).next()?.parse().ok()
            });
            if let Some(port) = found {
                break port;
            }
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("the server ended with {status} before it listened");
            }
            assert!(started.elapsed() < PATIENCE, "the server does not listen");
            thread::sleep(Duration::from_millis(5));
        };
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn get(&self, path: &str) -> Reply {
        Reply::of(self.client.get(self.url(path)))
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.client.post(self.url(path)).json(body))
    }

    /// Posts to an administrative path as the operator, without a body.
    pub fn administer(&self, path: &str) -> Reply {
        Reply::of(self.client.post(self.url(path)).header("x-api-key", ADMIN_KEY.1))
    }

    /// The names of all its threads, cut to 15 bytes.
    pub fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        // A thread may end between the listing and the look at it.
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.map(|name| name.trim_end().to_owned()).collect()
    }

    /// Everything that the server has logged.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Reads the server's log no more, or goes on with it.
    pub fn stall_log(&self, is_stalled: bool) {
        self.log_is_stalled.store(is_stalled, Ordering::SeqCst);
    }

    /// The id of the process that the server has started, as soon as there is one.
    pub fn child(&self) -> String {
        let started = Instant::now();
        loop {
            // A child is listed under the thread that started it.
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
            let children = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("children")));
            let children: String = children.map_while(Result::ok).collect::<Vec<_>>().join(" ");
            if let Some(child) = children.split_whitespace().next() {
                return child.to_owned();
            }
            assert!(started.elapsed() < PATIENCE, "no child was started:\n{}", self.log());
        }
    }

    /// Waits until `condition` holds for the answer of `GET /health`.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let health = self.get("/health").json;
            if condition(&health) {
                return health;
            }
            assert!(started.elapsed() < PATIENCE, "{what} did not happen: {health:#}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks the server to stop, as a container engine does.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    pub fn signal(&self, name: &str) {
        signal(name, &self.pid().to_string());
    }

    /// Waits for the server's end and returns its exit code; `None` when a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < PATIENCE, "the server does not end:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
        if thread::panicking() {
            eprintln!("--- log of the server on port {}:\n{}", self.port, self.log());
        }
    }
}

/// A reply that was read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    /// `Null` when the body is not JSON.
    pub json: Value,
}

impl Reply {
    pub fn of(request: RequestBuilder) -> Self {
        Self::read(request.send().expect("the server answers"))
    }

    fn read(response: Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().expect("the reply is read whole");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { status, headers, text, json }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Sends the signal of this name to a process.
pub fn signal(name: &str, pid: &str) {
    assert!(Command::new("kill").args(["-s", name, pid]).status().unwrap().success());
}

/// The program with these environment variables, none of the caller's settings, and a free port.
pub fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program());
    command.env_clear();
    for kept in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command.env("PORT", "0").env("MODEL_DIR", models_folder()).env("MODEL_CACHE_DIR", cache_folder());
    command.envs(variables.iter().copied());
    command
}

/// Notes that a test cannot run here, and why; under `CI=true` that is a failure, as what the test needs must be there.
pub fn skip(why: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}; under CI=true no test may be skipped");
    println!("skipped: {why}");
}

/// The program under test.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_emotion-server"))
}

/// The models that the project ships.
pub fn models_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx")
}

/// Where tests keep prepared weights from run to run.
pub fn cache_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("prepared")
}
