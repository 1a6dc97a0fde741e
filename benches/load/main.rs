//! Load test: drives a running server and compares it with the bare session on the same texts.
//!
//! `make load` measures everything; `make load ARGS="--roles heavy --clients 32"` a part of it. The
//! load generator shares the cores with the server, so the comparison is made in texts for each
//! CPU-second of the server's process; rounds of server and bare session alternate, since other
//! work on the machine slows both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that cannot go on must end")]

mod ceiling;
mod client;
mod machine;
mod process;
mod report;
mod rounds;
#[path = "../support/texts.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod texts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ceiling::Ceiling;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use emotion_server::model::{Bundle, Precision};
use machine::Machine;
use process::{Model, Server};
use report::{Report, Row};
use rounds::{Measured, Pace};

/// Texts that there are; a longer stretch begins again with the first.
const CORPUS: usize = 20_000;

/// Share of the closed loop's throughput that the open loop asks for.
const OPEN_LOOP_SHARE: f64 = 0.7;

#[derive(Parser)]
#[command(name = "load")]
struct Arguments {
    /// A server that runs already, as 127.0.0.1:8080; needs --pid and one role, precision and cache. Without it one
    /// is started for each model
    #[arg(long, requires = "pid")]
    server: Option<SocketAddr>,
    /// Its process
    #[arg(long)]
    pid: Option<u32>,
    #[arg(long, value_delimiter = ',', default_value = "heavy,light", value_parser = ["heavy", "light"])]
    roles: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "int8,int4", value_parser = ["int8", "int4"])]
    precisions: Vec<String>,
    /// Sizes of the cache in MB
    #[arg(long, value_delimiter = ',', default_value = "0,8")]
    caches: Vec<u64>,
    /// Connections of the closed loops
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,128")]
    clients: Vec<usize>,
    /// Requests a second of an open loop; without it 70 % of the most that a closed loop reached; 0 for none
    #[arg(long)]
    rate: Option<f64>,
    /// Length of each stretch of load
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How often server and bare session take turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 128)]
    max_batch_tokens: usize,
    /// Workers of the server and threads of the bare session
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, usize::from))]
    threads: usize,
    /// Folder of the models
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/onnx"))]
    model_dir: PathBuf,
    #[arg(long, default_value = "goemotions")]
    heavy_model: String,
    #[arg(long, default_value = "ekman")]
    light_model: String,
    /// Folder of prepared weights
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/prepared"))]
    model_cache_dir: PathBuf,
    /// Folder of the bare session's own copies of prepared weights and of ONNX Runtime
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/bare"))]
    bare_dir: PathBuf,
    /// Where the figures go as JSON, after every row
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/load.json"))]
    json: PathBuf,
    /// Sent by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let combinations = arguments.roles.len() * arguments.precisions.len() * arguments.caches.len();
    if arguments.server.is_some() && combinations != 1 {
        refuse(&format!(
            "--server is one server with one precision and one cache, but these arguments ask for {combinations} of \
             them; name one of each, as --roles heavy --precisions int8 --caches 0"
        ));
    }
    let texts = texts::mixed(CORPUS);
    let mut report = Report {
        machine: Machine::here(),
        server_version: String::new(),
        inference_threads: arguments.threads,
        max_batch_tokens: arguments.max_batch_tokens,
        seconds: arguments.seconds,
        rounds: arguments.rounds,
        rows: Vec::new(),
        lone: Vec::new(),
    };
    report.machine.print();
    report::print_heading();
    for role in &arguments.roles {
        for precision in &arguments.precisions {
            for cache_mb in &arguments.caches {
                measure(&arguments, (role, precision, *cache_mb), &texts, &mut report);
            }
        }
    }
    println!("written to {}", arguments.json.display());
}

