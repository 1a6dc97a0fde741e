//! How often one client may ask.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock, MonotonicClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

/// Clients that are told apart; those beyond share one allowance until others have been quiet.
const MAX_CLIENTS: usize = 10_000;

/// Time between two removals of clients that have been quiet.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Bits of an IPv6 address that one client gets to choose from.
const IPV6_HOST_BITS: u32 = 64;

/// Who shares one allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// All who send this key.
    Key(usize),
    /// All at this address, or in this IPv6 network.
    Address(IpAddr),
    /// Everybody beyond the clients that are told apart.
    Others,
}

impl Client {
    /// Who asks from this address without a key.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> IPV6_HOST_BITS << IPV6_HOST_BITS).into()),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// An allowance of requests for each client.
pub struct RateLimit {
    limiter: RateLimiter<Client, HashMapStateStore<Client>, MonotonicClock>,
    swept: Mutex<Instant>,
    per_second: u32,
}

impl RateLimit {
    /// `per_second` requests, of which `burst` may come at once; at least one each.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let at_least_one = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst));
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock);
        Self { limiter, swept: Mutex::new(Instant::now()), per_second }
    }

    /// Requests a second.
    #[must_use]
    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    /// Counts one request.
    ///
    /// # Errors
    /// The time after which the next one is let through, when this one is too many.
    pub fn count(&self, client: Client) -> Result<(), Duration> {
        let client = if self.limiter.len() < MAX_CLIENTS { client } else { self.make_room(client) };
        self.limiter.check_key(&client).map_err(|until| until.wait_time_from(MonotonicClock.now()))
    }

    fn make_room(&self, client: Client) -> Client {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.elapsed() >= SWEEP_INTERVAL {
            *swept = Instant::now();
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        match client {
            // As many as were configured.
            Client::Key(_) => client,
            Client::Address(_) | Client::Others if self.limiter.len() < MAX_CLIENTS => client,
            Client::Address(_) | Client::Others => Client::Others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_burst_passes_and_the_next_has_to_wait_for_its_share_of_a_second() {
        let limit = RateLimit::new(2, 3);
        let client = Client::at([192, 0, 2, 1].into());
        assert!((0..3).all(|_| limit.count(client).is_ok()));
        let wait = limit.count(client).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(500), "{wait:?}");
        assert!(limit.count(Client::Key(0)).is_ok());
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_its_ipv4_one() {
        let at = |address: &str| Client::at(address.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:2"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
    }

    #[test]
    fn clients_beyond_the_bound_share_one_allowance() {
        let limit = RateLimit::new(1, 1);
        for client in 0..MAX_CLIENTS {
            let address = u32::try_from(client).unwrap().to_be_bytes();
            assert!(limit.count(Client::at(address.into())).is_ok());
        }
        assert!(limit.count(Client::at([255, 0, 0, 1].into())).is_ok());
        assert!(limit.count(Client::at([255, 0, 0, 2].into())).is_err());
        assert!(limit.count(Client::Key(1)).is_ok());
        assert!(limit.limiter.len() <= MAX_CLIENTS + 2);
    }
}
