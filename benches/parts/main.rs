//! Each part of a request's way alone: tokenizing, the queue, forming a batch, one run, the analysis, JSON.
//!
//! `make bench`, or `make bench ARGS=run/heavy_int8` for those whose name holds that.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot go on must end")]

#[path = "../support/texts.rs"]
#[allow(dead_code, reason = "shared with the load test")]
mod texts;

use std::collections::VecDeque;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use emotion_server::analysis::{Settings, analyze};
use emotion_server::inference::batch::{Padding, form_batch};
use emotion_server::inference::fairness::{ClientId, Flow};
use emotion_server::inference::prepared::PreparedStore;
use emotion_server::inference::queue::{Job, Queue, QueueLimits};
use emotion_server::inference::runtime;
use emotion_server::inference::session::{InferenceSession, LoadStop};
use emotion_server::model::{Bundle, Encoding, LongText, Precision, TextTokenizer, TruncationSide};
use texts::{mixed, of_words};
use tokio::sync::oneshot;

const MODELS: [(&str, &str); 2] = [("heavy", "goemotions"), ("light", "ekman")];

/// Texts and tokens of the runs: lone ones, usual batches, full ones, and a long text.
const SHAPES: [(usize, usize); 7] = [(1, 8), (1, 20), (4, 20), (8, 20), (16, 32), (4, 128), (1, 400)];

/// The same for int4, whose runs take longer and differ from int8 by much the same factor.
const INT4_SHAPES: [(usize, usize); 3] = [(1, 20), (16, 32), (1, 400)];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    tokenization(&mut criterion);
    queue(&mut criterion);
    batch_forming(&mut criterion);
    run(&mut criterion);
    analysis_and_json(&mut criterion);
    criterion.final_summary();
}

fn bundle(name: &str, precision: Precision) -> Bundle {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx").join(name);
    Bundle::open(&directory, precision).expect("the bundle is whole")
}

fn tokenizer(bundle: &Bundle) -> TextTokenizer {
    TextTokenizer::load(&bundle.tokenizer_path(), bundle.max_length).expect("the tokenizer loads")
}

fn tokenization(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tokenize");
    for (role, name) in MODELS {
        let tokenizer = tokenizer(&bundle(name, Precision::Int8));
        for words in [5, 20, 40, 400] {
            let text = of_words(words, 1);
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_with_input(BenchmarkId::new(role, words), &text, |bencher, text| {
                bencher.iter(|| tokenizer.encode(black_box(text), LongText::Truncate, TruncationSide::Right));
            });
        }
    }
    group.finish();
}

/// A batch out of the queue, and its texts in again, each as a request of its own: so many wait before and after.
fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    for waiting in [32, 1000] {
        let queue = Queue::new(QueueLimits { max_texts: 4 * waiting, max_tokens: usize::MAX });
        let push = |job: Job| {
            let mut request = VecDeque::from([Job { flow: Flow::of(ClientId::of(&())), ..job }]);
            assert_eq!(queue.push(&mut request, 1000.0), Ok(1));
        };
        // A job whose receiver is gone, or whose deadline has passed, would be dropped.
        let mut receivers = Vec::new();
        for tokens in token_counts(waiting) {
            let (reply, receiver) = oneshot::channel();
            receivers.push(receiver);
            let (encoding, now) = (Arc::new(encoding(tokens)), Instant::now());
            let deadline = now + Duration::from_secs(3600);
            push(Job { flow: Flow::of(ClientId::of(&())), encoding, deadline, queued_at: now, reply });
        }
        group.bench_function(BenchmarkId::new("take_and_push_again", waiting), |bencher| {
            bencher.iter(|| queue.take(512, Padding::LeftOut, None).expect("it is open").into_iter().for_each(push));
        });
        assert_eq!(queue.depth().texts, waiting);
    }
    group.finish();
}

/// About as many tokens as texts of mixed lengths have.
fn token_counts(texts: usize) -> Vec<usize> {
    mixed(texts).iter().map(|text| text.split(' ').count() * 6 / 5 + 2).collect()
}

fn batch_forming(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("form_batch");
    for waiting in [8, 32, 128, 512] {
        let lengths = token_counts(waiting);
        for (name, padding) in [("padding_left_out", Padding::LeftOut), ("padding_computed", Padding::Computed)] {
            group.bench_with_input(BenchmarkId::new(name, waiting), &lengths, |bencher, lengths| {
                bencher.iter(|| form_batch(black_box(lengths), 512, padding));
            });
        }
    }
    group.finish();
}

fn run(criterion: &mut Criterion) {
    let environment = runtime::environment(None).expect("ONNX Runtime is there");
    let store = PreparedStore::new(PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/prepared")));
    let mut group = criterion.benchmark_group("run");
    for (precision, shapes) in [(Precision::Int8, &SHAPES[..]), (Precision::Int4, &INT4_SHAPES)] {
        for (role, name) in MODELS {
            let bundle = bundle(name, precision);
            let weights = store.write(None, &bundle).expect("the weights are prepared");
            let mut session =
                InferenceSession::load(environment, &bundle, &weights, &LoadStop::default()).expect("the graph loads");
            for (texts, tokens) in shapes {
                let encodings: Vec<Encoding> = (0..*texts).map(|_| encoding(*tokens)).collect();
                let batch: Vec<&Encoding> = encodings.iter().collect();
                group.throughput(Throughput::Elements((texts * tokens) as u64));
                let id = BenchmarkId::new(format!("{role}_{precision}"), format!("{texts}x{tokens}"));
                group.bench_function(id, |bencher| {
                    bencher.iter(|| session.run(&batch, false).expect("the session runs"));
                });
            }
        }
    }
    group.finish();
}

/// Ids of usual words, which both models' vocabularies have.
fn encoding(tokens: usize) -> Encoding {
    let input_ids = (0..tokens).map(|position| 2000 + (position as u32 * 37) % 5000).collect();
    Encoding { input_ids, type_ids: Box::default() }
}

fn analysis_and_json(criterion: &mut Criterion) {
    let bundle = bundle("goemotions", Precision::Int8);
    let text = of_words(20, 1);
    let scores: Vec<f32> = (0..bundle.labels.len()).map(|index| 0.6 / (1.0 + index as f32)).collect();
    let labels: Arc<[Arc<str>]> = Arc::clone(&bundle.labels);
    let settings = Settings::default();
    criterion.bench_function("analyze", |bencher| {
        bencher.iter(|| analyze(black_box(&text), &labels, &scores, &settings));
    });
    let analysis = analyze(&text, &labels, &scores, &settings);
    // The request and the reply of the wire are the server's own; these are the most of each.
    criterion.bench_function("json/write_analysis", |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(&analysis)).expect("an analysis is plain"));
    });
    let request = serde_json::json!({"text": text, "model": "heavy"}).to_string().into_bytes();
    criterion.bench_function("json/read_value", |bencher| {
        bencher.iter_batched(
            || request.clone(),
            |request| serde_json::from_slice::<serde_json::Value>(&request),
            BatchSize::SmallInput,
        );
    });
}
