//! `HOST:PORT`, as people configure it and as tokens carry it. Pure.

use std::net::Ipv6Addr;

use thiserror::Error;

/// The longest address, bytes: a DNS name of 253 and a port.
pub const LIMIT: usize = 260;

/// Why a text is no address that others can dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AddressError {
    #[error("it is longer than {LIMIT} bytes")]
    TooLong,
    #[error("it has a scheme: leave out what stands before the `://`, and the `://`")]
    Scheme,
    #[error("it has no port: it reads HOST:PORT, for instance controller.example:7443")]
    NoPort,
    #[error("its port is no number from 1 to 65535")]
    Port,
    #[error(
        "its host is neither a name nor an IP address; an IPv6 address stands in brackets: [2001:db8::1]:7443"
    )]
    Host,
}

/// Whether others can dial this: a DNS name, an IPv4 address, or an IPv6 address in brackets, and a port.
///
/// # Errors
/// They cannot, and why.
pub fn check(text: &str) -> Result<(), AddressError> {
    if text.len() > LIMIT {
        return Err(AddressError::TooLong);
    }
    if text.contains("://") {
        return Err(AddressError::Scheme);
    }
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of a bare IPv6 address, or within its brackets, is no port's.
        Some((_, port)) if port.ends_with(']') => return Err(AddressError::NoPort),
        Some(parts) => parts,
        None => return Err(AddressError::NoPort),
    };
    let known = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(inside) => inside.parse::<Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    if !known {
        return Err(AddressError::Host);
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if digits => Ok(()),
        _ => Err(AddressError::Port),
    }
}

/// A DNS name or an IPv4 address: labels of letters, digits, dashes and, as machines are called, underscores.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_dialled_is_accepted_and_what_cannot_is_refused_with_the_reason() {
        for good in [
            "controller:7443",
            "controller.example:1",
            "controller.example.:7443",
            "my_host:65535",
            "10.0.0.1:7443",
            "[::1]:7443",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", AddressError::NoPort),
            ("controller.example", AddressError::NoPort),
            ("[::1]", AddressError::NoPort),
            ("https://controller.example:7443", AddressError::Scheme),
            (":7443", AddressError::Host),
            ("2001:db8::1:7443", AddressError::Host),
            ("[controller]:7443", AddressError::Host),
            ("controller example:7443", AddressError::Host),
            ("controller/x:7443", AddressError::Host),
            ("-x.example:7443", AddressError::Host),
            ("controller..example:7443", AddressError::Host),
            ("controller:", AddressError::Port),
            ("controller:0", AddressError::Port),
            ("controller:+1", AddressError::Port),
            ("controller:70000", AddressError::Port),
            ("controller:https", AddressError::Port),
        ] {
            assert_eq!(check(bad), Err(why), "{bad}");
        }
        let long = format!("{}:1", "a.".repeat(200));
        assert_eq!(check(&long), Err(AddressError::TooLong));
    }
}
