//! `GET /metrics`: what was counted, and the state of the models and of memory at this moment.
//!
//! Written as OpenMetrics for those who ask for it, as Prometheus does; else in the older Prometheus
//! text format, which differs in how it names counters.

use std::fmt;
use std::future::{Ready, ready};

use actix_web::http::header::{ACCEPT, VARY};
use actix_web::{HttpRequest, HttpResponse, web};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::ApiState;
use super::error::{ApiError, ErrorKind};
use super::error_docs::GuardErrors;
use crate::metrics::{PREFIX, RoleLabel};
use crate::model::Role;
use crate::residency::limits;
use crate::residency::{MODEL_STATES, RoleStatus};
use crate::{logging, panics};

const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    role: Role,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    from: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    architecture: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ThreadLabel {
    thread: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModelLabels {
    role: Role,
    name: String,
    precision: &'static str,
    revision: String,
    weights: &'static str,
}

/// Figures for Prometheus, in either of its text formats.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses(
        (status = 200, description = "The figures", content(
            (String = "text/plain; version=0.0.4; charset=utf-8"),
            (String = "application/openmetrics-text; version=1.0.0; charset=utf-8")
        )),
        GuardErrors
    )
)]
pub(super) fn metrics(http: HttpRequest, state: web::Data<ApiState>) -> Ready<Result<HttpResponse, ApiError>> {
    let accepts = http.headers().get_all(ACCEPT).filter_map(|accept| accept.to_str().ok());
    let wants_open_metrics =
        accepts.flat_map(|accept| accept.split(',')).any(|kind| kind.trim().starts_with(OPEN_METRICS));
    let written = write(&state).map(|text| {
        let mut reply = HttpResponse::Ok();
        reply.insert_header((VARY, "accept"));
        if wants_open_metrics {
            reply.content_type(OPEN_METRICS_TYPE).body(text)
        } else {
            reply.content_type(PROMETHEUS_TYPE).body(prometheus_text(&text))
        }
    });
    ready(
        written.map_err(|error| ApiError::new(ErrorKind::Internal, format!("the metrics cannot be written: {error}"))),
    )
}

/// Everything as OpenMetrics.
fn write(state: &ApiState) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(32 << 10);
    encode_registry(&mut text, state.metrics.registry())?;
    encode_registry(&mut text, &now(state))?;
    encode_eof(&mut text)?;
    Ok(text)
}

/// What is the case now. Made anew each time, so that what has no value now, such as a limit that
/// is not set, has no sample either.
fn now(state: &ApiState) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    let residency = state.classifier.residency();
    add_memory(&mut registry, residency);
    add_models(&mut registry, residency.status());
    let cache_bytes = ConstGauge::new(signed(state.classifier.cache_bytes()));
    registry.register_with_unit("cache", "Memory of the answers in the cache", Unit::Bytes, cache_bytes);
    let build = Family::<BuildLabels, Gauge>::default();
    let labels = BuildLabels { version: env!("CARGO_PKG_VERSION"), architecture: std::env::consts::ARCH };
    build.get_or_create(&labels).set(1);
    registry.register("build_info", "The running version", build);
    let uptime = ConstGauge::new(state.started.elapsed().as_secs_f64());
    registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, uptime);
    let panics = Family::<ThreadLabel, Counter>::default();
    for (thread, count) in panics::counts() {
        panics.get_or_create(&ThreadLabel { thread }).inc_by(count);
    }
    registry.register("panics", "Defects that were met, by kind of thread", panics);
    let dropped = ConstCounter::new(logging::dropped_lines());
    registry.register("log_lines_dropped", "Log lines that standard error did not take in time", dropped);
    registry.register("ready", "Whether requests should be sent here", ConstGauge::new(i64::from(state.is_ready())));
    registry
}

