//! A bounded load on one server, and what came of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::support::{PATIENCE, Server};

/// Words that the texts are made of.
const WORDS: [&str; 24] = [
    "I",
    "you",
    "we",
    "never",
    "always",
    "love",
    "hate",
    "this",
    "terrible",
    "wonderful",
    "morning",
    "game",
    "and",
    "but",
    "surprised",
    "thanks",
    "worried",
    "about",
    "friend",
    "angry",
    "proud",
    "because",
    "what",
    "today",
];

/// The mix of texts: mostly 5 to 40 words, one in twenty of 200 to 500; no two are equal.
pub fn text(number: u64) -> String {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let words = if number % 20 == 19 { 200 + next(301) } else { 5 + next(36) };
    let mut text = format!("{number}");
    for _ in 0..words {
        text.push(' ');
        text.push_str(WORDS[next(WORDS.len() as u64) as usize]);
    }
    text
}

/// Only long texts: 400 to 700 words, more than the model reads.
pub fn long_text(number: u64) -> String {
    let words: Vec<_> = (0..400 + number * 37 % 300).map(|i| WORDS[((number + i * i) % 24) as usize]).collect();
    format!("{number} {}", words.join(" "))
}

/// What a load has seen.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Replies by the role that answered and why it did, such as `heavy` or `light (memory_limit)`.
    pub answers: BTreeMap<String, u64>,
    /// Replies that are not 200, each as it came.
    pub failures: Vec<String>,
    /// Time of each request that was answered.
    pub times: Vec<Duration>,
}

impl Seen {
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    pub fn by(&self, who: &str) -> u64 {
        self.answers.get(who).copied().unwrap_or(0)
    }

    pub fn p50(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    fn note(&mut self, status: u16, body: &Value, time: Duration) {
        if status != 200 {
            self.failures.push(format!("{status} {body}"));
            return;
        }
        let role = body["model"]["role"].as_str().unwrap_or("nobody");
        let who = body["fallback"]["reason"].as_str().map_or(role.to_owned(), |why| format!("{role} ({why})"));
        *self.answers.entry(who).or_default() += 1;
        self.times.push(time);
    }
}

/// Clients that go on asking until they are told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// `clients` clients, each with one request at a time, at most `requests` in all.
    pub fn start(server: &Server, clients: usize, requests: u64, text: fn(u64) -> String) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let number = Arc::new(AtomicU64::new(0));
        let clients = (0..clients).map(|_| {
            let (stop, seen, number) = (Arc::clone(&stop), Arc::clone(&seen), Arc::clone(&number));
            let url = server.url("/analyze");
            thread::spawn(move || {
                let client = Client::builder().timeout(PATIENCE * 2).build().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let number = number.fetch_add(1, Ordering::Relaxed);
                    if number >= requests {
                        return;
                    }
                    let started = Instant::now();
                    let reply = client.post(&url).json(&json!({"text": text(number)})).send();
                    let (status, body) = match reply {
                        Ok(reply) => (reply.status().as_u16(), reply.json().unwrap_or(Value::Null)),
                        Err(error) => (0, Value::String(format!("{error:?}"))),
                    };
                    seen.lock().unwrap().note(status, &body, started.elapsed());
                }
            })
        });
        Self { clients: clients.collect(), stop, seen }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until `condition` holds for what was seen.
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut(&Seen) -> bool) {
        let started = Instant::now();
        while !condition(&self.seen()) {
            assert!(started.elapsed() < PATIENCE, "{what} did not happen: {:?}", self.seen().answers);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the load after the requests in flight, and tells what it has seen.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits until all requests are answered.
    pub fn finish(self) -> Seen {
        for client in self.clients {
            client.join().expect("a client ends well");
        }
        let seen = self.seen.lock().unwrap();
        seen.clone()
    }
}
