//! What the network tests share: a lab with the gateway and both sites up, and transfers through it.

pub mod scene;
pub mod transfer;
