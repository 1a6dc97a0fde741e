//! HTTP: one file a contract. Turns wire shapes into queries and answers back; decides nothing.

mod access_log;
pub mod body;
pub mod error;
mod error_docs;
pub mod error_shape;
mod exposition;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod guard;
mod hugging_face;
mod json;
mod known_model;
mod kserve_v1;
mod methods;
pub(crate) mod native;
mod ndjson;
mod open_inference;
mod openapi;
mod operations;
mod pages;
mod playground;
mod python_compat;
pub(crate) mod request;
mod root;
mod schema;
mod scores;
mod task;
mod tei;

pub(crate) use access_log::observe;
pub(crate) use body::reply::hold as hold_reply;
pub(crate) use guard::admit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::ServiceRequest;
use actix_web::web;

use crate::classifier::Classifier;
use crate::metrics::Metrics;
use body::BodyLimits;
use guard::Guard;

/// Settings of the wire.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Longest time for an answer.
    pub request_timeout: Duration,
    /// Most texts in one request.
    pub max_texts: usize,
    /// Whether to write one log line a request.
    pub access_log: bool,
}

/// What every handler shares.
pub struct ApiState {
    /// The models.
    pub classifier: Classifier,
    /// Settings of the wire.
    pub settings: ApiSettings,
    /// Who may ask, how often and from where.
    pub guard: Guard,
    /// What operators see.
    pub metrics: Arc<Metrics>,
    /// When the server started.
    pub started: Instant,
    /// Set once the models of `PRELOAD_MODELS` are loaded, or their fallbacks.
    pub preloaded: AtomicBool,
    /// Set when the server is about to stop.
    pub draining: AtomicBool,
}

impl ApiState {
    /// Whether requests should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let residency = self.classifier.residency();
        self.preloaded.load(Ordering::Relaxed)
            && !self.draining.load(Ordering::Relaxed)
            && crate::model::Role::ALL.into_iter().any(|role| residency.may_answer(role))
    }
}

/// The path as the router reads it, with percent signs decoded. Whoever looks at the path as it was
/// sent sees another one than the handler that answers it.
fn routed_path(request: &ServiceRequest) -> &str {
    request.match_info().as_str()
}

/// All routes.
pub fn configure(config: &mut web::ServiceConfig, state: web::Data<ApiState>, limits: BodyLimits) {
    config
        .app_data(state)
        .app_data(limits)
        .configure(native::configure)
        .configure(ndjson::configure)
        .configure(operations::configure)
        .configure(openapi::configure)
        .configure(root::configure)
        .configure(playground::configure)
        .configure(tei::configure)
        .configure(hugging_face::configure)
        .configure(open_inference::configure)
        .configure(kserve_v1::configure)
        .configure(python_compat::configure)
        .default_service(web::to(error::not_found));
}
