//! Memory that runs may take before the next reading of the watchdog.
//!
//! A reading is a moment in the past. What a run is about to allocate is reserved here first, so
//! that several workers together cannot outgrow the bound between two readings.

use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug)]
struct State {
    available_bytes: u64,
    spare_bytes: u64,
    reserved_bytes: u64,
}

/// Bytes between what is held now and the bound, less what running batches have reserved.
#[derive(Debug)]
pub struct Headroom {
    state: Mutex<State>,
}

impl Default for Headroom {
    /// No bound until the first reading.
    fn default() -> Self {
        Self { state: Mutex::new(State { available_bytes: u64::MAX, spare_bytes: 0, reserved_bytes: 0 }) }
    }
}

impl Headroom {
    /// Takes over a new reading: bytes that are still free under the bound, and how many more could
    /// be taken without danger to the process.
    pub fn update(&self, available_bytes: u64, spare_bytes: u64) {
        self.with(|state| (state.available_bytes, state.spare_bytes) = (available_bytes, spare_bytes));
    }

    /// Bytes that a run may still reserve.
    pub fn unreserved_bytes(&self) -> u64 {
        self.with(|state| state.available_bytes.saturating_sub(state.reserved_bytes))
    }

    /// Sets `bytes` aside until the reservation is dropped; `None` when that many are not free.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        self.reserve_from(bytes, |_| 0)
    }

    /// The same for a text that no other model can take over: the spare bytes count too.
    pub fn reserve_with_spare(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        self.reserve_from(bytes, |state| state.spare_bytes)
    }

    fn reserve_from(self: &Arc<Self>, bytes: u64, more: fn(&State) -> u64) -> Option<Reservation> {
        let fits = self.with(|state| {
            let free = state.available_bytes.saturating_add(more(state)).saturating_sub(state.reserved_bytes);
            let fits = free >= bytes;
            if fits {
                state.reserved_bytes += bytes;
            }
            fits
        });
        fits.then(|| Reservation { headroom: Arc::clone(self), bytes })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // Two numbers, each set in one step: a panic elsewhere cannot leave them half changed.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Bytes set aside for one run.
#[derive(Debug)]
pub struct Reservation {
    headroom: Arc<Headroom>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.headroom.with(|state| state.reserved_bytes -= self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_never_add_up_to_more_than_is_free() {
        let headroom = Arc::new(Headroom::default());
        headroom.update(100, 0);
        let first = headroom.reserve(60).unwrap();
        assert!(headroom.reserve(41).is_none());
        let second = headroom.reserve(40).unwrap();
        assert_eq!(headroom.unreserved_bytes(), 0);
        drop(first);
        assert_eq!(headroom.unreserved_bytes(), 60);
        drop(second);
        assert_eq!(headroom.unreserved_bytes(), 100);
    }

    #[test]
    fn the_spare_is_for_those_who_ask_for_it() {
        let headroom = Arc::new(Headroom::default());
        headroom.update(10, 50);
        assert!(headroom.reserve(11).is_none());
        let held = headroom.reserve_with_spare(60).unwrap();
        assert!(headroom.reserve_with_spare(1).is_none());
        drop(held);
    }

    #[test]
    fn a_reading_below_what_is_reserved_leaves_nothing() {
        let headroom = Arc::new(Headroom::default());
        let _held = headroom.reserve(60).unwrap();
        headroom.update(50, 0);
        assert!(headroom.reserve(1).is_none());
    }
}
