//! The `shadowcat` program. Everything is in the library: see [`shadowcat::cli`].

use std::process::ExitCode;

/// A request takes and gives back some dozen pieces of memory, often on different threads: see docs/performance.md.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    shadowcat::cli::main()
}
