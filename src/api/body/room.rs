//! Room for the bytes of bodies: what all of them together may hold, and those of one client.
//!
//! A body takes room as its bytes arrive, never by the length that it declares. When there is no
//! room, a body that has stalled loses its own: so bodies that are withheld block nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::api::guard::rate::Client;

/// Time without progress after which a body may lose its room.
const STALL: Duration = Duration::from_secs(1);

/// Bytes that count as progress.
const PROGRESS_BYTES: usize = 4 << 10;

/// Part of the room that one client may have.
const SHARE: usize = 2;

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// All of it is taken.
    Full,
    /// The client has its share.
    OfClient,
    /// The body stalled, and another one needed its room.
    Lost,
}

/// Bytes that may be held.
#[derive(Debug)]
pub(super) struct Room {
    most_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: usize,
    of_client: HashMap<Client, usize>,
    arriving: HashMap<u64, Arriving>,
    next: u64,
}

/// A body that has not arrived whole.
#[derive(Debug)]
struct Arriving {
    client: Client,
    bytes: usize,
    /// When it last had made progress, and with how many bytes.
    progress: (Instant, usize),
    lost: Arc<Notify>,
}

impl Room {
    pub(super) fn new(most_bytes: usize) -> Arc<Self> {
        Arc::new(Self { most_bytes, state: Mutex::default() })
    }

    /// A body of `client` that has taken nothing yet.
    pub(super) fn enter(self: &Arc<Self>, client: Client) -> Taken {
        let lost = Arc::new(Notify::new());
        let id = self.with(|state| {
            let arriving = Arriving { client, bytes: 0, progress: (Instant::now(), 0), lost: Arc::clone(&lost) };
            state.next += 1;
            state.arriving.insert(state.next, arriving);
            state.next
        });
        Taken { room: Arc::clone(self), client, bytes: 0, arriving: Some(id), lost }
    }

    /// Bytes that one client may hold.
    pub(super) fn share(&self) -> usize {
        self.most_bytes / SHARE
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // Nothing in here panics between two changes that belong together.
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn add(&mut self, client: Client, bytes: usize) {
        self.bytes += bytes;
        *self.of_client.entry(client).or_default() += bytes;
    }

    fn remove(&mut self, client: Client, bytes: usize) {
        self.bytes -= bytes;
        if let Some(of_client) = self.of_client.get_mut(&client) {
            *of_client -= bytes;
            if *of_client == 0 {
                self.of_client.remove(&client);
            }
        }
    }

    /// Takes the room of the body that has stalled longest; of `client` only, where one is named.
    fn take_back(&mut self, client: Option<Client>, but: Option<u64>, now: Instant) -> bool {
        let stalled = |(id, body): &(&u64, &Arriving)| {
            Some(**id) != but
                && body.bytes > 0
                && client.is_none_or(|client| client == body.client)
                && now.saturating_duration_since(body.progress.0) >= STALL
        };
        let longest = self.arriving.iter().filter(stalled).min_by_key(|(_, body)| body.progress.0).map(|(id, _)| *id);
        let Some(body) = longest.and_then(|id| self.arriving.remove(&id)) else { return false };
        self.remove(body.client, body.bytes);
        body.lost.notify_one();
        true
    }
}

/// Room that a body has taken, given back when dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Arc<Room>,
    client: Client,
    bytes: usize,
    /// Its number while it arrives.
    arriving: Option<u64>,
    lost: Arc<Notify>,
}

