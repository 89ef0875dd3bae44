//! Rows of a journal that a crash, a disk or a hand has damaged.

use super::*;
use aether_core::source::OsRng;

#[test]
fn fuzz() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = NodeKey::open_or_create(&dir.path().join("key"), &OsRng).expect("a key");
    let words =
        &["\"step\":\"", "\"observed\":\"", "\"slot\":", "\"vmm\":{", "\"disk\":{", "null", "\"image\":", "\"spec\":{"];
    aether_fuzz::target("journal_rows").memory(4 << 20).words(words).run(|input| {
        let [body, sealed] = aether_fuzz::parts(input);
        let Ok(body) = std::str::from_utf8(body) else { return };
        assert!(SandboxRow::decode(body, sealed, &key).is_err(), "opened with a key that never sealed it");
        if let Ok(row) = serde_json::from_str::<SandboxRow>(body) {
            let (body, sealed) = row.encode(&key, &OsRng).expect("what was read can be written");
            let again = SandboxRow::decode(&body, &sealed, &key).expect("reads what it wrote");
            assert_eq!(format!("{again:?}"), format!("{row:?}"));
            let _ = (again.holds_run(), again.usable_disk());
        }
        if let Ok(assigned) = serde_json::from_str::<Assigned>(body) {
            let again = serde_json::to_string(&assigned).expect("what was read can be written");
            let again = serde_json::from_str::<Assigned>(&again).expect("reads what it wrote");
            assert_eq!(format!("{again:?}"), format!("{assigned:?}"));
        }
    });
}
