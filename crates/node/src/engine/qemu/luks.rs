//! A LUKS 1 header with a fresh master key, and encryption with it.
//!
//! `qemu-img` can write one, but times its key derivation for two seconds of
//! CPU each time, which protects a human's passphrase. Ours is 256 random
//! bits, so the least count that the format's readers accept is enough.

use super::super::EngineError;
use aes::Aes256;
use aes::cipher::KeyInit;
use sha2::{Digest, Sha256};
use std::io::Read;
use xts_mode::{Xts128, get_tweak_default};
use zeroize::Zeroizing;

pub(super) const SECTOR: usize = 512;
/// AES-256-XTS: two keys.
const KEY_BYTES: usize = 64;
const STRIPES: usize = 4000;
const ITERATIONS: u32 = 1000;
const SLOTS: usize = 8;
const FIRST_SLOT_SECTOR: usize = 8;
const SLOT_SECTORS: usize = (KEY_BYTES * STRIPES / SECTOR).next_multiple_of(8);
/// Header and all key slots.
pub(super) const HEADER_BYTES: usize = (FIRST_SLOT_SECTOR + SLOTS * SLOT_SECTORS) * SECTOR;
const SLOT_ENABLED: u32 = 0x00AC_71F3;
const SLOT_DISABLED: u32 = 0x0000_DEAD;

pub(super) fn random(out: &mut [u8]) -> Result<(), EngineError> {
    let mut source = std::fs::File::open("/dev/urandom").map_err(EngineError::io("open /dev/urandom"))?;
    source.read_exact(out).map_err(EngineError::io("read /dev/urandom"))
}

/// Encrypts by sector number, which is the tweak (`xts-plain64`).
pub(super) struct Cipher(Xts128<Aes256>);

impl Cipher {
    fn new(key: &[u8; KEY_BYTES]) -> Self {
        let (first, second) = key.split_at(KEY_BYTES / 2);
        Self(Xts128::new(Aes256::new(first.into()), Aes256::new(second.into())))
    }

    /// `data` is whole sectors.
    pub(super) fn encrypt(&self, data: &mut [u8], first_sector: u64) {
        self.0.encrypt_area(data, SECTOR, u128::from(first_sector), get_tweak_default);
    }
}

/// The header that `passphrase` opens, and the cipher behind it.
pub(super) fn format(passphrase: &[u8]) -> Result<(Vec<u8>, Cipher), EngineError> {
    let mut master = Zeroizing::new([0; KEY_BYTES]);
    random(master.as_mut())?;
    let (mut digest_salt, mut slot_salt, mut uuid) = ([0; 32], [0; 32], [0; 16]);
    random(&mut digest_salt)?;
    random(&mut slot_salt)?;
    random(&mut uuid)?;
    let mut digest = [0; 20];
    pbkdf2::pbkdf2_hmac::<Sha256>(master.as_ref(), &digest_salt, ITERATIONS, &mut digest);

    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(b"LUKS\xba\xbe");
    out.extend_from_slice(&1u16.to_be_bytes());
    for name in ["aes", "xts-plain64", "sha256"] {
        text(&mut out, name, 32);
    }
    word(&mut out, HEADER_BYTES / SECTOR);
    word(&mut out, KEY_BYTES);
    out.extend_from_slice(&digest);
    out.extend_from_slice(&digest_salt);
    out.extend_from_slice(&ITERATIONS.to_be_bytes());
    text(&mut out, &uuid_text(&uuid), 40);
    for slot in 0..SLOTS {
        let used = slot == 0;
        out.extend_from_slice(&(if used { SLOT_ENABLED } else { SLOT_DISABLED }).to_be_bytes());
        out.extend_from_slice(&(if used { ITERATIONS } else { 0 }).to_be_bytes());
        out.extend_from_slice(&if used { slot_salt } else { [0; 32] });
        word(&mut out, FIRST_SLOT_SECTOR + slot * SLOT_SECTORS);
        word(&mut out, STRIPES);
    }
    out.resize(HEADER_BYTES, 0);
    let mut material = split(&master)?;
    let mut slot_key = Zeroizing::new([0; KEY_BYTES]);
    pbkdf2::pbkdf2_hmac::<Sha256>(passphrase, &slot_salt, ITERATIONS, slot_key.as_mut());
    Cipher::new(&slot_key).encrypt(&mut material, 0);
    let start = FIRST_SLOT_SECTOR * SECTOR;
    out[start..start + material.len()].copy_from_slice(&material);
    Ok((out, Cipher::new(&master)))
}

fn text(out: &mut Vec<u8>, value: &str, size: usize) {
    let end = out.len() + size;
    out.extend_from_slice(value.as_bytes());
    out.resize(end, 0);
}

fn word(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes());
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// LUKS's anti-forensic splitter: all stripes are needed to get the key back.
fn split(key: &[u8; KEY_BYTES]) -> Result<Zeroizing<Vec<u8>>, EngineError> {
    let mut out = Zeroizing::new(vec![0; KEY_BYTES * STRIPES]);
    random(&mut out)?;
    let mut mixed = Zeroizing::new([0; KEY_BYTES]);
    let last = KEY_BYTES * (STRIPES - 1);
    for stripe in out[..last].chunks_exact(KEY_BYTES) {
        mixed.iter_mut().zip(stripe).for_each(|(m, s)| *m ^= s);
        diffuse(&mut mixed);
    }
    for ((target, m), k) in out[last..].iter_mut().zip(mixed.iter()).zip(key) {
        *target = m ^ k;
    }
    Ok(out)
}

fn diffuse(block: &mut [u8; KEY_BYTES]) {
    for (number, part) in (0u32..).zip(block.chunks_exact_mut(32)) {
        let mut hash = Sha256::new();
        hash.update(number.to_be_bytes());
        hash.update(&*part);
        part.copy_from_slice(&hash.finalize());
    }
}
