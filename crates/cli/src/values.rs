//! Values as people write them on a command line.

use crate::error::CliError;
use aether_core::SecretRef;
use aether_core::time::parse_duration;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The largest env file: the API takes 128 KiB of variables in all.
const MAX_ENV_FILE: u64 = 1024 * 1024;

/// `512`, `512m`, `512mib`, `2g`: in MiB.
pub(crate) fn parse_size_mib(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: write MiB as a number, or a unit as in 512m or 2g");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = lower[..digits].parse().map_err(|_| bad())?;
    let factor = match lower[digits..].trim_end_matches("ib").trim_end_matches('b') {
        "" | "m" => 1,
        "g" => 1024,
        "t" => 1024 * 1024,
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

/// A duration flag.
pub(crate) fn duration(flag: &str, text: &str) -> Result<Duration, CliError> {
    parse_duration(text)
        .ok_or_else(|| CliError::usage(format!("{flag}: {text:?} is not a duration such as 90s or 1h30m")))
}

/// A duration flag in whole seconds, rounded up.
pub(crate) fn seconds(flag: &str, text: &str) -> Result<u64, CliError> {
    Ok(u64::try_from(duration(flag, text)?.as_millis().div_ceil(1000)).unwrap_or(u64::MAX))
}

/// `KEY=VALUE` pairs.
pub(crate) fn pairs(flag: &str, list: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    list.iter()
        .map(|item| match item.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(CliError::usage(format!("{flag}: {item:?} is not KEY=VALUE"))),
        })
        .collect()
}

/// `NAME`, `NAME=VARIABLE`, `NAME:/PATH` or `NAME:/PATH:MODE`; what is wrong
/// with the parts is told by their check.
pub(crate) fn secret_ref(text: &str) -> SecretRef {
    if let Some((name, place)) = text.split_once(':') {
        let mode =
            place.rsplit_once(':').filter(|(_, mode)| !mode.is_empty() && mode.bytes().all(|b| b.is_ascii_digit()));
        let (file, mode) = mode.map_or((place, None), |(file, mode)| (file, Some(mode.to_owned())));
        return SecretRef { name: name.to_owned(), env: None, file: Some(file.to_owned()), mode };
    }
    match text.split_once('=') {
        Some((name, variable)) => SecretRef { env: Some(variable.to_owned()), ..SecretRef::named(name) },
        None => SecretRef::named(text),
    }
}

/// The environment from `--env-file`s and `--env`s, later ones winning.
/// `NAME` alone takes this process's value, and is left out where it has none.
pub(crate) fn environment(
    files: &[impl AsRef<Path>],
    items: &[String],
    own: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, CliError> {
    let mut env = BTreeMap::new();
    let mut put = |item: &str, origin: &dyn Fn() -> String| match item.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            env.insert(name.to_owned(), value.to_owned());
            Ok(())
        }
        None if !item.is_empty() => {
            if let Some(value) = own(item) {
                env.insert(item.to_owned(), value);
            }
            Ok(())
        }
        _ => Err(CliError::usage(format!("{}: a variable is NAME=VALUE or NAME", origin()))),
    };
    for file in files {
        let file = file.as_ref();
        for (number, line) in read_text(file)?.lines().enumerate() {
            let line = line.trim_start();
            if line.trim_end().is_empty() || line.starts_with('#') {
                continue;
            }
            put(line, &|| format!("{} line {}", file.display(), number + 1))?;
        }
    }
    for item in items {
        put(item, &|| "--env".to_owned())?;
    }
    Ok(env)
}

fn read_text(file: &Path) -> Result<String, CliError> {
    let wrong = |e: std::io::Error| CliError::failed(format!("cannot read {}: {e}", file.display()));
    if std::fs::metadata(file).map_err(wrong)?.len() > MAX_ENV_FILE {
        return Err(CliError::failed(format!("{} is larger than 1 MiB", file.display())));
    }
    std::fs::read_to_string(file).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, mib) in [("512", 512), ("512m", 512), ("512MiB", 512), ("2g", 2048), ("2GB", 2048), ("1t", 1 << 20)]
        {
            assert_eq!(parse_size_mib(text), Ok(mib), "{text}");
        }
        for bad in ["", "g", "1k", "-1", "1.5g", "99999999999999999999", "99999999999999999t", "1é"] {
            assert!(parse_size_mib(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_have_a_place() {
        let of = |text: &str| secret_ref(text);
        assert_eq!(of("A"), SecretRef::named("A"));
        assert_eq!(of("a=A"), SecretRef { env: Some("A".into()), ..SecretRef::named("a") });
        let file = SecretRef { env: None, file: Some("/x".into()), ..SecretRef::named("a") };
        assert_eq!(of("a:/x"), file);
        assert_eq!(of("a:/x:0440"), SecretRef { mode: Some("0440".into()), ..file });
    }

    #[test]
    fn environments() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("env");
        std::fs::write(&file, "# comment\n\nA=file\nB=two words = three\nHOME\nNOT_THERE\n").expect("write");
        let own = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        let env = environment(&[&file], &["A=flag".to_owned(), "C=".to_owned()], own).expect("valid");
        let expected = [("A", "flag"), ("B", "two words = three"), ("C", ""), ("HOME", "/home/me")];
        assert_eq!(env, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let none: &[&Path] = &[];
        assert!(environment(none, &["=x".to_owned()], own).is_err());
        assert!(environment(&[Path::new("/no/such/file")], &[], own).is_err());
    }

    #[test]
    fn pairs_need_a_key() {
        assert!(pairs("--label", &["a".to_owned()]).is_err());
        assert!(pairs("--label", &["=a".to_owned()]).is_err());
        assert_eq!(pairs("--label", &["a=b=c".to_owned()]).expect("valid")["a"], "b=c");
    }
}
