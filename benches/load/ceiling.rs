//! What the chip could do: the same texts straight through the same sessions, in ideal batches.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use emotion_server::inference::prepared::PreparedStore;
use emotion_server::inference::runtime;
use emotion_server::inference::session::{InferenceSession, LoadStop};
use emotion_server::model::{Bundle, Encoding, LongText, TextTokenizer, TruncationSide};

use crate::process::cpu_seconds;

/// The model without a server around it.
pub struct Ceiling {
    sessions: Vec<InferenceSession>,
    tokenizer: TextTokenizer,
    encodings: Vec<Encoding>,
    max_batch_tokens: usize,
}

/// What one stretch brought.
#[derive(Debug, Clone, Copy)]
pub struct Bare {
    pub texts: usize,
    pub elapsed: Duration,
    pub cpu_seconds: f64,
}

impl Ceiling {
    /// As many sessions as the server has workers, from prepared weights as the server's are.
    ///
    /// Weights and `library` are copied to `own` first: of a page that both processes mapped from one
    /// file, the proportional set size would give the server only a part.
    pub fn open(
        bundle: &Bundle,
        library: &Path,
        own: &Path,
        threads: usize,
        max_batch_tokens: usize,
        texts: &[String],
    ) -> Self {
        fs::create_dir_all(own).expect("a folder can be made");
        let own_library = own.join(runtime::LIBRARY_FILE);
        // Not over a copy that this process has mapped.
        if !own_library.exists() {
            fs::copy(library, &own_library).expect("the library can be copied");
        }
        let environment = runtime::environment(Some(&own_library)).expect("ONNX Runtime is there");
        let store = PreparedStore::new(own.to_path_buf());
        let weights = store.write(Some(&own_library), bundle).expect("the weights are prepared");
        let session =
            || InferenceSession::load(environment, bundle, &weights, &LoadStop::default()).expect("the graph loads");
        let tokenizer = TextTokenizer::load(&bundle.tokenizer_path(), bundle.max_length).expect("the tokenizer loads");
        let encodings = texts.iter().map(|text| encode(&tokenizer, text)).collect();
        Self { sessions: (0..threads).map(|_| session()).collect(), tokenizer, encodings, max_batch_tokens }
    }

    /// Runs `count` texts from `first` on all threads, sorted by length, in full batches.
    pub fn run(&mut self, first: usize, count: usize) -> Bare {
        let mut encodings: Vec<&Encoding> = self.encodings.iter().cycle().skip(first).take(count).collect();
        encodings.sort_by_key(|encoding| encoding.len());
        let batches = full_batches(&encodings, self.max_batch_tokens);
        let next = AtomicUsize::new(0);
        let (started, cpu_before) = (Instant::now(), cpu_seconds(std::process::id()));
        thread::scope(|scope| {
            for session in &mut self.sessions {
                scope.spawn(|| {
                    while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                        session.run(batch, false).expect("the session runs");
                    }
                });
            }
        });
        let cpu_seconds = cpu_seconds(std::process::id()) - cpu_before;
        Bare { texts: count, elapsed: started.elapsed(), cpu_seconds }
    }

    /// Time to tokenize one text and run it alone.
    pub fn run_alone(&mut self, text: &str) -> Duration {
        let started = Instant::now();
        let encoding = encode(&self.tokenizer, text);
        self.sessions[0].run(&[&encoding], false).expect("the session runs");
        started.elapsed()
    }
}

fn encode(tokenizer: &TextTokenizer, text: &str) -> Encoding {
    let encoded = tokenizer.encode(text, LongText::Truncate, TruncationSide::Right).expect("the text is tokenized");
    encoded.windows.into_iter().next().expect("a text has a window")
}

/// Sorted texts cut into runs of at most `max_tokens`, padding counted.
fn full_batches<'a>(sorted: &[&'a Encoding], max_tokens: usize) -> Vec<Vec<&'a Encoding>> {
    let mut batches: Vec<Vec<&Encoding>> = Vec::new();
    for encoding in sorted {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * encoding.len() <= max_tokens => batch.push(encoding),
            _ => batches.push(vec![encoding]),
        }
    }
    // Long ones first, so that no thread is left alone with one at the end.
    batches.reverse();
    batches
}
