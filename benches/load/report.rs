//! Measurements as a table and as JSON.

use serde::Serialize;

use crate::process::Memory;

/// One stretch of load on one server.
#[derive(Debug, Serialize)]
pub struct Row {
    pub role: String,
    pub precision: String,
    pub cache_mb: u64,
    /// `closed` or `open`.
    pub load: &'static str,
    /// Connections of a closed loop.
    pub clients: Option<usize>,
    /// Requests a second of an open loop.
    pub rate: Option<f64>,
    pub texts: usize,
    pub tokens: usize,
    pub seconds: f64,
    pub texts_per_second: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub errors: usize,
    pub batches: u64,
    pub texts_per_batch: f64,
    /// Of the tokens that every layer computes.
    pub padding_share: f64,
    /// Of the cells that attention sees.
    pub attention_padding_share: f64,
    pub cache_hit_share: f64,
    pub server_cpu_seconds: f64,
    pub texts_per_cpu_second: f64,
    /// Of the bare session, right after it on the same texts; absent where the cache answers.
    pub ceiling_texts_per_cpu_second: Option<f64>,
    pub ceiling_texts_per_second: Option<f64>,
    /// Median over the rounds of the two figures' ratio, each taken within one round.
    pub ceiling_ratio: Option<f64>,
    pub ceiling_ratio_rounds: Vec<f64>,
    pub memory: Memory,
}

/// What the server adds to a lone text.
#[derive(Debug, Serialize)]
pub struct Lone {
    pub role: String,
    pub precision: String,
    pub requests: usize,
    pub server_p50_ms: f64,
    pub bare_p50_ms: f64,
    /// Median over the texts of server less bare on the same text.
    pub added_p50_ms: f64,
}

/// Everything that one call measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub machine: String,
    pub cores: usize,
    pub inference_threads: usize,
    pub max_batch_tokens: usize,
    pub rows: Vec<Row>,
    pub lone: Vec<Lone>,
}

pub fn print_heading() {
    println!(
        "| model | cache MB | load | texts/s | p50 ms | p90 ms | p99 ms | errors | texts a batch | padding % (in attention) | cache hits % | texts per CPU-s | resident MB (anonymous) |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
}

impl Row {
    pub fn print(&self) {
        let load = match (self.clients, self.rate) {
            (Some(clients), _) => format!("{clients} clients"),
            (None, rate) => format!("{:.0}/s", rate.unwrap_or(0.0)),
        };
        println!(
            "| {} {} | {} | {load} | {:.1} | {:.1} | {:.1} | {:.1} | {} | {:.1} | {:.1} ({:.1}) | {:.0} | {:.1} | {:.0} ({:.0}) |",
            self.role,
            self.precision,
            self.cache_mb,
            self.texts_per_second,
            self.p50_ms,
            self.p90_ms,
            self.p99_ms,
            self.errors,
            self.texts_per_batch,
            self.padding_share * 100.0,
            self.attention_padding_share * 100.0,
            self.cache_hit_share * 100.0,
            self.texts_per_cpu_second,
            self.memory.resident_mb,
            self.memory.anonymous_mb,
        );
        if let (Some(ratio), Some(per_cpu_second), Some(per_second)) =
            (self.ceiling_ratio, self.ceiling_texts_per_cpu_second, self.ceiling_texts_per_second)
        {
            let rounds: Vec<_> = self.ceiling_ratio_rounds.iter().map(|ratio| format!("{ratio:.3}")).collect();
            println!(
                "ceiling ratio {ratio:.3} ({} {}, {load}; rounds {}): {:.1} of {per_cpu_second:.1} texts per CPU-second; wall clock {:.1} of {per_second:.1} texts/s",
                self.role,
                self.precision,
                rounds.join(" "),
                self.texts_per_cpu_second,
                self.texts_per_second,
            );
        }
    }
}

impl Lone {
    pub fn print(&self) {
        println!(
            "lone request ({} {}, {} texts): p50 {:.2} ms, bare session and tokenizer {:.2} ms, added {:.2} ms",
            self.role, self.precision, self.requests, self.server_p50_ms, self.bare_p50_ms, self.added_p50_ms
        );
    }
}

/// The middle of some figures.
pub fn median(figures: &[f64]) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len().is_multiple_of(2) { (sorted[sorted.len() / 2 - 1] + upper) / 2.0 } else { upper })
}
