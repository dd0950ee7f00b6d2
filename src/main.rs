//! The `u2pl-engine` binary: see [`u2pl_engine::cli`].

fn main() -> std::process::ExitCode {
    u2pl_engine::cli::main()
}
