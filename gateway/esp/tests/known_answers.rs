//! Published ESP test vectors, sealed and opened by the engine.

use gateway_esp::engine::{self, Job};
use gateway_esp::{KeyMaterial, Suite};

struct Vector {
    suite: Suite,
    encryption: &'static str,
    iv: &'static str,
    spi: u32,
    sequence: u32,
    sequence_high: Option<u32>,
    /// Payload, padding, pad length, next header.
    plaintext: &'static str,
    ciphertext: &'static str,
    /// Empty: the source has none, for it uses no integrity or another.
    icv: &'static str,
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|octet| !octet.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

impl Vector {
    fn packet(&self, text: &str) -> Vec<u8> {
        let mut packet = [self.spi.to_be_bytes(), self.sequence.to_be_bytes()].concat();
        packet.extend(unhex(self.iv));
        packet.extend(unhex(text));
        packet
    }

    fn check(&self) {
        let integrity = vec![0x33; self.suite.integrity_key_len()];
        let engine = engine::new(self.suite, &KeyMaterial::new(&unhex(self.encryption), &integrity)).unwrap();
        let mut esp = self.packet(self.plaintext);
        esp.extend([0; 16]);
        engine
            .seal(Job {
                esp: &mut esp,
                sequence_high: self.sequence_high,
            })
            .unwrap();
        let (sealed, icv) = esp.split_at(esp.len() - 16);
        assert_eq!(
            sealed,
            self.packet(self.ciphertext),
            "SPI {:#x}: sealed",
            self.spi
        );
        if !self.icv.is_empty() {
            assert_eq!(icv, unhex(self.icv), "SPI {:#x}: ICV", self.spi);
        }
        engine
            .open(Job {
                esp: &mut esp,
                sequence_high: self.sequence_high,
            })
            .unwrap();
        assert_eq!(
            esp[..esp.len() - 16],
            self.packet(self.plaintext),
            "SPI {:#x}: opened",
            self.spi
        );
    }
}

/// RFC 7634 appendix A: the whole packet, octet by octet.
#[test]
fn rfc_7634_appendix_a() {
    Vector {
        suite: Suite::ChaCha20Poly1305,
        encryption: "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f a0a1a2a3",
        iv: "1011121314151617",
        spi: 0x01020304,
        sequence: 5,
        sequence_high: None,
        plaintext: "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10
                    0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
                    2425262728292a2b2c2d2e2f303132333435363701020204",
        ciphertext: "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
                     14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
                     cbec163fac469b502773f6fb94e664da9165b82829f641e0",
        icv: "76aaa8266b7fb0f7b11b369907e1ad43",
    }
    .check();
}

/// RFC 3602 section 4, cases 5 (transport mode) and 7 (tunnel mode). They carry no ICV.
#[test]
fn rfc_3602_section_4() {
    Vector {
        suite: Suite::AesCbc128HmacSha256_128,
        encryption: "90d382b410eeba7ad938c46cec1a82bf",
        iv: "e96e8c08ab465763fd098d45dd3ff893",
        spi: 0x4321,
        sequence: 1,
        sequence_high: None,
        plaintext: "08000ebda70a00008e9c083db95b070008090a0b0c0d0e0f1011121314151617
                    18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637
                    0102030405060708090a0b0c0d0e0e01",
        ciphertext: "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856
                     a4699e523a55db080b59ec3a8e4b7e52775b07d1db34ed9c538ab50c551b874a
                     a269add047ad2d5913ac19b7cfbad4a6",
        icv: "",
    }
    .check();
    Vector {
        suite: Suite::AesCbc128HmacSha256_128,
        encryption: "0123456789abcdef0123456789abcdef",
        iv: "f4e765244f6407adf13dc1380f673f37",
        spi: 0x8765,
        sequence: 2,
        sequence_high: None,
        plaintext: "45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d
                    02a2040008090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
                    2425262728292a2b2c2d2e2f30313233343536370102030405060708090a0a04",
        ciphertext: "773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8
                     e4ecaec78ac53aad7a0f022b859243c647752e94a859352b8a4d4d2decd136e5
                     c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d",
        icv: "",
    }
    .check();
}

/// draft-mcgrew-gcm-test-01 section 4 (test cases for RFC 4106): 128- and 256-bit keys, 32-bit and extended
/// sequence numbers. Its AES-192 and GMAC cases have no suite here.
#[test]
fn draft_mcgrew_gcm_test_section_4() {
    let vectors = [
        (
            Suite::AesGcm16_128,
            "4c80cdefbb5d10da906ac73c3613a634 2e443b68",
            "4956ed7e3b244cfe",
            (0x00004321, Some(0x87654321), 0),
            "45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000
             00000000045f736970045f756470037369700963796265726369747902646b00
             0021000101020201",
            "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34
             cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce
             61bc17d768fd9732",
            "459018148f6cbe722fd04796562dfdb4",
        ),
        (
            Suite::AesGcm16_128,
            "feffe9928665731c6d6a8f9467308308 cafebabe",
            "facedbaddecaf888",
            (0x0000a5f8, None, 10),
            "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d00100
             0001000000000000037369700963796265726369747902646b00000100010001",
            "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c
             3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd1",
            "83b70d3aa8bc6ee4c309e9d85a41ad4a",
        ),
        (
            Suite::AesGcm16_256,
            "abbccddef00112233445566778899aababbccddef00112233445566778899aab 11223344",
            "0102030405060708",
            (0x4a2cbfe3, None, 2),
            "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000
             7002400020bf0000020405b40101040201020201",
            "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763
             748a637985771d347f0545659f14e99def842d8e",
            "b335f4eecfdbf831824b4c4915956c96",
        ),
        (
            Suite::AesGcm16_128,
            "00000000000000000000000000000000 00000000",
            "0000000000000000",
            (0, None, 1),
            "4500003c99c500008001cb7a40679318010101010800075c0200440061626364
             65666768696a6b6c6d6e6f707172737475767761626364656667686901020201",
            "4688daf2f973a392732909c331d56d60f694abaa414b5e7ff5fdcdfff5e9a284
             456476492719ffb64de7d9dca1e1d894bc3bd57873ed4d181d19d4d5c8c18af3",
            "f821d496eeb096e98ad2b69e4799c71d",
        ),
        (
            Suite::AesGcm16_128,
            "3de09874b388e6491988d0c3607eae1f 57690e43",
            "4e280000a2fca1a3",
            (0x42f67e3f, Some(0x10101010), 0x10101010),
            "4500001c42a200008001441f406793b6e00000020a00f5ff01020201",
            "fba2ca845e5df9f0f22c3e6e86dd831e1fc65792cd1af9130e1379ed",
            "369f071f35e034be95f112e4e7d05d35",
        ),
        (
            Suite::AesGcm16_256,
            "abbccddef00112233445566778899aababbccddef00112233445566778899aab 73616c74",
            "616e640169766563",
            (0x17405e67, Some(0x156f3126), 0xdd0db99b),
            "45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb712602
             50101f646d540001",
            "f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f
             f4d3a31ce673119e",
            "451626c2415771e3b7eebca614c89b35",
        ),
        (
            Suite::AesGcm16_128,
            "7d773d00c144c525ac619d18c84a3f47 d9664267",
            "43457e9182443bc6",
            (0x335467ae, None, 0xffffffff),
            "01020201",
            "437f866b",
            "cb3f699fe9b0822bac961c4504bef270",
        ),
    ];
    for (suite, encryption, iv, (spi, sequence_high, sequence), plaintext, ciphertext, icv) in vectors {
        Vector {
            suite,
            encryption,
            iv,
            spi,
            sequence,
            sequence_high,
            plaintext,
            ciphertext,
            icv,
        }
        .check();
    }
}
