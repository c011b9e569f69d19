//! The command line.

use std::process::ExitCode;

/// Runs the program: parses the arguments, does what they say, returns the exit code.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
