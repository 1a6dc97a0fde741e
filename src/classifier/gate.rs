//! A few passes that many wait for, as those who tokenize do: clients take turns, and within a
//! client its requests, as they do for the workers. Whoever is not let in fills no thread's line.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::inference::fairness::Flow;
use crate::inference::shares::{Place, Shares};

struct State {
    free: usize,
    waiting: Shares<oneshot::Sender<Pass>>,
}

/// Hands out the passes.
#[derive(Clone)]
pub(super) struct Gate(Arc<Mutex<State>>);

/// Lets one in until it is dropped.
pub(super) struct Pass(Gate);

impl Gate {
    /// A gate with so many passes, at least one.
    pub(super) fn new(passes: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: passes.max(1), waiting: Shares::default() })))
    }

    /// Waits for a pass for work that costs about so many tokens; `None` when the gate is gone.
    pub(super) async fn enter(&self, flow: Flow, tokens: usize) -> Option<Pass> {
        let (sender, receiver) = oneshot::channel();
        let place = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Some(Pass(self.clone()));
            }
            state.waiting.enter(flow, tokens, sender)
        };
        let _leaves_when_dropped = Waiting { gate: self, place };
        receiver.await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.lock();
            let place = state.waiting.candidates(1).first().map(|(place, _)| *place);
            let next = place.and_then(|place| state.waiting.serve(&[place]).pop());
            if next.is_none() {
                state.free += 1;
            }
            next
        };
        if let Some(next) = next {
            // Who has left meanwhile drops the pass again, and the one behind it gets it.
            let _left = next.send(Pass(self.0.clone()));
        }
    }
}

/// A place in the line, given up when dropped.
struct Waiting<'gate> {
    gate: &'gate Gate,
    place: Place,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let _served_already = self.gate.lock().waiting.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;
    use crate::inference::fairness::ClientId;

    fn flow(client: usize) -> Flow {
        Flow::of(ClientId::of(&client))
    }

    #[actix_web::test]
    async fn clients_take_turns_and_who_leaves_loses_nobody_the_pass() {
        let gate = Gate::new(1);
        let pass = gate.enter(flow(0), 1000).now_or_never().flatten().unwrap();
        let mut crowd: Vec<_> = (0..100).map(|_| Box::pin(gate.enter(flow(0), 1000))).collect();
        assert!(crowd.iter_mut().all(|one| one.as_mut().now_or_never().is_none()));
        let mut other = pin!(gate.enter(flow(1), 1000));
        assert!(other.as_mut().now_or_never().is_none());
        drop(pass);
        // Whoever is let in drops the pass at once, so the next one is in when it is looked at.
        let before = crowd.iter_mut().take_while(|_| other.as_mut().now_or_never().is_none());
        let before = before.filter_map(|one| one.as_mut().now_or_never()).count();
        assert!(before <= 1, "{before} of the crowd were let in before the other client");
        let rest = crowd.iter_mut().skip(before).filter_map(|one| one.as_mut().now_or_never()).count();
        assert!(rest > 0, "nobody got the pass of the other client");
        drop(crowd);
        assert_eq!(gate.lock().waiting.held().texts, 0, "who has left waits no more");
        assert_eq!(gate.lock().free, 1);
    }
}
