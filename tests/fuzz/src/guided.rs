//! The same target under libFuzzer, in a test binary that was built with
//! coverage counters (scripts/fuzz.sh). libFuzzer ends the process itself.

use crate::{Target, work_dir};
use std::ffi::CString;
use std::os::raw::{c_char, c_int};
use std::sync::OnceLock;

type Judge = &'static (dyn Fn(&[u8]) -> Result<(), String>);

/// Safe to share: libFuzzer calls from the one thread that set it.
struct Held(Judge);
#[allow(unsafe_code, reason = "see above: one thread")]
// SAFETY: only the thread that runs libFuzzer ever calls it.
unsafe impl Sync for Held {}
#[allow(unsafe_code, reason = "see above: one thread")]
// SAFETY: as above.
unsafe impl Send for Held {}

static JUDGE: OnceLock<Held> = OnceLock::new();

#[allow(unsafe_code, reason = "libFuzzer's own entry")]
mod ffi {
    use super::{c_char, c_int};
    unsafe extern "C" {
        pub(super) fn LLVMFuzzerRunDriver(
            argc: *mut c_int,
            argv: *mut *mut *mut c_char,
            callback: unsafe extern "C" fn(*const u8, usize) -> c_int,
        ) -> c_int;
    }
}

/// libfuzzer-sys wants one; ours goes in by `callback`.
#[allow(unsafe_code, improper_ctypes_definitions, reason = "the name and form that libfuzzer-sys links to")]
#[unsafe(no_mangle)]
pub extern "C" fn rust_fuzzer_test_input(input: &[u8]) -> i32 {
    judge(input)
}

#[allow(unsafe_code, reason = "bytes come from libFuzzer as pointer and length")]
unsafe extern "C" fn callback(data: *const u8, size: usize) -> c_int {
    // SAFETY: libFuzzer gives `size` readable bytes for the length of the call.
    judge(if size == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, size) } })
}

fn judge(input: &[u8]) -> i32 {
    if let Some(Err(why)) = JUDGE.get().map(|held| (held.0)(input)) {
        eprintln!("{why}");
        // libFuzzer writes the input on this signal.
        std::process::abort();
    }
    0
}

/// Never returns: ends the process when the time is over, or on a failure.
pub(crate) fn run(target: &Target, check: impl Fn(&[u8]) -> Result<(), String>) {
    // Linked, though only its C++ side is used.
    let _ = libfuzzer_sys::rust_libfuzzer_debug_path();
    let grown = work_dir("grown").join(target.name);
    let failures = work_dir("failures");
    for dir in [&grown, &failures] {
        std::fs::create_dir_all(dir).expect("a folder for what is found");
    }
    let seconds = aether_counted::trials("AETHER_FUZZ_SECONDS", 60);
    let words = failures.join(format!("{}.dict", target.name));
    let lines: String = target.words.iter().map(|word| format!("\"{}\"\n", escaped(word))).collect();
    std::fs::write(&words, lines).expect("the dictionary");
    let options = [
        "aether-fuzz".to_owned(),
        grown.display().to_string(),
        target.corpus_dir().display().to_string(),
        format!("-max_total_time={seconds}"),
        format!("-max_len={}", target.max_len),
        format!("-dict={}", words.display()),
        format!("-artifact_prefix={}/{}-", failures.display(), target.name),
        "-timeout=20".to_owned(),
        "-rss_limit_mb=4096".to_owned(),
        "-print_final_stats=1".to_owned(),
    ];
    let options: Vec<CString> = options.into_iter().map(|o| CString::new(o).expect("no NUL")).collect();
    let mut pointers: Vec<*mut c_char> = options.iter().map(|o| o.as_ptr().cast_mut()).collect();
    pointers.push(std::ptr::null_mut());
    let mut argc = c_int::try_from(options.len()).expect("few");
    let mut argv = pointers.as_mut_ptr();
    let check: &(dyn Fn(&[u8]) -> Result<(), String>) = &check;
    #[allow(unsafe_code, reason = "lives until the process ends")]
    // SAFETY: the driver exits the process before `check` goes out of scope.
    let check: Judge = unsafe { std::mem::transmute(check) };
    assert!(JUDGE.set(Held(check)).is_ok(), "one target for each process");
    #[allow(unsafe_code, reason = "libFuzzer's own entry")]
    // SAFETY: argc, argv and what they point to live as long as the process.
    let code = unsafe { ffi::LLVMFuzzerRunDriver(&raw mut argc, &raw mut argv, callback) };
    std::process::exit(code);
}

/// As libFuzzer's dictionaries have it.
fn escaped(word: &str) -> String {
    word.bytes()
        .map(|b| match b {
            b'"' | b'\\' => format!("\\{}", char::from(b)),
            b' '..=b'~' => char::from(b).to_string(),
            _ => format!("\\x{b:02x}"),
        })
        .collect()
}
