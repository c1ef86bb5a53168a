//! A service that is deployed by hand, as many are: a folder for each release, a link to the present one, an environment
//! file, a unit.

use std::fs;

use super::Host;
use crate::binary;

/// The service, and where it is reached.
pub const APP: &str = "app.service";
pub const PORT: u16 = 8080;

/// The program that all services of a lab are, on that host.
///
/// # Panics
/// It cannot be written.
pub async fn shop(host: &Host) -> &'static str {
    let shop = "/usr/local/lib/shop";
    if host.run(&["test", "-e", shop]).await.code != 0 {
        let program = fs::read(binary::find("shop")).expect("shop is readable");
        host.write_program(shop, program).await;
    }
    shop
}

impl Host {
    /// As [`Self::write`], of a program. One that runs is not written to: it is replaced.
    ///
    /// # Panics
    /// It cannot be written.
    pub async fn write_program(&self, path: &str, content: impl AsRef<[u8]>) {
        self.write(path, content).await;
        self.run(&["chmod", "755", path]).await.ok();
    }
}

/// A release of the application.
#[derive(Debug, Clone)]
pub struct App {
    version: String,
    fault: String,
    service: String,
}

impl App {
    /// A good one.
    #[must_use]
    pub fn new(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            fault: "none".to_owned(),
            service: String::new(),
        }
    }

    /// With this fault of `shop` in its environment file.
    #[must_use]
    pub fn fault(self, fault: &str) -> Self {
        let fault = fault.to_owned();
        Self { fault, ..self }
    }

    /// With these lines more in the section `[Service]` of its unit.
    #[must_use]
    pub fn with_lines(self, lines: &str) -> Self {
        let service = lines.to_owned();
        Self { service, ..self }
    }

    /// Puts it there, as a person does, and starts nothing.
    ///
    /// # Panics
    /// A file cannot be written.
    pub async fn put(&self, host: &Host) {
        let Self {
            version,
            fault,
            service,
        } = self;
        let shop = shop(host).await;
        let folder = format!("/opt/app/releases/{version}");
        let run = format!("#!/bin/sh\nSHOP_VERSION='{version}' exec {shop}\n");
        host.write_program(&format!("{folder}/run"), run).await;
        let environment = format!("SHOP_PORT={PORT}\nSHOP_FAIL={fault}\n");
        host.write("/etc/app.env", environment).await;
        let unit = format!(
            "[Unit]\nDescription=An application\n\n[Service]\nEnvironmentFile=/etc/app.env\n\
             ExecStart=/opt/app/current/run\n{service}\n\n[Install]\nWantedBy=multi-user.target\n"
        );
        host.write(&format!("/etc/systemd/system/{APP}"), unit)
            .await;
        let link = [
            "ln",
            "-sfn",
            &format!("releases/{version}"),
            "/opt/app/current",
        ];
        host.run(&link).await.ok();
        host.run(&["systemctl", "daemon-reload"]).await.ok();
    }

    /// Deploys it. Whether it comes up is its own affair.
    ///
    /// # Panics
    /// A file cannot be written.
    pub async fn deploy(&self, host: &Host) {
        self.put(host).await;
        host.run(&["systemctl", "enable", APP]).await.ok();
        host.run(&["systemctl", "restart", APP]).await;
    }
}
