//! `classify` while its models come and go.

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::commands::run;
use crate::folders::{Folders, damage};
use crate::support::{PATIENCE, cache_folder};

/// A run that is given one row after the other.
struct Talk {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    log: Arc<Mutex<String>>,
}

impl Talk {
    /// The heavy model goes when nobody asks for a second.
    fn start(folders: &Folders, arguments: &[&str]) -> Self {
        let mut command = folders.command(&[("MODEL_IDLE_SECONDS", "1"), ("RUST_LOG", "info")]);
        command.env("MODEL_CACHE_DIR", cache_folder());
        command.args(["classify", "--input-format", "jsonl"]).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let (log, stderr) = (Arc::new(Mutex::new(String::new())), BufReader::new(child.stderr.take().unwrap()));
        let written = Arc::clone(&log);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                written.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Self { child, input, output, log }
    }

    fn send(&mut self, text: &str) {
        self.input.write_all(format!("{{\"text\": \"{text}\"}}\n").as_bytes()).unwrap();
    }

    /// Name of the model that answered the next row, and why it was not another.
    fn model(&mut self) -> (String, Value) {
        let row: Value = serde_json::from_str(&self.output.next().unwrap().unwrap()).unwrap();
        let emotions = &row["emotions"];
        (emotions["model"]["name"].as_str().unwrap().to_owned(), emotions["fallback"]["reason"].clone())
    }

    fn wait_for_log(&self, line: &str) {
        let started = Instant::now();
        while !self.log.lock().unwrap().contains(line) {
            assert!(started.elapsed() < PATIENCE, "{line:?} was not logged:\n{}", self.log.lock().unwrap());
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().unwrap().success(), "{}", self.log.lock().unwrap());
    }
}

const HEAVY_IS_GONE: &str = "heavy model goemotions: draining -> absent (idle";

#[test]
fn a_fallback_in_the_middle_shows_in_its_rows() {
    let folders = Folders::new();
    folders.link("ekman");
    folders.link("goemotions");
    let mut talk = Talk::start(&folders, &[]);
    talk.send("I am so happy that it works!");
    assert_eq!(talk.model(), ("goemotions".to_owned(), Value::Null));
    talk.wait_for_log(HEAVY_IS_GONE);
    fs::remove_file(folders.models().join("goemotions")).unwrap();
    talk.send("I am so sad that it went.");
    assert_eq!(talk.model(), ("ekman".to_owned(), "load_failed".into()));
    talk.end();
}

#[test]
fn a_strict_run_waits_until_its_model_is_back() {
    let folders = Folders::new();
    folders.link("ekman");
    folders.link("goemotions");
    let mut talk = Talk::start(&folders, &["--model", "heavy", "--strict"]);
    talk.send("I am so happy that it works!");
    assert_eq!(talk.model(), ("goemotions".to_owned(), Value::Null));
    talk.wait_for_log(HEAVY_IS_GONE);
    fs::remove_file(folders.models().join("goemotions")).unwrap();
    talk.send("I am so sad that it went.");
    talk.wait_for_log("trying again in");
    folders.link("goemotions");
    assert_eq!(talk.model(), ("goemotions".to_owned(), Value::Null));
    talk.end();
}

#[test]
fn damaged_weights_end_with_65() {
    let folders = Folders::new();
    damage(&folders.copy("ekman", "ekman").join("int8.bin"), 1000);
    let mut command = folders.command(&[("USE_LIGHT_MODEL", "true")]);
    command.args(["classify", "I am so happy!"]);
    let done = run(command);
    assert_eq!((done.code, done.out.as_str()), (Some(65), ""), "{}", done.err);
    assert!(done.err.contains("int8.bin has SHA-256"), "{}", done.err);
}
