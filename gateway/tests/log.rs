//! The log at the end of a process, which this program plays by calling itself.
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gateway::log;

/// How the process that is played ends.
const END: &str = "GATEWAY_TEST_LOG_END";
const LINES: usize = 2_000;
/// Far longer than any end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Not a test by itself: what the others run.
#[test]
fn played() {
    let Ok(end) = std::env::var(END) else { return };
    let log = log::to_stderr("info", log::Format::Text).expect("a filter");
    log::fail_closed_on_panic();
    for line in 0..LINES {
        tracing::info!(line, "said");
    }
    if end == "panic" {
        let _ = std::thread::spawn(|| panic!("the last words")).join();
        unreachable!("a thread's panic ends the process");
    }
    drop(log);
    std::process::exit(7);
}

fn play(end: &str, stderr: impl Into<Stdio>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "played", "--nocapture"]).env(END, end);
    let command = command.stdout(Stdio::null()).stderr(stderr);
    command.spawn().expect("it runs")
}

#[track_caller]
fn ended(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().expect("a child");
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The end of a pipe that nobody reads, and the other one, which keeps it from breaking.
fn stuck() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe().expect("a pipe")
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    let mut stderr = child.stderr.take().expect("piped");
    stderr.read_to_string(&mut text).expect("text");
    text
}

fn is_whole(text: &str) -> bool {
    (0..LINES).all(|line| text.contains(&format!("said line={line}\n")))
}

#[test]
fn what_was_said_is_written_before_the_process_ends() {
    let mut child = play("in order", Stdio::piped());
    let text = said(&mut child);
    assert_eq!(ended(child).code(), Some(7));
    assert!(is_whole(&text), "{text}");
}

#[test]
fn what_was_said_before_a_panic_is_written_and_so_are_the_last_words() {
    let mut child = play("panic", Stdio::piped());
    let text = said(&mut child);
    assert_eq!(ended(child).signal(), Some(nix::libc::SIGABRT));
    assert!(is_whole(&text), "{text}");
    assert!(text.trim_end().contains("the last words"), "{text}");
}

#[test]
fn a_reader_that_stands_still_does_not_keep_a_process_from_ending() {
    let (_reader, writer) = stuck();
    assert_eq!(ended(play("in order", writer)).code(), Some(7));
}

/// Else the other threads would go on forwarding.
#[test]
fn a_reader_that_stands_still_does_not_keep_a_panic_from_ending_the_process() {
    let (_reader, writer) = stuck();
    let status = ended(play("panic", File::from(writer)));
    assert_eq!(status.signal(), Some(nix::libc::SIGABRT));
}
