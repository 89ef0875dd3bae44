//! How messages that carry secrets are printed: without them. `build.rs` keeps
//! the generator from deriving `Debug` for each of these.

use crate::node::{ImagePullRequest, SecretValue};
use std::fmt;

/// Whether there is one is no secret, and helps.
struct Masked<'a>(&'a str);

impl fmt::Debug for Masked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "***" })
    }
}

impl fmt::Debug for ImagePullRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By its parts, so that a new field is not forgotten here.
        let Self { tenant_id, reference, username, password, insecure, platform } = self;
        f.debug_struct("ImagePullRequest")
            .field("tenant_id", tenant_id)
            .field("reference", reference)
            .field("username", username)
            .field("password", &Masked(password))
            .field("insecure", insecure)
            .field("platform", platform)
            .finish()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value: _ } = self;
        f.debug_struct("SecretValue").field("name", name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_printed() {
        let mut request = ImagePullRequest {
            reference: "registry.example/a:1".into(),
            username: "me".into(),
            password: "hunter2".into(),
            ..Default::default()
        };
        for shown in [format!("{request:?}"), format!("{request:#?}"), format!("{:?}", Some(&request))] {
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("registry.example/a:1") && shown.contains("password: ***"), "{shown}");
        }
        request.password.clear();
        assert!(format!("{request:?}").contains("password: none"));
    }

    #[test]
    fn a_value_is_not_printed() {
        let secret = SecretValue { name: "DB".into(), value: "hunter2".into() };
        let all = crate::node::SecretsResponse { secrets: vec![secret], refusal: String::new() };
        let shown = format!("{all:?}");
        assert!(shown.contains("DB") && !shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
