//! Sends new connections for published ports to a standby, in the kernel: a table of our own in nftables,
//! before Docker's own rules. Established connections stay where they are, then and when the table goes.
//!
//! Loopback clients come through the `output` hook; for the answers to come back the bridge must accept
//! loopback addresses (`route_localnet`), and the standby must see an address of the bridge
//! (`masquerade`).

use std::{fmt::Write as _, net::Ipv4Addr, path::Path, process::Stdio, time::Duration};

use sternway_proto::name::clean_text;
use thiserror::Error;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};
use uuid::Uuid;

use super::{localnet, warm::Published};

/// How long `nft` may take: it talks to the kernel alone.
const NFT_TIMEOUT: Duration = Duration::from_secs(10);

/// Prefix of our tables.
pub(super) const PREFIX: &str = "sternway_";

/// Where Debian and others have it; not looked for anywhere else.
const NFT: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

/// Why connections could not be redirected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what}: {reason}")]
pub(super) struct RedirectError {
    pub(super) what: &'static str,
    pub(super) reason: String,
}

/// Whether this host can redirect.
pub(super) fn available() -> Result<(), String> {
    match program() {
        Some(_) => Ok(()),
        None => Err("nft (package nftables) is not on this host".to_owned()),
    }
}

fn program() -> Option<&'static str> {
    NFT.into_iter().find(|path| Path::new(path).exists())
}

/// The table of an order.
pub(super) fn table(order: Uuid) -> String {
    format!("{PREFIX}{}", order.simple())
}

/// The whole ruleset of a redirect. It replaces a table of that name in one transaction.
fn ruleset(table: &str, mark: &str, standby: Ipv4Addr, ports: &[Published]) -> String {
    let mut rules = String::new();
    for port in ports {
        let bound = match port.address {
            Some(address) => format!("ip daddr {address} "),
            None => "fib daddr type local ".to_owned(),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(
            rules,
            "    {bound}tcp dport {} dnat to {standby}:{}",
            port.port, port.inside
        );
    }
    format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n  \
           chain {mark} {{\n  }}\n  \
           chain prerouting {{\n    type nat hook prerouting priority -110; policy accept;\n{rules}  }}\n  \
           chain output {{\n    type nat hook output priority -110; policy accept;\n{rules}  }}\n  \
           chain postrouting {{\n    type nat hook postrouting priority 90; policy accept;\n    \
           ct status dnat ip daddr {standby} masquerade\n  }}\n\
         }}\n"
    )
}

/// Redirects the ports to the standby, which is on that bridge.
pub(super) async fn begin(
    order: Uuid,
    bridge: &str,
    standby: Ipv4Addr,
    ports: &[Published],
) -> Result<(), RedirectError> {
    let before = match localnet::before(&marks().await?, bridge) {
        Some(before) => before,
        None => accepts_loopback(bridge)?,
    };
    let (table, mark) = (table(order), localnet::chain(bridge, before));
    // What the bridge did is written down before it is changed, and the bridge is ready before the first
    // connection comes.
    let marked = format!("add table ip {table}\nadd chain ip {table} {mark}\n");
    nft(&["-f", "-"], &marked).await?;
    accept_loopback(bridge, true)?;
    let rules = ruleset(&table, &mark, standby, ports);
    nft(&["-f", "-"], &rules).await.map(drop)
}

/// Ends the redirect. That there is none is as good.
pub(super) async fn end(order: Uuid) -> Result<(), RedirectError> {
    let back = localnet::put_back(&marks().await?, order);
    let table = table(order);
    let text = format!("add table ip {table}\ndelete table ip {table}\n");
    nft(&["-f", "-"], &text).await?;
    for bridge in back {
        // A bridge that is gone needs nothing put back.
        if accepts_loopback(&bridge).is_ok() {
            accept_loopback(&bridge, false)?;
        }
    }
    Ok(())
}

/// The orders that redirect at this moment.
pub(super) async fn present() -> Result<Vec<Uuid>, RedirectError> {
    if program().is_none() {
        return Ok(Vec::new());
    }
    Ok(marks().await?.into_iter().map(|mark| mark.order).collect())
}

async fn marks() -> Result<Vec<localnet::Mark>, RedirectError> {
    let listed = nft(&["list", "chains", "ip"], "").await?;
    Ok(localnet::marks(&listed))
}

async fn nft(arguments: &[&str], input: &str) -> Result<String, RedirectError> {
    let failed = |reason: String| RedirectError {
        what: "failed to change the kernel's redirects",
        reason: clean_text(&reason),
    };
    let program = program().ok_or_else(|| failed("nft is not on this host".to_owned()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_clear()
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = timeout(NFT_TIMEOUT, work)
        .await
        .map_err(|_| failed("nft did not end in time".to_owned()))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(
            said.lines().next().unwrap_or("nft failed").to_owned(),
        ))
    }
}

/// `route_localnet` of a bridge.
fn setting(bridge: &str) -> Result<std::path::PathBuf, RedirectError> {
    let plain = bridge
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bridge.is_empty() || bridge.len() > 15 || !plain {
        return Err(RedirectError {
            what: "failed to prepare the bridge",
            reason: format!("{bridge:?} is no name of an interface"),
        });
    }
    Ok(Path::new("/proc/sys/net/ipv4/conf")
        .join(bridge)
        .join("route_localnet"))
}

/// Whether a bridge accepts loopback addresses.
fn accepts_loopback(bridge: &str) -> Result<bool, RedirectError> {
    let path = setting(bridge)?;
    std::fs::read_to_string(&path)
        .map(|text| text.trim() == "1")
        .map_err(|error| RedirectError {
            what: "failed to read route_localnet",
            reason: error.to_string(),
        })
}

/// Sets whether a bridge accepts loopback addresses.
fn accept_loopback(bridge: &str, accept: bool) -> Result<(), RedirectError> {
    let path = setting(bridge)?;
    std::fs::write(&path, if accept { "1" } else { "0" }).map_err(|error| RedirectError {
        what: "failed to set route_localnet",
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ruleset_redirects_what_is_published_and_nothing_else() {
        let port = |port, address| Published {
            port,
            inside: 8080,
            address,
        };
        let text = ruleset(
            "sternway_x",
            "localnet_0_docker0",
            Ipv4Addr::new(172, 17, 0, 3),
            &[port(80, None), port(81, Some(Ipv4Addr::LOCALHOST))],
        );
        assert_eq!(
            text.matches("fib daddr type local tcp dport 80 dnat to 172.17.0.3:8080")
                .count(),
            2
        );
        assert_eq!(
            text.matches("ip daddr 127.0.0.1 tcp dport 81 dnat to 172.17.0.3:8080")
                .count(),
            2
        );
        assert!(text.contains("ct status dnat ip daddr 172.17.0.3 masquerade"));
    }

    #[test]
    fn a_hostile_bridge_is_no_path() {
        for hostile in ["", "..", "a/b", "br 0", &"b".repeat(16)] {
            assert!(accepts_loopback(hostile).is_err(), "{hostile:?}");
        }
    }
}
