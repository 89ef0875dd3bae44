//! Records the commit, and embeds the guest where its path is given.
//!
//! - `AETHER_COMMIT`: the commit to show; else asked of git; else `unknown`.
//! - `AETHER_GUEST_BIN`: the guest executable to embed; without it the server
//!   looks for a file `aether-guest` beside itself, or at `engine.guest_path`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=AETHER_COMMIT");
    println!("cargo::rerun-if-env-changed=AETHER_GUEST_BIN");
    println!("cargo::rustc-check-cfg=cfg(embedded_guest)");
    println!("cargo::rustc-env=AETHER_COMMIT={}", commit());
    if let Some(guest) = env::var_os("AETHER_GUEST_BIN").filter(|v| !v.is_empty()) {
        let guest = PathBuf::from(guest);
        println!("cargo::rerun-if-changed={}", guest.display());
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("aether-guest");
        fs::copy(&guest, &out).unwrap_or_else(|e| panic!("AETHER_GUEST_BIN={}: {e}", guest.display()));
        println!("cargo::rustc-cfg=embedded_guest");
    }
}

fn commit() -> String {
    if let Ok(given) = env::var("AETHER_COMMIT")
        && !given.is_empty()
    {
        return given;
    }
    let git = Path::new("../../.git");
    for file in ["HEAD", "logs/HEAD"] {
        let path = git.join(file);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let answer = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    match answer {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
