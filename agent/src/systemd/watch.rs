//! What changes among the units, as the service manager tells it.

use std::num::NonZeroUsize;

use futures_util::{Stream, StreamExt as _};
use zbus::{MatchRule, Message, MessageStream, message::Type};

use super::{Bus, BusError, UnitName};

/// Where units are, as objects of the bus.
const UNITS: &str = "/org/freedesktop/systemd1/unit/";

/// What waits to be read, messages. The bus waits with more.
const QUEUE: NonZeroUsize = NonZeroUsize::new(256).unwrap();

impl Bus {
    /// The units whose properties change, from now on, each as often as it does. It ends when the connection is lost:
    /// then anything may have changed.
    ///
    /// # Errors
    /// The service manager does not say.
    pub async fn changes(&self) -> Result<impl Stream<Item = UnitName> + use<>, BusError> {
        let connection = self.connection().await?;
        let rule = rule().map_err(|error| BusError::of("watch units", None, error))?;
        let listens = async { MessageStream::for_match_rule(rule, &connection, Some(QUEUE)).await };
        let stream = self.answered_to("watch units", listens).await?;
        let units = stream
            .take_while(|message| std::future::ready(message.is_ok()))
            .filter_map(|message| std::future::ready(message.ok().as_ref().and_then(changed)));
        Ok(units)
    }
}

fn rule() -> zbus::Result<MatchRule<'static>> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged")
        .path_namespace(UNITS.trim_end_matches('/'));
    rule.build()
}

/// The unit that a message is about.
fn changed(message: &Message) -> Option<UnitName> {
    unit_of(message.header().path()?.as_str())
}

/// The unit of an object's path, in which every letter that a path may not hold is `_` and its two hexadecimal digits.
fn unit_of(path: &str) -> Option<UnitName> {
    let mut left = path.strip_prefix(UNITS)?.bytes();
    let mut name = Vec::new();
    while let Some(byte) = left.next() {
        if byte != b'_' {
            name.push(byte);
            continue;
        }
        let digits = [left.next()?, left.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        name.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_from_the_path_of_its_object() {
        let name = |path: &str| unit_of(&format!("{UNITS}{path}")).map(|unit| unit.to_string());
        assert_eq!(
            name("billing_2eservice").as_deref(),
            Some("billing.service")
        );
        assert_eq!(name("_30ad_2eservice").as_deref(), Some("0ad.service"));
        assert_eq!(
            name("worker_401_2eservice").as_deref(),
            Some("worker@1.service")
        );
        for path in ["billing_2", "billing_zz", "billing_2eservice_0a", "_", ""] {
            assert_eq!(name(path), None, "{path}");
        }
        assert_eq!(unit_of("/org/freedesktop/systemd1/job/7"), None);
    }
}
