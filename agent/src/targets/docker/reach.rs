//! Whether connections to a container can be redirected on this host: its networks must be bridges here.

use std::path::Path;

use serde_json::Value;
use sternway_proto::name::clean_text;

use super::{
    DockerKind,
    client::EngineError,
    normalise::{list, text},
    record::ContainerRecord,
    redirect,
    steps::bridge_of,
};

impl DockerKind {
    /// Why connections to such a container cannot be redirected here. `Ok`: they can.
    pub(super) async fn redirectable(
        &self,
        record: &ContainerRecord,
        seen: &redirect::Seen,
    ) -> Result<Result<(), String>, EngineError> {
        if is_rootless(&self.engine.info().await?) {
            let reason = "the engine is rootless: its networks are not this host's";
            return Ok(Err(reason.to_owned()));
        }
        let names: Vec<&str> = match record.networks.len() {
            0 => vec!["bridge"],
            _ => record.networks.keys().map(String::as_str).collect(),
        };
        for name in names {
            let hindrance = match self.engine.network(name).await {
                Ok(network) => hindrance(&network, is_interface)
                    .or_else(|| redirect::hindered_by(&bridge_of(&network))),
                Err(error) if error.is_not_found() => Some("is not there".to_owned()),
                Err(error) => return Err(error),
            };
            if let Some(reason) = hindrance {
                return Ok(Err(format!("its network {} {reason}", clean_text(name))));
            }
        }
        Ok(redirect::available(seen).await)
    }
}

fn is_rootless(info: &Value) -> bool {
    let options = list(&info["SecurityOptions"]).iter();
    let mut options = options.filter_map(Value::as_str);
    options.any(|option| option.split(',').any(|part| part == "name=rootless"))
}

fn is_interface(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

/// What is wrong with a network. None: it is a bridge that is there and leads outside.
fn hindrance(network: &Value, is_interface: impl Fn(&str) -> bool) -> Option<String> {
    let driver = text(network, "Driver");
    if driver != "bridge" {
        return Some(format!(
            "is no bridge of this host but of the driver {:?}",
            clean_text(driver)
        ));
    }
    if network["Internal"].as_bool() == Some(true) {
        return Some("is internal: no port is published through it".to_owned());
    }
    let bridge = bridge_of(network);
    if !is_interface(&bridge) {
        return Some(format!("has no interface {} here", clean_text(&bridge)));
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_bridges_of_this_host_can_be_redirected() {
        let here = |name: &str| matches!(name, "docker0" | "br-0123456789ab");
        let judge = |network: Value| hindrance(&network, here);
        let id = "0123456789abcdef";
        let named = json!({"com.docker.network.bridge.name": "docker0"});
        assert_eq!(
            judge(json!({"Driver": "bridge", "Id": "x", "Options": named})),
            None
        );
        assert_eq!(
            judge(json!({"Driver": "bridge", "Id": id, "Options": null})),
            None
        );
        for driver in ["macvlan", "ipvlan", "overlay", "null", "host"] {
            let said = judge(json!({"Driver": driver, "Id": id}));
            assert!(said.is_some_and(|said| said.contains(driver)), "{driver}");
        }
        let internal = judge(json!({"Driver": "bridge", "Id": id, "Internal": true}));
        assert!(internal.is_some_and(|said| said.contains("internal")));
        let elsewhere = judge(json!({"Driver": "bridge", "Id": "fedcba9876543210"}));
        assert!(elsewhere.is_some_and(|said| said.contains("br-fedcba987654")));
    }

    #[test]
    fn a_rootless_engine_is_known_by_what_it_says() {
        let says = |option: &str| is_rootless(&json!({"SecurityOptions": [option]}));
        assert!(says("name=rootless") && says("name=seccomp,name=rootless"));
        assert!(!says("name=seccomp,profile=default"));
        assert!(!is_rootless(&json!({})));
    }
}
