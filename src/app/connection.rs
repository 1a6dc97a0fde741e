//! A connection's stream, between the socket and actix: it counts and times before actix sees a byte.
//!
//! actix bounds neither the heads of all connections together nor the time of a connection's second
//! head, and it reads on while it answers. This stream gives it one request at a time, and of a body
//! only what its reader has come to. So a connection that waits holds its first buffers and no more.

mod exchange;
pub(crate) mod framing;
mod refusal;

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep_until};

pub(super) use exchange::{Connections, Exchange, REPLY_PIECE_BYTES, serve};
use framing::Framing;
use refusal::Refusal;

/// Bytes that actix gets before it must look at them: below these its buffer keeps its first 8 KB.
const TURN_BYTES: usize = 7 << 10;

/// Largest head.
pub(super) const MAX_HEAD_BYTES: usize = 16 << 10;

/// What the buffer of a connection with a head above [`TURN_BYTES`] grows by, at most.
pub(super) const LARGE_HEAD_BUFFER_BYTES: usize = 32 << 10;

/// How long a refused client may take to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that a refused client sent on are read by.
const SINK_BYTES: usize = 4 << 10;

/// How every reply starts.
const REPLY_START: [u8; 1] = *b"H";

/// Time to the first look at whether a client that sends no more is still there, and the longest one.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// The stream of one connection.
pub(super) struct Connection {
    stream: TcpStream,
    exchange: Rc<Exchange>,
    framing: Framing,
    /// Bytes of the next request that came with the last one.
    early: Vec<u8>,
    /// Bytes given to actix since it last looked at them.
    turn_bytes: usize,
    /// Requests whose whole head actix was given.
    heads: u64,
    /// Whether actix has looked at a whole head and begun nothing.
    is_stuck: bool,
    head_deadline: Option<Instant>,
    /// Kept to the end of the connection, as its buffer is.
    large_head: Option<OwnedSemaphorePermit>,
    timer: Option<Pin<Box<Sleep>>>,
    written: Written,
    /// Set once the client sends no more: the time to the next look at whether it is still there.
    next_look: Option<Duration>,
    /// Whether actix is told that the client sends no more.
    has_ended: bool,
    is_refused: bool,
    is_shut: bool,
}

