//! What a client may do with connections: hold them, send slowly or too much, close one side, hang up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::{Server, command};

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
const LAST_LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn connect(server: &Server) -> TcpStream {
    let connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    connection
}

/// A connection on which this much of a request was sent.
fn begin(server: &Server, start: &str) -> TcpStream {
    let mut connection = connect(server);
    // Whoever sends too much may be cut off while it sends.
    let _cut = connection.write_all(start.as_bytes());
    connection
}

/// What comes until the server closes the connection.
fn rest(mut connection: TcpStream) -> String {
    let mut reply = Vec::new();
    let _reset = connection.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

fn analyze(texts: &Value) -> String {
    let head = "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let body = texts.to_string();
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn many_texts(count: usize) -> Value {
    let texts: Vec<_> = (0..count).map(|number| format!("{number} {}", "and on it went ".repeat(20))).collect();
    json!({"texts": texts, "model": "light"})
}

fn statuses(replies: &str) -> Vec<&str> {
    replies.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect()
}

fn cut(server: &Server, reason: &str) -> u64 {
    let metrics = server.get("/metrics").text;
    let name = format!("emotion_connections_cut_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

#[test]
fn a_client_that_closes_its_side_after_its_request_gets_its_answer() {
    let server = Server::start(&[("USE_LIGHT_MODEL", "true"), ("INFERENCE_THREADS", "1"), ("CACHE_MB", "0")]);
    assert_eq!(server.post("/analyze", &json!({"text": "warm"})).status, 200);
    let chunked = "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n10\r\n{\"text\":\"I am ha\r\n6\r\nppy.\"}\r\n0\r\nX: y\r\n\r\n";
    let long = analyze(&many_texts(200));
    let cases = [
        (LIVEZ.to_owned(), vec!["200"]),
        (analyze(&json!({"text": "I am so happy"})), vec!["200"]),
        (chunked.to_owned(), vec!["200"]),
        (long.clone(), vec!["200"]),
        (
            [LIVEZ, &long, LIVEZ, "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"].concat(),
            vec!["200", "200", "200", "404"],
        ),
        (analyze(&json!({"text": "cut short"})).replace("short\"}", ""), vec!["400"]),
    ];
    for (requests, expected) in cases {
        let connection = begin(&server, &requests);
        connection.shutdown(Shutdown::Write).unwrap();
        let replies = rest(connection);
        assert_eq!(statuses(&replies), expected, "{replies}");
        assert!(replies.contains("\"") && !replies.contains("HHTTP"), "{replies}");
    }
    let line =
        "POST /analyze/ndjson HTTP/1.1\r\nHost: localhost\r\nContent-Length: 24\r\n\r\n{\"text\": \"I am so glad\"}\n";
    let stream = begin(&server, line.trim_end());
    stream.shutdown(Shutdown::Write).unwrap();
    let reply = rest(stream);
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("\"emotion\""), "{reply}");
}

#[test]
fn requests_are_answered_in_order_however_they_are_cut() {
    let server = Server::start(&[("USE_LIGHT_MODEL", "true")]);
    let waits = "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n\
        Content-Length: 15\r\n\r\n{\"text\":\"fine\"}";
    let chunks = "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n1;a=b\r\n{\r\ne\r\n\"text\":\"fine\"}\r\n0\r\nA: b\r\n\r\n";
    let refused = "PUT /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let requests = ["\r\n", LIVEZ, waits, refused, chunks, LIVEZ, LAST_LIVEZ, LIVEZ].concat();
    let expected = ["200", "100", "200", "404", "200", "200", "200"];
    let replies = rest(begin(&server, &requests));
    assert_eq!(statuses(&replies), expected, "{replies}");
    for bytes in [1, 7, 64] {
        let mut connection = connect(&server);
        connection.set_nodelay(true).unwrap();
        for piece in requests.as_bytes().chunks(bytes) {
            let _closed_after_the_last = connection.write_all(piece);
        }
        let replies = rest(connection);
        assert_eq!(statuses(&replies), expected, "{bytes} bytes at a time: {replies}");
    }
    let (body, many) = (format!("{{\"text\": \"{}\"}}", "a b ".repeat(250_000)), LIVEZ.repeat(200));
    let large = format!("POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let replies = rest(begin(&server, &[&many, &large, LAST_LIVEZ].concat()));
    assert_eq!(statuses(&replies), vec!["200"; 202], "{replies}");
}

/// Java's own client asks with every request for HTTP/2, and goes on with the connection unless told not to.
#[test]
fn who_asks_to_switch_protocols_is_told_that_the_connection_ends() {
    let server = Server::start(&[]);
    let body = json!({"text": "What a day!"}).to_string();
    let asks = [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ",
        "Connection: keep-alive, Upgrade",
    ];
    for ask in asks {
        let length = body.len();
        for request in [
            format!("POST /analyze HTTP/1.1\r\nHost: localhost\r\n{ask}\r\nContent-Length: {length}\r\n\r\n{body}"),
            format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{ask}\r\n\r\n"),
            format!("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n{ask}\r\n\r\n"),
        ] {
            let reply = rest(begin(&server, &request));
            assert_eq!(statuses(&reply).len(), 1, "{reply}");
            assert!(reply.contains("\r\nconnection: close\r\n"), "{request}{reply}");
        }
    }
}

#[test]
fn every_head_is_timed_and_nothing_else_is() {
    let server = Server::start(&[("HEADER_TIMEOUT_SECONDS", "1"), ("USE_LIGHT_MODEL", "true")]);
    let slow = |start: &str, drops: &str| {
        let mut connection = begin(&server, start);
        let mut reader = connection.try_clone().unwrap();
        let started = Instant::now();
        let drops = drops.to_owned();
        thread::spawn(move || {
            let dripping = thread::spawn(move || {
                while connection.write_all(drops.as_bytes()).is_ok() && started.elapsed() < Duration::from_secs(15) {
                    thread::sleep(Duration::from_millis(100));
                }
            });
            let mut reply = Vec::new();
            let _reset = reader.read_to_end(&mut reply);
            let took = started.elapsed();
            dripping.join().unwrap();
            (String::from_utf8_lossy(&reply).into_owned(), took)
        })
    };
    let part = "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let posted = analyze(&json!({"text": "a body is not a head"}));
    let heads = [
        (String::new(), "x"),
        (LIVEZ.to_owned(), "x"),
        (LIVEZ.repeat(3), "x"),
        (posted, "x"),
        (LIVEZ.to_owned(), "\r\n"),
    ]
    .map(|(before, drop)| {
        (statuses_of(&before), drop, slow(&[before.as_str(), if drop == "x" { part } else { "" }].concat(), drop))
    });
    // Between two requests, and while a body comes, there is no head to be timed.
    let mut idle = begin(&server, LIVEZ);
    let mut body =
        begin(&server, "POST /analyze HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 15\r\n\r\n{");
    for (answered, drop, slow) in heads {
        let (reply, took) = slow.join().unwrap();
        let (mut expected, says_why) = (vec!["200"; answered], drop == "x");
        expected.extend(says_why.then_some("408"));
        assert_eq!(statuses(&reply), expected, "{reply}");
        assert_eq!(reply.contains("the request's head did not arrive within 1 s"), says_why, "{reply}");
        assert!(took < Duration::from_secs(10), "after {took:?}: {reply}");
    }
    thread::sleep(Duration::from_millis(1500));
    idle.write_all(LAST_LIVEZ.as_bytes()).unwrap();
    assert_eq!(statuses(&rest(idle)), ["200", "200"]);
    body.write_all(b"\"text\":\"fine\"}").unwrap();
    assert_eq!(statuses(&rest(body)), ["200"]);
    assert!(cut(&server, "head_timeout") >= 5, "{}", server.get("/metrics").text);
}

/// How many requests there are in this.
fn statuses_of(requests: &str) -> usize {
    requests.matches(" HTTP/1.1\r\n").count()
}

#[test]
fn heads_are_bounded_one_by_one_and_together() {
    // Of 32 MB, 16 large heads may take their share.
    let server = Server::start(&[("MODEL_MEMORY_LIMIT", "32")]);
    let with_head = |bytes: usize| {
        format!("GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-A: {}\r\n\r\n", "a".repeat(bytes))
    };
    for (bytes, status) in
        [(10, "200"), (7000, "200"), (15_000, "200"), (17_000, "431"), (120_000, "431"), (3_000_000, "431")]
    {
        let reply = rest(begin(&server, &with_head(bytes)));
        assert_eq!(statuses(&reply), [status], "{bytes}: {reply}");
        assert!(status == "200" || reply.ends_with("\"error_type\":\"head_too_large\"}"), "{reply}");
        // The second one of a connection too.
        let reply = rest(begin(&server, &[LIVEZ, &with_head(bytes)].concat()));
        assert_eq!(statuses(&reply), ["200", status], "{bytes}: {reply}");
    }
    let large = with_head(10_000);
    let refusal = "too many requests have a head over 7168 bytes";
    let mut held = Vec::new();
    while !rest(begin(&server, &large)).contains(refusal) {
        // More than 16 where connections from before still held a share, so that one of these was refused.
        held.push(begin(&server, large.trim_end()));
        assert!(held.len() <= 48, "no large head is refused");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(statuses(&rest(begin(&server, &with_head(5000)))), ["200"], "a small head is never refused");
    drop(held);
    server.wait_for("room for a large head", |_| statuses(&rest(begin(&server, &large))) == ["200"]);
}

#[test]
fn who_waits_longest_for_its_client_makes_room_for_a_new_connection() {
    let limits = [("MAX_CONNECTIONS", "32"), ("HEADER_TIMEOUT_SECONDS", "60"), ("BODY_TIMEOUT_SECONDS", "60")];
    let server = Server::start(&[&limits[..], &[("USE_LIGHT_MODEL", "true"), ("INFERENCE_THREADS", "1")]].concat());
    assert_eq!(server.post("/analyze", &json!({"text": "warm"})).status, 200);
    let long = begin(&server, &analyze(&many_texts(400)).replacen("\r\n", "\r\nConnection: close\r\n", 1));
    server.wait_for("a queue", |health| health["queued_texts"].as_u64() > Some(100));
    let starts = [
        "",
        LIVEZ,
        "GET /livez HTTP/1.1\r\nX-A: ",
        "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1",
    ];
    for start in starts {
        let mut known = begin(&server, LIVEZ);
        assert!(known.read(&mut [0; 1000]).unwrap() > 100);
        let held: Vec<_> = (0..100).map(|_| begin(&server, start)).collect();
        if start.starts_with("GET /livez HTTP/1.1\r\nX-A") || start.is_empty() {
            // Those that never had a reply go first.
            known.write_all(LAST_LIVEZ.as_bytes()).unwrap();
            assert_eq!(statuses(&rest(known)), ["200"], "a known client was shut out by {start:?}");
        }
        let started = Instant::now();
        let reply = rest(begin(&server, LAST_LIVEZ));
        assert_eq!(statuses(&reply), ["200"], "beside 100 of {start:?}");
        assert!(started.elapsed() < Duration::from_secs(10), "{:?} beside 100 of {start:?}", started.elapsed());
        drop(held);
    }
    assert!(cut(&server, "room") >= 200, "{}", server.get("/metrics").text);
    assert_eq!(statuses(&rest(long)), ["200"], "a request that was being answered was cut");
}

#[test]
fn a_connection_whose_body_ended_after_its_reply_makes_room_too() {
    let server = Server::start(&[("MAX_CONNECTIONS", "32"), ("USE_LIGHT_MODEL", "true")]);
    let head = "PUT /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    let held: Vec<_> = (0..100)
        .map(|number| {
            let mut connection = begin(&server, head);
            assert!(connection.read(&mut [0; 1000]).unwrap_or(0) > 100, "connection {number} got no reply");
            connection.write_all(b"0\r\n\r\n").unwrap();
            connection
        })
        .collect();
    assert_eq!(statuses(&rest(begin(&server, LAST_LIVEZ))), ["200"], "beside {} connections", held.len());
}

#[test]
fn idle_connections_make_room_however_few_may_be_open() {
    let few_files = || {
        let server = command(&[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"ulimit -n 64; exec "$@""#, "sh"]).arg(server.get_program()).args(server.get_args());
        shell.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Server::start_command(shell)
    };
    // Two for each worker, and no more workers than cores.
    let two_each = (2 * thread::available_parallelism().unwrap().get()).to_string();
    for server in [Server::start(&[("MAX_CONNECTIONS", &two_each)]), few_files()] {
        let idle: Vec<_> = (0..60).map(|_| begin(&server, LIVEZ)).collect();
        assert_eq!(statuses(&rest(begin(&server, LAST_LIVEZ))), ["200"]);
        drop(idle);
    }
}

#[test]
fn with_1024_open_files_a_thousand_idle_connections_leave_some_for_the_models() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let serve = command(&[]);
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 1024 && exec \"$0\""]).arg(serve.get_program()).env_clear();
    limited.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::start_command(limited);
    let held: Vec<_> = (0..1200).map(|_| connect(&server)).collect();
    for model in ["heavy", "light"] {
        let reply = server.post("/analyze", &json!({"text": "I am so happy", "model": model, "strict": true}));
        assert_eq!(reply.status, 200, "{}\n{}", reply.text, server.log());
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    assert!((700..950).contains(&open), "{open} files are open beside {} connections", held.len());
    let health = server.get("/health").json;
    assert!(health["memory"]["resident_bytes"].as_u64() > Some(20 << 20), "{health:#}");
    assert!(
        !server.log().contains("cannot be read") && !server.log().contains("Too many open files"),
        "{}",
        server.log()
    );
}

#[test]
fn more_connections_than_open_files_allow_are_not_promised() {
    let serve = command(&[("MAX_CONNECTIONS", "5000")]);
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", "ulimit -n 512 && exec \"$0\""]).arg(serve.get_program()).env_clear();
    limited.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::start_command(limited);
    let log = server.log();
    assert!(log.contains("MAX_CONNECTIONS is 5000, but 512 files may be open") && log.contains("LimitNOFILE"), "{log}");
}
