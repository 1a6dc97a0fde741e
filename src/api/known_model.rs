//! What a contract tells about a model, whether it is in memory or not.

use std::sync::Arc;

use super::ApiState;
use super::error::{ApiError, ErrorKind};
use crate::host::threads::run_blocking;
use crate::model::{Bundle, Role};
use crate::residency::Wanted;

/// The role that would answer now.
pub(super) fn role(wanted: Wanted, state: &ApiState) -> Role {
    match wanted {
        Wanted::Heavy { .. } => Role::Heavy,
        Wanted::Light => Role::Light,
        Wanted::Auto if state.classifier.residency().may_answer(Role::Heavy) => Role::Heavy,
        Wanted::Auto => Role::Light,
    }
}

/// Whether the model is loaded, or would be loaded by a request.
pub(super) fn may_answer(wanted: Wanted, state: &ApiState) -> bool {
    state.classifier.residency().may_answer(role(wanted, state))
}

/// The bundle that plays a role; read from disk when the model is not loaded.
pub(super) async fn bundle(role: Role, state: &ApiState) -> Result<Arc<Bundle>, ApiError> {
    let residency = state.classifier.residency();
    if let Some(model) = residency.loaded(role) {
        return Ok(Arc::clone(&model.bundle));
    }
    let settings = residency.settings();
    let (directory, precision) = match role {
        Role::Heavy => (settings.heavy.0.clone(), settings.precision),
        Role::Light => (settings.light.0.clone(), settings.precision),
    };
    let opened = run_blocking(move || Bundle::open(&directory, precision))
        .await
        .map_err(|_panic| ApiError::new(ErrorKind::Internal, "reading the model's files failed; the log says why"))?;
    opened.map(Arc::new).map_err(|error| {
        log::error!("the {role} model cannot be described: {}", crate::residency::loader::chain(&error));
        ApiError::new(ErrorKind::Unavailable, format!("the {role} model's files cannot be used; the log says why"))
    })
}
