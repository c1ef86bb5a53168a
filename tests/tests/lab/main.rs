//! On real hosts of two generations: a container each, with systemd, D-Bus, dpkg and, where asked, a Docker engine.

mod docker;
mod hosts;
