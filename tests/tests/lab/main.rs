//! On real hosts of two generations: a container each, with systemd, D-Bus, dpkg and, where asked, a Docker engine.
#![expect(
    clippy::expect_used,
    reason = "tests fail by panicking, in their helpers too"
)]

mod docker;
mod dpkg;
mod files;
mod hosts;
mod packages;
mod packages_made;
mod systemd;
mod units;
mod units_bad_days;
mod units_crashes;
mod units_kinds;
mod units_packages;
mod units_real;
