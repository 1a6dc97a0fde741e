//! Counters and gauges for operators, in Prometheus terms: base units, bounded label values.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::model::Role;

/// First part of every metric's name.
pub const PREFIX: &str = "emotion";

impl EncodeLabelValue for Role {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.as_str())
    }
}

/// Label of the model's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoleLabel {
    /// `heavy` or `light`.
    pub role: Role,
}

/// Labels of an event with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoleReason {
    /// `heavy` or `light`.
    pub role: Role,
    /// One of a fixed set of words.
    pub reason: &'static str,
}

/// Label of an event's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    /// One of a fixed set of words.
    reason: &'static str,
}

/// Which models answered the texts of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Answered {
    /// No model.
    #[default]
    None,
    /// The heavy one.
    Heavy,
    /// The light one.
    Light,
    /// Some texts by one, some by the other.
    Both,
}

impl Answered {
    /// With one more text, answered by `role`.
    #[must_use]
    pub fn and(self, role: Role) -> Self {
        match (self, role) {
            (Self::None | Self::Heavy, Role::Heavy) => Self::Heavy,
            (Self::None | Self::Light, Role::Light) => Self::Light,
            (Self::Heavy | Self::Both, Role::Light) | (Self::Light | Self::Both, Role::Heavy) => Self::Both,
        }
    }

    /// The word for it in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Heavy => Role::Heavy.as_str(),
            Self::Light => Role::Light.as_str(),
            Self::Both => "both",
        }
    }
}

/// Labels of a finished request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: u16,
    role: &'static str,
}

/// Label of a route's pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: String,
}