/// What was written of the reply to the last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Nothing, and nothing is left of earlier replies.
    Nothing,
    /// The first byte, before actix had one.
    FirstByte,
    /// Less than actix has.
    Part,
    /// All that actix has so far.
    All,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, connections: Rc<Connections>) -> Self {
        let head_deadline = Some(Instant::now() + connections.header_timeout);
        Self {
            stream,
            exchange: Exchange::open(connections),
            framing: Framing::new(),
            early: Vec::new(),
            turn_bytes: 0,
            heads: 0,
            is_stuck: false,
            head_deadline,
            large_head: None,
            timer: None,
            written: Written::Nothing,
            next_look: None,
            has_ended: false,
            is_refused: false,
            is_shut: false,
        }
    }

    /// What its requests share with it.
    pub(super) fn exchange(&self) -> &Rc<Exchange> {
        &self.exchange
    }

    /// Reads what actix may have now; nothing when there is to be no more.
    fn read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.exchange.must_close() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        // Where actix saw no request in a whole head, or one in what was none, the two have lost each other.
        let begun = self.exchange.begun();
        if self.has_ended || begun > self.heads || (self.is_stuck && begun < self.heads) {
            return Poll::Ready(Ok(()));
        }
        if self.framing.at_end() {
            if self.exchange.is_serving() || self.heads > begun {
                return self.watch(context);
            }
            self.framing.begin_next();
            self.exchange.await_next();
        }
        if self.turn_bytes == 0 && self.exchange.holds_body_back() {
            return Poll::Pending;
        }
        let room = buffer.remaining().min(TURN_BYTES.saturating_sub(self.turn_bytes));
        if room == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if !self.early.is_empty() {
            let mut early = std::mem::take(&mut self.early);
            return match self.follow(&early[..early.len().min(room)]) {
                Ok(bytes) => {
                    buffer.put_slice(&early[..bytes]);
                    early.drain(..bytes);
                    self.early = early;
                    Poll::Ready(Ok(()))
                }
                Err(refusal) => self.refuse(refusal),
            };
        }
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
        let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, &mut part) else {
            return self.wait_for_head(context);
        };
        read?;
        let come = part.filled();
        match self.follow(come) {
            Ok(bytes) => {
                self.early.extend_from_slice(&come[bytes..]);
                buffer.advance(bytes);
                Poll::Ready(Ok(()))
            }
            Err(refusal) => self.refuse(refusal),
        }
    }

    /// Follows bytes that have come. How many of them actix may have: those of one request.
    fn follow(&mut self, come: &[u8]) -> Result<usize, Refusal> {
        let was_in_head = self.framing.in_head();
        let Ok(piece) = self.framing.follow(come) else {
            // actix says what is wrong with them, and gets nothing else.
            self.has_ended = true;
            return Ok(come.len());
        };
        if was_in_head && !come.is_empty() {
            self.bound_head()?;
        }
        self.exchange.sent(piece.body_bytes, self.framing.at_end());
        self.turn_bytes += piece.bytes;
        Ok(piece.bytes)
    }

    /// Holds a head that has grown, or come to its end, against its bounds.
    fn bound_head(&mut self) -> Result<(), Refusal> {
        let bytes = self.framing.head_bytes();
        if bytes > MAX_HEAD_BYTES {
            return Err(Refusal::HeadTooLarge);
        }
        if bytes > TURN_BYTES && self.large_head.is_none() {
            let permit = self.exchange.connections().large_head().ok_or(Refusal::TooManyLargeHeads)?;
            self.large_head = Some(permit);
        }
        if self.framing.in_head() {
            let timeout = self.exchange.connections().header_timeout;
            self.head_deadline.get_or_insert_with(|| Instant::now() + timeout);
            return Ok(());
        }
        self.heads += 1;
        self.is_stuck = false;
        self.head_deadline = None;
        self.timer = None;
        if self.written == Written::All {
            self.written = Written::Nothing;
        }
        Ok(())
    }

    /// Waits for more of a head, not for longer than it may take.
    fn wait_for_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(deadline) = self.head_deadline else { return Poll::Pending };
        ready!(self.poll_timer(deadline, context));
        let timeout = self.exchange.connections().header_timeout;
        self.refuse(Refusal::HeadTimeout(timeout))
    }

    fn poll_timer(&mut self, until: Instant, context: &mut Context<'_>) -> Poll<()> {
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut().poll(context)
    }

    /// Tells the client why, where it has begun a request, and ends the connection.
    fn refuse(&mut self, refusal: Refusal) -> Poll<io::Result<()>> {
        self.exchange.connections().metrics.connection_cut(refusal.reason());
        (self.has_ended, self.is_refused, self.timer) = (true, true, None);
        if self.framing.has_begun() && matches!(self.written, Written::Nothing | Written::All) {
            // What the socket does not take at once is lost: it has room, unless the client reads nothing.
            let _told = self.stream.try_write(refusal.reply().as_bytes());
        }
        Poll::Ready(Ok(()))
    }

    /// Watches whether the client stays, while its request is served. One that closes its side may
    /// wait for the reply, or be gone: only a byte sent to it tells. So the first byte of the reply,
    /// which is always the same, goes ahead of the rest; who is gone answers it with a reset.
    fn watch(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            self.exchange.wake_at_end();
            return Poll::Pending;
        }
        if self.next_look.is_none() {
            let mut byte = [0];
            let mut peeked = ReadBuf::new(&mut byte);
            let bytes = ready!(self.stream.poll_peek(context, &mut peeked))?;
            self.exchange.wake_at_end();
            if bytes > 0 {
                return Poll::Pending;
            }
            self.next_look = Some(FIRST_LOOK);
            if self.written == Written::Nothing && self.stream.try_write(&REPLY_START).is_ok_and(|bytes| bytes == 1) {
                self.written = Written::FirstByte;
            }
        }
        while let (Some(wait), Written::FirstByte) = (self.next_look, self.written) {
            ready!(self.poll_timer(Instant::now() + wait, context));
            if let Some(error) = self.stream.take_error()? {
                return Poll::Ready(Err(error));
            }
            self.next_look = Some((wait * 2).min(LONGEST_LOOK));
            self.timer = None;
        }
        Poll::Pending
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = self.read(context, buffer);
        if polled.is_pending() {
            self.turn_bytes = 0;
            self.is_stuck = self.heads > self.exchange.begun();
            self.exchange.remember(context);
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let ahead = usize::from(self.written == Written::FirstByte);
        if ahead > 0 && !bytes.starts_with(&REPLY_START) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let rest = &bytes[ahead..];
        let written =
            if rest.is_empty() { Poll::Ready(Ok(0)) } else { Pin::new(&mut self.stream).poll_write(context, rest) };
        match written {
            Poll::Ready(Ok(more)) => {
                self.written = if more == rest.len() { Written::All } else { Written::Part };
                Poll::Ready(Ok(ahead + more))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if ahead == 0 {
                    self.written = Written::Part;
                }
                Poll::Pending
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.is_shut = true;
        }
        // Closed with bytes unread, the connection would be reset, and the reply lost on its way.
        let mut sink = [0; SINK_BYTES];
        while self.is_refused && self.poll_timer(Instant::now() + LINGER, context).is_pending() {
            let mut sunk = ReadBuf::new(&mut sink);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut sunk));
            if read.is_err() || sunk.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.exchange.close();
    }
}
