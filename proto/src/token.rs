//! The join token: what a machine needs to become a host, once.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::Zeroize as _;

use crate::address;

const PREFIX: &str = "swj1_";
const SECRET: usize = 32;
const PIN: usize = 32;
/// The first bytes of a digest of the rest, at the end: what was cut off or mistyped is told before anything is dialled.
const SUM: usize = 4;

/// One-time, expiring; the controller keeps a hash of its secret only.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Proves that whoever shows it was given it.
    pub secret: [u8; SECRET],
    /// SHA-256 of the cluster's root certificate, DER: whom the machine may give the secret to.
    pub pin: [u8; PIN],
    /// `host:port` of the enrolment listener.
    pub address: String,
}

/// Why a text is no join token. It is not repeated: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error(
        "this is no join token: it reads swj1_ and letters, as `ctl host token` printed it, whole"
    )]
    NotOne,
    #[error(
        "the join token is not whole: its end is cut off, or a letter of it is not as `ctl host token` printed it; copy \
         it again"
    )]
    NotWhole,
}

impl JoinToken {
    /// What the controller stores and looks up.
    #[must_use]
    pub fn secret_hash(secret: &[u8]) -> [u8; 32] {
        Sha256::digest(secret).into()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(SECRET + PIN + self.address.len() + SUM);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.pin);
        bytes.extend_from_slice(self.address.as_bytes());
        bytes.extend_from_slice(&sum(&bytes));
        let text = BASE64.encode(&bytes);
        bytes.zeroize();
        write!(f, "{PREFIX}{text}")
    }
}

impl fmt::Debug for JoinToken {
    /// Never shows the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for JoinToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim().strip_prefix(PREFIX);
        let text = text.ok_or(TokenError::NotOne)?;
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if text.len() > (SECRET + PIN + address::LIMIT + SUM) * 2 || !text.bytes().all(letters) {
            return Err(TokenError::NotOne);
        }
        let mut bytes = BASE64.decode(text).map_err(|_| TokenError::NotWhole)?;
        let parsed = Self::from_bytes(&bytes);
        bytes.zeroize();
        parsed
    }
}

impl JoinToken {
    fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        let (bytes, noted) = bytes
            .split_last_chunk::<SUM>()
            .ok_or(TokenError::NotWhole)?;
        if sum(bytes) != *noted {
            return Err(TokenError::NotWhole);
        }
        let parsed = || {
            let (secret, rest) = bytes.split_first_chunk::<SECRET>()?;
            let (pin, rest) = rest.split_first_chunk::<PIN>()?;
            let address = std::str::from_utf8(rest).ok()?;
            address::check(address).ok()?;
            Some(Self {
                secret: *secret,
                pin: *pin,
                address: address.to_owned(),
            })
        };
        parsed().ok_or(TokenError::NotOne)
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM] {
    let digest = Sha256::digest(bytes);
    std::array::from_fn(|at| digest[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            secret: [7; 32],
            pin: [9; 32],
            address: "controller.example:7444".into(),
        }
    }

    #[test]
    fn a_token_is_read_as_it_is_written_and_never_shown_by_debug() {
        let text = token().to_string();
        assert_eq!(text.parse::<JoinToken>().expect("whole"), token());
        assert!(!format!("{:?}", token()).contains('7'.to_string().repeat(3).as_str()));
    }

    #[test]
    fn of_a_token_that_is_not_whole_that_is_said() {
        let text = token().to_string();
        for length in PREFIX.len()..text.len() {
            let cut = text.get(..length).expect("ASCII");
            assert_eq!(cut.parse::<JoinToken>(), Err(TokenError::NotWhole), "{cut}");
        }
        for at in PREFIX.len()..text.len() - 1 {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).expect("ASCII");
            assert_eq!(
                other.parse::<JoinToken>(),
                Err(TokenError::NotWhole),
                "{other}"
            );
        }
    }

    #[test]
    fn a_foreign_text_is_no_token() {
        let text = token().to_string();
        let of = |address: &str| {
            let address = address.to_owned();
            JoinToken { address, ..token() }.to_string()
        };
        let (no_port, scheme) = (of("controller"), of("https://controller:7444"));
        let (begin, end) = text.split_at(40);
        let broken = format!("{begin}\n{end}");
        for bad in [
            "",
            text.trim_start_matches("swj1_"),
            &no_port,
            &scheme,
            "swj1_%%%",
            &broken,
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(TokenError::NotOne), "{bad}");
        }
    }
}
