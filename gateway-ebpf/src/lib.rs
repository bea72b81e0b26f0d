#![no_std]
#![doc = "Empty library target, so that the loader can build-depend on the BPF crate."]
