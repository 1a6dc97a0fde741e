//! `health`: asks a running server whether it is ready, for container health checks.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use clap::Args;

use super::Failure;

/// How long the server may take for each step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest reply that is read.
const MAX_REPLY_BYTES: u64 = 64 << 10;

/// Arguments of `health`.
#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Address that the server listens on
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    host: String,

    /// Port that it listens on
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,
}

pub(super) fn run(arguments: &HealthArgs) -> Result<(), Failure> {
    // A server that listens on all addresses is asked on this machine.
    let host = match arguments.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    let place = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let place = format!("{place}:{}", arguments.port);
    let reply = ask(&place, "/readyz").map_err(|error| Failure::Failed(format!("no answer from {place}: {error}")))?;
    let status = reply.split(' ').nth(1).unwrap_or_default();
    let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
    println!("{body}");
    if status == "200" {
        Ok(())
    } else {
        Err(Failure::Failed(format!("the server at {place} is not ready ({status})")))
    }
}

fn ask(place: &str, path: &str) -> std::io::Result<String> {
    let address = place
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "the host has no address"))?;
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n")?;
    let mut reply = Vec::new();
    connection.take(MAX_REPLY_BYTES).read_to_end(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply).into_owned())
}
