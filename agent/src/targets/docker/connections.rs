//! What the kernel's tables say of the connections to a port: pure, from their text.

use std::collections::BTreeSet;

/// Connections in `/proc/net/tcp` or `tcp6` that came in at one of these ports and are not over: also those
/// that nobody has accepted yet, half open or already established.
pub(super) fn open(table: &str, ports: &BTreeSet<u16>) -> usize {
    sockets(table)
        .filter(|socket| ports.contains(&socket.port) && socket.is_open())
        .count()
}

/// Whether somebody listens on that port.
pub(super) fn listens(table: &str, port: u16) -> bool {
    sockets(table).any(|socket| socket.port == port && socket.state == "0A")
}

struct Socket<'a> {
    port: u16,
    state: &'a str,
    /// 0: no process has it, not yet or not any more.
    inode: u64,
}

impl Socket<'_> {
    fn is_open(&self) -> bool {
        match self.state {
            // TIME_WAIT, CLOSE, LISTEN.
            "06" | "07" | "0A" => false,
            // FIN_WAIT2: the other side has everything. While a process holds it, it may have more to say.
            "05" => self.inode != 0,
            _ => true,
        }
    }
}

fn sockets(table: &str) -> impl Iterator<Item = Socket<'_>> {
    table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = words.get(1)?.rsplit_once(':')?;
        Some(Socket {
            port: u16::from_str_radix(port, 16).ok()?,
            state: words.get(3)?,
            inode: words.get(9)?.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(&str, &str, &str, u32)]) -> String {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let rows = rows.iter().enumerate().map(|(at, (local, remote, state, inode))| {
            format!("  {at:2}: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0000000000000000 20 0 0 10 -1\n")
        });
        head.to_owned() + &rows.collect::<String>()
    }

    #[test]
    fn connections_count_until_both_sides_have_everything() {
        let ports = BTreeSet::from([8080]);
        let seen = |state: &str, inode: u32| {
            open(
                &table(&[("020011AC:1F90", "010011AC:D2A4", state, inode)]),
                &ports,
            )
        };
        for (state, what) in [
            ("01", "established, or not accepted yet"),
            ("03", "half open"),
            ("04", "the end is sent and not acknowledged"),
            ("08", "the client is done, the server is not"),
            ("09", "the last answer is not acknowledged"),
            ("0B", "both ended at once"),
        ] {
            assert_eq!(seen(state, 0), 1, "{what}");
        }
        for state in ["06", "07", "0A"] {
            assert_eq!(seen(state, 0), 0, "{state}");
        }
        assert_eq!((seen("05", 0), seen("05", 4711)), (0, 1));
    }

    #[test]
    fn only_what_came_in_at_the_ports_counts() {
        let ports = BTreeSet::from([80, 443]);
        let six = "0000000000000000FFFF00000100007F";
        let rows = [
            ("0100007F:0050", "0100007F:9C40", "01", 1),
            ("0100007F:9C40", "0100007F:0050", "01", 2),
            ("00000000:01BB", "00000000:0000", "0A", 3),
        ];
        assert_eq!(open(&table(&rows), &ports), 1);
        let local = format!("{six}:01BB");
        assert_eq!(open(&table(&[(&local, six, "01", 1)]), &ports), 1);
        assert!(listens(&table(&rows), 443) && !listens(&table(&rows), 80));
        for strange in ["", "\n\n", "head\n x y z", "head\n 0: :: : 01"] {
            assert_eq!(open(strange, &ports), 0, "{strange:?}");
        }
    }
}
