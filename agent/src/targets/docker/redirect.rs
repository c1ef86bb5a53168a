//! Sends new connections for published ports to a standby, in the kernel: a table of our own in nftables,
//! before Docker's own rules. Established connections stay where they are, then and when the table goes.
//!
//! Loopback clients come through the `output` hook; for the answers to come back the bridge must accept
//! loopback addresses (`route_localnet`), and the standby must see an address of the bridge
//! (`masquerade`).
//!
//! A redirect ends in two moves. First it is *over*: new connections take the engine's way again, in one
//! transaction; the table stays, without rules, and so does `route_localnet`, because the answers of the
//! connections that the standby still has come through the bridge. Once those have ended, all of it goes.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    process::Stdio,
    time::Duration,
};

use sternway_proto::name::clean_text;
use thiserror::Error;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};
use tracing::warn;
use uuid::Uuid;

use super::{alone::alone, conntrack, localnet, warm::Published};
use crate::fault;

/// How long `nft` may take: it talks to the kernel alone.
const NFT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long each question may take that a plan waits for.
const ASKED: Duration = Duration::from_secs(3);

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

/// The redirects there are, as far as a plan sees them that waits for this alone.
pub(super) type Seen = Result<Vec<localnet::Mark>, RedirectError>;

/// As [`present`], for a plan.
pub(super) async fn seen() -> Seen {
    match program() {
        Some(program) => seen_by(program).await,
        None => Ok(Vec::new()),
    }
}

async fn seen_by(program: &Path) -> Seen {
    let listed = run(program, &["list", "chains", "ip"], "", ASKED).await?;
    Ok(localnet::marks(&listed))
}

/// Whether this host can redirect; else why not, in nft's own words. Changes nothing.
pub(super) async fn available(seen: &Seen) -> Result<(), String> {
    let Some(program) = program() else {
        return Err("nft (package nftables) is not on this host".to_owned());
    };
    usable(program, seen)
        .await
        .map_err(|error| format!("nft cannot redirect on this host: {}", error.reason))
}

/// Whether the kernel lets us see chains, and would take rules like ours: the agent may lack the right
/// (`CAP_NET_ADMIN`), or the kernel a module.
async fn usable(program: &Path, seen: &Seen) -> Result<(), RedirectError> {
    if let Err(error) = seen {
        return Err(error.clone());
    }
    let here = Ipv4Addr::LOCALHOST;
    let port = Published {
        port: 1,
        inside: 1,
        address: None,
    };
    let rules = leading(&Redirect {
        order: Uuid::nil(),
        owner: "",
        bridge: "lo",
        standby: here,
        ports: &[port],
        spared: &[SocketAddrV4::new(here, 1)],
    });
    let text = replaced(&table(Uuid::nil()), &[], &rules);
    run(program, &["--check", "-f", "-"], &text, ASKED)
        .await
        .map(drop)
}

fn program() -> Option<&'static Path> {
    if let Some(stand_in) = fault::nft() {
        return Some(stand_in);
    }
    NFT.into_iter().map(Path::new).find(|path| path.exists())
}

/// The table of an order.
pub(super) fn table(order: Uuid) -> String {
    format!("{PREFIX}{}", order.simple())
}

/// A redirect.
pub(super) struct Redirect<'a> {
    pub(super) order: Uuid,
    /// The target's own name.
    pub(super) owner: &'a str,
    /// The interface of the standby's network.
    pub(super) bridge: &'a str,
    pub(super) standby: Ipv4Addr,
    pub(super) ports: &'a [Published],
    /// Connections of ours that are not redirected, by where they come from: they try the engine's way while
    /// everybody else is still redirected.
    pub(super) spared: &'a [SocketAddrV4],
}

/// How far the redirect of an order got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// New connections go to the standby.
    Leads,
    /// New connections take the engine's way; those with the standby are still to end.
    Over,
}

/// What stands in the table of an order beside its rules: what its bridge did before, and whose it is.
fn notes(bridge: &str, before: bool, owner: Option<&str>) -> Vec<String> {
    let mut chains = vec![localnet::chain(bridge, before)];
    chains.extend(owner.and_then(localnet::owner_chain));
    chains
}

/// Replaces a table of that name in one transaction.
fn replaced(table: &str, notes: &[String], rules: &str) -> String {
    let mut chains = String::new();
    for note in notes {
        // Writing into a String cannot fail.
        let _ = writeln!(chains, "  chain {note} {{\n  }}");
    }
    format!(
        "add table ip {table}\n\
         delete table ip {table}\n\
         table ip {table} {{\n{chains}{rules}}}\n"
    )
}

