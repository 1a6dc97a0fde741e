//! A text's logits are the same bits alone and in any company: what makes batching and the cache sound.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use emotion_server::cache::LogitsCache;
use emotion_server::classifier::{Classifier, ClientId, Flow, Query, TextInput};
use emotion_server::config::ModelArgs;
use emotion_server::metrics::Metrics;
use emotion_server::model::{LongText, Precision, Role, TruncationSide};
use emotion_server::residency::{Residency, UnloadCause, Wanted};

use crate::support::{cache_folder, models_folder, program};

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    models: ModelArgs,
}

/// The classifier inside of this process, without a cache: over the wire scores are rounded.
fn classifier(precision: Precision) -> Classifier {
    let mut models = Settings::parse_from(["test"]).models;
    models.model_dir = Some(models_folder());
    models.model_cache_dir = Some(cache_folder());
    models.model_precision = precision;
    models.inference_threads = Some(2);
    let mut settings = models.residency_settings().unwrap();
    settings.prepare_program = PathBuf::from(program());
    let (cache, metrics) = (Arc::new(LogitsCache::new(0)), Arc::new(Metrics::new()));
    Classifier::new(Residency::new(settings, Arc::clone(&cache), Arc::clone(&metrics)), cache, metrics, 2)
}

/// Texts of 1 to about 200 words.
fn texts(count: usize) -> Vec<String> {
    let words = [
        "I",
        "am",
        "so",
        "happy",
        "sad",
        "that",
        "the",
        "storm",
        "took",
        "our",
        "house",
        "but",
        "nobody",
        "was",
        "hurt",
        "and",
        "now",
        "we",
        "laugh",
        "about",
        "it",
        "😂",
        "never",
        "mind",
        "unbelievable",
        "!",
        "who",
        "knows",
    ];
    // A linear congruential generator: the same texts in every run.
    let mut state = 1_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    (0..count)
        .map(|number| {
            let length = if number % 20 == 0 { 60 + next(140) } else { 1 + next(30) };
            (0..length).map(|_| words[next(words.len())]).collect::<Vec<_>>().join(" ")
        })
        .collect()
}

async fn bits(classifier: &Classifier, wanted: Wanted, texts: &[String]) -> Vec<Vec<u32>> {
    let query = Query {
        texts: texts.iter().map(|text| TextInput::Single(text.as_str().into())).collect(),
        wanted,
        long_text: LongText::Truncate,
        truncation_side: TruncationSide::Right,
        deadline: Instant::now() + Duration::from_secs(120),
        flow: Flow::of(ClientId::of(&())),
    };
    let answers = classifier.classify(query).await.unwrap();
    answers.iter().map(|answer| answer.windows[0].0.iter().map(|logit| logit.to_bits()).collect()).collect()
}

#[test]
fn the_logits_of_a_text_are_the_same_bits_alone_and_in_any_request() {
    every_request_gives_the_same_bits(Precision::Int8, 120, 400);
}

#[test]
fn the_logits_of_int4_are_the_same_bits_alone_and_in_any_request() {
    every_request_gives_the_same_bits(Precision::Int4, 14, 140);
}

fn every_request_gives_the_same_bits(precision: Precision, heavy: usize, light: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let classifier = classifier(precision);
    for (wanted, count) in [(Wanted::Heavy { strict: true }, heavy), (Wanted::Light, light)] {
        let texts = texts(count);
        let mut alone = HashMap::new();
        for text in &texts {
            let of_text = runtime.block_on(bits(&classifier, wanted, std::slice::from_ref(text)));
            alone.insert(text, of_text[0].clone());
        }
        let differ = |some: &[String]| {
            let together = runtime.block_on(bits(&classifier, wanted, some));
            some.iter().zip(together).filter(|(text, bits)| alone[text] != *bits).count()
        };
        assert_eq!(differ(&texts), 0, "of {count} texts in one request, {wanted:?}");
        let reversed: Vec<_> = texts.iter().rev().cloned().collect();
        assert_eq!(differ(&reversed), 0, "of {count} texts in the other order, {wanted:?}");
        for some in texts.chunks(7) {
            assert_eq!(differ(some), 0, "of 7 texts in one request, {wanted:?}");
        }
    }
    for role in Role::ALL {
        classifier.residency().unload(role, UnloadCause::Shutdown);
    }
}
