//! The operator's tool. Everything is in the library; here is the process.

use std::process::ExitCode;

fn main() -> ExitCode {
    sternway_ctl::main().into()
}
