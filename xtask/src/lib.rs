//! Every chore of the project, as a library, so that the network tests drive the same lab as the demo.

pub mod bench;
pub mod cmd;
pub mod debian13;
pub mod demo;
pub mod fuzz;
pub mod interop;
pub mod kernels;
pub mod lab;
mod leavings;
pub mod paths;
pub mod setup;
pub mod test;
pub mod traffic;