fn add_memory(registry: &mut Registry, residency: &crate::residency::Residency) {
    let (reading, level) = residency.last();
    let bounds = residency.settings().limits;
    let nearest = limits::nearest(&reading);
    let unreclaimable = nearest.map_or(reading.unreclaimable_bytes, |nearest| nearest.unreclaimable_bytes);
    let figures = [
        ("memory_resident", "Proportional set size of the process", Some(reading.resident_bytes)),
        ("memory_anonymous", "Memory of the process with no file behind it", Some(reading.anonymous_bytes)),
        ("memory_file", "Resident pages of mapped files", Some(reading.file_bytes)),
        ("memory_unreclaimable", "Memory that the kernel cannot take back", Some(unreclaimable)),
        ("memory_resident_limit", "MODEL_MEMORY_LIMIT, the bound of resident memory", bounds.resident_bytes),
        (
            "memory_unreclaimable_limit",
            "The bound of unreclaimable memory",
            nearest.map(|nearest| nearest.unreclaimable_limit_bytes),
        ),
        (
            "memory_container_limit",
            "The nearest limit on memory, of the container or of the machine",
            nearest.map(|nearest| nearest.limit.limit_bytes),
        ),
        (
            "memory_container_usage",
            "What counts towards that limit, page cache included",
            nearest.map(|nearest| nearest.limit.usage_bytes),
        ),
    ];
    for (name, help, value) in figures {
        if let Some(bytes) = value {
            registry.register_with_unit(name, help, Unit::Bytes, ConstGauge::new(signed(bytes)));
        }
    }
    registry.register(
        "memory_used_ratio",
        "Share of the nearest bound that is held; 1 evicts the heavy model",
        ConstGauge::new(bounds.used_share(&reading)),
    );
    registry.register(
        "memory_level",
        "How near memory is to its bounds: 0 normal, 1 pressure, 2 evict",
        ConstGauge::new(level as i64),
    );
    if let Some(nearest) = nearest {
        let from = Family::<LimitLabel, Gauge>::default();
        from.get_or_create(&LimitLabel { from: nearest.limit.from.as_str() }).set(1);
        registry.register("memory_limit_info", "What the nearest limit is one of", from);
    }
    if let Some(read_at) = reading.read_at {
        registry.register_with_unit(
            "memory_reading_age",
            "Time since all figures of memory were read; grows where some of them cannot be read",
            Unit::Seconds,
            ConstGauge::new(read_at.elapsed().as_secs_f64()),
        );
    }
    registry.register(
        "memory_major_faults",
        "Page faults that had to read from disk",
        ConstCounter::new(reading.major_faults),
    );
    if let Some(kills) = reading.container_kills {
        registry.register(
            "container_kills",
            "Processes of the container that the kernel killed for want of memory",
            ConstCounter::new(kills),
        );
    }
}

fn add_models(registry: &mut Registry, roles: [RoleStatus; 2]) {
    let states = Family::<StateLabels, Gauge>::default();
    let [texts, tokens, workers] = [(); 3].map(|()| Family::<RoleLabel, Gauge>::default());
    let models = Family::<ModelLabels, Gauge>::default();
    for status in roles {
        let role = status.role;
        for state in MODEL_STATES {
            states.get_or_create(&StateLabels { role, state }).set(i64::from(state == status.state));
        }
        let label = RoleLabel { role };
        texts.get_or_create(&label).set(signed(status.queued_texts as u64));
        tokens.get_or_create(&label).set(signed(status.queued_tokens as u64));
        workers.get_or_create(&label).set(signed(status.workers.unwrap_or(0) as u64));
        if let (Some(revision), Some(weights)) = (status.revision, status.weights) {
            let precision = status.precision.as_str();
            models.get_or_create(&ModelLabels { role, name: status.name, precision, revision, weights }).set(1);
        }
    }
    registry.register("model_state", "1 for the state that each role is in, 0 for the others", states);
    registry.register("model_info", "The models that are loaded", models);
    registry.register("model_workers", "Workers of each role", workers);
    registry.register("queue_texts", "Texts waiting for a worker", texts);
    registry.register("queue_tokens", "Tokens waiting for a worker", tokens);
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// OpenMetrics put into the older format: there a counter's description bears its full name, and
/// units and the end are not marked.
fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + 1024);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take_if(|(described, _)| *described == name) {
                text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_counters_change_their_name_in_the_older_format() {
        let open_metrics = "# HELP a Time.\n# TYPE a histogram\n# UNIT a seconds\na_sum 1.0\n\
                            # HELP b Count.\n# TYPE b counter\nb_total{x=\"# HELP\"} 2\n# EOF\n";
        let expected = "# HELP a Time.\n# TYPE a histogram\na_sum 1.0\n\
                        # HELP b_total Count.\n# TYPE b_total counter\nb_total{x=\"# HELP\"} 2\n";
        assert_eq!(prometheus_text(open_metrics), expected);
    }
}
