//! Loads the object and prints how many instructions the verifier processed. `--object FILE` takes another than this
//! build's.

use gateway::dataplane::TableSizes;
use gateway_tests::kernel::Kernel;

fn main() -> anyhow::Result<()> {
    let object = std::env::args()
        .skip_while(|argument| argument != "--object")
        .nth(1);
    let kernel = match object {
        Some(path) => Kernel::load_object(&std::fs::read(path)?, TableSizes::default())?,
        None => Kernel::load()?,
    };
    for (name, count) in kernel.verified_instructions()? {
        println!("{name}: {count}");
    }
    Ok(())
}