/// The chains of a redirect that leads to the standby.
fn leading(redirect: &Redirect<'_>) -> String {
    let standby = redirect.standby;
    let mut spared = String::new();
    for from in redirect.spared {
        let _ = writeln!(
            spared,
            "    ip saddr {} tcp sport {} return",
            from.ip(),
            from.port()
        );
    }
    let mut rules = String::new();
    for port in redirect.ports {
        let bound = match port.address {
            Some(address) => format!("ip daddr {address} "),
            None => "fib daddr type local ".to_owned(),
        };
        let _ = writeln!(
            rules,
            "    {bound}tcp dport {} dnat to {standby}:{}",
            port.port, port.inside
        );
    }
    format!(
        "  chain prerouting {{\n    type nat hook prerouting priority -110; policy accept;\n{rules}  }}\n  \
           chain output {{\n    type nat hook output priority -110; policy accept;\n{spared}{rules}  }}\n  \
           chain postrouting {{\n    type nat hook postrouting priority 90; policy accept;\n    \
           ct status dnat ip daddr {standby} masquerade\n  }}\n"
    )
}

/// The chains of a redirect that is over. The hook keeps the kernel translating what was redirected, also
/// where nothing else on this host does. A connection from loopback that was being redirected at that very moment
/// still needs an address of the bridge.
fn leading_nowhere(bridge: &str) -> String {
    format!(
        "  chain {} {{\n  }}\n  \
           chain output {{\n    type nat hook output priority -110; policy accept;\n  }}\n  \
           chain postrouting {{\n    type nat hook postrouting priority 90; policy accept;\n    \
           ct status dnat ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade\n  }}\n",
        localnet::OVER
    )
}

/// Leads new connections for the ports to the standby.
pub(super) async fn begin(redirect: &Redirect<'_>) -> Result<(), RedirectError> {
    let _alone = alone().await;
    let bridge = redirect.bridge;
    let before = match localnet::before(&marks().await?, bridge) {
        Some(before) => before,
        None => accepts_loopback(bridge)?,
    };
    let table = table(redirect.order);
    let notes = notes(bridge, before, Some(redirect.owner));
    // What the bridge did is written down before it is changed, and the bridge is ready before the first
    // connection comes.
    let mut marked = format!("add table ip {table}\n");
    for note in &notes {
        let _ = writeln!(marked, "add chain ip {table} {note}");
    }
    nft(&["-f", "-"], &marked).await?;
    accept_loopback(bridge, true)?;
    let rules = replaced(&table, &notes, &leading(redirect));
    let _ = nft(&["-f", "-"], &rules).await?;
    forget_reset(redirect.ports).await;
    Ok(())
}

/// Connections that look like one that was reset before are redirected, too.
pub(super) async fn forget_reset(ports: &[Published]) {
    if let Err(error) = conntrack::forget_reset(ports).await {
        warn!(%error, "clients that were reset a moment ago may not be redirected at once");
    }
}

/// New connections take the engine's way again. That there is no redirect is as good.
pub(super) async fn release(order: Uuid) -> Result<(), RedirectError> {
    let _alone = alone().await;
    let marks = marks().await?;
    let Some(own) = marks.iter().find(|mark| mark.order == order) else {
        return Ok(());
    };
    let notes = notes(&own.bridge, own.before, own.owner.as_deref());
    let rules = replaced(&table(order), &notes, &leading_nowhere(&own.bridge));
    nft(&["-f", "-"], &rules).await.map(drop)
}

/// Takes away all that is left of a redirect. That there is none is as good.
pub(super) async fn end(order: Uuid) -> Result<(), RedirectError> {
    let _alone = alone().await;
    for bridge in localnet::put_back(&marks().await?, order) {
        // A bridge that is gone needs nothing put back. The note goes last: a death in between leaves it
        // to be found.
        if accepts_loopback(&bridge).is_ok() {
            accept_loopback(&bridge, false)?;
        }
    }
    let table = table(order);
    let text = format!("add table ip {table}\ndelete table ip {table}\n");
    nft(&["-f", "-"], &text).await.map(drop)
}

/// How far the redirect of this order got. None: there is none.
pub(super) async fn phase(order: Uuid) -> Result<Option<Phase>, RedirectError> {
    let all = present().await?;
    let own = all.iter().find(|mark| mark.order == order);
    Ok(own.map(|mark| if mark.over { Phase::Over } else { Phase::Leads }))
}

/// The redirects there are.
pub(super) async fn present() -> Result<Vec<localnet::Mark>, RedirectError> {
    if program().is_none() {
        return Ok(Vec::new());
    }
    marks().await
}

async fn marks() -> Result<Vec<localnet::Mark>, RedirectError> {
    let listed = nft(&["list", "chains", "ip"], "").await?;
    Ok(localnet::marks(&listed))
}