/// All metrics of the process, shared by every part that counts something.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_time: Family<RouteLabel, Histogram>,
    requests_in_flight: Gauge<i64, AtomicI64>,
    tokenization: Family<RoleLabel, Histogram>,
    queue: Family<RoleLabel, Histogram>,
    batch_size: Family<RoleLabel, Histogram>,
    batch_length: Family<RoleLabel, Histogram>,
    batches: Family<RoleLabel, Counter>,
    batch_texts: Family<RoleLabel, Counter>,
    batch_tokens: Family<RoleLabel, Counter>,
    batch_padding_tokens: Family<RoleLabel, Counter>,
    batch_attention_padding_tokens: Family<RoleLabel, Counter>,
    inference: Family<RoleLabel, Histogram>,
    loads: Family<RoleReason, Counter>,
    load_time: Family<RoleLabel, Gauge<f64, AtomicU64>>,
    unloads: Family<RoleReason, Counter>,
    unloaded_bytes: Family<RoleLabel, Counter>,
    fallbacks: Family<RoleReason, Counter>,
    cache_hits: Counter,
    cache_misses: Counter,
    connections: Gauge<i64, AtomicI64>,
    connections_cut: Family<Reason, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let latency = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let short = || Histogram::new(exponential_buckets(0.000_05, 2.0, 15));
        let metrics = Self {
            requests: Family::default(),
            request_time: Family::new_with_constructor(latency),
            requests_in_flight: Gauge::default(),
            tokenization: Family::new_with_constructor(short),
            queue: Family::new_with_constructor(latency),
            batch_size: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1.0, 2.0, 9))),
            batch_length: Family::new_with_constructor(|| Histogram::new(exponential_buckets(8.0, 2.0, 10))),
            batches: Family::default(),
            batch_texts: Family::default(),
            batch_tokens: Family::default(),
            batch_padding_tokens: Family::default(),
            batch_attention_padding_tokens: Family::default(),
            inference: Family::new_with_constructor(latency),
            loads: Family::default(),
            load_time: Family::default(),
            unloads: Family::default(),
            unloaded_bytes: Family::default(),
            fallbacks: Family::default(),
            cache_hits: Counter::default(),
            cache_misses: Counter::default(),
            connections: Gauge::default(),
            connections_cut: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "requests",
            "Requests by route, status and the role of the model that answered; 499 is a client that left",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "request",
            "Time from a request's head to the end of its reply",
            Unit::Seconds,
            metrics.request_time.clone(),
        );
        registry.register("requests_in_flight", "Requests whose reply is not done", metrics.requests_in_flight.clone());
        registry.register_with_unit(
            "tokenization",
            "Time of tokenizing the texts of a request",
            Unit::Seconds,
            metrics.tokenization.clone(),
        );
        registry.register_with_unit(
            "queue",
            "Time that a text waits for a worker",
            Unit::Seconds,
            metrics.queue.clone(),
        );
        registry.register("batch_size_texts", "Texts in a batch", metrics.batch_size.clone());
        registry.register("batch_size_tokens", "Tokens in a batch, padding counted", metrics.batch_length.clone());
        registry.register("batches", "Batches run", metrics.batches.clone());
        registry.register("batch_texts", "Texts in batches run", metrics.batch_texts.clone());
        registry.register(
            "batch_tokens",
            "Tokens of texts in batches run, padding not counted",
            metrics.batch_tokens.clone(),
        );
        registry.register(
            "batch_padding_tokens",
            "Padding tokens that every layer computed",
            metrics.batch_padding_tokens.clone(),
        );
        registry.register(
            "batch_attention_padding_tokens",
            "Padding tokens that only attention saw",
            metrics.batch_attention_padding_tokens.clone(),
        );
        registry.register_with_unit("inference", "Time of one run", Unit::Seconds, metrics.inference.clone());
        registry.register("model_loads", "Model loads by outcome", metrics.loads.clone());
        registry.register_with_unit("model_load", "Time of the last load", Unit::Seconds, metrics.load_time.clone());
        registry.register("model_unloads", "Model unloads by reason", metrics.unloads.clone());
        registry.register_with_unit(
            "model_unloaded",
            "Memory given back by unloads",
            Unit::Bytes,
            metrics.unloaded_bytes.clone(),
        );
        registry.register(
            "fallbacks",
            "Texts that the light model answered for the heavy one",
            metrics.fallbacks.clone(),
        );
        registry.register("cache_hits", "Texts answered from the cache", metrics.cache_hits.clone());
        registry.register("cache_misses", "Texts not found in the cache", metrics.cache_misses.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register(
            "connections_cut",
            "Connections that the server ended because of what the client sent, did not send, or to make room for others",
            metrics.connections_cut.clone(),
        );
        Self { registry, ..metrics }
    }

    /// Counts a request in.
    pub fn request_begins(&self) {
        self.requests_in_flight.inc();
    }

    /// Counts a request out. `route` must be a pattern, not a path.
    pub fn request_ends(&self, route: String, method: &'static str, status: u16, answered: Answered, time: Duration) {
        self.requests_in_flight.dec();
        let label = RouteLabel { route };
        self.request_time.get_or_create(&label).observe(time.as_secs_f64());
        let labels = RequestLabels { route: label.route, method, status, role: answered.as_str() };
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a connection in.
    pub fn connection_opens(&self) {
        self.connections.inc();
    }

    /// Counts a connection out.
    pub fn connection_closes(&self) {
        self.connections.dec();
    }

    /// Counts a connection that is ended early.
    pub fn connection_cut(&self, reason: &'static str) {
        self.connections_cut.get_or_create(&Reason { reason }).inc();
    }

    /// Requests whose reply is not done.
    #[must_use]
    pub fn requests_in_flight(&self) -> i64 {
        self.requests_in_flight.get()
    }

    /// Counts the tokenizing of one request's texts.
    pub fn tokenized(&self, role: Role, time: Duration) {
        self.tokenization.get_or_create(&RoleLabel { role }).observe(time.as_secs_f64());
    }

    /// Counts the waits of one batch's texts.
    pub fn queued(&self, role: Role, times: impl Iterator<Item = Duration>) {
        let histogram = self.queue.get_or_create(&RoleLabel { role });
        times.for_each(|time| histogram.observe(time.as_secs_f64()));
    }

    /// Counts one run of `texts` texts with `tokens` tokens, and its padding: what every layer
    /// computed, and what only attention saw.
    pub fn batch(&self, role: Role, texts: usize, tokens: usize, padding: (usize, usize), inference: Duration) {
        let label = RoleLabel { role };
        self.batch_size.get_or_create(&label).observe(texts as f64);
        self.batch_length.get_or_create(&label).observe((tokens + padding.0) as f64);
        self.batches.get_or_create(&label).inc();
        self.batch_texts.get_or_create(&label).inc_by(texts as u64);
        self.batch_tokens.get_or_create(&label).inc_by(tokens as u64);
        self.batch_padding_tokens.get_or_create(&label).inc_by(padding.0 as u64);
        self.batch_attention_padding_tokens.get_or_create(&label).inc_by(padding.1 as u64);
        self.inference.get_or_create(&label).observe(inference.as_secs_f64());
    }

    /// Counts a load by its outcome: the way of loading, or why it failed.
    pub fn load(&self, role: Role, outcome: &'static str, time: Duration) {
        self.loads.get_or_create(&RoleReason { role, reason: outcome }).inc();
        self.load_time.get_or_create(&RoleLabel { role }).set(time.as_secs_f64());
    }

    /// Counts an unload and the memory that it gave back.
    pub fn unload(&self, role: Role, reason: &'static str, given_back_bytes: u64) {
        self.unloads.get_or_create(&RoleReason { role, reason }).inc();
        self.unloaded_bytes.get_or_create(&RoleLabel { role }).inc_by(given_back_bytes);
    }

    /// Counts a text that the light model answered instead of the heavy one.
    pub fn fallback(&self, reason: &'static str) {
        self.fallbacks.get_or_create(&RoleReason { role: Role::Heavy, reason }).inc();
    }

    /// Counts a look into the cache.
    pub fn cache_lookup(&self, hit: bool) {
        if hit {
            self.cache_hits.inc()
        } else {
            self.cache_misses.inc()
        };
    }

    /// How many looks into the cache found their text, and how many did not.
    #[must_use]
    pub fn cache_lookups(&self) -> (u64, u64) {
        (self.cache_hits.get(), self.cache_misses.get())
    }

    /// Everything that is counted as events happen.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}