fn measure(arguments: &Arguments, model: (&str, &str, u64), texts: &[String], report: &mut Report) {
    let (role, precision, cache_mb) = model;
    let server = match (arguments.server, arguments.pid) {
        (Some(address), Some(pid)) => Server::running(address, pid),
        _ => start(arguments, model),
    };
    report.server_version = server.health().version;
    let name = if role == "heavy" { &arguments.heavy_model } else { &arguments.light_model };
    let precision_asked = <Precision as ValueEnum>::from_str(precision, true).expect("a precision is int8 or int4");
    let bundle = Bundle::open(&arguments.model_dir.join(name), precision_asked).expect("the bundle is whole");
    let mut measured = Measured::warmed_up(model, &server, texts);
    if let Err(difference) = is_as_asked(arguments, &server.model(role), &bundle) {
        refuse(&format!("the server at {} {difference}", server.address));
    }
    let has_cache = server.health().cache.bytes > 0;
    if has_cache != (cache_mb > 0) {
        let what = if has_cache { "has a cache" } else { "has no cache" };
        refuse(&format!("the server at {} {what}, but --caches is {cache_mb}", server.address));
    }
    let mut ceiling = Ceiling::open(
        &bundle,
        &server.library(),
        &arguments.bare_dir,
        arguments.threads,
        arguments.max_batch_tokens,
        texts,
    );
    let _warm = ceiling.run(0, 50);
    if cache_mb == 0 && arguments.clients.contains(&1) {
        let lone = measured.lone(&mut ceiling);
        lone.print();
        report.lone.push(lone);
    }
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut most_per_second: f64 = 0.0;
    let mut add = |row: Row| {
        row.print();
        report.rows.push(row);
        report.write(&arguments.json);
    };
    for clients in &arguments.clients {
        let row = measured.row(Pace::Closed(*clients), arguments.rounds, time, &mut ceiling);
        most_per_second = most_per_second.max(row.texts_per_second);
        add(row);
    }
    let rate = arguments.rate.unwrap_or(most_per_second * OPEN_LOOP_SHARE);
    if rate > 0.0 {
        add(measured.row(Pace::Open(rate), arguments.rounds, time, &mut ceiling));
    }
}

/// Whether the server runs what is to be measured, as the bare session will; else what is different.
fn is_as_asked(arguments: &Arguments, model: &Model, bundle: &Bundle) -> Result<(), String> {
    let threads = arguments.threads.to_string();
    let workers = model.workers.map(|workers| workers.to_string());
    for (what, found, asked) in [
        ("model", Some(model.name.as_str()), bundle.name.as_str()),
        ("precision", Some(model.precision.as_str()), bundle.precision.as_str()),
        ("state", Some(model.state.as_str()), "ready"),
        ("revision", model.revision.as_deref(), bundle.revision()),
        ("weights", model.weights.as_deref(), "prepared"),
        ("workers", workers.as_deref(), threads.as_str()),
    ] {
        if found != Some(asked) {
            let found = found.unwrap_or("none");
            return Err(format!(
                "has another {} model than is to be measured: {what} {found}, not {asked}",
                model.role
            ));
        }
    }
    Ok(())
}

/// Ends with a message about the arguments.
fn refuse(what: &str) -> ! {
    Arguments::command().error(ErrorKind::ValueValidation, what).exit()
}

fn start(arguments: &Arguments, (role, precision, cache_mb): (&str, &str, u64)) -> Server {
    let path = |path: &PathBuf| path.display().to_string();
    Server::start(&[
        ("MODEL_DIR", path(&arguments.model_dir)),
        ("HEAVY_MODEL", arguments.heavy_model.clone()),
        ("LIGHT_MODEL", arguments.light_model.clone()),
        ("MODEL_CACHE_DIR", path(&arguments.model_cache_dir)),
        ("MODEL_PRECISION", precision.to_owned()),
        ("PRELOAD_MODELS", role.to_owned()),
        ("CACHE_MB", cache_mb.to_string()),
        ("INFERENCE_THREADS", arguments.threads.to_string()),
        ("MAX_BATCH_TOKENS", arguments.max_batch_tokens.to_string()),
    ])
}
