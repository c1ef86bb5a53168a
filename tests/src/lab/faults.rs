//! What befalls real hosts, done from outside.

use std::time::Duration;

use rustix::process::Signal;

use super::host::{BOOT, Host};
use crate::wait::until;

/// The table by which a host is cut off, and nothing else's.
const TABLE: &str = "sternway_lab_cut";

/// What fills a disk: large blocks as long as they fit, then small ones.
const FILLERS: [&str; 2] = ["bs=1M", "bs=4K"];
const FILLER: &str = "/var/lab-filler";
const FILLS: Duration = Duration::from_mins(1);

/// By which its agent is told where to die: gone with the next boot.
const ARMED: &str = "/run/systemd/system/sternway-agent.service.d/fault.conf";

impl Host {
    /// Drops every packet to and from it, silently, as a switch that dies does. It and what runs on it go on.
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn cut_off(&self) {
        let rules = format!(
            "table inet {TABLE} {{
                chain in {{ type filter hook input priority -400; iifname != \"lo\" drop; }}
                chain forward {{ type filter hook forward priority -400; iifname \"eth0\" drop; oifname \"eth0\" drop; }}
                chain out {{ type filter hook output priority -400; oifname != \"lo\" drop; }}
            }}"
        );
        self.run_with(&["nft", "-f", "-"], rules.as_bytes())
            .await
            .ok();
    }

    /// Ends [`Self::cut_off`].
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn rejoin(&self) {
        self.run(&["nft", "delete", "table", "inet", TABLE])
            .await
            .ok();
    }

    /// Nothing on it goes on, as on a virtual machine that is suspended.
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn pause(&self) {
        self.docker(&["pause", self.container()], b"").await.ok();
    }

    /// Ends [`Self::pause`].
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn resume(&self) {
        self.docker(&["unpause", self.container()], b"").await.ok();
    }

    /// Pulls the plug: everything on it is killed at one instant, and what was in memory or in `/run` is gone. What was
    /// written and not synced survives, because the kernel does.
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn power_cut(&self) {
        self.docker(&["kill", self.container()], b"").await.ok();
    }

    /// After [`Self::power_cut`]: it boots, and is up.
    ///
    /// # Panics
    /// It does not come up.
    pub async fn power_on(&self) {
        self.docker(&["start", self.container()], b"").await.ok();
        self.is_up().await;
    }

    /// Its agent pulls the plug at that fault (see the agent's `fault` module) of its next work. The order for that is
    /// in `/run`: after the next boot nothing of it is left.
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn loses_power_at(&self, fault: &str) {
        let action = "[Unit]\nFailureAction=poweroff-immediate\n[Service]\nRestart=no\n";
        self.arm(action, fault).await;
    }

    /// Its agent is killed at that fault (see the agent's `fault` module) of its next work, and started again by the
    /// service manager without it. See [`Self::deaths`].
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn agent_dies_at(&self, fault: &str) {
        self.arm("[Service]\n", fault).await;
        // What runs has it in its environment; what is started next has not.
        self.run(&["rm", ARMED]).await.ok();
        self.run(&["systemctl", "daemon-reload"]).await.ok();
    }

    /// As [`Self::agent_dies_at`], and nobody starts it again but [`Self::starts_agent`].
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn agent_stays_dead_at(&self, fault: &str) {
        self.arm("[Service]\nRestart=no\n", fault).await;
    }

    /// Ends [`Self::agent_stays_dead_at`].
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn starts_agent(&self) {
        self.run(&["rm", ARMED]).await.ok();
        self.run(&["systemctl", "daemon-reload"]).await.ok();
        let start = ["systemctl", "restart", "sternway-agent"];
        self.run(&start).await.ok();
    }

    /// How often the service manager started its agent again, since it was last started by hand.
    ///
    /// # Panics
    /// Nobody can say.
    pub async fn deaths(&self) -> u32 {
        let restarts = ["systemctl", "show", "--property=NRestarts", "--value"];
        let restarts = [&restarts[..], &["sternway-agent"]].concat();
        self.run(&restarts).await.ok().parse().expect("a number")
    }

    async fn arm(&self, unit: &str, fault: &str) {
        let unit = format!("{unit}Environment=STERNWAY_FAULT={fault}\n");
        self.write(ARMED, unit).await;
        self.run(&["systemctl", "daemon-reload"]).await.ok();
        let restart = ["systemctl", "restart", "sternway-agent"];
        self.run(&restart).await.ok();
    }

    /// Waits until it has no power.
    ///
    /// # Panics
    /// It goes on.
    pub async fn is_down(&self) {
        until(&format!("{} to be down", self.name()), BOOT, async || {
            let running = self.has_power().await;
            (!running).then_some(()).ok_or("it runs")
        })
        .await;
    }

    /// Whether it runs at all.
    ///
    /// # Panics
    /// Nobody can say.
    pub async fn has_power(&self) -> bool {
        let state = [
            "inspect",
            "--format",
            "{{.State.Running}}",
            self.container(),
        ];
        self.docker(&state, b"").await.ok() == "true"
    }

    /// Restarts it in order, and waits until it is up again.
    ///
    /// # Panics
    /// It does not come up.
    pub async fn reboot(&self) {
        // Its answer may be lost with it.
        let _ = self.run(&["systemctl", "reboot"]).await;
        self.is_down().await;
        self.power_on().await;
    }

    /// Sends a signal to all processes of a unit.
    ///
    /// # Panics
    /// It has none.
    pub async fn signal(&self, unit: &str, signal: Signal) {
        let signal = format!("--signal={}", signal.as_raw());
        self.run(&["systemctl", "kill", &signal, unit]).await.ok();
    }

    /// Fills its disk to the last block: of a host that was made with a small one.
    ///
    /// # Panics
    /// It has no disk of its own, or that does not get full.
    pub async fn fill_disk(&self) {
        let _ = self.disk();
        until(
            &format!("the disk of {} to be full", self.name()),
            FILLS,
            async || {
                for size in FILLERS {
                    let (from, to) = ("if=/dev/zero", format!("of={FILLER}"));
                    let how = ["oflag=append", "conv=notrunc", size];
                    let said = self.run(&[&["dd", from, &to], &how[..]].concat()).await;
                    assert!(said.stderr.contains("No space left"), "{said:?}");
                }
                // Its journal makes room for itself by giving up what is old.
                let room = ["df", "--output=avail", "/var"];
                let room = self.run(&room).await.ok();
                room.ends_with(" 0").then_some(()).ok_or(room)
            },
        )
        .await;
    }

    /// Nobody can change a file or what is in a folder; or they can again. As `chattr` does it, which not every host has.
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn immutable(&self, path: &str, is: bool) {
        // FS_IOC_GETFLAGS, FS_IOC_SETFLAGS and FS_IMMUTABLE_FL of linux/fs.h.
        let script = "open(my $file, '<', $ARGV[0]) or die $!; my $flags = pack('l', 0); \
                      ioctl($file, 0x80086601, $flags) or die $!; my $set = unpack('l', $flags); \
                      $flags = pack('l', $ARGV[1] ? $set | 16 : $set & ~16); ioctl($file, 0x40086602, $flags) or die $!;";
        let set = ["perl", "-e", script, path, if is { "1" } else { "0" }];
        self.run(&set).await.ok();
    }

    /// Ends [`Self::fill_disk`].
    ///
    /// # Panics
    /// It cannot be done.
    pub async fn free_disk(&self) {
        self.run(&["rm", "-f", FILLER]).await.ok();
    }
}
