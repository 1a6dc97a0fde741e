//! What the cache of answers takes, beside what it says that it takes.

use std::process::Command;

use emotion_server::cache::{CacheKey, LogitsCache, Lookup};
use emotion_server::classifier::ClientId;
use emotion_server::model::bundle::Precision;
use emotion_server::model::{Bundle, Encoding, Role};
use emotion_server::residency::reclaim;

use crate::group::MB;
use crate::support;

const CAPACITY_BYTES: u64 = 32 * MB;

/// Tokens of each text.
const TOKENS: &str = "TOKENS";

#[test]
fn a_cache_takes_as_much_memory_as_it_says() {
    for tokens in ["8", "30", "200"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--ignored", "--exact", "--nocapture", "cache::fill_a_cache"]).env(TOKENS, tokens);
        let output = String::from_utf8(child.output().unwrap().stdout).unwrap();
        let figures = output.lines().find_map(|line| line.strip_prefix("figures: ")).expect(&output);
        let [told, taken, kept] = [0, 1, 2].map(|index| figures.split(' ').nth(index).unwrap().parse::<f64>().unwrap());
        let mb = |bytes: f64| bytes / MB as f64;
        println!("{tokens} tokens: told {:.1} MB, taken {:.1}, after clear {:.1}", mb(told), mb(taken), mb(kept));
        assert!((0.9..1.1).contains(&(taken / told)), "{tokens} tokens: {figures}");
    }
}

fn anonymous_bytes() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
#[ignore = "not a test: a process of its own, whose memory nobody else changes"]
fn fill_a_cache() {
    let tokens: usize = std::env::var(TOKENS).unwrap().parse().unwrap();
    let bundle = Bundle::open(&support::models_folder().join("goemotions"), Precision::Int8).unwrap();
    let cache = LogitsCache::new(CAPACITY_BYTES);
    let before = anonymous_bytes();
    // Twice what fits, so that what is remembered of dropped texts counts too.
    let bytes_of_one = 216 + 4 * (tokens as u64 + 28);
    let client = ClientId::of(&"this test");
    for number in 0..(2 * CAPACITY_BYTES / bytes_of_one) as u32 {
        let input_ids: Box<[u32]> = (0..tokens as u32).map(|place| number.wrapping_mul(place + 1)).collect();
        let key = CacheKey::new(Role::Heavy, &bundle, Encoding { input_ids, type_ids: Box::default() });
        let Lookup::Miss(Some(flight)) = cache.look(&key, client) else { panic!("text {number} is new") };
        flight.land(vec![0.5; 28].into());
    }
    let (told, taken) = (cache.bytes(), anonymous_bytes() - before);
    cache.clear();
    reclaim::trim();
    println!("figures: {told} {taken} {}", anonymous_bytes().saturating_sub(before));
}
