//! The first channel token. It is worthless after identify, which renews it
//! before any program of the sandbox runs.

use std::io;

const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/aether/token/raw";

/// From the firmware's file, else from the kernel's command line.
pub fn read() -> io::Result<[u8; 16]> {
    if let Some(token) = std::fs::read(FW_CFG).ok().and_then(|bytes| parse(&bytes)) {
        return Ok(token);
    }
    let line = std::fs::read_to_string("/proc/cmdline")?;
    from_command_line(&line).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no token was given"))
}

fn from_command_line(line: &str) -> Option<[u8; 16]> {
    line.split_ascii_whitespace().find_map(|word| parse(word.strip_prefix("aether.token=")?.as_bytes()))
}

/// 16 bytes, or 32 hexadecimal digits.
pub fn parse(bytes: &[u8]) -> Option<[u8; 16]> {
    if let Ok(token) = bytes.try_into() {
        return Some(token);
    }
    let digits = bytes.trim_ascii();
    if digits.len() != 32 {
        return None;
    }
    let mut token = [0; 16];
    for (byte, pair) in token.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_digits() {
        assert_eq!(parse(&[7; 16]), Some([7; 16]));
        assert_eq!(parse(b"000102030405060708090a0b0c0D0e0f\n").map(|token| token[13]), Some(13));
        assert_eq!(parse(b"0001"), None);
        assert_eq!(parse(b"zz0102030405060708090a0b0c0d0e0f"), None);
        let line = "quiet aether.token=ffffffffffffffffffffffffffffffff panic=1";
        assert_eq!(from_command_line(line), Some([255; 16]));
        assert_eq!(from_command_line("quiet"), None);
    }
}
