//! Sizes, waits and addresses: how they are written, read and shown.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::fault::FaultKind;
use crate::settings::Number;

/// What a size looks like, for messages.
pub(crate) const SIZE: &str = "a number of bytes or a size such as \"4 MiB\"";
/// What a wait looks like, for messages.
pub(crate) const DURATION: &str = "a time with its unit, such as \"30s\", \"500ms\" or \"1h 30m\"";
/// What an address looks like, for messages.
pub(crate) const ADDRESS: &str = "an IP address and a port, such as \"127.0.0.1:8080\"";

/// Reads `127.0.0.1:8080`, `[::1]:8080`, or `localhost:8080`, which is 127.0.0.1. No other name: what a name resolves
/// to is not in the configuration's hand, and which addresses are listened on should be.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, FaultKind> {
    let malformed = FaultKind::Malformed { expected: ADDRESS };
    match text.strip_prefix("localhost:") {
        Some(port) => match port.parse::<u16>() {
            Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
            Err(_) => Err(malformed),
        },
        None => text.parse().map_err(|_| malformed),
    }
}

/// Reads a wait.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, FaultKind> {
    humantime::parse_duration(text).map_err(|_| FaultKind::Malformed { expected: DURATION })
}

/// Reads "4 MiB", "4MB", "512 k", "1048576". As the units say: `Ki`, `Mi`, `Gi` are powers of 1024, `k`, `M`, `G` of 1000.
pub(crate) fn parse_size(text: &str) -> Result<u64, FaultKind> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start().to_ascii_lowercase();
    let factor: u64 = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        _ => return Err(FaultKind::Malformed { expected: SIZE }),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or(FaultKind::Malformed { expected: SIZE })
}

/// A size as people write it.
pub(crate) fn show_size(bytes: usize) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 && (bytes >> shift) << shift == bytes {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// A wait as people write it.
pub(crate) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

impl<Table> Number<Table, Duration> {
    /// The wait if it is in range.
    pub(crate) fn check(&self, value: Duration) -> Result<Duration, FaultKind> {
        if self.range.contains(&value) {
            return Ok(value);
        }
        Err(FaultKind::OutOfRange {
            found: show_duration(value),
            min: show_duration(*self.range.start()),
            max: show_duration(*self.range.end()),
        })
    }
}