fn failed(reason: impl AsRef<str>) -> RedirectError {
    RedirectError {
        what: "failed to see or change the kernel's redirects",
        reason: clean_text(reason.as_ref()),
    }
}

async fn nft(arguments: &[&str], input: &str) -> Result<String, RedirectError> {
    let program = program().ok_or_else(|| failed("nft is not on this host"))?;
    run(program, arguments, input, NFT_TIMEOUT).await
}

async fn run(
    program: &Path,
    arguments: &[&str],
    input: &str,
    limit: Duration,
) -> Result<String, RedirectError> {
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
            // One that ends before it has read all says why, with its own words.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = timeout(limit, work)
        .await
        .map_err(|_| failed(format!("nft did not end within {} s", limit.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(said.lines().next().unwrap_or("nft failed")))
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

/// Why a bridge cannot be made to accept loopback addresses, for a plan: `/proc/sys` is read-only in most containers.
/// Changes nothing.
pub(super) fn hindered_by(bridge: &str) -> Option<String> {
    let tried = accepts_loopback(bridge).and_then(|accepts| {
        if accepts {
            return Ok(());
        }
        std::fs::OpenOptions::new()
            .write(true)
            .open(setting(bridge)?)
            .map(drop)
            .map_err(|error| RedirectError {
                what: "route_localnet may not be set",
                reason: error.to_string(),
            })
    });
    tried.err().map(|error| {
        format!("cannot be redirected: {error} (`sysctl net.ipv4.conf.{bridge}.route_localnet=1` beforehand would do)")
    })
}

/// Sets whether a bridge accepts loopback addresses. Where it does so already nothing is written: `/proc/sys` may be
/// read-only.
fn accept_loopback(bridge: &str, accept: bool) -> Result<(), RedirectError> {
    if accepts_loopback(bridge)? == accept {
        return Ok(());
    }
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
        let spared = [SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4711)];
        let redirect = Redirect {
            order: Uuid::nil(),
            owner: "shop",
            bridge: "docker0",
            standby: Ipv4Addr::new(172, 17, 0, 3),
            ports: &[port(80, None), port(81, Some(Ipv4Addr::LOCALHOST))],
            spared: &spared,
        };
        let notes = notes("docker0", false, Some("shop"));
        let text = replaced("sternway_x", &notes, &leading(&redirect));
        assert!(text.contains("chain localnet_0_docker0 {"), "{text}");
        assert!(text.contains("chain of_shop {"), "{text}");
        assert_eq!(
            text.matches("ip saddr 127.0.0.1 tcp sport 4711 return")
                .count(),
            1
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
        let over = replaced("sternway_x", &notes, &leading_nowhere("docker0"));
        assert!(!over.contains("dport") && over.contains("localnet_0_docker0"));
        assert!(
            over.contains("127.0.0.0/8 oifname \"docker0\" masquerade"),
            "{over}"
        );
    }

    /// Stands in for nft: `script` is its body. Written by another process: a program that ours has open for writing
    /// cannot be executed, and what another test starts at that moment inherits it open.
    fn stand_in(folder: &Path, script: &str) -> std::path::PathBuf {
        let program = folder.join("nft");
        let written = std::process::Command::new("/bin/sh")
            .args([
                "-c",
                r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 755 "$2""#,
            ])
            .arg("write")
            .arg(script)
            .arg(&program)
            .status();
        assert!(written.expect("sh starts").success(), "{program:?}");
        program
    }

    #[tokio::test]
    async fn an_nft_that_is_there_and_may_do_nothing_is_not_usable_in_its_own_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = "Operation not permitted (you must be root)";
        let may_nothing = format!("echo '{refused}' >&2; exit 1");
        // It may look, and the kernel does not know such rules.
        let may_look = format!("[ \"$1\" = list ] && exit 0; {may_nothing}");
        for script in [may_nothing, may_look] {
            let program = stand_in(folder.path(), &script);
            let seen = seen_by(&program).await;
            let error = usable(&program, &seen).await.expect_err("it may nothing");
            assert_eq!(error.reason, refused, "{script}");
        }
        let may_all = stand_in(folder.path(), "cat > /dev/null");
        let seen = seen_by(&may_all).await;
        assert_eq!(seen, Ok(Vec::new()));
        assert_eq!(usable(&may_all, &seen).await, Ok(()));
    }

    #[test]
    fn a_hostile_bridge_is_no_path() {
        for hostile in ["", "..", "a/b", "br 0", &"b".repeat(16)] {
            assert!(accepts_loopback(hostile).is_err(), "{hostile:?}");
        }
    }
}
