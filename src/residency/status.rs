//! The state of both roles as operators see it.

use std::time::Instant;

use serde::Serialize;

use super::Residency;
use super::slot::State;
use crate::model::{Precision, Role};

/// What operators see of one role.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RoleStatus {
    /// The part it plays.
    pub role: Role,
    /// Model that plays it.
    pub name: String,
    /// `absent`, `loading`, `ready`, `draining` or `barred`.
    pub state: &'static str,
    /// Seconds in this state.
    pub for_seconds: f64,
    /// Why it entered this state.
    pub reason: &'static str,
    /// Seconds until it may be loaded again, when it is barred for a time.
    pub barred_for_seconds: Option<f64>,
    /// Precision asked for, or of the loaded graph.
    pub precision: Precision,
    /// `prepared` or `plain`, when it is loaded.
    pub weights: Option<&'static str>,
    /// Workers, when it is loaded.
    pub workers: Option<usize>,
    /// First digits of the bundle's hash, when it is loaded.
    pub revision: Option<String>,
    /// Texts waiting for it.
    pub queued_texts: usize,
    /// Their tokens.
    pub queued_tokens: usize,
    /// What the last failed load said.
    pub error: Option<String>,
}

impl Residency {
    /// Both roles as operators see them.
    #[must_use]
    pub fn status(&self) -> [RoleStatus; 2] {
        Role::ALL.map(|role| {
            let slot = self.slot(role);
            let ready = slot.ready();
            let depth = ready.as_ref().map(|model| model.pool.depth()).unwrap_or_default();
            let state = slot.lock();
            let barred_for = match &state.state {
                State::Barred { until: Some(until), .. } => Some(until.saturating_duration_since(Instant::now())),
                State::Barred { until: None, .. }
                | State::Absent
                | State::Loading(_)
                | State::Ready(_)
                | State::Draining { .. } => None,
            };
            RoleStatus {
                role,
                name: slot.name.clone(),
                state: state.state.as_str(),
                for_seconds: state.since.elapsed().as_secs_f64(),
                reason: state.last_reason,
                barred_for_seconds: barred_for.map(|left| left.as_secs_f64()),
                precision: ready.as_ref().map_or(self.settings.precision, |model| model.bundle.precision),
                weights: ready.as_ref().map(|model| model.weights),
                workers: ready.as_ref().map(|model| model.pool.worker_count()),
                revision: ready.as_ref().map(|model| model.bundle.revision().to_owned()),
                queued_texts: depth.texts,
                queued_tokens: depth.tokens,
                error: state.last_error.clone(),
            }
        })
    }
}
