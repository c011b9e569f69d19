//! The `shadowcat` program. Everything is in the library: see [`shadowcat::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    shadowcat::cli::main()
}
