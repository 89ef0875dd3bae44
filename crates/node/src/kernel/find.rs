//! Which kernel: the configured one, else the newest cloud kernel of /boot,
//! else the newest there with its modules.

use super::KernelError;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) release: String,
    pub(super) modules: PathBuf,
}

pub(super) fn find(
    kernel: Option<&Path>,
    modules: Option<&Path>,
    boot: &Path,
    lib_modules: &Path,
) -> Result<Found, KernelError> {
    let candidates = match kernel {
        Some(path) => vec![path.to_path_buf()],
        None => candidates(boot)?,
    };
    let mut without_modules = None;
    for path in candidates {
        let Some(release) = release_of(&path, modules) else { continue };
        let dir = modules.map_or_else(|| lib_modules.join(&release), Path::to_path_buf);
        if path.is_file() && dir.join("kernel").is_dir() {
            return Ok(Found { path, release, modules: dir });
        }
        without_modules.get_or_insert(KernelError::NoModules { kernel: path, modules: dir });
    }
    Err(without_modules.unwrap_or_else(|| KernelError::NoKernel(kernel.unwrap_or(boot).to_path_buf())))
}

/// The release is the file name's tail, as in every distribution's /boot; an
/// oddly named kernel takes the name of its configured module folder.
fn release_of(kernel: &Path, modules: Option<&Path>) -> Option<String> {
    let name = kernel.file_name()?.to_str()?;
    let tail = ["vmlinuz-", "vmlinux-"].iter().find_map(|p| name.strip_prefix(p)).map(str::to_string);
    tail.or_else(|| modules.and_then(|m| m.file_name()).and_then(|n| n.to_str()).map(str::to_string))
}

/// Best first.
fn candidates(boot: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = match std::fs::read_dir(boot) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(KernelError::io(format!("read {}", boot.display()))(e)),
    };
    let mut found: Vec<(bool, String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let release = name.strip_prefix("vmlinuz-")?.to_string();
            Some((release.contains("cloud"), release, entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| compare_releases(&b.1, &a.1)));
    Ok(found.into_iter().map(|(_, _, path)| path).collect())
}

/// Numbers by value, the rest by text: 6.12 is newer than 6.1.
fn compare_releases(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        text.split(['.', '-', '+', '~']).map(|p| (p.parse().unwrap_or(0), p.to_string())).collect()
    };
    parts(a).cmp(&parts(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(kernels: &[&str], with_modules: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(dir.path().join("boot")).expect("boot");
        std::fs::create_dir(dir.path().join("modules")).expect("modules");
        for name in kernels {
            std::fs::write(dir.path().join("boot").join(format!("vmlinuz-{name}")), b"kernel").expect("kernel");
        }
        for name in with_modules {
            std::fs::create_dir_all(dir.path().join("modules").join(name).join("kernel")).expect("modules");
        }
        dir
    }

    fn find_in(dir: &tempfile::TempDir, kernel: Option<&Path>) -> Result<Found, KernelError> {
        find(kernel, None, &dir.path().join("boot"), &dir.path().join("modules"))
    }

    #[test]
    fn prefers_the_newest_cloud_kernel() {
        let all = ["6.1.0-56-cloud-amd64", "6.12.9+bpo-cloud-amd64", "6.16.3-amd64", "6.9.1-cloud-amd64"];
        let dir = tree(&all, &all);
        assert_eq!(find_in(&dir, None).expect("found").release, "6.12.9+bpo-cloud-amd64");
    }

    #[test]
    fn passes_over_a_kernel_without_modules() {
        let dir = tree(&["6.12.1-cloud-amd64", "6.1.0-amd64"], &["6.1.0-amd64"]);
        assert_eq!(find_in(&dir, None).expect("found").release, "6.1.0-amd64");
    }

    #[test]
    fn says_what_is_absent() {
        let dir = tree(&["6.1.0-amd64"], &[]);
        assert!(matches!(find_in(&dir, None), Err(KernelError::NoModules { .. })));
        let dir = tree(&[], &[]);
        assert!(matches!(find_in(&dir, None), Err(KernelError::NoKernel(_))));
        assert!(matches!(find_in(&dir, Some(Path::new("/nowhere/vmlinuz-1"))), Err(KernelError::NoModules { .. })));
    }

    #[test]
    fn compares_numbers_by_value() {
        assert_eq!(compare_releases("6.12.1", "6.9.9"), Ordering::Greater);
        assert_eq!(compare_releases("6.1.0-56-cloud", "6.1.0-9-cloud"), Ordering::Greater);
    }
}