impl Taken {
    /// Takes room for `bytes` more.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let now = Instant::now();
        let (most, share) = (self.room.most_bytes, self.room.share());
        self.room.with(|state| {
            loop {
                if self.arriving.is_some_and(|id| !state.arriving.contains_key(&id)) {
                    return Err(NoRoom::Lost);
                }
                let of_client = state.of_client.get(&self.client).copied().unwrap_or(0);
                let (whose, refusal) = if of_client + bytes > share {
                    (Some(self.client), NoRoom::OfClient)
                } else if state.bytes + bytes > most {
                    (None, NoRoom::Full)
                } else {
                    break;
                };
                if !state.take_back(whose, self.arriving, now) {
                    return Err(refusal);
                }
            }
            state.add(self.client, bytes);
            self.bytes += bytes;
            if let Some(body) = self.arriving.and_then(|id| state.arriving.get_mut(&id)) {
                body.bytes = self.bytes;
                if body.bytes >= body.progress.1 + PROGRESS_BYTES {
                    body.progress = (now, body.bytes);
                }
            }
            Ok(())
        })
    }

    /// Gives back all but `bytes` of a body that has arrived.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.room.with(|state| state.remove(self.client, less));
    }

    /// The body has arrived: it cannot lose its room any more.
    pub(super) fn settle(&mut self) -> Result<(), NoRoom> {
        match self.arriving.take() {
            Some(id) if self.room.with(|state| state.arriving.remove(&id)).is_none() => {
                self.bytes = 0;
                Err(NoRoom::Lost)
            }
            _ => Ok(()),
        }
    }

    /// Told when the room is lost.
    pub(super) fn lost(&self) -> Arc<Notify> {
        Arc::clone(&self.lost)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // What was lost has been given back already.
        let _was_lost = self.settle();
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stall(room: &Room) {
        room.with(|state| state.arriving.values_mut().for_each(|body| body.progress.0 -= STALL));
    }

    #[test]
    fn one_client_gets_its_share_and_leaves_the_rest_to_others() {
        let room = Room::new(100);
        let (mut first, mut again) = (room.enter(Client::Key(0)), room.enter(Client::Key(0)));
        assert_eq!(first.grow(50), Ok(()));
        assert_eq!(again.grow(1), Err(NoRoom::OfClient));
        let mut other = room.enter(Client::Key(1));
        assert_eq!(other.grow(50), Ok(()));
        let mut third = room.enter(Client::Key(2));
        assert_eq!(third.grow(1), Err(NoRoom::Full));
        assert_eq!(first.settle(), Ok(()));
        first.shrink(20);
        assert_eq!((again.grow(10), third.grow(20), third.grow(1)), (Ok(()), Ok(()), Err(NoRoom::Full)));
        drop((first, again, other, third));
        assert_eq!(room.with(|state| (state.bytes, state.of_client.len(), state.arriving.len())), (0, 0, 0));
    }

    #[test]
    fn a_body_that_stalls_loses_its_room_to_the_next_one() {
        let room = Room::new(100);
        let mut stalled: Vec<Taken> = (0..4).map(|number| room.enter(Client::Key(number))).collect();
        for body in &mut stalled {
            assert_eq!(body.grow(25), Ok(()));
        }
        let mut next = room.enter(Client::Key(9));
        assert_eq!(next.grow(30), Err(NoRoom::Full), "they have stalled for no time yet");
        stall(&room);
        assert_eq!(next.grow(30), Ok(()));
        let lost = stalled.iter_mut().map(|body| body.grow(0)).filter(|grown| *grown == Err(NoRoom::Lost)).count();
        assert_eq!(lost, 2, "no more than was needed");
        drop(stalled);
        assert_eq!(room.with(|state| state.bytes), 30);
    }

    #[test]
    fn over_its_share_a_client_takes_room_from_itself_alone() {
        let room = Room::new(100);
        let (mut own, mut other) = (room.enter(Client::Key(0)), room.enter(Client::Key(1)));
        assert_eq!((own.grow(50), other.grow(50)), (Ok(()), Ok(())));
        stall(&room);
        let mut next = room.enter(Client::Key(0));
        assert_eq!(next.grow(20), Ok(()));
        assert_eq!((own.grow(0), other.grow(0)), (Err(NoRoom::Lost), Ok(())));
    }

    #[test]
    fn what_has_arrived_keeps_its_room_and_drops_of_bytes_are_no_progress() {
        let room = Room::new(100_000);
        let mut whole = room.enter(Client::Key(0));
        assert_eq!((whole.grow(40_000), whole.settle()), (Ok(()), Ok(())));
        let mut slow = room.enter(Client::Key(1));
        assert_eq!(slow.grow(40_000), Ok(()));
        stall(&room);
        assert_eq!(slow.grow(PROGRESS_BYTES - 1), Ok(()));
        let mut next = room.enter(Client::Key(2));
        assert_eq!(next.grow(40_000), Ok(()));
        assert_eq!((whole.grow(0), slow.grow(1)), (Ok(()), Err(NoRoom::Lost)));
    }
}
