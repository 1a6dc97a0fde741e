//! How many streams are open, and whose they are: each needs memory for as long as it is open.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::classifier::ClientId;

/// Streams that may be open together.
const MAX_STREAMS: usize = 16;

/// Streams beyond those, each of a client that has no other one: nobody takes all from the rest.
const FIRST_STREAMS: usize = 16;

static OPEN: LazyLock<Mutex<Open>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Open(HashMap<ClientId, usize>);

impl Open {
    fn open(&mut self, client: ClientId) -> bool {
        let all: usize = self.0.values().sum();
        let is_first = !self.0.contains_key(&client);
        let fits = all < MAX_STREAMS + if is_first { FIRST_STREAMS } else { 0 };
        if fits {
            *self.0.entry(client).or_default() += 1;
        }
        fits
    }

    fn close(&mut self, client: ClientId) {
        if let Some(count) = self.0.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&client);
            }
        }
    }
}

/// An open stream; closed when dropped.
#[derive(Debug)]
pub(super) struct OpenStream(ClientId);

impl OpenStream {
    /// Opens a stream of this client, if one more may be open.
    pub(super) fn of(client: ClientId) -> Option<Self> {
        // Made only when it is open: dropping it closes it.
        let is_open = lock().open(client);
        is_open.then(|| Self(client))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        lock().close(self.0);
    }
}

fn lock() -> MutexGuard<'static, Open> {
    // Every change leaves the counts whole.
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_with_all_streams_leaves_each_other_one_its_first() {
        let client = |name: usize| ClientId::of(&name);
        let mut open = Open::default();
        assert_eq!((0..20).filter(|_| open.open(client(0))).count(), MAX_STREAMS);
        assert!(open.open(client(1)));
        assert!(!open.open(client(1)), "a second one is for when there is room");
        assert_eq!((2..100).filter(|name| open.open(client(*name))).count(), FIRST_STREAMS - 1);
        for _ in 0..MAX_STREAMS {
            open.close(client(0));
        }
        assert!(!open.open(client(1)), "sixteen are still open");
        open.close(client(2));
        assert!(open.open(client(1)));
    }
}
