//! Load test: drives a running server and compares it with the bare session on the same texts.
//!
//! `make load` measures everything; `make load ARGS="--roles heavy --clients 32"` a part of it. The
//! load generator shares the cores with the server, so the comparison is made in texts for each
//! CPU-second of the server's process; rounds of server and bare session alternate, since other
//! work on the machine slows both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a measurement that cannot go on must end")]

mod ceiling;
mod client;
mod process;
mod report;
#[path = "../support/texts.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod texts;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ceiling::Ceiling;
use clap::{Parser, ValueEnum};
use client::{Connection, Outcome, closed_loop, open_loop, request};
use emotion_server::model::Precision;
use process::{Counts, Server, cpu_seconds};
use report::{Lone, Report, Row, median};
use texts::Numbers;

/// Texts that there are; a longer stretch begins again with the first.
const CORPUS: usize = 20_000;

/// Texts that requests choose from where the cache is measured, the first ones more often.
const POPULAR: usize = 4000;

/// Share of the closed loop's throughput that the open loop asks for.
const OPEN_LOOP_SHARE: f64 = 0.7;

/// Texts sent one by one to see what the server adds to each.
const LONE_TEXTS: usize = 200;

#[derive(Parser)]
struct Arguments {
    /// A server that runs already, as 127.0.0.1:8080; needs --pid. Without it one is started for each model
    #[arg(long, requires = "pid")]
    server: Option<SocketAddr>,
    /// Its process
    #[arg(long)]
    pid: Option<u32>,
    #[arg(long, value_delimiter = ',', default_value = "heavy,light")]
    roles: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "int8,int4")]
    precisions: Vec<String>,
    /// Sizes of the cache in MB
    #[arg(long, value_delimiter = ',', default_value = "0,8")]
    caches: Vec<u64>,
    /// Connections of the closed loops
    #[arg(long, value_delimiter = ',', default_value = "1,8,32,128")]
    clients: Vec<usize>,
    /// Requests a second of an open loop; without it 70 % of what the closed loop of most clients reached; 0 for none
    #[arg(long)]
    rate: Option<f64>,
    /// Length of each stretch of load
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How often server and bare session take turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 512)]
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
    /// Where the figures go as JSON
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/load.json"))]
    json: PathBuf,
    /// Sent by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let texts = texts::mixed(CORPUS);
    let mut report = Report {
        machine: cpu_name(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        inference_threads: arguments.threads,
        max_batch_tokens: arguments.max_batch_tokens,
        ..Report::default()
    };
    println!("{}, {} cores, {} inference threads", report.machine, report.cores, report.inference_threads);
    report::print_heading();
    for role in &arguments.roles {
        for precision in &arguments.precisions {
            for cache_mb in &arguments.caches {
                measure(&arguments, role, precision, *cache_mb, &texts, &mut report);
            }
        }
    }
    let json = serde_json::to_vec_pretty(&report).expect("the report is plain");
    fs::write(&arguments.json, json).expect("the report can be written");
    println!("written to {}", arguments.json.display());
}

fn measure(arguments: &Arguments, role: &str, precision: &str, cache_mb: u64, texts: &[String], report: &mut Report) {
    let server = match (arguments.server, arguments.pid) {
        (Some(address), Some(pid)) => Server::running(address, pid),
        _ => start(arguments, role, precision, cache_mb),
    };
    let bundle = if role == "heavy" { &arguments.heavy_model } else { &arguments.light_model };
    let bundle = arguments.model_dir.join(bundle);
    let precision_asked = <Precision as ValueEnum>::from_str(precision, true).expect("a precision is int8 or int4");
    let mut ceiling = Ceiling::open(
        &bundle,
        precision_asked,
        &arguments.model_cache_dir,
        arguments.threads,
        arguments.max_batch_tokens,
        texts,
    );
    let requests = Rc::new(texts.iter().map(|text| request(role, text)).collect::<Vec<_>>());
    // Files into the page cache, arenas to their size.
    let _warm = closed_loop(server.address, &requests, 8, Duration::from_secs(1), |number| CORPUS - 1 - number);
    let _warm = ceiling.run(50);
    if cache_mb == 0 && arguments.clients.contains(&1) {
        let lone = lone(&server, role, precision, texts, &mut ceiling);
        lone.print();
        report.lone.push(lone);
    }
    let mut most_per_second: f64 = 0.0;
    for clients in &arguments.clients {
        let row = closed(arguments, &server, (role, precision, cache_mb), *clients, &requests, &mut ceiling);
        row.print();
        most_per_second = most_per_second.max(row.texts_per_second);
        report.rows.push(row);
    }
    let rate = arguments.rate.unwrap_or(most_per_second * OPEN_LOOP_SHARE);
    if rate > 0.0 && cache_mb == 0 {
        let time = Duration::from_secs_f64(arguments.seconds * arguments.rounds as f64);
        let (before, cpu) = (server.counts(role), cpu_seconds(server.pid));
        let outcome = open_loop(server.address, &requests, rate, time);
        let cpu = cpu_seconds(server.pid) - cpu;
        let counts = server.counts(role).since(before);
        let mut row = row(&server, (role, precision, cache_mb), &outcome, counts, cpu);
        (row.load, row.rate) = ("open", Some(rate));
        row.print();
        report.rows.push(row);
    }
}

