//! What the tests that need more than one crate share: frames and packet vectors with the kernel harness that runs
//! them, and a lab with the gateway and both sites up, with transfers and datagrams through it.

pub mod accounts;
pub mod covering;
pub mod cpu_time;
pub mod echo;
pub mod frames;
pub mod fresh;
pub mod fuzz;
pub mod kernel;
pub mod random;
pub mod rounds;
pub mod scene;
pub mod transfer;
pub mod vectors;
