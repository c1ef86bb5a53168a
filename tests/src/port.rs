//! Ports that are known before anything listens on them. Taken from below the kernel's own range, so that no
//! outgoing connection takes one, and leased by a file lock, so that no two tests get the same.

use std::{
    fs::{self, File, create_dir_all},
    net::TcpListener,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A TCP port of this machine that is ours while the value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    lease: PathBuf,
    _lock: File,
}

impl Port {
    /// Leases a free port.
    ///
    /// # Panics
    /// None is free, or the folder of the leases cannot be written.
    pub fn lease() -> Self {
        let folder = std::env::temp_dir().join("sternway-test-ports");
        create_dir_all(&folder).expect("the folder of the port leases is made");
        // Processes start at different places, so that they rarely meet.
        let scattered = u16::try_from(process::id() % u32::from(COUNT)).unwrap_or(0);
        for _ in 0..COUNT {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let number = FIRST + scattered.wrapping_mul(37).wrapping_add(step) % COUNT;
            let lease = folder.join(number.to_string());
            let lock = File::create(&lease).expect("a port lease is made");
            if lock.try_lock().is_ok() && TcpListener::bind(("0.0.0.0", number)).is_ok() {
                return Self {
                    number,
                    lease,
                    _lock: lock,
                };
            }
        }
        panic!("no free port from {FIRST} on");
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Before the lock goes, so that the folder does not fill up.
        let _ = fs::remove_file(&self.lease);
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_leased_twice() {
        let leased: Vec<Port> = (0..50).map(|_| Port::lease()).collect();
        let mut numbers: Vec<u16> = leased.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
    }
}
