//! Standard output of the verbs: `print!` and `println!` as the standard library has them, which panic when the output cannot be
//! written. In this module's place they end the program, and every verb has them by their usual names.
use std::fmt::Arguments;
use std::io::{self, Write as _};
use std::process;

use super::FAILED;

/// The exit code that a shell reports of a program that SIGPIPE has ended, as `head` ends most. Not 0: what the verb has not come
/// to yet may have been a failure.
const READER_GONE: i32 = 128 + 13;

macro_rules! print {
    ($($words:tt)*) => {
        $crate::cli::print::out(format_args!($($words)*))
    };
}

macro_rules! println {
    () => {
        $crate::cli::print::out(format_args!("\n"))
    };
    ($($words:tt)*) => {
        $crate::cli::print::out(format_args!("{}\n", format_args!($($words)*)))
    };
}

/// Writes to standard output, or ends the program: in silence if nobody reads any more.
pub(super) fn out(words: Arguments<'_>) {
    let Err(error) = io::stdout().lock().write_fmt(words) else {
        return;
    };
    if error.kind() == io::ErrorKind::BrokenPipe {
        process::exit(READER_GONE);
    }
    complain(&format!("standard output: {error}"));
    process::exit(FAILED.into());
}

/// Tells what went wrong on standard error, whose reader may have gone as well.
pub(super) fn complain(words: &str) {
    let _ = writeln!(io::stderr(), "gateway: {words}");
}
