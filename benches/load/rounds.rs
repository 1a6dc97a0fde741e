//! Rounds of load on one server, each followed by the bare session on the texts that were just served.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::CORPUS;
use crate::ceiling::Ceiling;
use crate::client::{self, Choose, Connection, Outcome, closed_loop, open_loop, request};
use crate::process::{Counts, Memory, Server, cpu_seconds};
use crate::report::{Lone, Row, median};
use crate::texts::Numbers;

/// Texts that requests choose from where the cache is measured, the first ones more often.
const POPULAR: usize = 4000;

/// The first of them, which the cache holds before anything is measured: five of six requests ask for one.
const CACHED_BEFORE: usize = 1000;

/// Connections while the server warms up.
const WARM_UP_CLIENTS: usize = 8;

/// Texts sent one by one to see what the server adds to each.
const LONE_TEXTS: usize = 200;

/// How requests come.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// From this many connections, each with one request at a time.
    Closed(usize),
    /// So many a second.
    Open(f64),
}

/// One server with one model, and the requests that it is asked.
pub struct Measured<'a> {
    pub role: &'a str,
    pub precision: &'a str,
    pub cache_mb: u64,
    pub server: &'a Server,
    pub texts: &'a [String],
    requests: Rc<Vec<Vec<u8>>>,
    /// Seed of the next draw of popular texts: no two rounds ask the same ones in the same order.
    draws: u64,
}

impl<'a> Measured<'a> {
    /// Brings files into the page cache, arenas to their size, and the most popular texts into the cache.
    pub fn warmed_up(
        (role, precision, cache_mb): (&'a str, &'a str, u64),
        server: &'a Server,
        texts: &'a [String],
    ) -> Self {
        let requests = Rc::new(texts.iter().map(|text| request(role, text)).collect::<Vec<_>>());
        let last_texts: Choose = Box::new(|number| Some(CORPUS - 1 - number % CORPUS));
        closed_loop(server.address, &requests, WARM_UP_CLIENTS, Duration::from_secs(1), last_texts);
        if cache_mb > 0 {
            let most_popular: Choose = Box::new(|number| (number < CACHED_BEFORE).then_some(number));
            closed_loop(server.address, &requests, WARM_UP_CLIENTS, Duration::MAX, most_popular);
        }
        Self { role, precision, cache_mb, server, texts, requests, draws: 0 }
    }

    /// A row of `rounds` rounds; the bare session takes its turn where no cache answers.
    pub fn row(&mut self, pace: Pace, rounds: usize, time: Duration, ceiling: &mut Ceiling) -> Row {
        let mut all = Outcome::default();
        let (mut counts, mut cpu, mut memory) = (Counts::default(), 0.0, Memory::default());
        let mut bare = Vec::new();
        let mut ratios = Vec::new();
        for round in 0..rounds {
            // On a slow machine a round is a few texts: each has others.
            let first = round * CORPUS / rounds;
            let choose = self.choose(first);
            let (before, cpu_before) = (self.server.counts(self.role), cpu_seconds(self.server.pid));
            let (outcome, most) = self.server.most_memory_during(|| match pace {
                Pace::Closed(clients) => closed_loop(self.server.address, &self.requests, clients, time, choose),
                Pace::Open(rate) => open_loop(self.server.address, &self.requests, rate, time, choose),
            });
            let cpu_round = cpu_seconds(self.server.pid) - cpu_before;
            counts = counts.plus(self.server.counts(self.role).since(before));
            memory = memory.max(most);
            cpu += cpu_round;
            let served = outcome.latencies.len();
            if self.cache_mb == 0 && served > 0 {
                let alone = ceiling.run(first, served);
                ratios.push((served as f64 / cpu_round) / (alone.texts as f64 / alone.cpu_seconds));
                bare.push(alone);
            }
            all.errors += outcome.errors;
            all.elapsed += outcome.elapsed;
            all.latencies.extend(outcome.latencies);
        }
        self.result(pace, &all, counts, cpu, memory).beside(&bare, ratios)
    }

    /// The texts of the next round: in their order from `first`, or popular ones where there is a cache.
    fn choose(&mut self, first: usize) -> Choose {
        if self.cache_mb == 0 {
            return Box::new(move |number| Some((first + number) % CORPUS));
        }
        let popular = popular(self.draws);
        self.draws += 1;
        Box::new(move |number| Some(popular[number % popular.len()]))
    }

    fn result(&self, pace: Pace, outcome: &Outcome, counts: Counts, cpu: f64, memory: Memory) -> Row {
        let (texts, seconds) = (outcome.latencies.len(), outcome.elapsed.as_secs_f64());
        let all_padding = counts.padding_tokens + counts.attention_padding_tokens;
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let (load, clients, rate) = match pace {
            Pace::Closed(clients) => ("closed", Some(clients), None),
            Pace::Open(rate) => ("open", None, Some(rate)),
        };
        Row {
            role: self.role.to_owned(),
            precision: self.precision.to_owned(),
            cache_mb: self.cache_mb,
            load,
            clients,
            rate,
            texts,
            seconds,
            texts_per_second: texts as f64 / seconds,
            p50_ms: outcome.percentile_ms(0.5),
            p90_ms: outcome.percentile_ms(0.9),
            p99_ms: outcome.percentile_ms(0.99),
            errors: outcome.errors,
            batches: counts.batches,
            tokens: counts.tokens,
            texts_per_batch: share(counts.texts, counts.batches),
            padding_share: share(counts.padding_tokens, counts.tokens + counts.padding_tokens),
            attention_padding_share: share(all_padding, counts.tokens + all_padding),
            cache_hit_share: share(counts.cache_hits, counts.cache_hits + counts.cache_misses),
            server_cpu_seconds: cpu,
            texts_per_cpu_second: texts as f64 / cpu,
            ceiling: None,
            most_memory: memory,
        }
    }

    /// One text after the other: through the server, and through tokenizer and session alone.
    pub fn lone(&self, ceiling: &mut Ceiling) -> Lone {
        let (mut served, mut bare, mut added) = (Vec::new(), Vec::new(), Vec::new());
        client::run(async {
            let mut connection = Connection::open(self.server.address).await.expect("the server accepts");
            for (request, text) in self.requests.iter().zip(self.texts).take(LONE_TEXTS) {
                let sent = Instant::now();
                assert_eq!(connection.ask(request).await.expect("the server replies"), 200);
                let served_ms = sent.elapsed().as_secs_f64() * 1e3;
                let bare_ms = ceiling.run_alone(text).as_secs_f64() * 1e3;
                served.push(served_ms);
                bare.push(bare_ms);
                added.push(served_ms - bare_ms);
            }
        });
        let middle = |figures: &[f64]| median(figures).unwrap_or(f64::NAN);
        Lone {
            role: self.role.to_owned(),
            precision: self.precision.to_owned(),
            requests: served.len(),
            server_p50_ms: middle(&served),
            bare_p50_ms: middle(&bare),
            added_p50_ms: middle(&added),
        }
    }
}

/// Numbers of texts in which the first of [`POPULAR`] come up more often than the last, by Zipf's law.
fn popular(seed: u64) -> Vec<usize> {
    let mut numbers = Numbers::new(seed);
    let draw = |numbers: &mut Numbers| ((POPULAR as f64).powf(numbers.fraction()) as usize).min(POPULAR) - 1;
    (0..CORPUS).map(|_| draw(&mut numbers)).collect()
}
