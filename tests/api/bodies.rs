//! Bodies that are withheld, and JSON that would grow: neither keeps others from their answers.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::support::{PATIENCE, Reply, Server};

const LIMIT_BYTES: usize = 2_097_152;

/// A client that sends all of a body but its last byte.
fn withhold(server: &Server, forwarded_for: &str) -> TcpStream {
    let mut connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /analyze HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {forwarded_for}\r\n\
         Content-Length: {LIMIT_BYTES}\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).unwrap();
    // What is refused early is closed while it is still being written.
    let _refused = connection.write_all(&vec![b' '; LIMIT_BYTES - 1]);
    connection
}

/// Whether the client of this body was told that it lost its room.
fn lost_its_room(connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    let mut reply = [0; 512];
    let read = connection.peek(&mut reply).unwrap_or(0);
    let reply = String::from_utf8_lossy(&reply[..read]);
    reply.starts_with("HTTP/1.1 408") && reply.contains("stalled while others needed its room")
}

fn ask(server: &Server, forwarded_for: &str, text: &str) -> Reply {
    let request = server.client().post(server.url("/analyze")).header("x-forwarded-for", forwarded_for);
    Reply::of(request.json(&json!({"text": text})))
}

#[test]
fn withheld_bodies_cost_nobody_an_answer() {
    let server = Server::start(&[("TRUSTED_PROXIES", "127.0.0.1"), ("USE_LIGHT_MODEL", "true")]);
    assert_eq!(ask(&server, "192.0.2.1", "I am so happy!").status, 200);
    // Of one client, as many as had filled the room for all.
    let of_one: Vec<TcpStream> = (0..9).map(|_| withhold(&server, "192.0.2.1")).collect();
    for client in ["192.0.2.1", "192.0.2.2"] {
        let reply = ask(&server, client, "I am so happy!");
        assert_eq!(reply.status, 200, "a small body of {client}: {}", reply.text);
    }
    let large = "I am so happy! ".repeat(20_000);
    let reply = ask(&server, "192.0.2.2", &large);
    assert_eq!(reply.status, 200, "a large body of another client: {}", reply.text);
    // Of several clients, until nothing is left.
    let mut of_many: Vec<TcpStream> = (10..20).map(|host| withhold(&server, &format!("192.0.2.{host}"))).collect();
    let reply = ask(&server, "192.0.2.3", "I am so happy!");
    assert_eq!(reply.status, 200, "a small body: {}", reply.text);
    let started = Instant::now();
    let is_told = |of_many: &[TcpStream]| of_one.iter().chain(of_many).any(lost_its_room);
    for host in 20.. {
        let reply = ask(&server, "192.0.2.3", &large);
        match reply.status {
            200 if is_told(&of_many) => break,
            // So much was refused at once that there is room again: one more takes it.
            200 => of_many.push(withhold(&server, &format!("192.0.2.{host}"))),
            _ => assert_eq!(reply.status, 429, "{}", reply.text),
        }
        // They would hold their room for BODY_TIMEOUT_SECONDS.
        assert!(started.elapsed() < Duration::from_secs(10), "nobody loses room to a large body: {}", reply.text);
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn bodies_of_many_small_and_of_nested_values_are_refused_while_the_server_answers() {
    let server = Server::start(&[("USE_LIGHT_MODEL", "true")]);
    let of_many = |unit: &str| vec![unit; (LIMIT_BYTES - 200) / (unit.len() + 1)].join(",");
    let deep = format!("{}0{}", "[".repeat(100), "]".repeat(100));
    let tensor = |data: &str| {
        format!(r#"{{"inputs":[{{"name":"text","datatype":"BYTES","shape":[1],"data":[{}]}}]}}"#, of_many(data))
    };
    let objects = format!(r#"{{"inputs":[{}]}}"#, of_many(r#"{"name":"","shape":[],"datatype":""}"#));
    let quoted = format!(r#"{{"text":"a","threshold":"{}"}}"#, "\u{7f}".repeat(LIMIT_BYTES - 200));
    let bodies = [
        ("/predict", format!(r#"{{"inputs":[{}]}}"#, of_many(r#"["a"]"#)), 413),
        ("/predict", format!(r#"{{"inputs":[{}]}}"#, of_many("[]")), 413),
        ("/predict", format!(r#"{{"inputs":[{}]}}"#, of_many(&deep)), 422),
        ("/", format!(r#"{{"inputs":[{}],"parameters":{{}}}}"#, of_many(&deep)), 422),
        ("/models/auto", format!(r#"{{"inputs":[{}]}}"#, of_many(r#""a""#)), 413),
        ("/analyze", format!(r#"{{"texts":[{}]}}"#, of_many(r#""a""#)), 413),
        ("/analyze", quoted, 422),
        ("/v1/models/auto:predict", format!(r#"{{"instances":[{}]}}"#, of_many(r#""a""#)), 413),
        ("/v2/models/auto/infer", tensor(r#""a""#), 413),
        ("/v2/models/auto/infer", tensor("[[]]"), 413),
        ("/v2/models/auto/infer", objects, 413),
    ];
    let packed = bodies.map(|(path, body, status)| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body.as_bytes()).unwrap();
        (path, encoder.finish().unwrap(), status)
    });
    assert_eq!(server.post("/analyze", &json!({"text": "I am so happy!"})).status, 200);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                assert_eq!(server.get("/livez").status, 200);
                // A thread of HTTP that parsed them stood still for seconds.
                assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
                thread::sleep(Duration::from_millis(10));
            }
        });
        let attackers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for (path, body, status) in &packed {
                        let request = server.client().post(server.url(path)).header("content-encoding", "gzip");
                        let reply = Reply::of(request.header("content-type", "application/json").body(body.clone()));
                        assert_eq!(reply.status, *status, "{path}: {}", reply.text);
                        assert!(reply.text.len() < 1000, "{path}: {}", reply.text);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = attackers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        watch.join().unwrap();
        assert!(ended.into_iter().all(|ended| ended.is_ok()));
    });
    assert_eq!(server.post("/analyze", &json!({"text": "I am so sad."})).status, 200);
}

#[test]
fn replies_that_are_not_read_are_bounded_and_cost_another_client_nothing() {
    let server = Server::start(&[("TRUSTED_PROXIES", "127.0.0.1"), ("USE_LIGHT_MODEL", "true")]);
    let body = json!({"texts": vec!["I am so happy!"; 512]}).to_string();
    let head = |client: &str| {
        let names = format!("Host: localhost\r\nX-Forwarded-For: {client}\r\nContent-Type: application/json\r\n");
        format!("POST /analyze HTTP/1.1\r\n{names}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    assert_eq!(ask(&server, "192.0.2.1", "I am so happy!").status, 200);
    // Far more bytes than the server and the system keep for one client.
    let unread: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
            connection.write_all(head("192.0.2.1").as_bytes()).unwrap();
            connection
        })
        .collect();
    server.wait_for("a refusal", |_| {
        unread.iter().any(|connection| {
            connection.set_nonblocking(true).unwrap();
            let mut start = [0; 12];
            connection.peek(&mut start).is_ok() && start == *b"HTTP/1.1 429"
        })
    });
    let request = server.client().post(server.url("/analyze")).header("x-forwarded-for", "192.0.2.2");
    let reply = Reply::of(request.header("content-type", "application/json").body(body.clone()));
    assert_eq!((reply.status, reply.json["count"].as_u64()), (200, Some(512)), "another client");
}
