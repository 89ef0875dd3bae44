//! x

/// One migration as it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationRow {
    pub version: u32,
    pub name: String,
}
