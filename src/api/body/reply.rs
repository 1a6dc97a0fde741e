//! Room for long replies until they have been sent: a client that asks for many and reads none would
//! fill memory with them.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::body::{BodySize, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use actix_web::web::{self, Bytes};

use super::room::Taken;
use super::{BUDGET_RETRY, BodyLimits};
use crate::api::ApiState;
use crate::api::error::{ApiError, ErrorKind};
use crate::api::guard::client_of;

/// Longest reply that takes no room: there are no more of them than connections.
const SMALL_BYTES: u64 = 16 << 10;

/// A reply's body, with the room that it takes until it has been sent or its client is gone.
pub(crate) struct HeldReply<B> {
    body: Pin<Box<B>>,
    _taken: Option<Taken>,
}

/// Takes room for a reply; where its client or all have none left, the reply becomes 429.
///
/// # Errors
/// Those of the handlers behind it.
pub(crate) async fn hold<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<HeldReply<B>>>, Error> {
    let reply = next.call(request).await?;
    Ok(match room_for(&reply) {
        Ok(taken) => reply.map_body(|_, body| HeldReply { body: Box::pin(body), _taken: taken }).map_into_left_body(),
        Err(refusal) => reply.error_response(refusal).map_into_right_body(),
    })
}

fn room_for<B: MessageBody>(reply: &ServiceResponse<B>) -> Result<Option<Taken>, ApiError> {
    let BodySize::Sized(bytes) = reply.response().body().size() else { return Ok(None) };
    let http = reply.request();
    let (limits, state) = (http.app_data::<BodyLimits>(), http.app_data::<web::Data<ApiState>>());
    let (Some(limits), Some(state), true) = (limits, state, bytes > SMALL_BYTES) else { return Ok(None) };
    let mut taken = limits.replies.enter(client_of(http, state));
    // A client may always have one reply, however long it is.
    let counted = usize::try_from(bytes).unwrap_or(usize::MAX).min(limits.replies.share());
    taken.grow(counted).and_then(|()| taken.settle()).map_err(|_no_room| {
        let what = "too many replies wait to be read; read those that were asked for, and try again";
        ApiError::new(ErrorKind::Overloaded, what).retry_after(BUDGET_RETRY)
    })?;
    Ok(Some(taken))
}

impl<B: MessageBody> MessageBody for HeldReply<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        self.body.as_mut().poll_next(context)
    }
}
