//! Packages of a small service, made on the host that installs them: each is a version of `shop` with a conffile, a unit
//! and the maintainer scripts that debhelper gives it.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use super::host::{Host, Said};
use crate::binary;

/// Where the packages that a test made are on a host. Readable for apt, which fetches as a user of its own.
const MADE: &str = "/var/lib/sternway-lab/made";

/// What debhelper writes for the units of a package (`dh_installsystemd`, whose templates are in the public domain).
const POSTINST: &str = include_str!("maintainer/postinst");
const PRERM: &str = include_str!("maintainer/prerm");
const POSTRM: &str = include_str!("maintainer/postrm");

/// What is kept of the administrator's at an upgrade that nobody attends.
const KEEP: [&str; 2] = ["--force-confdef", "--force-confold"];

/// How the unit of a package starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// It is taken for up as soon as there is a process.
    #[default]
    Simple,
    /// It says when it is up.
    Notify,
    /// A socket unit is up, and the first client starts the service. The port is that of the conffile as packaged.
    Socket,
}

/// A package of a service: `/etc/NAME/NAME.conf`, `NAME.service`, and `/usr/bin/NAME`, which says its version at `/` and
/// whether it is well at `/health`.
#[derive(Debug, Clone)]
pub struct Deb {
    name: String,
    version: String,
    port: u16,
    fault: String,
    folder: &'static str,
    start: Start,
    unit: String,
    postinst: String,
}

