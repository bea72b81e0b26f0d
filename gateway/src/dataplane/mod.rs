//! Loading, attaching and filling what runs in the kernel.

pub mod object;
