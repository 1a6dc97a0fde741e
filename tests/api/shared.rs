//! One server with the default settings for all tests that need no settings of their own.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::{PATIENCE, Reply, Server};

/// A static is never dropped, so a process of its own ends the server: it reads from a pipe that is
/// closed when the tests end, however they end.
struct Shared {
    server: Server,
    _ends_the_server: Child,
}

static SHARED: OnceLock<Shared> = OnceLock::new();

/// The server, started by the first test that asks for it.
pub fn server() -> &'static Server {
    let shared = SHARED.get_or_init(|| {
        let server = Server::start(&[]);
        let end = Command::new("sh")
            .args(["-c", r#"read -r _; kill "$0""#, &server.pid().to_string()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Shared { server, _ends_the_server: end }
    });
    &shared.server
}

/// The reply of `POST /analyze`, which must be 200.
pub fn analyze(body: &Value) -> Value {
    answered(&server().post("/analyze", body))
}

/// The body of a reply that must be 200.
pub fn answered(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json.clone()
}

/// Everything that the server has logged once this is in it; a reply may come before its log lines.
pub fn log_with(server: &Server, line: &str) -> String {
    let started = Instant::now();
    loop {
        let log = server.log();
        if log.contains(line) {
            return log;
        }
        assert!(started.elapsed() < PATIENCE, "{line:?} was not logged:\n{log}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A text that no other test has sent, so that no cache knows it.
pub fn new_text(about: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let digits = now.to_string().bytes().map(|digit| words[usize::from(digit - b'0')]).collect::<Vec<_>>();
    format!("{about} {}", digits.join(" "))
}

/// Checks an error in the native shape: nothing but `error` and `error_type`.
pub fn assert_error(what: &str, reply: &Reply, status: u16, error_type: &str, says: &str) {
    assert_eq!((reply.status, reply.json["error_type"].as_str()), (status, Some(error_type)), "{what}: {}", reply.text);
    let message = reply.json["error"].as_str().unwrap_or_default();
    assert!(message.contains(says), "{what}: the message does not say {says:?}: {message}");
    assert!(message.len() < 700, "{what}: the message is {} bytes long", message.len());
    assert_eq!(reply.json.as_object().map(serde_json::Map::len), Some(2), "{what}: {}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/json"), "{what}");
}
