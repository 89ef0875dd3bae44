use super::*;
use crate::engine::{ChannelToken, VmmIdentity};
use aether_core::source::OsRng;
use aether_core::{AgentSpec, Desired, Observed, TenantId};
use zeroize::Zeroizing;

fn agent() -> AgentId {
    AgentId::generate("c0", &OsRng)
}

async fn open(dir: &Path) -> Journal {
    Journal::open(dir.join("journal.db"), dir.join("node.key"), Arc::new(OsRng)).await.expect("opens")
}

fn assigned(agent: &AgentId, generation: u64) -> Assigned {
    Assigned {
        agent_id: agent.clone(),
        tenant_id: TenantId::default_tenant(),
        generation,
        desired: Desired::Running,
        name: "quick-otter".into(),
        spec: AgentSpec::for_image("python:3.11"),
        expires_at: Some(Timestamp::from_unix_ms(5)),
        image_digest: String::new(),
        stop_timeout_ms: 30_000,
        force: false,
    }
}

#[tokio::test]
async fn everything_survives_a_restart_and_secrets_are_sealed() {
    let dir = tempfile::tempdir().expect("a folder");
    let id = agent();
    let secret = [0xA7u8; 16];
    let mut row = SandboxRow::new(id.clone(), TenantId::default_tenant());
    row.step = Step::Guest;
    row.observed = Observed::Creating;
    row.slot = Some(3);
    row.vmm = Some(VmmIdentity { slot: 3, pid: 42, start_time: 77, exe: (1, 2) });
    row.secrets.token = Some(ChannelToken(secret));
    row.secrets.disk_key = Some(Zeroizing::new(b"disk-key-canary".to_vec()));
    let node = {
        let journal = open(dir.path()).await;
        let (node, epoch) = journal.start(None, "c0".into()).await.expect("starts");
        assert_eq!(epoch, 1);
        journal.assign(9, vec![assigned(&id, 4)]).await.expect("assigns");
        journal.put(&row).await.expect("puts");
        node
    };
    let journal = open(dir.path()).await;
    assert_eq!(journal.start(None, "c0".into()).await.expect("starts"), (node, 2));
    let contents = journal.load().await.expect("loads");
    assert_eq!(contents.assignments[&id], assigned(&id, 4));
    let found = &contents.sandboxes[&id];
    assert_eq!((found.step, found.slot, &found.vmm), (Step::Guest, Some(3), &row.vmm));
    assert_eq!(found.secrets.token, Some(ChannelToken(secret)));
    assert_eq!(found.secrets.disk_key.as_ref().map(|k| k.to_vec()), Some(b"disk-key-canary".to_vec()));
    for entry in std::fs::read_dir(dir.path()).expect("lists").flatten() {
        let bytes = std::fs::read(entry.path()).expect("reads");
        for canary in [&secret[..], b"disk-key-canary", b"167,167,167"] {
            assert!(!bytes.windows(canary.len()).any(|w| w == canary), "{:?}", entry.path());
        }
    }
}

#[tokio::test]
async fn a_slot_has_one_owner() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = open(dir.path()).await;
    let mut first = SandboxRow::new(agent(), TenantId::default_tenant());
    first.slot = Some(1);
    let mut second = SandboxRow::new(agent(), TenantId::default_tenant());
    second.slot = Some(1);
    journal.put(&first).await.expect("first");
    assert!(journal.put(&second).await.is_err());
    first.slot = None;
    journal.put(&first).await.expect("freed");
    journal.put(&second).await.expect("second");
}

#[tokio::test]
async fn the_buried_stay_known_and_generations_only_rise() {
    let dir = tempfile::tempdir().expect("a folder");
    let journal = open(dir.path()).await;
    let id = agent();
    journal.assign(1, vec![assigned(&id, 7)]).await.expect("assigns");
    journal.put(&SandboxRow::new(id.clone(), TenantId::default_tenant())).await.expect("puts");
    journal.bury(&id, 7, Timestamp::from_unix_ms(1)).await.expect("buries");
    journal.bury(&id, 3, Timestamp::from_unix_ms(2)).await.expect("again");
    let contents = journal.load().await.expect("loads");
    assert!(contents.assignments.is_empty() && contents.sandboxes.is_empty());
    assert_eq!(journal.tombstone(&id).await.expect("reads"), Some(7));
    assert_eq!(journal.tombstone(&agent()).await.expect("reads"), None);
}

#[tokio::test]
async fn a_row_under_another_key_is_reported_and_not_acted_upon() {
    let dir = tempfile::tempdir().expect("a folder");
    let id = agent();
    open(dir.path()).await.put(&SandboxRow::new(id, TenantId::default_tenant())).await.expect("puts");
    std::fs::remove_file(dir.path().join("node.key")).expect("removes");
    let contents = open(dir.path()).await.load().await.expect("loads");
    assert!(contents.sandboxes.is_empty());
    assert!(contents.damaged[0].contains("another key"), "{:?}", contents.damaged);
}

#[tokio::test]
async fn an_open_key_file_and_a_newer_journal_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a folder");
    drop(open(dir.path()).await);
    let key = dir.path().join("node.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let again = || Journal::open(dir.path().join("journal.db"), key.clone(), Arc::new(OsRng));
    assert!(again().await.err().expect("refused").to_string().contains("chmod 600"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    let raw = Connection::open(dir.path().join("journal.db")).expect("opens");
    raw.pragma_update(None, "user_version", 99).expect("sets");
    assert!(matches!(again().await, Err(JournalError::TooNew(99))));
}
