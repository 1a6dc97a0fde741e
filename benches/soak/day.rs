//! What clients ask on an honest day: every contract, mistakes too, each with the statuses that it may get.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::texts::{self, Numbers};

/// Sent with every request for an administrative path.
pub const ADMIN_KEY: &str = "soak";

/// Texts that come again and again.
const KNOWN_TEXTS: usize = 1000;

/// One text in so many was never asked for before.
const UNKNOWN_IN: usize = 5;

/// One unknown text in so many is longer than the model reads at once; the others are as long as those that are known.
const ESSAY_IN: usize = 400;

/// A request, and what is to come of it.
pub struct Request {
    pub kind: &'static str,
    pub bytes: Vec<u8>,
    pub end: End,
}

/// How a request ends.
pub enum End {
    /// With a reply of one of these statuses.
    Reply(&'static [u16]),
    /// Its client sends so many bytes and is gone.
    HangUp(usize),
}

type Make = fn(&mut Day) -> Request;

/// What is asked, and how often in a thousand requests.
const KINDS: [(usize, Make); 19] = [
    (410, |day| day.analyze("analyze", &json!({}))),
    (30, |day| day.analyze("analyze, light", &json!({"model": "light"}))),
    (10, |day| day.analyze("analyze, windows", &json!({"long_text": "windows", "top_k": 3}))),
    (30, Day::analyze_many),
    (10, Day::analyze_gzip),
    (120, |day| day.ask("predict", "/predict", |text| json!({"inputs": text}))),
    (20, Day::predict_many),
    (70, |day| day.ask("Hugging Face", "/models/auto", |text| json!({"inputs": text, "parameters": {"top_k": 5}}))),
    (50, Day::infer_json),
    (50, Day::infer_binary),
    (60, |day| day.ask("KServe v1", "/v1/models/auto:predict", |text| json!({"instances": [text]}))),
    (50, |day| day.ask("emotion-v2", "/analysis/emotion-v2", |text| json!({"text": text}))),
    (20, |day| day.ask("emotion", "/analysis/emotion", |text| json!({"text": text}))),
    (15, Day::ndjson),
    (5, |_| get("health", "/health")),
    (5, |_| get("metrics", "/metrics")),
    (5, |day| get("other pages", ["/models", "/readyz", "/info", "/v2/models/auto", "/docs"][day.numbers.below(5)])),
    (30, Day::mistake),
    (10, Day::hang_up),
];

const JSON: &str = "Content-Type: application/json\r\n";

/// Requests that cannot be right: headers, path and body, and the status that says so.
const MISTAKES: [(&str, &str, &str, &[u16]); 14] = [
    (JSON, "/analyze", r#"{"text": "I am"#, &[400]),
    (JSON, "/analyze", r#"{"text": ""}"#, &[400]),
    (JSON, "/analyze", r#"{"text": "a", "modell": "light"}"#, &[422]),
    (JSON, "/analyze", r#"{"text": "a", "threshold": 3}"#, &[422]),
    (JSON, "/analyze", r#"{"texts": ["a", 5]}"#, &[422]),
    ("Content-Type: text/csv\r\n", "/analyze", "a,b", &[415]),
    (JSON, "/nowhere", "{}", &[404]),
    (JSON, "/predict", r#"{"inputs": ["a", "b", "c"]}"#, &[422]),
    (JSON, "/models/nobody", r#"{"inputs": "a"}"#, &[404]),
    (JSON, "/v2/models/auto/infer", r#"{"inputs": []}"#, &[400]),
    (JSON, "/v2/models/nobody/infer", r#"{"inputs": []}"#, &[404]),
    (JSON, "/v1/models/auto:predict", r#"{"instances": "a"}"#, &[400]),
    (JSON, "/analysis/emotion-v2", r#"{"text": "hm"}"#, &[400]),
    (JSON, "/admin/models/heavy/unload", "", &[401, 403]),
];

/// The same where the whole request is wrong: too long a body is announced, no method, no HTTP at all.
const MALFORMED: [(&str, &[u16]); 3] = [
    ("POST /analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n\r\n", &[413]),
    ("DELETE /analyze HTTP/1.1\r\nHost: localhost\r\n\r\n", &[405]),
    ("How do you do?\r\n\r\n", &[400]),
];

/// After a request of this kind nothing can follow on its connection.
pub const MALFORMED_KIND: &str = "malformed";

/// Makes one request after the other.
#[derive(Default)]
pub struct Day {
    numbers: Numbers,
    known: Vec<String>,
    /// Texts that were never asked for before, so far.
    pub unknown: u64,
    /// All texts so far.
    pub texts: u64,
}

impl Day {
    pub fn new() -> Self {
        Self { numbers: Numbers::new(10), known: texts::mixed(KNOWN_TEXTS), ..Self::default() }
    }

    pub fn next(&mut self) -> Request {
        let all = KINDS.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.numbers.below(all);
        for (weight, make) in KINDS {
            if drawn < weight {
                return make(self);
            }
            drawn -= weight;
        }
        unreachable!("what is drawn is below the sum of all weights")
    }

    /// An operator's wish about the heavy model, in one of the two ways that there are.
    pub fn administer(&mut self, wish: &'static str) -> Request {
        let path = match self.numbers.below(2) {
            0 => format!("/admin/models/heavy/{wish}"),
            _ => format!("/v2/repository/models/heavy/{wish}"),
        };
        let key = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
        Request { kind: wish, bytes: post(&path, &key, b""), end: End::Reply(&[200]) }
    }

    fn text(&mut self) -> String {
        self.texts += 1;
        if self.numbers.below(UNKNOWN_IN) > 0 {
            return self.known[self.numbers.below(KNOWN_TEXTS)].clone();
        }
        self.unknown += 1;
        let text = if self.numbers.below(ESSAY_IN) == 0 {
            texts::of_words(900, self.unknown)
        } else {
            // The words may have been asked for, but never behind this number.
            self.known[self.numbers.below(KNOWN_TEXTS)].clone()
        };
        format!("{}. {text}", self.unknown)
    }

    fn some_texts(&mut self, most: usize) -> Vec<String> {
        let count = 2 + self.numbers.below(most - 1);
        (0..count).map(|_| self.text()).collect()
    }

    fn ask(&mut self, kind: &'static str, path: &str, body: fn(String) -> Value) -> Request {
        let text = self.text();
        answered(kind, post(path, JSON, body(text).to_string().as_bytes()))
    }

    fn analyze(&mut self, kind: &'static str, options: &Value) -> Request {
        let mut body = options.clone();
        body["text"] = self.text().into();
        answered(kind, post("/analyze", JSON, body.to_string().as_bytes()))
    }

    fn analyze_many(&mut self) -> Request {
        let body = json!({"texts": self.some_texts(8)}).to_string();
        answered("analyze, several", post("/analyze", JSON, body.as_bytes()))
    }

    fn analyze_gzip(&mut self) -> Request {
        let body = json!({"texts": self.some_texts(8)}).to_string();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(body.as_bytes()).expect("a vector takes all bytes");
        let packed = packed.finish().expect("a vector takes all bytes");
        let headers = format!("{JSON}Content-Encoding: gzip\r\n");
        answered("analyze, gzip", post("/analyze", &headers, &packed))
    }

    fn predict_many(&mut self) -> Request {
        let inputs: Vec<_> = self.some_texts(8).into_iter().map(|text| [text]).collect();
        answered("predict, several", post("/predict", JSON, json!({ "inputs": inputs }).to_string().as_bytes()))
    }

    fn infer_json(&mut self) -> Request {
        let texts = self.some_texts(2);
        let input = json!({"name": "text", "shape": [texts.len()], "datatype": "BYTES", "data": texts});
        let body = json!({"inputs": [input], "outputs": [{"name": "labels"}]}).to_string();
        answered("infer", post("/v2/models/auto/infer", JSON, body.as_bytes()))
    }

    fn infer_binary(&mut self) -> Request {
        let texts = self.some_texts(2);
        let mut raw = Vec::new();
        for text in &texts {
            let length = u32::try_from(text.len()).expect("a text is short");
            raw.extend(length.to_le_bytes());
            raw.extend(text.as_bytes());
        }
        let size = json!({"binary_data_size": raw.len()});
        let input = json!({"name": "text", "shape": [texts.len()], "datatype": "BYTES", "parameters": size});
        let head = json!({"inputs": [input], "parameters": {"binary_data_output": true}}).to_string();
        let headers = format!("Inference-Header-Content-Length: {}\r\n", head.len());
        let body = [head.as_bytes(), &raw].concat();
        answered("infer, binary", post("/v2/models/auto/infer", &headers, &body))
    }

    fn ndjson(&mut self) -> Request {
        let lines: Vec<_> = self.some_texts(8).into_iter().map(|text| json!({"text": text}).to_string()).collect();
        // One line of them cannot be read, which the others must not mind.
        let body = format!("{}\n{{\"id\": 1}}\n", lines.join("\n"));
        answered("NDJSON", post("/analyze/ndjson", JSON, body.as_bytes()))
    }

    fn mistake(&mut self) -> Request {
        let drawn = self.numbers.below(MISTAKES.len() + MALFORMED.len());
        let (kind, bytes, statuses) = match MISTAKES.get(drawn) {
            Some((headers, path, body, statuses)) => ("mistake", post(path, headers, body.as_bytes()), *statuses),
            None => {
                let (bytes, statuses) = MALFORMED[drawn - MISTAKES.len()];
                (MALFORMED_KIND, bytes.as_bytes().to_vec(), statuses)
            }
        };
        Request { kind, bytes, end: End::Reply(statuses) }
    }

    /// All of a request, half of it, or the beginning of its head.
    fn hang_up(&mut self) -> Request {
        let request = self.analyze("hang-up", &json!({}));
        let sent = [request.bytes.len(), request.bytes.len() / 2, 20][self.numbers.below(3)];
        Request { end: End::HangUp(sent), ..request }
    }
}

fn answered(kind: &'static str, bytes: Vec<u8>) -> Request {
    Request { kind, bytes, end: End::Reply(&[200]) }
}

fn get(kind: &'static str, path: &str) -> Request {
    answered(kind, format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes())
}

fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}
