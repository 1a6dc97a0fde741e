//! How often one client may ask, and how many texts it may send.

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

/// Why a client may not send what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Not yet: there will be room after this time.
    ForNow {
        /// The time.
        wait: Duration,
    },
    /// Never: it is more than may come at once.
    ForEver,
}

/// An allowance for each client, of requests or of texts.
pub struct RateLimit {
    limiter: RateLimiter<Client, HashMapStateStore<Client>, MonotonicClock>,
    swept: Mutex<Instant>,
    per_second: u32,
    burst: u32,
}

impl RateLimit {
    /// `per_second` of them, of which `burst` may come at once; at least one each.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let at_least_one = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst));
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock);
        Self { limiter, swept: Mutex::new(Instant::now()), per_second, burst }
    }

    /// How many a client may send in a second.
    #[must_use]
    pub fn per_second(&self) -> u32 {
        self.per_second
    }

    /// How many it may send at once.
    #[must_use]
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Counts `count` of them together; none of them where that is too many.
    ///
    /// # Errors
    /// [`Excess`], when they are too many.
    pub fn count(&self, client: Client, count: usize) -> Result<(), Excess> {
        let Some(count) = NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX)) else { return Ok(()) };
        let client = if self.limiter.len() < MAX_CLIENTS { client } else { self.make_room(client) };
        match self.limiter.check_key_n(&client, count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(Excess::ForNow { wait: until.wait_time_from(MonotonicClock.now()) }),
            Err(_more_than_the_burst) => Err(Excess::ForEver),
        }
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
        assert!((0..3).all(|_| limit.count(client, 1).is_ok()));
        let Err(Excess::ForNow { wait }) = limit.count(client, 1) else { panic!("a fourth one passed") };
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(500), "{wait:?}");
        assert!(limit.count(Client::Key(0), 1).is_ok());
    }

    #[test]
    fn many_pass_together_or_not_at_all() {
        let limit = RateLimit::new(10, 10);
        let client = Client::at([192, 0, 2, 1].into());
        assert_eq!(limit.count(client, 11), Err(Excess::ForEver));
        assert_eq!(limit.count(client, 0), Ok(()));
        assert_eq!(limit.count(client, 9), Ok(()));
        let Err(Excess::ForNow { wait }) = limit.count(client, 5) else { panic!("14 passed together") };
        assert!(wait > Duration::from_millis(300) && wait <= Duration::from_millis(400), "{wait:?}");
        assert_eq!(limit.count(client, 1), Ok(()), "what is refused is not counted");
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
            assert!(limit.count(Client::at(address.into()), 1).is_ok());
        }
        assert!(limit.count(Client::at([255, 0, 0, 1].into()), 1).is_ok());
        assert!(limit.count(Client::at([255, 0, 0, 2].into()), 1).is_err());
        assert!(limit.count(Client::Key(1), 1).is_ok());
        assert!(limit.limiter.len() <= MAX_CLIENTS + 2);
    }
}
