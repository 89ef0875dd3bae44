use super::*;
use aether_core::source::OsRng;

fn assignment(generation: u64, desired: &str) -> AgentAssignment {
    AgentAssignment {
        agent_id: AgentId::generate("c0", &OsRng).to_string(),
        tenant_id: "default".into(),
        generation,
        desired: desired.into(),
        name: "quick-otter".into(),
        spec_json: serde_json::to_vec(&AgentSpec::for_image("python:3.11")).expect("serialises").into(),
        env: [("KEY".to_owned(), "canary".to_owned())].into(),
        ..Default::default()
    }
}

#[test]
fn what_cannot_be_read_is_named_and_harms_nothing_else() {
    let good = assignment(1, "running");
    assert!(parse(good.clone()).is_ok());
    for (bad, what) in [
        (AgentAssignment { agent_id: "../x".into(), ..good.clone() }, "agent's id"),
        (AgentAssignment { tenant_id: "A".into(), ..good.clone() }, "tenant's id"),
        (AgentAssignment { desired: "hover".into(), ..good.clone() }, "unknown state"),
        (AgentAssignment { spec_json: b"{".as_slice().into(), ..good.clone() }, "cannot be read"),
        (AgentAssignment { spec_json: vec![b' '; MAX_SPEC_BYTES + 1].into(), ..good.clone() }, "too large"),
        (AgentAssignment { spec_json: b"{\"image\":\"!!\"}".as_slice().into(), ..good.clone() }, "image"),
    ] {
        let refused = parse(bad).err().expect(what);
        assert!(refused.reason.contains(what), "{}", refused.reason);
    }
    let ending = AgentAssignment { spec_json: b"{\"image\":\"!!\"}".as_slice().into(), desired: "gone".into(), ..good };
    assert!(parse(ending).is_ok(), "delete depends on nothing");
}

#[test]
fn env_is_not_in_debug_output() {
    let parsed = parse(assignment(1, "running")).expect("parses");
    let wish = Wish { assigned: parsed.assigned, env: Some(parsed.env) };
    assert!(!format!("{wish:?}").contains("canary"));
}

#[test]
fn only_newer_generations_change_the_wish() {
    let parse = |a: AgentAssignment| parse(a).expect("parses");
    let base = assignment(5, "running");
    let Parsed { assigned, env } = parse(base.clone());
    let known = Wish { assigned, env: Some(env) };
    let meet = |known: &Wish, a: AgentAssignment| {
        let Parsed { assigned, env } = parse(a);
        admit_known(known, assigned, env)
    };
    assert!(meet(&known, AgentAssignment { generation: 4, desired: "gone".into(), ..base.clone() }).is_none());
    assert!(meet(&known, base.clone()).is_none(), "the same again is no news");
    assert!(meet(&known, AgentAssignment { desired: "gone".into(), ..base.clone() }).is_none());
    let moved = meet(&known, AgentAssignment { expires_at_ms: Some(9), ..base.clone() }).expect("news");
    assert_eq!(moved.assigned.expires_at, Some(Timestamp::from_unix_ms(9)));
    let mut spec = AgentSpec { ttl_s: Some(60), ..AgentSpec::for_image("other:1") };
    let changed = |spec: &AgentSpec| serde_json::to_vec(spec).expect("serialises").into();
    let moved = meet(&known, AgentAssignment { spec_json: changed(&spec), ..base.clone() }).expect("news");
    assert_eq!((moved.assigned.spec.ttl_s, moved.assigned.spec.image.as_str()), (Some(60), "python:3.11"));
    spec.ttl_s = None;
    assert!(meet(&known, AgentAssignment { spec_json: changed(&spec), ..base.clone() }).is_none(), "waits for a start");
    let newer = meet(&known, AgentAssignment { generation: 6, desired: "stopped".into(), ..base.clone() });
    assert_eq!(newer.map(|w| w.assigned.desired), Some(Desired::Stopped));
    let forgetful = Wish { env: None, ..known };
    assert!(meet(&forgetful, base).expect("the env is news").env.is_some());
}
