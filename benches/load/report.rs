//! Measurements as a table and as JSON.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::ceiling::Bare;
use crate::machine::Machine;
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
    /// Texts served.
    pub texts: usize,
    pub seconds: f64,
    pub texts_per_second: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub errors: usize,
    pub batches: u64,
    /// Tokens in those batches, without padding; what the cache answers has none.
    pub tokens: u64,
    pub texts_per_batch: f64,
    /// Of the tokens that every layer computes.
    pub padding_share: f64,
    /// Of the cells that attention sees.
    pub attention_padding_share: f64,
    pub cache_hit_share: f64,
    pub server_cpu_seconds: f64,
    pub texts_per_cpu_second: f64,
    /// The bare session, right after it on the same texts; absent where the cache answers.
    pub ceiling: Option<CeilingFigures>,
    /// The most of each figure while there was load.
    pub most_memory: Memory,
}

/// What the bare session reached, and how near the server came.
#[derive(Debug, Serialize)]
pub struct CeilingFigures {
    pub texts_per_cpu_second: f64,
    pub texts_per_second: f64,
    /// Server over bare session in texts for each CPU-second: the median over the rounds, each taken within one round.
    pub ratio: f64,
    pub ratio_rounds: Vec<f64>,
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
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub server_version: String,
    pub inference_threads: usize,
    pub max_batch_tokens: usize,
    /// Length of a round.
    pub seconds: f64,
    pub rounds: usize,
    pub rows: Vec<Row>,
    pub lone: Vec<Lone>,
}

impl Report {
    /// Writes what is known so far; whoever reads the file sees it whole.
    pub fn write(&self, path: &Path) {
        let json = serde_json::to_vec_pretty(self).expect("the report is plain");
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, json).expect("the report can be written");
        fs::rename(&unfinished, path).expect("the report can be renamed");
    }
}

pub fn print_heading() {
    println!(
        "| model | cache MB | load | texts/s | p50 ms | p90 ms | p99 ms | errors | texts a batch | padding % (in attention) | cache hits % | texts per CPU-s | resident MB at most (anonymous) |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
}

impl Row {
    /// With what the bare session reached in its turns, if it had any.
    pub fn beside(mut self, bare: &[Bare], ratio_rounds: Vec<f64>) -> Self {
        let texts: usize = bare.iter().map(|round| round.texts).sum();
        let cpu_seconds: f64 = bare.iter().map(|round| round.cpu_seconds).sum();
        let seconds: f64 = bare.iter().map(|round| round.elapsed.as_secs_f64()).sum();
        self.ceiling = median(&ratio_rounds).map(|ratio| CeilingFigures {
            texts_per_cpu_second: texts as f64 / cpu_seconds,
            texts_per_second: texts as f64 / seconds,
            ratio,
            ratio_rounds,
        });
        self
    }

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
            self.most_memory.proportional_mb,
            self.most_memory.anonymous_mb,
        );
        if let Some(ceiling) = &self.ceiling {
            let rounds: Vec<_> = ceiling.ratio_rounds.iter().map(|ratio| format!("{ratio:.3}")).collect();
            println!(
                "ceiling ratio {:.3} ({} {}, {load}; rounds {}): {:.1} of {:.1} texts per CPU-second; wall clock {:.1} of {:.1} texts/s",
                ceiling.ratio,
                self.role,
                self.precision,
                rounds.join(" "),
                self.texts_per_cpu_second,
                ceiling.texts_per_cpu_second,
                self.texts_per_second,
                ceiling.texts_per_second,
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
