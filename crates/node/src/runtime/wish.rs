//! What is wanted of an agent, as its task sees it.

use crate::journal::Assigned;
use std::collections::BTreeMap;
use std::sync::Arc;
use zeroize::Zeroizing;

/// An agent's env: in memory alone, for the guest alone.
#[derive(Clone)]
pub(crate) struct Env(Arc<BTreeMap<String, Zeroizing<String>>>);

impl Env {
    pub(crate) fn new(env: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(Arc::new(env.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Env({} names)", self.0.len())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub assigned: Assigned,
    /// None after a restart, until the control plane says it again.
    pub env: Option<Env>,
}
