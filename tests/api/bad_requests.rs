//! Requests that cannot be right: each is refused with a status, a type and a message that says
//! what would be right, and the server goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use reqwest::Method;
use reqwest::blocking::Body;
use serde_json::json;

use crate::shared::{analyze, answered, assert_error, server};
use crate::support::{PATIENCE, Reply};

const JSON: &str = "application/json";
const LIMIT_BYTES: usize = 2_097_152;

fn send(body: impl Into<Body>, headers: &[(&str, &str)]) -> Reply {
    let server = server();
    let request = server.client().post(server.url("/analyze")).body(body);
    Reply::of(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
}

fn send_json(body: impl Into<Body>) -> Reply {
    send(body, &[("content-type", JSON)])
}

fn assert_it_still_answers() {
    assert_eq!(analyze(&json!({"text": "I am so happy!"}))["emotion"], "joy");
    assert!(!server().log().contains("panic"), "{}", server().log());
}

#[test]
fn a_body_that_is_not_json_is_400() {
    for (what, body, says) in [
        ("an empty body", "", "the body is empty; send a JSON object"),
        ("a blank body", " \r\n\t", "the body is empty; send a JSON object"),
        ("a bare word", "hello", "the body is not JSON in UTF-8"),
        ("a form", "text=I+am+happy", "the body is not JSON in UTF-8"),
        ("half an object", r#"{"text": "I am happy""#, "EOF"),
        ("half a string", r#"{"text": "I am"#, "EOF"),
        ("single quotes", "{'text': 'I am happy'}", "key must be a string"),
        ("a comma too many", r#"{"text": "I am happy",}"#, "trailing comma"),
        ("two objects", r#"{"text": "a"} {"text": "b"}"#, "trailing characters"),
        ("a comment", "{\"text\": \"a\" // happy\n}", "the body is not JSON in UTF-8"),
        ("half a character", r#"{"text": "\ud83d"}"#, "hex escape"),
        ("an unknown escape", r#"{"text": "\x41"}"#, "invalid escape"),
        ("a line break in a string", "{\"text\": \"I am\nhappy\"}", "control character"),
        ("NaN", r#"{"text": "a", "threshold": NaN}"#, "the body is not JSON in UTF-8"),
        ("a number over all bounds", r#"{"text": "a", "threshold": 1e999}"#, "number out of range"),
        ("endless nesting", &"[".repeat(100_000), "the body is not JSON in UTF-8"),
        ("UTF-16", "{\0\"\0t\0", "the body is not JSON in UTF-8"),
    ] {
        assert_error(what, &send_json(body.to_owned()), 400, "bad_request", says);
    }
    assert_it_still_answers();
}

#[test]
fn bytes_that_are_not_utf_8_are_400() {
    for (what, bytes) in [
        ("Latin-1", &b"caf\xe9"[..]),
        ("a lone byte of a character", b"\x80"),
        ("a character cut short", b"\xf0\x9f\x98"),
        ("an overlong slash", b"\xc0\xaf"),
        ("a surrogate", b"\xed\xa0\x80"),
    ] {
        let body = [br#"{"text": ""#, bytes, br#""}"#].concat();
        assert_error(what, &send_json(body), 400, "bad_request", "UTF-8: invalid unicode code point");
    }
    assert_it_still_answers();
}

#[test]
fn an_empty_or_invisible_text_is_400_and_named() {
    let long_blank = format!(r#"{{"text": "{}"}}"#, " ".repeat(100_000));
    for (what, body, says) in [
        ("empty", r#"{"text": ""}"#, "text is empty"),
        ("blank", r#"{"text": " \t\n "}"#, "text is empty"),
        ("a long blank", &long_blank, "text is empty"),
        ("zero-width characters", r#"{"text": "\u200b\u200d\ufeff"}"#, "nothing visible in it; send a text to read"),
        ("NUL", r#"{"text": "\u0000"}"#, "nothing visible in it"),
        ("no texts", r#"{"texts": []}"#, "texts is empty; send at least one text"),
        ("an empty one of several", r#"{"texts": ["a", "", "b"]}"#, "texts[1] is empty"),
    ] {
        assert_error(what, &send_json(body.to_owned()), 400, "bad_request", says);
    }
    assert_it_still_answers();
}

#[test]
fn a_field_that_cannot_be_right_is_422_and_named() {
    let deep = format!(r#"{{"text": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let deep_unknown = format!(r#"{{"more": {}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let quoted = format!(r#"{{"text": "a", "threshold": "{}"}}"#, "9".repeat(100_000));
    let many_digits = format!(r#"{{"text": "a", "top_k": {}}}"#, "9".repeat(300));
    for (what, body, says) in [
        ("an array", r#"["I am happy"]"#, "the body is a JSON array, but it must be a JSON object"),
        ("the fields as an array", r#"["I am happy", null, "auto", false, null, null, "truncate"]"#, "a JSON array"),
        ("a string", r#""I am happy""#, "the body is a JSON string, but it must be a JSON object"),
        ("null", "null", "the body is null, but it must be a JSON object"),
        ("a number", "42", "the body is a JSON number, but it must be a JSON object"),
        ("no field", "{}", r#"send {"text": "…"} or {"texts": ["…"]}"#),
        ("options only", r#"{"model": "light"}"#, r#"send {"text": "…"} or {"texts": ["…"]}"#),
        ("null for a text", r#"{"text": null}"#, "text: invalid type: null, expected a string"),
        ("both", r#"{"text": "a", "texts": ["b"]}"#, "text and texts are both there; send one of them"),
        ("a number for a text", r#"{"text": 5}"#, "text: invalid type: integer `5`, expected a string"),
        ("an object for a text", r#"{"text": {"a": 1}}"#, "text: invalid type: object, expected a string"),
        ("an array for a text", r#"{"text": ["a"]}"#, "text: invalid type: array, expected a string"),
        ("a text for an array", r#"{"texts": "a"}"#, "texts: invalid type: string \"a\", expected an array"),
        ("a number among texts", r#"{"texts": ["a", 5]}"#, "texts[1]: invalid type: integer `5`, expected a string"),
        ("null among texts", r#"{"texts": ["a", "b", null]}"#, "texts[2]: invalid type: null, expected a string"),
        ("an unknown field", r#"{"text": "a", "modell": "light"}"#, "unknown field `modell`, expected one of `text`"),
        ("a field in capitals", r#"{"Text": "a"}"#, "unknown field `Text`, expected one of `text`"),
        ("a field twice", r#"{"text": "a", "text": "b"}"#, "duplicate field `text`"),
        ("threshold 2", r#"{"text": "a", "threshold": 2}"#, "threshold is 2, but it must be from 0 to 1"),
        ("threshold -0.1", r#"{"text": "a", "threshold": -0.1}"#, "threshold is -0.1, but it must be from 0 to 1"),
        ("threshold 1e308", r#"{"text": "a", "threshold": 1e308}"#, "but it must be from 0 to 1"),
        (
            "threshold in words",
            r#"{"text": "a", "threshold": "0.5"}"#,
            "threshold: invalid type: string \"0.5\", expected a number",
        ),
        ("a long threshold", &quoted, "expected a number"),
        ("top_k -1", r#"{"text": "a", "top_k": -1}"#, "top_k: invalid value: -1, expected a whole number from 0"),
        ("top_k 2.5", r#"{"text": "a", "top_k": 2.5}"#, "top_k: invalid value: 2.5, expected a whole number from 0"),
        ("top_k of many digits", &many_digits, "but it must be from 0 to 1000000"),
        (
            "strict in words",
            r#"{"text": "a", "strict": "yes"}"#,
            "strict: invalid type: string \"yes\", expected a boolean",
        ),
        ("strict null", r#"{"text": "a", "strict": null}"#, "strict: invalid type: null, expected a boolean"),
        ("an unknown way", r#"{"text": "a", "long_text": "cut"}"#, "expected one of `truncate`, `windows`, `refuse`"),
        (
            "an unknown model",
            r#"{"text": "a", "model": "gpt"}"#,
            "model may be auto, heavy, light, goemotions or ekman",
        ),
        ("an empty model", r#"{"text": "a", "model": ""}"#, "model may be auto, heavy, light, goemotions or ekman"),
        ("a number for a model", r#"{"text": "a", "model": 1}"#, "model: invalid type: integer `1`, expected a string"),
        ("deep nesting", &deep, "text: invalid type: array, expected a string"),
        ("deep nesting in an unknown field", &deep_unknown, "unknown field `more`"),
    ] {
        assert_error(what, &send_json(body.to_owned()), 422, "unprocessable", says);
    }
    assert_it_still_answers();
}

#[test]
fn more_texts_than_a_request_may_hold_are_413() {
    let reply = send_json(serde_json::to_vec(&json!({"texts": vec!["a"; 10_000]})).unwrap());
    assert_error(
        "10,000 texts",
        &reply,
        413,
        "too_large",
        "there are more texts than the 512 that one request may hold; send them in parts",
    );
    let reply = send_json(serde_json::to_vec(&json!({"texts": vec!["a"; 513]})).unwrap());
    assert_error("513 texts", &reply, 413, "too_large", "send them in parts");
    assert_it_still_answers();
}

#[test]
fn a_body_over_the_limit_is_413() {
    let says = "the body is over 2097152 bytes; send fewer or shorter texts, or raise MAX_BODY_BYTES";
    for bytes in [LIMIT_BYTES + 1, 10_000_000] {
        let body = format!(r#"{{"text": "{}"}}"#, "a".repeat(bytes - 12));
        assert_error("a length that is declared", &send_json(body), 413, "too_large", says);
    }
    assert_it_still_answers();
}

#[test]
fn a_body_over_the_limit_that_does_not_tell_its_length_is_413() {
    let mut connection = TcpStream::connect(("127.0.0.1", server().port())).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    connection.write_all(head.as_bytes()).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 65536, " ".repeat(65536));
    for _ in 0..=LIMIT_BYTES / 65536 {
        connection.write_all(chunk.as_bytes()).unwrap();
    }
    // The server says so as soon as it knows, without waiting for the end.
    let mut reply = String::new();
    while !reply.ends_with('}') {
        let mut block = [0; 4096];
        let read = connection.read(&mut block).unwrap();
        assert!(read > 0, "{reply}");
        reply.push_str(std::str::from_utf8(&block[..read]).unwrap());
    }
    assert!(reply.starts_with("HTTP/1.1 413 ") && reply.contains(r#""error_type":"too_large""#), "{reply}");
    assert_it_still_answers();
}

#[test]
fn a_client_that_goes_in_the_middle_of_its_body_harms_nobody() {
    for _ in 0..20 {
        let mut connection = TcpStream::connect(("127.0.0.1", server().port())).unwrap();
        let head = "POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                    Content-Length: 1000\r\n\r\n{\"text\": \"I am";
        connection.write_all(head.as_bytes()).unwrap();
    }
    assert_it_still_answers();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compressed_body_is_read() {
    let plain = serde_json::to_vec(&json!({"text": "I am so happy!"})).unwrap();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(&plain).unwrap();
    let two_members = [gzip(&plain[..9]), gzip(&plain[9..])].concat();
    for (coding, body) in [
        ("gzip", gzip(&plain)),
        ("x-gzip", gzip(&plain)),
        ("GZIP", gzip(&plain)),
        ("gzip", two_members),
        ("deflate", zlib.finish().unwrap()),
        ("identity", plain.clone()),
    ] {
        let reply = send(body, &[("content-type", JSON), ("content-encoding", coding)]);
        assert_eq!(answered(&reply)["emotion"], "joy", "{coding}");
    }
}

#[test]
fn a_body_that_is_not_compressed_as_it_says_is_refused() {
    let plain = br#"{"text": "I am so happy!"}"#;
    let (packed, mut damaged) = (gzip(plain), gzip(plain));
    damaged[15] ^= 0xff;
    let mut cut = packed.clone();
    cut.truncate(packed.len() - 9);
    for (what, body) in [("plain", plain.to_vec()), ("cut short", cut), ("damaged", damaged)] {
        let reply = send(body, &[("content-type", JSON), ("content-encoding", "gzip")]);
        assert_error(what, &reply, 400, "bad_request", "cannot be decompressed as its Content-Encoding says");
    }
    for coding in ["br", "zstd", "gzip, gzip", "rot13"] {
        let reply = send(packed.clone(), &[("content-type", JSON), ("content-encoding", coding)]);
        assert_error(coding, &reply, 415, "unsupported_media_type", "or with gzip or deflate");
    }
    assert_it_still_answers();
}

#[test]
fn a_small_body_that_unpacks_to_a_huge_one_is_413_and_takes_no_memory() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let block = vec![b' '; 1 << 20];
    for _ in 0..256 {
        encoder.write_all(&block).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < LIMIT_BYTES / 4, "{}", bomb.len());
    assert_it_still_answers();
    let peak_kb = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server().pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = peak_kb();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let headers = [("content-type", JSON), ("content-encoding", "gzip")];
                assert_error("a bomb", &send(bomb.clone(), &headers), 413, "too_large", "over 2097152 bytes");
            });
        }
    });
    // Other tests may be running on this server; eight bombs expanded a chunk at a time took 200 MB.
    let grown = peak_kb() - before;
    assert!(grown < 100_000, "{grown} kB");
    assert_it_still_answers();
}

#[test]
fn the_content_type_must_be_json_or_missing() {
    let body = r#"{"text": "I am so happy!"}"#;
    for right in [JSON, "application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"] {
        assert_eq!(answered(&send(body, &[("content-type", right)]))["emotion"], "joy", "{right}");
    }
    assert_eq!(answered(&send(body, &[]))["emotion"], "joy");
    for wrong in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"] {
        let reply = send(body, &[("content-type", wrong)]);
        assert_error(wrong, &reply, 415, "unsupported_media_type", "send JSON with Content-Type: application/json");
    }
}

#[test]
fn a_byte_order_mark_does_no_harm() {
    assert_eq!(answered(&send_json("\u{feff}{\"text\": \"I am so happy!\"}"))["emotion"], "joy");
}

#[test]
fn a_wrong_method_is_405_and_told_the_right_one() {
    let server = server();
    for (method, path, allow) in [
        (Method::GET, "/analyze", "POST"),
        (Method::PUT, "/analyze", "POST"),
        (Method::DELETE, "/analyze", "POST"),
        (Method::OPTIONS, "/analyze", "POST"),
        (Method::from_bytes(b"BREW").unwrap(), "/analyze", "POST"),
        (Method::POST, "/health", "GET, HEAD"),
        (Method::POST, "/livez", "GET, HEAD"),
        (Method::PUT, "/readyz", "GET, HEAD"),
        (Method::DELETE, "/models", "GET, HEAD"),
        (Method::POST, "/metrics", "GET, HEAD"),
        (Method::GET, "/admin/models/heavy/load", "POST"),
        (Method::DELETE, "/admin/models/heavy/unload", "POST"),
    ] {
        let reply = Reply::of(server.client().request(method.clone(), server.url(path)));
        let what = format!("{method} {path}");
        assert_error(&what, &reply, 405, "method_not_allowed", &format!("{path} takes {allow}"));
        assert_eq!(reply.header("allow"), Some(allow), "{what}");
    }
}

#[test]
fn an_unknown_path_is_404_and_told_a_known_one() {
    for path in ["/nowhere", "/analyze/", "/analyse", "/ANALYZE", "//analyze", "/%ff", "/analyze/../health/x", "/.env"]
    {
        let server = server();
        for reply in [server.get(path), server.post(path, &json!({"text": "a"}))] {
            assert_error(path, &reply, 404, "not_found", "POST /analyze reads a text");
        }
    }
    let long = format!("/{}", "a".repeat(5000));
    assert_error("a long path", &server().get(&long), 404, "not_found", "POST /analyze reads a text");
}

#[test]
fn what_is_no_http_does_not_stop_the_server() {
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"\r\n\r\n",
    ] {
        let mut connection = TcpStream::connect(("127.0.0.1", server().port())).unwrap();
        connection.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        connection.write_all(bytes).unwrap();
        let mut reply = Vec::new();
        let _closed_or_waiting = connection.read_to_end(&mut reply);
        assert!(!reply.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&reply));
    }
    assert_it_still_answers();
}
