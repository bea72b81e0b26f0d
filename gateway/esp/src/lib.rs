//! ESP (RFC 4303), sans-IO.
#![forbid(unsafe_code)]
