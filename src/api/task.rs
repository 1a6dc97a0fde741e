//! Tasks that go on only while somebody waits for them.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::rt::task::{JoinError, JoinHandle};

/// A task that is given up when nobody waits for it any more. One that blocks its thread ends only
/// if it has not begun.
pub(super) struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
