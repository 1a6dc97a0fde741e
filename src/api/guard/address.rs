//! Where a request comes from, as far as that can be believed.

use std::net::IpAddr;
use std::str::FromStr;

use actix_web::http::header::HeaderMap;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    address: u128,
    prefix_bits: u32,
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        let host_bits = u128::BITS - self.prefix_bits;
        // A shift by all bits of the number is not defined.
        host_bits == u128::BITS || bits(address) >> host_bits == self.address >> host_bits
    }
}

/// IPv4 addresses as IPv6 writes them, so that both are compared in one way.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is neither an address nor a network such as 10.0.0.0/8");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u32 = prefix.map_or(Ok(width), str::parse).map_err(|_| error())?;
        if prefix > width {
            return Err(error());
        }
        Ok(Self { address: bits(address), prefix_bits: prefix + u128::BITS - width })
    }
}

/// Proxies whose word is taken for where a request came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<Network>,
}

impl FromStr for TrustedProxies {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let networks = list.split(',').map(str::trim).filter(|network| !network.is_empty());
        Ok(Self { networks: networks.map(str::parse).collect::<Result<_, _>>()? })
    }
}

impl TrustedProxies {
    /// The client's address: the last one in `X-Forwarded-For` that is not a trusted proxy, when
    /// the peer is a trusted proxy; else the peer. What stands before it anybody may have written.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines: Vec<&str> = headers.get_all(FORWARDED_FOR).filter_map(|line| line.to_str().ok()).collect();
        let mut hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
        while self.trusts(client) {
            let Some(hop) = hops.next().and_then(address_in) else { break };
            client = hop;
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.holds(address))
    }
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`.
fn address_in(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bracketed = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let address = bracketed.unwrap_or(hop);
    let without_port = || address.rsplit_once(':')?.0.parse().ok();
    address.parse().ok().or_else(without_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn client(proxies: &str, peer: &str, forwarded_for: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded_for {
            headers.append(HeaderName::from_static(FORWARDED_FOR), HeaderValue::from_str(line).unwrap());
        }
        proxies.parse::<TrustedProxies>().unwrap().client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(client("", "10.0.0.1", &["192.0.2.9"]), "10.0.0.1");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["192.0.2.9"]), "192.0.2.9");
        assert_eq!(client("10.0.0.0/8", "11.0.0.1", &["192.0.2.9"]), "11.0.0.1");
        assert_eq!(client("10.0.0.0/8", "::ffff:10.0.0.1", &["192.0.2.9"]), "192.0.2.9");
        assert_eq!(client("2001:db8::/32,10.0.0.1", "2001:db8::7", &["[2001:db9::1]:80"]), "2001:db9::1");
    }

    #[test]
    fn what_a_client_wrote_before_its_own_address_is_not_believed() {
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["1.1.1.1, 192.0.2.9, 10.0.0.2"]), "192.0.2.9");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["1.1.1.1", "192.0.2.9:4711"]), "192.0.2.9");
        assert_eq!(client("10.0.0.0/8", "10.0.0.1", &["192.0.2.9, nonsense"]), "10.0.0.1");
        assert_eq!(client("0.0.0.0/0", "10.0.0.1", &["192.0.2.9"]), "192.0.2.9");
    }

    #[test]
    fn a_network_that_cannot_be_is_named() {
        for wrong in ["10.0.0.0/33", "example.org", "10.0.0.0/x", "/8"] {
            assert!(wrong.parse::<TrustedProxies>().unwrap_err().contains(wrong));
        }
    }
}
