//! Agents as they were last shown: the document of a version does not change,
//! and who polls an agent asks for the same one again and again.

use super::info;
use aether_core::AgentId;
use aether_store::AgentRow;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Documents, and their bytes in all.
const MOST: usize = 2048;
const MOST_BYTES: usize = 4 << 20;

#[derive(Default)]
pub(crate) struct Shown(Mutex<Documents>);

#[derive(Default)]
struct Documents {
    of: BTreeMap<AgentId, (u64, Bytes)>,
    bytes: usize,
}

impl Shown {
    /// The row as JSON, without the env's values.
    pub(super) fn document(&self, row: Arc<AgentRow>) -> Result<Bytes, serde_json::Error> {
        if let Some((version, document)) = self.0.lock().of.get(&row.id)
            && *version == row.version
        {
            return Ok(document.clone());
        }
        let (id, version) = (row.id.clone(), row.version);
        let document = Bytes::from(serde_json::to_vec(&info(Arc::unwrap_or_clone(row)))?);
        self.0.lock().keep(id, version, document.clone());
        Ok(document)
    }
}

impl Documents {
    fn keep(&mut self, id: AgentId, version: u64, document: Bytes) {
        // Begun anew when full: what is asked for is soon there again.
        if self.of.len() >= MOST || self.bytes + document.len() > MOST_BYTES {
            self.of.clear();
            self.bytes = 0;
        }
        if document.len() > MOST_BYTES / 8 {
            return;
        }
        self.bytes += document.len();
        if let Some((_, old)) = self.of.insert(id, (version, document)) {
            self.bytes -= old.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::id::DEFAULT_CELL;
    use aether_core::source::OsRng;

    #[test]
    fn what_is_kept_is_bounded() {
        let mut documents = Documents::default();
        let mut keep = |bytes: usize| {
            documents.keep(AgentId::generate(DEFAULT_CELL, &OsRng), 1, vec![b' '; bytes].into());
            let kept = documents.of.values().map(|(_, document)| document.len()).sum::<usize>();
            assert!(documents.bytes == kept && kept <= MOST_BYTES && documents.of.len() <= MOST);
            documents.of.len()
        };
        assert_eq!((keep(MOST_BYTES), keep(10)), (0, 1));
        for _ in 0..2 * MOST {
            keep(10);
        }
        for _ in 0..20 {
            keep(MOST_BYTES / 8);
        }
    }

    #[test]
    fn another_version_takes_the_place_of_the_one_before() {
        let mut documents = Documents::default();
        let id = AgentId::generate(DEFAULT_CELL, &OsRng);
        documents.keep(id.clone(), 1, Bytes::from_static(b"one"));
        documents.keep(id.clone(), 2, Bytes::from_static(b"second"));
        assert_eq!((documents.of[&id].clone(), documents.bytes), ((2, Bytes::from_static(b"second")), 6));
    }
}
