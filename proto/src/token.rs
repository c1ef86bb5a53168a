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

/// The text is no join token. It is not repeated: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is no join token: it reads swj1_ and letters, as `ctl host token` printed it, whole")]
pub struct TokenError;

impl JoinToken {
    /// What the controller stores and looks up.
    #[must_use]
    pub fn secret_hash(secret: &[u8]) -> [u8; 32] {
        Sha256::digest(secret).into()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(SECRET + PIN + self.address.len());
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.pin);
        bytes.extend_from_slice(self.address.as_bytes());
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
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError)?;
        if text.len() > (SECRET + PIN + address::LIMIT) * 2 {
            return Err(TokenError);
        }
        let mut bytes = BASE64.decode(text).map_err(|_| TokenError)?;
        let parsed = (|| {
            let (secret, rest) = bytes.split_first_chunk::<SECRET>()?;
            let (pin, rest) = rest.split_first_chunk::<PIN>()?;
            let address = std::str::from_utf8(rest).ok()?;
            address::check(address).ok()?;
            Some(Self {
                secret: *secret,
                pin: *pin,
                address: address.to_owned(),
            })
        })();
        bytes.zeroize();
        parsed.ok_or(TokenError)
    }
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
    fn a_truncated_or_foreign_text_is_no_token() {
        let text = token().to_string();
        let cut = text.get(..60).expect("long enough");
        let of = |address: &str| {
            let address = address.to_owned();
            JoinToken { address, ..token() }.to_string()
        };
        let (no_port, scheme) = (of("controller"), of("https://controller:7444"));
        for bad in [
            "",
            "swj1_",
            cut,
            text.trim_start_matches("swj1_"),
            &no_port,
            &scheme,
            "swj1_%%%",
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(TokenError), "{bad}");
        }
    }
}
