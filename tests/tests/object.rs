//! What newer kernels ask of the BPF object, seen in the object itself: the kernel that the tests run on may be older.

use anyhow::{Context as _, Result, ensure};
use gateway::dataplane::object::EBPF;
use object::{Object as _, ObjectSection as _};

/// Arguments of a function that are in registers.
const REGISTER_ARGUMENTS: usize = 5;

/// Numbers in BTF (Linux, include/uapi/linux/btf.h).
mod btf {
    pub(super) const MAGIC: u16 = 0xeb9f;
    pub(super) const FUNC: u32 = 12;
    /// Octets of a type, without what follows for its kind.
    pub(super) const TYPE: usize = 12;

    /// Octets that follow a type of this kind with so many members.
    pub(super) fn follows(kind: u32, members: usize) -> usize {
        match kind {
            // Numbers, variables, and tags of declarations.
            1 | 14 | 17 => 4,
            // Arrays.
            3 => 12,
            // Structures, unions, sections and 64-bit enumerations.
            4 | 5 | 15 | 19 => 12 * members,
            // Enumerations and parameters.
            6 | 13 => 8 * members,
            _ => 0,
        }
    }
}

/// A type: its name, kind, number of members, and the type that it is of.
struct Type {
    name: usize,
    kind: u32,
    members: usize,
    of: usize,
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_le_bytes(*found.context("it ends too early")?))
}

/// Types, in the order of their numbers from 1 on.
fn types(bytes: &[u8]) -> Result<Vec<Type>> {
    let (mut found, mut at) = (vec![], 0);
    while at < bytes.len() {
        let info = word(bytes, at + 4)?;
        let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        found.push(Type {
            name: word(bytes, at)? as usize,
            kind,
            members,
            of: word(bytes, at + 8)? as usize,
        });
        at += btf::TYPE + btf::follows(kind, members);
    }
    ensure!(at == bytes.len(), "the last type is cut off");
    Ok(found)
}

/// The object's functions by name, each with the number of its arguments in the source.
fn functions() -> Result<Vec<(String, usize)>> {
    let object = object::File::parse(EBPF)?;
    let section = object.section_by_name(".BTF").context("no BTF")?;
    let bytes = section.data()?;
    ensure!(word(bytes, 0)? as u16 == btf::MAGIC, "not BTF");
    let header = word(bytes, 4)? as usize;
    let part = |at: usize| -> Result<&[u8]> {
        let begin = header + word(bytes, at)? as usize;
        let end = begin + word(bytes, at + 4)? as usize;
        bytes.get(begin..end).context("a part is not whole")
    };
    let (types, strings) = (types(part(8)?)?, part(16)?);
    let mut found = vec![];
    for function in types.iter().filter(|one| one.kind == btf::FUNC) {
        let name = strings.get(function.name..).context("no name")?;
        let name = name.split(|octet| *octet == 0).next().unwrap_or_default();
        let prototype = types.get(function.of.wrapping_sub(1)).context("no prototype")?;
        found.push((String::from_utf8_lossy(name).into_owned(), prototype.members));
    }
    Ok(found)
}

/// The verifier of Linux 7.2 and later looks for a sixth argument on the stack, even where the compiler, which knows all the
/// callers, has left one out: BTF has the arguments of the source.
#[test]
fn no_function_has_more_arguments_than_registers() -> Result<()> {
    let functions = functions()?;
    // Those that the test is about are there.
    for known in ["core_enter", "keyed_hash"] {
        ensure!(functions.iter().any(|(name, _)| name == known), "{known}");
    }
    let too_many: Vec<_> = functions
        .iter()
        .filter(|(_, arguments)| *arguments > REGISTER_ARGUMENTS)
        .collect();
    ensure!(too_many.is_empty(), "{too_many:?}");
    Ok(())
}
