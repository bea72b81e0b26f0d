//! Signatures of certificates that were verified before. Whether a signature is right depends on key, message and
//! signature alone, and a site comes again with the certificate it had; validity, revocation and names are checked
//! every time.

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Signatures that a generation remembers. There are two, so that about 2 MiB are taken at most.
const GENERATION_MAX: usize = 16_384;

/// SHA-256 over a signature and all that it depends on.
type Digest = [u8; 32];

/// Remembers right signatures, the last 16,384 of them at least; or the wrong ones of one chain, which many paths through it may
/// lead over.
#[derive(Default)]
pub(super) struct SignatureMemory {
    generations: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    new: BTreeSet<Digest>,
    old: BTreeSet<Digest>,
}

impl SignatureMemory {
    fn has(&self, digest: &Digest) -> bool {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.new.contains(digest) {
            return true;
        }
        let is_old = generations.old.contains(digest);
        if is_old {
            generations.insert(*digest);
        }
        is_old
    }

    fn insert(&self, digest: Digest) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(digest);
    }
}

impl Generations {
    fn insert(&mut self, digest: Digest) {
        if self.new.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(digest);
    }
}

/// An algorithm that asks the memory first.
pub(super) struct Remembered<'a> {
    pub(super) algorithm: &'static dyn SignatureVerificationAlgorithm,
    pub(super) memory: &'a SignatureMemory,
    /// Of this chain.
    pub(super) wrong: &'a SignatureMemory,
}

impl Remembered<'_> {
    /// Each part with its length in front, so that no two inputs give the same octets.
    fn digest(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Digest {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        let (key_id, signature_id) = (
            self.algorithm.public_key_alg_id(),
            self.algorithm.signature_alg_id(),
        );
        for part in [&key_id, &signature_id, public_key, message, signature] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

impl SignatureVerificationAlgorithm for Remembered<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let digest = self.digest(public_key, message, signature);
        if self.memory.has(&digest) {
            return Ok(());
        }
        if self.wrong.has(&digest) {
            return Err(InvalidSignature);
        }
        let outcome = self.algorithm.verify_signature(public_key, message, signature);
        let memory = if outcome.is_ok() { self.memory } else { self.wrong };
        memory.insert(digest);
        outcome
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}

impl fmt::Debug for Remembered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.algorithm.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::alg_id;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts how often it is asked; right is a signature that equals the message.
    #[derive(Debug)]
    struct Counting;

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    impl SignatureVerificationAlgorithm for Counting {
        fn verify_signature(
            &self,
            _: &[u8],
            message: &[u8],
            signature: &[u8],
        ) -> Result<(), InvalidSignature> {
            ASKED.fetch_add(1, Ordering::Relaxed);
            (message == signature).then_some(()).ok_or(InvalidSignature)
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ED25519
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ED25519
        }
    }

    #[test]
    fn only_the_very_same_right_signature_is_remembered() {
        let (memory, wrong) = (SignatureMemory::default(), SignatureMemory::default());
        let remembered = Remembered {
            algorithm: &Counting,
            memory: &memory,
            wrong: &wrong,
        };
        let asked = |key: &[u8], message: &[u8], signature: &[u8]| {
            let before = ASKED.load(Ordering::Relaxed);
            let is_right = remembered.verify_signature(key, message, signature).is_ok();
            (is_right, ASKED.load(Ordering::Relaxed) - before)
        };
        assert_eq!(asked(b"key", b"text", b"text"), (true, 1));
        assert_eq!(asked(b"key", b"text", b"text"), (true, 0));
        // Another key, another cut between the parts, another message or signature: verified.
        assert_eq!(asked(b"kez", b"text", b"text"), (true, 1));
        assert_eq!(asked(b"keyt", b"ext", b"text"), (false, 1));
        assert_eq!(asked(b"key", b"texu", b"text"), (false, 1));
        // A wrong one is verified once in each chain.
        assert_eq!(asked(b"key", b"text", b"texu"), (false, 1));
        assert_eq!(asked(b"key", b"text", b"texu"), (false, 0));
        let next_chain = Remembered {
            wrong: &SignatureMemory::default(),
            ..remembered
        };
        let before = ASKED.load(Ordering::Relaxed);
        assert!(next_chain.verify_signature(b"key", b"text", b"texu").is_err());
        assert!(next_chain.verify_signature(b"key", b"text", b"text").is_ok());
        assert_eq!(ASKED.load(Ordering::Relaxed) - before, 1);
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let memory = SignatureMemory::default();
        let digest = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        memory.insert(digest(0));
        for number in 1..4 * GENERATION_MAX {
            memory.insert(digest(number));
            if number % 1_000 == 0 {
                assert!(memory.has(&digest(0)), "{number}");
            }
        }
        assert!(!memory.has(&digest(1)));
        let generations = memory.generations.lock().unwrap();
        assert!(generations.new.len() <= GENERATION_MAX && generations.old.len() <= GENERATION_MAX);
    }
}
