//! Whether a load fits, counting the loads that are under way.

use std::sync::{Arc, PoisonError};

use super::Residency;
use super::limits::Room;
use crate::model::Role;
use crate::model::bundle::LoadedBytes;

/// Memory of loads that have been allowed but are not finished.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Pending {
    unreclaimable_bytes: u64,
    mapped_bytes: u64,
}

impl Residency {
    /// Whether a load fits beside what is held now and what other loads are about to take; if so,
    /// its memory counts as taken until the guard is dropped.
    pub(super) fn admit(self: &Arc<Self>, role: Role, need: &LoadedBytes, sessions: usize) -> Option<Admitted> {
        let (mut reading, _) = self.read_memory();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        reading.resident_bytes += pending.unreclaimable_bytes + pending.mapped_bytes;
        for limit in &mut reading.limits {
            limit.unreclaimable_bytes += pending.unreclaimable_bytes;
        }
        let limits = &self.settings.limits;
        // The light model is what is left when nothing else fits: slow is better than none.
        let left = limits.left_beside_pages(&reading, need, sessions);
        let room = match role {
            Role::Heavy => Room::ForOneOfTwo,
            Role::Light if self.loaded(Role::Heavy).is_some() => Room::BesideHeavy,
            Role::Light => Room::Alone,
        };
        if (left.is_none() && role == Role::Heavy) || !limits.fits(&reading, need, sessions, room) {
            return None;
        }
        let taken =
            Pending { unreclaimable_bytes: need.unreclaimable_bytes(sessions), mapped_bytes: need.mapped_bytes };
        pending.unreclaimable_bytes += taken.unreclaimable_bytes;
        pending.mapped_bytes += taken.mapped_bytes;
        drop(pending);
        Some(Admitted { residency: Arc::clone(self), taken, left_bytes: left.unwrap_or(0) })
    }
}

/// Memory that a load may take.
pub(super) struct Admitted {
    residency: Arc<Residency>,
    taken: Pending,
    /// What the container has left beside all of it, for batches.
    pub(super) left_bytes: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut pending = self.residency.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.unreclaimable_bytes -= self.taken.unreclaimable_bytes;
        pending.mapped_bytes -= self.taken.mapped_bytes;
    }
}
