//! Soak: a day of honest clients on one server in a container of 512 MB, who make mistakes too.
//!
//! `make soak` asks a million requests, `make soak REQUESTS=20000` fewer. Ends with an error where a
//! request did not end as it was meant to, the kernel killed, or the server holds much more at rest
//! after all requests than after the first thousand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that cannot go on must end")]

#[path = "../load/client.rs"]
#[allow(dead_code, reason = "shared with the load test")]
mod client;
mod clients;
mod container;
mod day;
#[path = "../load/machine.rs"]
mod machine;
#[path = "../load/process.rs"]
#[allow(dead_code, reason = "shared with the load test")]
mod process;
mod record;
#[path = "../support/texts.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod texts;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use clients::{Clients, Tally};
use container::Container;
use day::Day;
use machine::Machine;
use process::Server;
use record::{Count, Recorder, Report, Sample};

/// The requests after which the first floor is measured.
const FIRST_REQUESTS: u64 = 1000;

/// Idle sessions give back what their runs needed after one second, and the watchdog trims the heap then.
const REST: Duration = Duration::from_secs(15);

/// By how much anonymous memory of the last floor may be above that of the first one.
const MOST_GROWTH_MB: f64 = 10.0;

/// How often the heavy model is unloaded by hand in a soak, at most.
const UNLOADS: u64 = 12;

#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    /// Requests in all
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(2 * FIRST_REQUESTS..))]
    requests: u64,
    /// Limit of the container in MB
    #[arg(long, default_value_t = 512)]
    limit_mb: u64,
    /// Clients, each with one request at a time
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Seconds between two readings of memory
    #[arg(long, default_value_t = 2.0)]
    interval: f64,
    /// Folder of prepared weights
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/prepared"))]
    model_cache_dir: PathBuf,
    /// Where the figures go as JSON
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/soak.json"))]
    json: PathBuf,
    /// Sent by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let container = match Container::new(arguments.limit_mb) {
        Ok(container) => container,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let report = soak(&arguments, &container);
    report.write(&arguments.json);
    println!("written to {}", arguments.json.display());
    let faults = faults(&report);
    for fault in &faults {
        eprintln!("FAULT {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak(arguments: &Arguments, container: &Container) -> Report {
    let machine = Machine::here();
    machine.print();
    let server = Server::start_command(
        container.command(env!("CARGO_BIN_EXE_emotion-server")),
        &[
            ("MODEL_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/onnx").to_owned()),
            ("MODEL_CACHE_DIR", arguments.model_cache_dir.display().to_string()),
            ("PRELOAD_MODELS", "both".to_owned()),
            ("ADMIN_KEY", day::ADMIN_KEY.to_owned()),
        ],
    );
    let (day, tally) = (Rc::new(RefCell::new(Day::new())), Rc::new(RefCell::new(Tally::default())));
    let begun = Arc::new(AtomicU64::new(0));
    let clients = Clients {
        address: server.address,
        count: arguments.clients,
        unload_every: (arguments.requests / UNLOADS).max(2 * FIRST_REQUESTS),
        begun: Arc::clone(&begun),
        day: Rc::clone(&day),
        tally: Rc::clone(&tally),
    };
    let recorder = Recorder { server: &server, container, begun: &begun, started: Instant::now() };
    let interval = Duration::from_secs_f64(arguments.interval);
    let mut samples = Vec::new();
    let mut busy = Duration::ZERO;
    let mut floor_after = |requests| {
        let mut floor = None;
        samples.extend(recorder.samples_during(interval, || {
            let started = Instant::now();
            clients.live_until(requests);
            busy += started.elapsed();
            thread::sleep(REST);
            floor = Some(recorder.sample());
        }));
        floor.expect("the server was looked at")
    };
    let first_floor = floor_after(FIRST_REQUESTS);
    print("after the first", &first_floor);
    let last_floor = floor_after(arguments.requests);
    print("after all", &last_floor);
    let (day, tally) = (day.take(), tally.take());
    println!("{:.0} requests a second", arguments.requests as f64 / busy.as_secs_f64());
    Report {
        machine,
        server_version: server.health().version,
        limit_mb: arguments.limit_mb,
        clients: arguments.clients,
        requests: arguments.requests,
        texts: day.texts,
        unknown_texts: day.unknown,
        busy_seconds: busy.as_secs_f64(),
        counts: tally.ends.into_iter().map(|((kind, end), requests)| Count { kind, end, requests }).collect(),
        failures: tally.failures,
        first_failures: tally.first_failures,
        kills: container.kills(),
        first_floor,
        last_floor,
        samples,
    }
}

fn print(when: &str, floor: &Sample) {
    println!(
        "at rest {when} {} requests: {:.1} MB resident, {:.1} MB anonymous, {:.1} MB of the limit",
        floor.requests, floor.memory.proportional_mb, floor.memory.anonymous_mb, floor.usage_mb
    );
}

/// What is not as it must be.
fn faults(report: &Report) -> Vec<String> {
    let mut faults = Vec::new();
    if report.failures > 0 {
        faults.push(format!("{} requests did not end as they were meant to", report.failures));
    }
    if report.kills > 0 {
        faults.push(format!("the kernel killed {} times", report.kills));
    }
    // Resident memory also counts pages of the models' files, which are mapped when a text first needs them and which
    // the kernel takes back at will.
    let grown_mb = report.last_floor.memory.anonymous_mb - report.first_floor.memory.anonymous_mb;
    if grown_mb > MOST_GROWTH_MB {
        faults.push(format!("{grown_mb:.1} MB more are anonymous at rest than after the first requests"));
    }
    faults
}
