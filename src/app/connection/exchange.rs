//! What a connection's stream and its requests tell each other: whose turn it is to send.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use actix_http::error::PayloadError;
use actix_http::{BoxedPayloadStream, ConnectionType, Payload, Request, Response};
use actix_service::Service;
use actix_web::Error;
use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::ServiceResponse;
use actix_web::web::Bytes;
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// Bytes of a reply that are given to actix at once. With as much in its buffer, it writes before it
/// takes more, so that the buffer of a connection stays at its first 8 KB.
pub(in crate::app) const REPLY_PIECE_BYTES: usize = 4000;

/// Share of the connections above which those that never had a reply are many.
const MANY_NEW_SHARE: usize = 4;

/// What the connections of one HTTP worker share. Each worker is one thread.
pub(in crate::app) struct Connections {
    /// Connections above which the one that has waited longest for its client makes room.
    most: usize,
    open: Cell<usize>,
    next_place: Cell<u64>,
    /// Those that wait for their client to send, the longest wait first: those that have never had a
    /// reply, and the others.
    waiting_new: RefCell<BTreeMap<u64, Rc<Exchange>>>,
    waiting_known: RefCell<BTreeMap<u64, Rc<Exchange>>>,
    /// One permit a connection with a large head, of all workers.
    large_heads: Arc<Semaphore>,
    pub(super) header_timeout: Duration,
    pub(super) metrics: Arc<Metrics>,
}

impl Connections {
    pub(in crate::app) fn new(
        most: usize,
        large_heads: Arc<Semaphore>,
        header_timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Rc<Self> {
        let (open, next_place) = (Cell::new(0), Cell::new(0));
        let (waiting_new, waiting_known) = (RefCell::default(), RefCell::default());
        Rc::new(Self { most, open, next_place, waiting_new, waiting_known, large_heads, header_timeout, metrics })
    }

    pub(super) fn large_head(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.large_heads).try_acquire_owned().ok()
    }

    /// Closes the connection that has waited longest for its client, if there are too many. While many
    /// have never had a reply, it is one of them: whoever only opens connections shuts no others. While few
    /// have, it is one that had a reply: new clients do not shut each other out.
    fn make_room(&self) {
        if self.open.get() <= self.most {
            return;
        }
        let (mut new, mut known) = (self.waiting_new.borrow_mut(), self.waiting_known.borrow_mut());
        let longest = if new.len() > self.most / MANY_NEW_SHARE {
            new.pop_first()
        } else {
            known.pop_first().or_else(|| new.pop_first())
        };
        drop((new, known));
        if let Some((_, exchange)) = longest {
            exchange.place.set(None);
            exchange.must_close.set(true);
            exchange.wake();
            self.metrics.connection_cut("room");
        }
    }
}

/// The state of one connection. Its client sends a request; from its head to the end of its reply,
/// the request is being served.
pub(in crate::app) struct Exchange {
    connections: Rc<Connections>,
    /// Where it stands among those that wait for their client.
    place: Cell<Option<u64>>,
    serving: Cell<bool>,
    had_reply: Cell<bool>,
    /// Requests that actix has read the head of.
    begun: Cell<u64>,
    /// Whether the client has sent all of the request.
    is_whole: Cell<bool>,
    /// Bytes of the body that actix has, and the request has not read yet.
    unread_bytes: Cell<usize>,
    /// Whether the request reads no more of its body.
    body_dropped: Cell<bool>,
    holds_body: Cell<bool>,
    must_close: Cell<bool>,
    /// Whether the stream has more to look at as soon as the reply ends.
    wakes_at_end: Cell<bool>,
    /// The task that drives the connection.
    task: RefCell<Option<Waker>>,
}

impl Exchange {
    /// A connection that waits for its first request. Another one may have to make room.
    pub(super) fn open(connections: Rc<Connections>) -> Rc<Self> {
        connections.open.set(connections.open.get() + 1);
        connections.metrics.connection_opens();
        connections.make_room();
        let exchange = Rc::new(Self {
            connections,
            place: Cell::new(None),
            serving: Cell::new(false),
            had_reply: Cell::new(false),
            begun: Cell::new(0),
            is_whole: Cell::new(false),
            unread_bytes: Cell::new(0),
            body_dropped: Cell::new(false),
            holds_body: Cell::new(false),
            must_close: Cell::new(false),
            wakes_at_end: Cell::new(false),
            task: RefCell::new(None),
        });
        exchange.wait_for_client();
        exchange
    }

