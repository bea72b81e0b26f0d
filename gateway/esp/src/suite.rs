//! The algorithms and their sizes.

/// The longest IV of all suites, in octets.
pub(crate) const IV_LEN_MAX: usize = 16;
/// The longest ICV of all suites, in octets.
pub(crate) const ICV_LEN_MAX: usize = 32;
/// The coarsest alignment of all suites, in octets.
pub(crate) const ALIGNMENT_MAX: usize = 16;
/// Octets of salt at the end of an AEAD's keying material (RFC 4106 section 8.1, RFC 7634 section 2).
pub(crate) const SALT_LEN: usize = 4;

/// What protects the packets of one SA: encryption and integrity together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-GCM with a 16-octet ICV and a 128-bit key (RFC 4106).
    AesGcm16_128,
    /// AES-GCM with a 16-octet ICV and a 256-bit key (RFC 4106).
    AesGcm16_256,
    /// AES-CBC with a 128-bit key (RFC 3602) and HMAC-SHA-256-128 (RFC 4868).
    AesCbc128HmacSha256_128,
    /// AES-CBC with a 256-bit key (RFC 3602) and HMAC-SHA-256-128 (RFC 4868).
    AesCbc256HmacSha256_128,
    /// AES-CBC with a 128-bit key (RFC 3602) and HMAC-SHA-384-192 (RFC 4868).
    AesCbc128HmacSha384_192,
    /// AES-CBC with a 256-bit key (RFC 3602) and HMAC-SHA-384-192 (RFC 4868).
    AesCbc256HmacSha384_192,
    /// AES-CBC with a 128-bit key (RFC 3602) and HMAC-SHA-512-256 (RFC 4868).
    AesCbc128HmacSha512_256,
    /// AES-CBC with a 256-bit key (RFC 3602) and HMAC-SHA-512-256 (RFC 4868).
    AesCbc256HmacSha512_256,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
}

impl Suite {
    /// Every suite, for tables and tests.
    pub const ALL: [Suite; 9] = [
        Suite::AesGcm16_128,
        Suite::AesGcm16_256,
        Suite::AesCbc128HmacSha256_128,
        Suite::AesCbc256HmacSha256_128,
        Suite::AesCbc128HmacSha384_192,
        Suite::AesCbc256HmacSha384_192,
        Suite::AesCbc128HmacSha512_256,
        Suite::AesCbc256HmacSha512_256,
        Suite::ChaCha20Poly1305,
    ];

    /// Octets of encryption keying material; for an AEAD the last 4 are the salt.
    pub const fn encryption_key_len(self) -> usize {
        match self {
            Suite::AesGcm16_128 => 16 + SALT_LEN,
            Suite::AesGcm16_256 | Suite::ChaCha20Poly1305 => 32 + SALT_LEN,
            Suite::AesCbc128HmacSha256_128
            | Suite::AesCbc128HmacSha384_192
            | Suite::AesCbc128HmacSha512_256 => 16,
            Suite::AesCbc256HmacSha256_128
            | Suite::AesCbc256HmacSha384_192
            | Suite::AesCbc256HmacSha512_256 => 32,
        }
    }

    /// Octets of integrity keying material, as many as the hash gives (RFC 4868 section 2.1.1); 0 for an AEAD.
    pub const fn integrity_key_len(self) -> usize {
        match self {
            Suite::AesGcm16_128 | Suite::AesGcm16_256 | Suite::ChaCha20Poly1305 => 0,
            Suite::AesCbc128HmacSha256_128 | Suite::AesCbc256HmacSha256_128 => 32,
            Suite::AesCbc128HmacSha384_192 | Suite::AesCbc256HmacSha384_192 => 48,
            Suite::AesCbc128HmacSha512_256 | Suite::AesCbc256HmacSha512_256 => 64,
        }
    }

    /// Octets of IV carried in each packet.
    pub const fn iv_len(self) -> usize {
        if self.is_aead() { 8 } else { 16 }
    }

    /// Octets of ICV at the end of each packet; of an HMAC half its output (RFC 4868 section 2.1.1).
    pub const fn icv_len(self) -> usize {
        if self.is_aead() {
            16
        } else {
            self.integrity_key_len() / 2
        }
    }

    /// Payload, padding and trailer together are a multiple of this many octets: the cipher's block, and at
    /// least 4 (RFC 4303 section 2.4).
    pub const fn alignment(self) -> usize {
        if self.is_aead() { 4 } else { 16 }
    }

    /// Whether one algorithm does both encryption and integrity.
    pub const fn is_aead(self) -> bool {
        self.integrity_key_len() == 0
    }

    /// The name that people and logs use, in the spelling of IKE proposals.
    pub const fn name(self) -> &'static str {
        match self {
            Suite::AesGcm16_128 => "aes128gcm16",
            Suite::AesGcm16_256 => "aes256gcm16",
            Suite::AesCbc128HmacSha256_128 => "aes128-sha256",
            Suite::AesCbc256HmacSha256_128 => "aes256-sha256",
            Suite::AesCbc128HmacSha384_192 => "aes128-sha384",
            Suite::AesCbc256HmacSha384_192 => "aes256-sha384",
            Suite::AesCbc128HmacSha512_256 => "aes128-sha512",
            Suite::AesCbc256HmacSha512_256 => "aes256-sha512",
            Suite::ChaCha20Poly1305 => "chacha20poly1305",
        }
    }
}

impl core::fmt::Display for Suite {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(self.name())
    }
}