/// Rounds of a closed loop, each followed by the bare session on the texts that were just served.
fn closed(
    arguments: &Arguments,
    server: &Server,
    model: (&str, &str, u64),
    clients: usize,
    requests: &Rc<Vec<Vec<u8>>>,
    ceiling: &mut Ceiling,
) -> Row {
    let with_cache = model.2 > 0;
    let time = Duration::from_secs_f64(arguments.seconds);
    let mut all = Outcome::default();
    let mut counts = Counts::default();
    let (mut cpu, mut bare_cpu, mut bare_seconds, mut bare_texts) = (0.0, 0.0, 0.0, 0);
    let mut ratios = Vec::new();
    let mut tokens = 0;
    for round in 0..arguments.rounds {
        let (before, cpu_before) = (server.counts(model.0), cpu_seconds(server.pid));
        let outcome = if with_cache {
            let popular = popular(round as u64);
            closed_loop(server.address, requests, clients, time, move |number| popular[number % popular.len()])
        } else {
            closed_loop(server.address, requests, clients, time, |number| number)
        };
        let cpu_round = cpu_seconds(server.pid) - cpu_before;
        counts = counts.plus(server.counts(model.0).since(before));
        let served = outcome.latencies.len();
        if !with_cache && served > 0 {
            let bare = ceiling.run(served);
            tokens += ceiling.tokens(served);
            ratios.push((served as f64 / cpu_round) / (bare.texts as f64 / bare.cpu_seconds));
            bare_cpu += bare.cpu_seconds;
            bare_seconds += bare.elapsed.as_secs_f64();
            bare_texts += bare.texts;
        }
        cpu += cpu_round;
        all.errors += outcome.errors;
        all.elapsed += outcome.elapsed;
        all.latencies.extend(outcome.latencies);
    }
    let mut row = row(server, model, &all, counts, cpu);
    row.clients = Some(clients);
    row.tokens = tokens;
    if bare_texts > 0 {
        row.ceiling_texts_per_cpu_second = Some(bare_texts as f64 / bare_cpu);
        row.ceiling_texts_per_second = Some(bare_texts as f64 / bare_seconds);
        row.ceiling_ratio = median(&ratios);
        row.ceiling_ratio_rounds = ratios;
    }
    row
}

fn row(server: &Server, model: (&str, &str, u64), outcome: &Outcome, counts: Counts, cpu: f64) -> Row {
    let (texts, seconds) = (outcome.latencies.len(), outcome.elapsed.as_secs_f64());
    let all_padding = counts.padding_tokens + counts.attention_padding_tokens;
    let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    Row {
        role: model.0.to_owned(),
        precision: model.1.to_owned(),
        cache_mb: model.2,
        load: "closed",
        clients: None,
        rate: None,
        texts,
        tokens: usize::try_from(counts.tokens).unwrap_or(usize::MAX),
        seconds,
        texts_per_second: texts as f64 / seconds,
        p50_ms: outcome.percentile_ms(0.5),
        p90_ms: outcome.percentile_ms(0.9),
        p99_ms: outcome.percentile_ms(0.99),
        errors: outcome.errors,
        batches: counts.batches,
        texts_per_batch: share(counts.texts, counts.batches),
        padding_share: share(counts.padding_tokens, counts.tokens + counts.padding_tokens),
        attention_padding_share: share(all_padding, counts.tokens + all_padding),
        cache_hit_share: share(counts.cache_hits, counts.cache_hits + counts.cache_misses),
        server_cpu_seconds: cpu,
        texts_per_cpu_second: texts as f64 / cpu,
        ceiling_texts_per_cpu_second: None,
        ceiling_texts_per_second: None,
        ceiling_ratio: None,
        ceiling_ratio_rounds: Vec::new(),
        memory: server.memory(),
    }
}

/// One text after the other: through the server, and through tokenizer and session alone.
fn lone(server: &Server, role: &str, precision: &str, texts: &[String], ceiling: &mut Ceiling) -> Lone {
    let (mut served, mut bare, mut added) = (Vec::new(), Vec::new(), Vec::new());
    client::run(async {
        let mut connection = Connection::open(server.address).await.expect("the server accepts");
        for text in texts.iter().take(LONE_TEXTS) {
            let request = request(role, text);
            let sent = Instant::now();
            assert_eq!(connection.ask(&request).await.expect("the server replies"), 200);
            let served_ms = sent.elapsed().as_secs_f64() * 1e3;
            let bare_ms = ceiling.run_alone(text).as_secs_f64() * 1e3;
            served.push(served_ms);
            bare.push(bare_ms);
            added.push(served_ms - bare_ms);
        }
    });
    let middle = |figures: &[f64]| median(figures).unwrap_or(f64::NAN);
    Lone {
        role: role.to_owned(),
        precision: precision.to_owned(),
        requests: served.len(),
        server_p50_ms: middle(&served),
        bare_p50_ms: middle(&bare),
        added_p50_ms: middle(&added),
    }
}

fn start(arguments: &Arguments, role: &str, precision: &str, cache_mb: u64) -> Server {
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

/// Numbers of texts in which the first of [`POPULAR`] come up more often than the last, by Zipf's law.
fn popular(seed: u64) -> Vec<usize> {
    let mut numbers = Numbers::new(seed);
    let draw = |numbers: &mut Numbers| ((POPULAR as f64).powf(numbers.fraction()) as usize).min(POPULAR) - 1;
    (0..CORPUS).map(|_| draw(&mut numbers)).collect()
}

fn cpu_name() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
}
