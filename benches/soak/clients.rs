//! Clients that live the day: each sends its next request when the last one has ended.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::{self, Connection};
use crate::day::{Day, End, MALFORMED_KIND, Request};

/// A reply that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection is kept for so many requests.
const REQUESTS_A_CONNECTION: usize = 500;

/// Failures that are kept as they came; the others are only counted.
const KEPT_FAILURES: usize = 20;

/// What came of all requests so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// How often each kind of request ended so: a status, or `hung up`.
    pub ends: BTreeMap<(&'static str, String), u64>,
    pub failures: u64,
    pub first_failures: Vec<String>,
}

impl Tally {
    fn count(&mut self, kind: &'static str, end: String) {
        *self.ends.entry((kind, end)).or_default() += 1;
    }

    fn fail(&mut self, kind: &'static str, what: String) {
        self.failures += 1;
        if self.first_failures.len() < KEPT_FAILURES {
            eprintln!("not meant: {kind}: {what}");
            self.first_failures.push(format!("{kind}: {what}"));
        }
    }
}

/// The clients' side of a soak.
pub struct Clients {
    pub address: SocketAddr,
    pub count: usize,
    /// After so many requests the heavy model is unloaded by hand, again and again.
    pub unload_every: u64,
    /// Requests that were begun.
    pub begun: Arc<AtomicU64>,
    pub day: Rc<RefCell<Day>>,
    pub tally: Rc<RefCell<Tally>>,
}

impl Clients {
    /// Lives the day until so many requests were begun, from the start of the soak, and all of them have ended.
    pub fn live_until(&self, requests: u64) {
        client::run(async {
            let mut clients = JoinSet::new();
            let client = || Client { of: self.share(), connection: None, asked: 0, last: String::new() };
            clients.spawn_local(client().operate_until(requests));
            for _ in 0..self.count {
                clients.spawn_local(client().live_until(requests));
            }
            while let Some(ended) = clients.join_next().await {
                ended.expect("a client ends well");
            }
        });
    }

    fn share(&self) -> Self {
        Self { begun: Arc::clone(&self.begun), day: Rc::clone(&self.day), tally: Rc::clone(&self.tally), ..*self }
    }
}

struct Client {
    of: Clients,
    connection: Option<Connection>,
    /// Requests on this connection, and how the last of them ended.
    asked: usize,
    last: String,
}

impl Client {
    async fn live_until(mut self, requests: u64) {
        while self.of.begun.load(Ordering::Relaxed) < requests {
            self.of.begun.fetch_add(1, Ordering::Relaxed);
            let request = self.of.day.borrow_mut().next();
            match request.end {
                End::HangUp(sent) => self.hang_up(&request, sent).await,
                End::Reply(statuses) => self.ask(&request, statuses).await,
            }
        }
    }

    /// Unloads the heavy model once in a while, and loads it again after a tenth of that while.
    async fn operate_until(mut self, requests: u64) {
        let every = self.of.unload_every;
        let mut next = (self.of.begun.load(Ordering::Relaxed) / every + 1) * every;
        while next + every / 10 < requests {
            for (wish, at) in [("unload", next), ("load", next + every / 10)] {
                while self.of.begun.load(Ordering::Relaxed) < at {
                    sleep(Duration::from_millis(20)).await;
                }
                // One from so long ago the server may have closed.
                self.connection = None;
                let request = self.of.day.borrow_mut().administer(wish);
                if let End::Reply(statuses) = request.end {
                    self.ask(&request, statuses).await;
                }
            }
            next += every;
        }
    }

    async fn hang_up(&mut self, request: &Request, sent: usize) {
        let all = async { Connection::open(self.of.address).await?.send(&request.bytes[..sent]).await };
        let hung_up = all.await;
        let mut tally = self.of.tally.borrow_mut();
        match hung_up {
            Ok(()) => tally.count(request.kind, "hung up".to_owned()),
            Err(error) => tally.fail(request.kind, error.to_string()),
        }
    }

    async fn ask(&mut self, request: &Request, statuses: &[u16]) {
        let reply = timeout(PATIENCE, self.reply(&request.bytes)).await;
        let mut tally = self.of.tally.borrow_mut();
        match reply {
            Ok(Ok(status)) => {
                tally.count(request.kind, status.to_string());
                self.last = format!("{} {status}", request.kind);
                if request.kind == MALFORMED_KIND {
                    self.connection = None;
                }
                if !statuses.contains(&status) {
                    tally.fail(request.kind, format!("{status} rather than {statuses:?}"));
                }
            }
            Ok(Err(error)) => {
                tally.fail(
                    request.kind,
                    format!("{error}, request {} of its connection, after {}", self.asked, self.last),
                );
                self.connection = None;
            }
            Err(_) => {
                tally.fail(request.kind, format!("no reply within {} s", PATIENCE.as_secs()));
                self.connection = None;
            }
        }
    }

    async fn reply(&mut self, bytes: &[u8]) -> std::io::Result<u16> {
        if self.asked >= REQUESTS_A_CONNECTION {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                self.asked = 0;
                self.connection.insert(Connection::open(self.of.address).await?)
            }
        };
        self.asked += 1;
        let status = connection.ask(bytes).await?;
        if connection.is_closed {
            self.connection = None;
        }
        Ok(status)
    }
}
