//! `POST /analyze/ndjson`: lines in, lines out, both ways at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{PATIENCE, Reply, Server};

/// A stream whose request is written and whose reply is read chunk by chunk.
struct Chunked {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Chunked {
    fn open(server: &Server) -> Self {
        let mut writer = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        writer.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = "POST /analyze/ndjson HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
        writer.write_all(head.as_bytes()).unwrap();
        let reader = BufReader::new(writer.try_clone().unwrap());
        Self { writer, reader }
    }

    fn send(&mut self, lines: &str) -> std::io::Result<()> {
        self.writer.write_all(format!("{:x}\r\n{lines}\r\n", lines.len()).as_bytes())
    }

    fn finish(&mut self) {
        self.writer.write_all(b"0\r\n\r\n").unwrap();
    }

    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.reader.read_line(&mut head).unwrap() > 0, "the reply ends in its head: {head}");
        }
        head
    }

    /// The lines of the next chunk; none at the end of the reply.
    fn chunk(&mut self) -> Vec<Value> {
        let mut size = String::new();
        self.reader.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk).unwrap();
        chunk[..size]
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

#[test]
fn each_line_is_answered_in_order_and_a_bad_one_does_not_end_the_stream() {
    let server = Server::start(&[]);
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(70_000));
    let lines = [
        r#"{"text": "I am so happy that you came!", "id": 7, "tags": ["a"]}"#,
        "not JSON",
        "",
        r#"{"id": 1}"#,
        r#"{"text": 5}"#,
        r#"{"text": "  "}"#,
        "[1]",
        &long,
        r#"{"text": "I hate you, you make me so angry!"}"#,
    ];
    let reply = Reply::of(server.client().post(server.url("/analyze/ndjson")).body(lines.join("\n")));
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    let replies: Vec<Value> = reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(replies.len(), 8, "a blank line is not answered: {}", reply.text);
    assert_eq!(replies[0]["emotion"], "joy");
    assert_eq!(replies[0]["input"], json!({"id": 7, "tags": ["a"]}));
    let native = server.post("/analyze", &json!({"text": "I am so happy that you came!"})).json;
    for (field, value) in native.as_object().unwrap() {
        assert_eq!(&replies[0][field], value, "{field}");
    }
    for (reply, line, message) in [
        (&replies[1], 2, "not a JSON object"),
        (&replies[2], 4, "the line has no text"),
        (&replies[3], 5, "text must be a string"),
        (&replies[4], 6, "text is empty"),
        (&replies[5], 7, "not a JSON object"),
        (&replies[6], 8, "over 65536 bytes"),
    ] {
        assert_eq!(reply["line"], line, "{reply}");
        assert!(reply["error"].as_str().unwrap().contains(message), "{reply}");
        assert_eq!(reply.as_object().unwrap().len(), 2, "{reply}");
    }
    assert_eq!(replies[7]["emotion"], "anger");
    assert!(replies[7].get("input").is_none(), "{}", replies[7]);

    let empty = Reply::of(server.client().post(server.url("/analyze/ndjson")));
    assert_eq!((empty.status, empty.text.as_str()), (200, ""));
    let packed = server.client().post(server.url("/analyze/ndjson")).header("content-encoding", "gzip").body("{}");
    assert_eq!(Reply::of(packed).status, 415, "what is unpacked could not be held back");
    let get = server.get("/analyze/ndjson");
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
}

#[test]
fn replies_come_while_the_request_is_still_being_sent() {
    let server = Server::start(&[]);
    let mut stream = Chunked::open(&server);
    stream.send("{\"text\": \"I am so happy").unwrap();
    stream.send(" that you came!\", \"id\": 1}\n{\"text\":").unwrap();
    assert!(stream.head().starts_with("HTTP/1.1 200"), "the head comes first");
    assert_eq!(stream.chunk()[0]["input"]["id"], 1);
    stream.send(" \"I am sad.\", \"id\": 2}").unwrap();
    stream.finish();
    assert_eq!(stream.chunk()[0]["input"]["id"], 2, "the last line needs no end");
    assert!(stream.chunk().is_empty());
}

#[test]
fn many_lines_come_back_in_order_even_through_a_short_queue() {
    let server = Server::start(&[("MAX_QUEUE", "4"), ("CACHE_MB", "0")]);
    let body: String =
        (0..500).map(|id| format!("{{\"text\": \"This is text number {id}.\", \"id\": {id}}}\n")).collect();
    let reply = Reply::of(server.client().post(server.url("/analyze/ndjson")).body(body));
    let ids: Vec<u64> = reply
        .text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["input"]["id"].as_u64().unwrap_or_else(|| panic!("{line}"))
        })
        .collect();
    assert!(ids.iter().copied().eq(0..500), "{ids:?}");
}

#[test]
fn a_client_that_does_not_read_is_held_back_and_then_cut_off() {
    let server = Server::start(&[]);
    let mut stream = Chunked::open(&server);
    stream.writer.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let line = "{\"text\": \"I am so happy that you came!\"}\n".repeat(100);
    let mut sent = 0_usize;
    let most = 64 << 20;
    while sent < most && stream.send(&line).is_ok() {
        sent += line.len();
    }
    assert!(sent < most, "the sender was never held back");
    let health = server.get("/health").json;
    let resident = health["memory"]["resident_bytes"].as_u64().unwrap();
    assert!(resident < 400 << 20, "{health:#}");
    let other = server.post("/analyze", &json!({"text": "I am so happy that you came!"}));
    assert_eq!(other.status, 200, "others are answered, also for the same text: {}", other.text);
    let started = Instant::now();
    loop {
        // Bytes are probed for, not read: reading would let the server go on.
        let is_open = stream.writer.take_error().unwrap().is_none();
        if !is_open {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "the connection is still open after {:?}", started.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_client_that_falls_silent_gets_an_error_line() {
    let server = Server::start(&[]);
    let mut stream = Chunked::open(&server);
    stream.send("{\"text\": \"I am so happy that you came!\"}\n{\"text\":").unwrap();
    let started = Instant::now();
    stream.head();
    assert_eq!(stream.chunk()[0]["emotion"], "joy");
    let last = stream.chunk();
    assert_eq!(last[0]["line"], 2, "{last:?}");
    assert!(last[0]["error"].as_str().unwrap().contains("nothing arrived for 30 s"), "{last:?}");
    assert!(started.elapsed() >= Duration::from_secs(29), "{:?}", started.elapsed());
    assert!(stream.chunk().is_empty(), "the stream ends there");
}

#[test]
fn no_more_streams_are_opened_than_memory_is_set_aside_for() {
    let server = Server::start(&[]);
    let mut open: Vec<Chunked> = (0..16).map(|_| Chunked::open(&server)).collect();
    for stream in &mut open {
        assert!(stream.head().starts_with("HTTP/1.1 200"));
    }
    let refused = Reply::of(server.client().post(server.url("/analyze/ndjson")).body("{}"));
    assert_eq!(refused.status, 429, "{}", refused.text);
    assert!(refused.header("retry-after").is_some());
    open.pop();
    let started = Instant::now();
    while Reply::of(server.client().post(server.url("/analyze/ndjson")).body("{}")).status != 200 {
        assert!(started.elapsed() < PATIENCE, "the place of a stream that was closed is not free");
        std::thread::sleep(Duration::from_millis(20));
    }
}
