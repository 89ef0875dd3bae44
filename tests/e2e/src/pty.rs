//! A program on a pseudo-terminal, for `-it`.

use nix::pty::{OpenptyResult, Winsize, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A child on its own controlling terminal.
pub struct Pty {
    master: File,
    pub child: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Starts `command` on a terminal of `cols` × `rows`.
    #[allow(unsafe_code, reason = "setsid and TIOCSCTTY in the child")]
    pub fn spawn(mut command: Command, cols: u16, rows: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a pty");
        let io = || Stdio::from(slave.try_clone().expect("dup"));
        command.stdin(io()).stdout(io()).stderr(io());
        // SAFETY: both calls are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("the program starts");
        drop(slave);
        drop(command);
        let master = File::from(master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut reader = master.try_clone().expect("dup");
        let sink = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut chunk = [0u8; 4096];
            while let Ok(n) = reader.read(&mut chunk) {
                if n == 0 {
                    break;
                }
                sink.lock().expect("not poisoned").extend_from_slice(&chunk[..n]);
            }
        });
        Self { master, child, seen }
    }

    pub fn type_text(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    #[allow(unsafe_code, reason = "TIOCSWINSZ")]
    pub fn resize(&self, cols: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is a pty and the structure is initialised.
        unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().expect("not poisoned")).into_owned()
    }

    /// Waits until the terminal has shown `needle`.
    pub fn expect(&self, needle: &str, limit: Duration) {
        let end = std::time::Instant::now() + limit;
        while !self.text().contains(needle) {
            assert!(std::time::Instant::now() < end, "waited {limit:?} for {needle:?}; saw {:?}", self.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits for the end and gives the exit code.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        crate::wait_for("the program on the terminal to end", limit, || self.child.try_wait().expect("waits")).code()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
