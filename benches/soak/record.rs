//! What the server held over the time of a soak, and the report of it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::container::Container;
use crate::machine::Machine;
use crate::process::{Memory, Server};

/// What was held at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Since the first request.
    pub seconds: f64,
    /// Requests that were begun until then.
    pub requests: u64,
    #[serde(flatten)]
    pub memory: Memory,
    pub usage_mb: f64,
}

/// Reads memory on a thread of its own.
pub struct Recorder<'a> {
    pub server: &'a Server,
    pub container: &'a Container,
    pub begun: &'a AtomicU64,
    pub started: Instant,
}

impl Recorder<'_> {
    pub fn sample(&self) -> Sample {
        Sample {
            seconds: self.started.elapsed().as_secs_f64(),
            requests: self.begun.load(Ordering::Relaxed),
            memory: self.server.memory(),
            usage_mb: self.container.usage_mb(),
        }
    }

    /// Does `work`, and takes samples meanwhile.
    pub fn samples_during(&self, interval: Duration, work: impl FnOnce()) -> Vec<Sample> {
        let (done, wait) = channel::<()>();
        thread::scope(|scope| {
            let recorder = scope.spawn(move || {
                let mut samples = vec![self.sample()];
                while wait.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    samples.push(self.sample());
                }
                samples.push(self.sample());
                samples
            });
            work();
            drop(done);
            recorder.join().expect("memory can be read")
        })
    }
}

/// How often a kind of request ended in one way.
#[derive(Debug, Serialize)]
pub struct Count {
    pub kind: &'static str,
    /// A status, or `hung up`.
    pub end: String,
    pub requests: u64,
}

/// Everything that a soak measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub server_version: String,
    pub limit_mb: u64,
    pub clients: usize,
    pub requests: u64,
    pub texts: u64,
    pub unknown_texts: u64,
    /// With requests, rests not counted.
    pub busy_seconds: f64,
    pub counts: Vec<Count>,
    /// Requests that did not end as they were meant to, and the first of them in words.
    pub failures: u64,
    pub first_failures: Vec<String>,
    pub kills: u64,
    /// At rest after the first requests, and after all of them.
    pub first_floor: Sample,
    pub last_floor: Sample,
    pub samples: Vec<Sample>,
}

impl Report {
    /// Writes it as JSON; whoever reads the file sees it whole.
    pub fn write(&self, path: &Path) {
        let json = serde_json::to_vec(self).expect("the report is plain");
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, json).expect("the report can be written");
        fs::rename(&unfinished, path).expect("the report can be renamed");
    }
}