    pub(super) fn close(&self) {
        self.connections.open.set(self.connections.open.get() - 1);
        self.connections.metrics.connection_closes();
        self.must_close.set(true);
        self.stop_waiting();
        self.task.replace(None);
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    pub(super) fn is_serving(&self) -> bool {
        self.serving.get()
    }

    pub(super) fn begun(&self) -> u64 {
        self.begun.get()
    }

    /// Whether actix should get no more of the body for now: its reader has not come so far. The
    /// task is woken once it has.
    pub(super) fn holds_body_back(&self) -> bool {
        let holds = self.serving.get() && self.unread_bytes.get() > 0 && !self.body_dropped.get();
        self.holds_body.set(holds);
        holds
    }

    fn release_body(&self) {
        if self.holds_body.replace(false) {
            self.wake();
        }
    }

    /// Notes what actix was given of a request.
    pub(super) fn sent(&self, body_bytes: usize, is_whole: bool) {
        self.unread_bytes.set(self.unread_bytes.get() + body_bytes);
        if is_whole && !self.is_whole.replace(true) {
            self.stop_waiting();
        }
    }

    /// Begins to wait for the next request, when all of the last one is over.
    pub(super) fn await_next(self: &Rc<Self>) {
        self.is_whole.set(false);
        self.unread_bytes.set(0);
        self.body_dropped.set(false);
        self.wakes_at_end.set(false);
        // Where the reply ended before the request had come whole, its end took the place.
        if self.place.get().is_none() && !self.must_close.get() {
            self.wait_for_client();
        }
    }

    /// Whether the connection is to make room for others.
    pub(super) fn must_close(&self) -> bool {
        self.must_close.get()
    }

    /// Asks to be woken when the reply ends.
    pub(super) fn wake_at_end(&self) {
        self.wakes_at_end.set(true);
    }

    /// Remembers whom to wake.
    pub(super) fn remember(&self, context: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
            *task = Some(context.waker().clone());
        }
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    fn waiting(&self) -> &RefCell<BTreeMap<u64, Rc<Self>>> {
        if self.had_reply.get() { &self.connections.waiting_known } else { &self.connections.waiting_new }
    }

    fn wait_for_client(self: &Rc<Self>) {
        let place = self.connections.next_place.get();
        self.connections.next_place.set(place + 1);
        self.place.set(Some(place));
        self.waiting().borrow_mut().insert(place, Rc::clone(self));
    }

    fn stop_waiting(&self) {
        if let Some(place) = self.place.take() {
            self.waiting().borrow_mut().remove(&place);
        }
    }
}

/// From a request's head to the end of its reply.
struct Serving(Rc<Exchange>);

impl Serving {
    fn begin(exchange: Rc<Exchange>) -> Self {
        exchange.serving.set(true);
        exchange.begun.set(exchange.begun.get() + 1);
        Self(exchange)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.set(false);
        // It may stand in the other row still, where the request has not come whole.
        self.0.stop_waiting();
        self.0.had_reply.set(true);
        if !self.0.must_close.get() {
            self.0.wait_for_client();
        }
        if self.0.wakes_at_end.get() {
            self.0.wake();
        }
    }
}

/// Hands a request on to the routes, and notes how far it and its reply have come.
pub(in crate::app) fn serve<S, B>(
    mut request: Request,
    routes: &S,
) -> impl Future<Output = Result<Response<FollowedReply<EitherBody<B>>>, Error>> + use<S, B>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    let exchange = request.conn_data::<Rc<Exchange>>().cloned();
    let asks_to_switch = request.head().connection_type() == ConnectionType::Upgrade;
    let serving = exchange.map(|exchange| {
        let payload = request.take_payload();
        if !matches!(payload, Payload::None) {
            let followed: BoxedPayloadStream = Box::pin(FollowedBody { payload, exchange: Rc::clone(&exchange) });
            *request.payload() = Payload::Stream { payload: followed };
        }
        Serving::begin(exchange)
    });
    let reply = routes.call(request);
    async move {
        let mut reply: Response<EitherBody<B>> = match reply.await {
            Ok(reply) => Response::<B>::from(reply).map_body(|_, body| EitherBody::left(body)),
            Err(error) => Response::<BoxBody>::from(error).map_body(|_, body| EitherBody::right(body)),
        };
        if asks_to_switch {
            // actix closes such a connection behind the reply; a client that is not told loses its next request.
            reply.head_mut().set_connection_type(ConnectionType::Close);
        }
        Ok(reply.map_body(|_, body| FollowedReply { body: Box::pin(body), rest: Bytes::new(), _serving: serving }))
    }
}

/// A request's body; tells how much of it was read.
struct FollowedBody {
    payload: Payload,
    exchange: Rc<Exchange>,
}

impl Stream for FollowedBody {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = Pin::new(&mut self.payload).poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &item {
            let unread = self.exchange.unread_bytes.get().saturating_sub(bytes.len());
            self.exchange.unread_bytes.set(unread);
            if unread == 0 {
                self.exchange.release_body();
            }
        }
        item
    }
}

impl Drop for FollowedBody {
    fn drop(&mut self) {
        self.exchange.body_dropped.set(true);
        self.exchange.release_body();
    }
}

/// A reply's body in small pieces. The request is served until it ends.
pub(in crate::app) struct FollowedReply<B> {
    body: Pin<Box<B>>,
    rest: Bytes,
    _serving: Option<Serving>,
}

impl<B: MessageBody> MessageBody for FollowedReply<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        if self.rest.is_empty() {
            let Some(more) = ready!(self.body.as_mut().poll_next(context)) else { return Poll::Ready(None) };
            match more {
                Ok(bytes) => self.rest = bytes,
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let piece = self.rest.len().min(REPLY_PIECE_BYTES);
        Poll::Ready(Some(Ok(self.rest.split_to(piece))))
    }
}
