//! The gateway daemon and its CLI.
fn main() -> std::process::ExitCode {
    gateway::cli::main()
}
