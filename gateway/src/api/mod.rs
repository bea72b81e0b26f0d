//! The control API: JSON lines over a Unix socket that only root can open.
//!
//! A line from the client is a [`message::Envelope`] with a [`message::Request`], a line from the daemon one with a
//! [`message::Reply`]; what a reply holds is in [`view`]. Both carry [`message::VERSION`]; a daemon refuses another.
pub mod caller;
pub mod client;
pub mod message;
pub mod server;
pub mod view;
