//! Packed layers beside the graph as ONNX Runtime prepares it: CPU time of runs and loads, in turn, in one process.
//!
//! `make bench-packed`
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot go on must end")]

use std::fs;
use std::path::Path;

use emotion_server::inference::prepared::PreparedStore;
use emotion_server::inference::runtime;
use emotion_server::inference::session::{InferenceSession, LoadStop, Weights, save_prepacked};
use emotion_server::model::{Bundle, Encoding, Precision};

/// Texts and tokens of a run.
const SHAPES: [(usize, usize); 5] = [(1, 8), (1, 20), (1, 128), (8, 20), (32, 20)];
const ROUNDS: usize = 15;
/// Tokens of the runs of one round, at least.
const ROUND_TOKENS: usize = 640;

fn main() {
    println!("CPU time in ms, median of {ROUNDS} rounds in turn: prepacked by ONNX Runtime, packed, ratio");
    let environment = runtime::environment(None).expect("ONNX Runtime is there");
    for name in ["goemotions", "ekman"] {
        let bundle = Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx").join(name), Precision::Int8);
        let bundle = bundle.expect("the bundle is whole");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("beside");
        fs::create_dir_all(&folder).expect("a folder can be made");
        let graph = folder.join(format!("{name}.onnx"));
        save_prepacked(environment, &bundle, &graph).expect("the weights are prepared");
        let packed = PreparedStore::new(folder).write(None, &bundle).expect("the weights are packed");
        let both = [Weights::Prepacked(graph), packed];
        let load = |weights: &Weights| InferenceSession::load(environment, &bundle, weights, &LoadStop::default());
        compare(&format!("{name}, load"), both.each_ref().map(|weights| || drop(load(weights).expect("it loads"))));
        let [mut old, mut new] = both.each_ref().map(|weights| load(weights).expect("it loads"));
        for (texts, tokens) in SHAPES {
            let encodings: Vec<Encoding> = (0..texts).map(|number| encoding(number, tokens)).collect();
            let batch: Vec<&Encoding> = encodings.iter().collect();
            let runs = (ROUND_TOKENS / (texts * tokens)).max(1);
            let many = |session: &mut InferenceSession| {
                for _ in 0..runs {
                    session.run(&batch, false).expect("the session runs");
                }
            };
            let measured: [&mut dyn FnMut(); 2] = [&mut || many(&mut old), &mut || many(&mut new)];
            compare_runs(&format!("{name}, {texts}x{tokens}"), measured, runs);
        }
    }
}

fn compare<F: FnMut()>(what: &str, [mut old, mut new]: [F; 2]) {
    compare_runs(what, [&mut old, &mut new], 1);
}

fn compare_runs(what: &str, both: [&mut dyn FnMut(); 2], runs: usize) {
    let mut taken: [Vec<f64>; 2] = Default::default();
    let mut ratios = Vec::new();
    let mut of = both;
    for round in 0..=ROUNDS {
        let now = of.each_mut().map(|measured| {
            let before = thread_cpu_ms();
            measured();
            (thread_cpu_ms() - before) / runs as f64
        });
        // The first round brings pages and caches in.
        if round > 0 {
            taken.iter_mut().zip(now).for_each(|(all, now)| all.push(now));
            ratios.push(now[1] / now[0]);
        }
    }
    let [old, new] = taken.map(median);
    println!("{what:20} {old:8.2} {new:8.2} {:6.2}", median(ratios));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A session of one thread runs on the thread that asks it.
fn thread_cpu_ms() -> f64 {
    let taken = fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts CPU time");
    taken.split(' ').next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).expect("a number") / 1e6
}

/// Ids of usual words, which both models' vocabularies have.
fn encoding(text: usize, tokens: usize) -> Encoding {
    let id = |position: usize| 2000 + ((text * 131 + position * 37) % 5000) as u32;
    Encoding { input_ids: (0..tokens).map(id).collect(), type_ids: Box::default() }
}
