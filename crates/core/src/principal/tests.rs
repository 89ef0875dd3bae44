use super::*;

fn principal(permissions: PermissionSet) -> Principal {
    Principal::new(TenantId::default_tenant(), Credential::Anonymous, permissions)
}

#[test]
fn scopes_never_widen_a_role() {
    let all: BTreeSet<_> = Permission::ALL.iter().copied().collect();
    let viewer = principal(Role::Viewer.permissions().scoped(Some(&all)));
    assert!(viewer.may(Permission::AgentRead) && !viewer.may(Permission::AgentExec));
    let narrow = BTreeSet::from([Permission::AgentCreate]);
    let key = principal(Role::Admin.permissions().scoped(Some(&narrow)));
    assert!(key.may(Permission::AgentCreate));
    for other in [Permission::AgentDelete, Permission::AgentUpdate, Permission::AgentExec] {
        assert!(!key.may(other));
    }
    let none = principal(Role::Admin.permissions().scoped(Some(&BTreeSet::new())));
    assert!(none.permissions().is_empty());
}

#[test]
fn operators_see_no_tenant_data() {
    let p = Role::Operator.permissions();
    for denied in [Permission::AgentReadEnv, Permission::AgentLogs, Permission::AgentExec, Permission::AgentRead] {
        assert!(!p.contains(denied));
    }
}

#[test]
fn nobody_grants_more_than_they_hold() {
    let admin = principal(Role::Admin.permissions());
    assert!(admin.may_grant(Role::Developer.permissions()));
    assert!(!admin.may_grant(Role::PlatformAdmin.permissions()));
    assert!(!admin.may_grant(Role::Operator.permissions()));
    let only = BTreeSet::from([Permission::AgentRead]);
    assert!(admin.may_grant(Role::PlatformAdmin.permissions().scoped(Some(&only))));
    let narrow = principal([Permission::KeyManage, Permission::AgentRead].into_iter().collect());
    assert!(!narrow.may_grant(Role::Viewer.permissions()));
}

#[test]
fn a_narrowed_key_has_no_say_in_the_tenant() {
    let reach = Some(Arc::new(Reach::default()));
    for role in [Role::PlatformAdmin, Role::Admin] {
        let narrowed = principal(role.permissions()).within(reach.clone());
        for permission in Permission::ALL {
            assert_eq!(narrowed.may(*permission), NARROWED.contains(permission), "{permission:?}");
        }
        assert!(narrowed.scope().reach().is_some());
    }
    assert!(principal(Role::Viewer.permissions()).within(reach).permissions().covers(Role::Viewer.permissions()));
}

#[test]
fn a_key_with_a_budget_makes_no_keys() {
    let id: KeyId = "keyc0aaaaaaaaaaaaaaaa".parse().expect("an id");
    let key = |budgeted| principal(Role::Admin.permissions()).of_key(id.clone(), budgeted);
    assert!(key(false).may(Permission::KeyManage) && !key(true).may(Permission::KeyManage));
    assert_eq!(key(true).scope().key(), Some(&id));
    let there = key(false).acting_for("acme".parse().expect("an id"));
    assert_eq!(there.scope().key(), None, "a budget is of the key's own tenant");
}

#[test]
fn a_tenants_own_roles_hold_nothing_of_the_platform() {
    let most = PermissionSet::of_tenant();
    for permission in
        [Permission::PlatformAdmin, Permission::QuotaWrite, Permission::SchedulerRead, Permission::SchedulerWrite]
    {
        assert!(!most.contains(permission));
    }
}

#[test]
fn names_of_roles_are_one_or_the_other() {
    for role in ["platform_admin", "operator", "admin", "developer", "viewer", "auditor"] {
        assert!(matches!(role.parse(), Ok(RoleName::BuiltIn(built_in)) if built_in.as_str() == role));
    }
    assert!(matches!("ci-runner".parse(), Ok(RoleName::Own(_))));
    for bad in ["", "Admin", "a b", "keyc0aaaaaaaaaaaaaaaa", "-a"] {
        assert!(bad.parse::<RoleName>().is_err(), "{bad}");
    }
}

#[test]
fn the_actor_names_key_and_service_account() {
    let id: KeyId = "keyc0aaaaaaaaaaaaaaaa".parse().expect("an id");
    let account: ServiceAccountId = "svac0aaaaaaaaaaaaaaaa".parse().expect("an id");
    let shown = |service_account| Credential::ApiKey { id: id.clone(), service_account }.to_string();
    assert_eq!(shown(None), "keyc0aaaaaaaaaaaaaaaa");
    assert_eq!(shown(Some(account)), "svac0aaaaaaaaaaaaaaaa/keyc0aaaaaaaaaaaaaaaa");
}

#[test]
fn text_round_trip() {
    for p in Permission::ALL {
        assert_eq!(p.as_str().parse(), Ok(*p));
    }
    let some: PermissionSet = [Permission::AgentRead, Permission::KeyManage].into_iter().collect();
    assert_eq!(some.iter().collect::<Vec<_>>(), [Permission::AgentRead, Permission::KeyManage]);
    assert_eq!(some.without(Permission::AgentRead).iter().collect::<Vec<_>>(), [Permission::KeyManage]);
}

#[test]
fn narrowing_adds_nothing() {
    let viewer = Principal::new(TenantId::default_tenant(), Credential::Anonymous, Role::Viewer.permissions());
    let scopes = BTreeSet::from([Permission::AgentRead, Permission::AgentExec]);
    let narrow = viewer.narrowed(&scopes);
    assert_eq!(narrow.permissions(), PermissionSet::from_iter([Permission::AgentRead]));
    assert!(narrow.narrowed(&BTreeSet::new()).permissions().is_empty());
}

#[test]
fn permissions_are_shown_as_a_role() {
    for role in Role::ALL {
        assert_eq!(role.permissions().shown_as(), *role);
    }
    let shown = |some: &[Permission]| some.iter().copied().collect::<PermissionSet>().shown_as();
    assert_eq!(shown(&[Permission::AgentRead, Permission::AgentDelete]), Role::Developer);
    assert_eq!(shown(&[Permission::KeyManage]), Role::Admin);
    assert_eq!(shown(&[]), Role::Viewer);
    assert_eq!(Role::PlatformAdmin.permissions().without(Permission::AgentExec).shown_as(), Role::PlatformAdmin);
}