impl Deb {
    /// A good version that listens on port 8080.
    #[must_use]
    pub fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            port: 8080,
            fault: "none".to_owned(),
            folder: "usr/bin",
            start: Start::default(),
            unit: String::new(),
            postinst: String::new(),
        }
    }

    /// Its conffile says this port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Its conffile says this fault of `shop`: `health`, `crash`, `errors`, `deaf`, `mood`.
    #[must_use]
    pub fn fault(self, fault: &str) -> Self {
        let fault = fault.to_owned();
        Self { fault, ..self }
    }

    /// Its program is below `/usr/sbin`.
    #[must_use]
    pub fn in_sbin(self) -> Self {
        let folder = "usr/sbin";
        Self { folder, ..self }
    }

    /// Its unit starts like that.
    #[must_use]
    pub fn starts(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// Its unit has these lines more in `[Service]`.
    #[must_use]
    pub fn with_lines(self, lines: &str) -> Self {
        let unit = lines.to_owned();
        Self { unit, ..self }
    }

    /// Its postinst fails before it comes to the units, so that dpkg leaves it half-configured.
    #[must_use]
    pub fn with_failing_postinst(self) -> Self {
        let says = format!("echo '{}: the data cannot be migrated' >&2", self.name);
        self.with_postinst(&format!("{says}\nexit 1"))
    }

    /// Its postinst begins with these lines, of a shell that ends at the first failure.
    #[must_use]
    pub fn with_postinst(self, lines: &str) -> Self {
        let postinst = lines.to_owned();
        Self { postinst, ..self }
    }

    /// Its conffile, as packaged: what the program reads at its start, as a shell does.
    pub fn conf(&self) -> String {
        let Self { port, fault, .. } = self;
        format!("port={port}\nfault={fault}\n")
    }

    /// Makes it on a host, and answers where it is there.
    ///
    /// # Panics
    /// It cannot be made.
    pub async fn build(&self, host: &Host) -> String {
        let architecture = ["dpkg", "--print-architecture"];
        let architecture = host.run(&architecture).await.ok();
        // As in the names of real packages, there is no epoch.
        let version = self.version.rsplit(':').next().unwrap_or_default();
        let tree = format!("{MADE}/{}_{version}_{architecture}", self.name);
        let deb = format!("{tree}.deb");
        let tar = self.tree(&architecture);
        host.run(&["mkdir", "-p", &tree]).await.ok();
        let unpack = ["tar", "-x", "-C", &tree];
        host.run_with(&unpack, &tar).await.ok();
        let pack = ["--root-owner-group", "-Znone", "--build", &tree, &deb];
        host.run(&[&["dpkg-deb"], &pack[..]].concat()).await.ok();
        host.run(&["rm", "-r", &tree]).await.ok();
        deb
    }

    /// All its files, as `dpkg-deb` wants them.
    fn tree(&self, architecture: &str) -> Vec<u8> {
        let name = &self.name;
        let mut tar = tar::Builder::new(Vec::new());
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("it is after 1970").as_secs();
        let mut add = |path: &str, mode: u32, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len().try_into().expect("it fits"));
            header.set_mode(mode);
            header.set_mtime(now);
            let added = tar.append_data(&mut header, path, content);
            added.expect("a path fits into a tar");
        };
        let control = format!(
            "Package: {name}\nVersion: {}\nArchitecture: {architecture}\nSection: net\nPriority: optional\n\
             Maintainer: Nobody <nobody@example.org>\nDescription: a service of the lab\n",
            self.version
        );
        add("DEBIAN/control", 0o644, control.as_bytes());
        let conffile = format!("etc/{name}/{name}.conf");
        let conffiles = format!("/{conffile}\n");
        add("DEBIAN/conffiles", 0o644, conffiles.as_bytes());
        for (script, text) in [("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)] {
            let path = format!("DEBIAN/{script}");
            add(&path, 0o755, self.filled(text).as_bytes());
        }
        add(&conffile, 0o644, self.conf().as_bytes());
        let program = format!("{}/{name}", self.folder);
        add(&program, 0o755, self.program().as_bytes());
        let shop = fs::read(binary::find("shop")).expect("shop is readable");
        add(&format!("usr/lib/{name}/shop"), 0o755, &shop);
        let unit = format!("usr/lib/systemd/system/{name}");
        add(&format!("{unit}.service"), 0o644, self.service().as_bytes());
        if self.start == Start::Socket {
            add(&format!("{unit}.socket"), 0o644, self.socket().as_bytes());
        }
        tar.into_inner().expect("it is in memory")
    }

    /// A maintainer script of this package.
    fn filled(&self, script: &str) -> String {
        let name = &self.name;
        let units = match self.start {
            Start::Socket => format!("'{name}.service' '{name}.socket'"),
            Start::Simple | Start::Notify => format!("'{name}.service'"),
        };
        let enabled = match self.start {
            Start::Socket => format!("{name}.socket"),
            Start::Simple | Start::Notify => format!("{name}.service"),
        };
        script
            .replace("@UNITS@", &units)
            .replace("@ENABLED@", &enabled)
            .replace("@FIRST@", &self.postinst)
    }

    /// What is started: the version is in the program, the rest in the conffile.
    fn program(&self) -> String {
        let Self { name, version, .. } = self;
        format!(
            "#!/bin/sh\nset -e\n. /etc/{name}/{name}.conf\n\
             export SHOP_VERSION='{version}' SHOP_PORT=\"$port\" SHOP_FAIL=\"$fault\"\n\
             exec /usr/lib/{name}/shop\n"
        )
    }

    fn service(&self) -> String {
        let Self { name, unit, .. } = self;
        let (kind, end) = match self.start {
            Start::Simple => ("simple", "\n[Install]\nWantedBy=multi-user.target\n"),
            Start::Notify => ("notify", "\n[Install]\nWantedBy=multi-user.target\n"),
            // The socket is the standard input, where `shop` looks for it.
            Start::Socket => (
                "simple\nStandardInput=socket\nStandardOutput=journal\nEnvironment=SHOP_SOCKET=stdin",
                "",
            ),
        };
        format!(
            "[Unit]\nDescription={name}, a service of the lab\nAfter=network.target\n\n\
             [Service]\nType={kind}\nExecStart=/{}/{name}\n{unit}\n{end}",
            self.folder
        )
    }

    fn socket(&self) -> String {
        let Self { name, port, .. } = self;
        format!(
            "[Unit]\nDescription={name}'s port\n\n\
             [Socket]\nListenStream={port}\n\n[Install]\nWantedBy=sockets.target\n"
        )
    }
}

impl Host {
    /// Installs packages as somebody does who is not there to answer: paths of files on it, or `NAME=VERSION`. What the
    /// administrator changed in conffiles is kept.
    ///
    /// # Panics
    /// It hangs.
    pub async fn apt_install(&self, packages: &[&str]) -> Said {
        let keep = KEEP.map(|option| format!("Dpkg::Options::={option}"));
        let [first, second] = keep.each_ref().map(String::as_str);
        let install = ["apt-get", "install", "-y", "--allow-downgrades"];
        let options = ["-o", first, "-o", second];
        self.run(&[&install, &options, packages].concat()).await
    }

    /// As [`Self::apt_install`], by dpkg alone: paths of files on it.
    ///
    /// # Panics
    /// It hangs.
    pub async fn dpkg_install(&self, packages: &[&str]) -> Said {
        let [first, second] = KEEP;
        let install = ["dpkg", first, second, "--install"];
        self.run(&[&install, packages].concat()).await
    }
}
